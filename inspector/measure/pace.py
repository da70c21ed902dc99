"""How long a sweep or a pruning run will take here, from a moment's measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from inspector.measure.metrics import METRICS
from inspector.measure.scoring import stream_sums, through
from inspector.model.loaded import LoadedModel
from inspector.model.replay import record
from inspector.units import Unit

ROWS, LENGTH = 4, 256


@dataclass(frozen=True)
class Pace:
    """Seconds per token: of one layer, and of the head with each metric (by its name)."""

    layer: float
    head: dict[str, float]
    depth: int

    def sweep(self, units: list[Unit], tokens: int, *, metric: str) -> float:
        """Estimated seconds of one sweep over these candidates on so many tokens of text."""
        layers = self.depth + sum(self.depth - unit.layer for unit in units)
        return tokens * (layers * self.layer + (len(units) + 1) * self.head[metric])

    def prune(self, units: list[Unit], steps: int, tokens: int, *, metric: str) -> float:
        """Estimated seconds of a greedy run: the candidates thin out evenly over the depth."""
        whole = self.sweep(units, tokens, metric=metric)
        count = len(units)
        return sum(whole * (count - step) / count for step in range(min(steps, count)))


def pace(loaded: LoadedModel) -> Pace:
    """Measure it: one layer on a few windows, and the head once a metric."""
    length = min(LENGTH, loaded.max_length or LENGTH)
    vocabulary = loaded.model.config.get_text_config().vocab_size
    ids = torch.randint(3, vocabulary, (ROWS, length), generator=torch.Generator().manual_seed(0))
    stream, calls = record(loaded, ids)
    middle = loaded.depth // 2
    layer = _seconds(lambda: through(loaded, middle, stream, calls)) / ids.numel()
    head = {}
    for name, metric in METRICS.items():
        seconds = _seconds(
            lambda row=metric: stream_sums(loaded, row, stream[:1], ids[0], stream[:1])
        )
        # With a reference, half of what was timed is the reference's own head.
        head[name] = seconds / length / (2 if metric.against_logits else 1)
    return Pace(layer, head, loaded.depth)


def _seconds(work: Callable[[], object]) -> float:
    """The shorter of two runs: the first one also warms up."""
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times)
