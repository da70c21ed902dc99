"""How long a sweep or a pruning run will take here, from a moment's measurement."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from inspector.measure.methods import Method
from inspector.measure.methods.choices import Group
from inspector.measure.methods.evolution import (
    SURVIVORS,
    Plan,
    State,
    draw_children,
    draw_starts,
    layer_runs,
    muting,
)
from inspector.measure.methods.goals import SWEPT
from inspector.measure.metrics import METRICS
from inspector.measure.scoring import stream_sums, through
from inspector.model.loaded import LoadedModel
from inspector.model.replay import record
from inspector.units import Mask

ROWS, LENGTH = 4, 256

ONE_PASS = ("influence", "influence-flat", "turn", "distance")
"""Scores that run each layer once, without the head."""

NO_PASS = ("l1", "l2", "random", "from-end")


@dataclass(frozen=True)
class Pace:
    """Seconds per token: of one layer, and of the head with each metric (by its name)."""

    layer: float
    head: dict[str, float]
    depth: int

    def sweep(self, groups: Sequence[Group], tokens: int, *, metric: str) -> float:
        """Estimated seconds of one sweep over these candidates on so many tokens of text.

        A whole layer joins after itself, a unit costs one run of its layer more.
        """
        joins = [group[0].layer + (len(group) > 1) for group in groups]
        layers = self.depth + sum(self.depth - layer for layer in joins)
        return tokens * (layers * self.layer + (len(groups) + 1) * self.head[metric])

    def prune(
        self, row: Method, groups: Sequence[Group], steps: int, tokens: int, *, metric: str
    ) -> float | None:
        """Estimated seconds of a method's own work, without the perplexity along the way.

        The candidates of an iterative method thin out evenly over the depth. None where it is not
        known: a backward pass is not among what `pace` measures.
        """
        if metric in NO_PASS:
            return 0.0
        if metric in ONE_PASS:
            return self.depth * self.layer * tokens * _rounds(row, steps)
        swept = SWEPT.get(metric, metric)
        if swept not in self.head:
            return None
        whole = self.sweep(groups, tokens, metric=swept)
        count = len(groups)
        return sum(whole * (count - step) / count for step in range(_rounds(row, steps)))

    def evolve(self, plan: Plan, mask: Mask, text: tuple[int, int], *, metric: str) -> float:
        """Estimated seconds of an evolutionary search from the mask on.

        `text` is its windows and their tokens. What masks share is that of the first ones drawn; a
        window meets the untouched model once.
        """
        count, length = text
        first, second = plan.stages(count, length)
        draw = random.Random(0)
        starts = draw_starts(plan, draw)
        children = draw_children(plan, starts[0], draw)

        def stage(states: list[State], windows: int) -> float:
            runs = layer_runs([muting(mask, state) for state in states])
            heads = (len(states) + 1) * self.head[metric]
            return windows * length * (runs * self.layer + heads)

        generation = stage(children, first) + stage([*children[:SURVIVORS], starts[0]], second)
        drawn = min(count, first + plan.generations * (first + second))
        untouched = drawn * length * self.depth * self.layer
        return untouched + stage(starts, first) + plan.generations * generation

    def perplexity(self, tokens: int) -> float:
        """Estimated seconds of one perplexity on so many tokens of text."""
        return tokens * (self.depth * self.layer + self.head["nll"])


def _rounds(row: Method, steps: int) -> int:
    """How often a method scores its candidates."""
    # What this saves by scoring lazily, its exchanges take.
    return steps if row.way in ("iterative", "exchanges") else min(1, steps)


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
