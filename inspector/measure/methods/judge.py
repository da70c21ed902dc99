"""What whole masks cost, many side by side on the same windows of a text.

All go through the layers together, and those that are alike so far share one stream: two masks part
at the first layer in which they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch

from inspector.errors import OutOfMemory
from inspector.jobs import Progress, silent
from inspector.measure.corpus import Windows
from inspector.measure.methods.search import Search
from inspector.measure.metrics import METRICS
from inspector.measure.ranks import ALONE, Ranks
from inspector.measure.scoring import (
    Tick,
    head_work,
    layer_tokens,
    memory_levers,
    predicted,
    sums_by_window,
    through,
    ticker,
    untouched,
    window_sums,
)
from inspector.measure.sizes import readable_bytes
from inspector.measure.sweep import BESIDES, held_bytes
from inspector.model.loaded import LoadedModel
from inspector.model.replay import record
from inspector.model.surgery import mute_units
from inspector.units import KINDS, Mask, Unit

STREAM_BYTES = 1 << 30
"""Bound on the streams of masks held at once; more masks than that go in waves."""

KEPT_BYTES = 1 << 30
"""Bound on the untouched model's streams that are kept for the next time a window is drawn."""

LEAST_TOKENS = 1024
"""Tokens of text that go through together, however many masks there are: where masks part, few of
them are alike, and short products are slow."""


class Judge:
    """Scores masks on windows of a text; keeps what leaves the untouched model for later draws."""

    def __init__(
        self,
        loaded: LoadedModel,
        windows: Windows,
        metric: str,
        *,
        stream_bytes: int = STREAM_BYTES,
        kept_bytes: int = KEPT_BYTES,
        ranks: Ranks = ALONE,
    ) -> None:
        """The two bounds are on memory alone: scores are the same within rounding.

        `ranks` are the processes that share the windows out, as many together as go through the
        layers at once: the scores are those of one process to the last bit.
        """
        self.ranks = ranks
        self.loaded, self.windows, self.metric = loaded, windows, METRICS[metric]
        self.stream_bytes, self.kept_bytes = stream_bytes, kept_bytes
        self.kept: dict[int, torch.Tensor] = {}
        self.held = 0
        """The most bytes that streams took at once, those kept included, since this was set to 0;
        0 where none are held. What a pass takes inside a layer and in the head comes on top."""
        self.window_bytes = held_bytes(loaded, windows.shape[1], 1 - BESIDES)

    @classmethod
    def of(cls, search: Search, metric: str) -> Self:
        """One for a search: on its text, with its processes, within its bound on memory.

        A quarter of it is for what is kept; the streams of a wave are there up to three times,
        where masks part and where they are laid side by side.

        Raises:
            OutOfMemory: not even one mask's stream of one window fits; says what is needed.
        """
        judge = cls(search.loaded, search.windows, metric, ranks=search.ranks)
        if search.memory is not None:
            judge.stream_bytes = judge.kept_bytes = search.memory // 4
            if judge.window_bytes > judge.stream_bytes:
                raise OutOfMemory(
                    f"{readable_bytes(search.memory)} do not hold the streams of one mask: use "
                    f"--memory {4 * judge.window_bytes}B or more, or shorter windows (--length)."
                )
        return judge

    def scores(
        self,
        masks: Sequence[Mask],
        numbers: Sequence[int],
        *,
        note: str = "",
        progress: Progress = silent,
    ) -> list[float]:
        """The mean over the tokens of these windows of the metric under each mask.

        Raises:
            OutOfMemory: names the levers.
        """
        length = self.windows.shape[1]
        total = torch.zeros(len(masks), dtype=torch.float64)
        runs = len(numbers) * len(masks) * (self.loaded.depth + head_work(self.loaded))
        tick = ticker(progress, runs / self.ranks.size, note)
        fit = max(LEAST_TOKENS, layer_tokens(self.loaded.dtype) // len(masks)) // length
        at_once = max(1, min(fit, self.stream_bytes // max(1, self.window_bytes)))
        with memory_levers(length):
            pieces = (numbers[at : at + at_once] for at in range(0, len(numbers), at_once))
            found = self.ranks.spread(pieces, lambda some: self._sums(masks, some, tick).tolist())
            for _, sums in found:
                total += torch.tensor(sums, dtype=torch.float64)
        return (total / (len(numbers) * predicted(self.metric, length))).tolist()

    def _sums(self, masks: Sequence[Mask], some: Sequence[int], tick: Tick) -> torch.Tensor:
        """Sums over the tokens of a few windows, for each mask: [n] in float64."""
        tick(0)
        loaded, ids = self.loaded, self.windows.ids[list(some)]
        reference = self._untouched(some, ids) if self.metric.against_logits else None
        if loaded.not_replayable:
            sums = []
            for mask in masks:
                sums.append(window_sums(loaded, self.metric, ids, mask, reference).sum())
                tick(len(ids) * (loaded.depth + head_work(loaded)))
            return torch.stack(sums)
        size = max(1, self.stream_bytes // (len(ids) * self.window_bytes))
        besides = len(self.kept) + (0 if reference is None else len(ids))
        sums = []
        for wave in (masks[at : at + size] for at in range(0, len(masks), size)):
            streams, most = _leaving(loaded, ids, wave, tick)
            self.held = max(self.held, (most * len(ids) + besides) * self.window_bytes)
            sums.append(self._of_streams(streams, ids, reference, tick))
        return torch.cat(sums)

    def _of_streams(
        self, streams: torch.Tensor, ids: torch.Tensor, reference: torch.Tensor | None, tick: Tick
    ) -> torch.Tensor:
        """Sums over windows [w, T] for what left the last layer under n masks, [n, w, T, H]."""
        with self.loaded.held(self.loaded.outside()):
            sums = sums_by_window(self.loaded, self.metric, streams, ids, reference, tick)
        return sums.sum(1)

    def _untouched(self, some: Sequence[int], ids: torch.Tensor) -> torch.Tensor:
        """What leaves the untouched model, one row a window, from what is kept where it is."""
        new = [place for place, number in enumerate(some) if number not in self.kept]
        found = {number: self.kept[number] for number in some if number in self.kept}
        if new:
            for place, row in zip(new, untouched(self.loaded, ids[new]), strict=True):
                found[some[place]] = row
                size = row.numel() * row.element_size()
                if (len(self.kept) + 1) * size <= self.kept_bytes:
                    self.kept[some[place]] = row.clone()
        return torch.stack([found[number] for number in some])


@torch.no_grad()
def _leaving(
    loaded: LoadedModel, ids: torch.Tensor, masks: Sequence[Mask], tick: Tick
) -> tuple[torch.Tensor, int]:
    """What leaves the last layer under each mask for windows [w, T]: [n, w, T, H].

    Masks that are alike up to a layer are one row until then; rows for which the same units of a
    layer are on go through it together. Besides, how many streams [w, T, H] there were at once.
    """
    stream, calls = record(loaded, ids)
    rows, most = [(list(range(len(masks))), stream)], 0
    for layer in range(loaded.depth):
        by_off: dict[tuple[Unit, ...], list[tuple[list[int], torch.Tensor]]] = {}
        for members, stream in rows:
            parts: dict[tuple[Unit, ...], list[int]] = {}
            for member in members:
                off = tuple(unit for kind in KINDS if (unit := Unit(layer, kind)) in masks[member])
                parts.setdefault(off, []).append(member)
            for off, some in parts.items():
                by_off.setdefault(off, []).append((some, stream))
        here, rows = len(rows), []  # a row that parts is there once
        with loaded.held(loaded.layers[layer].modules()):
            for off, some in by_off.items():
                streams = [stream for _, stream in some]
                if len(off) < len(KINDS):  # a layer muted whole passes its input on
                    joined = torch.stack(streams)
                    with mute_units(loaded, off):
                        out = through(loaded, layer, joined.flatten(0, 1), calls, tick=tick)
                    streams = list(out.view_as(joined))
                    here += len(joined)
                    most = max(most, here + len(joined))
                    del joined  # before the next ones are laid side by side
                rows += [(members, out) for (members, _), out in zip(some, streams, strict=True)]
    ends = {member: stream for members, stream in rows for member in members}
    most = max(most, len(rows) + len(masks))  # and once more, side by side
    return torch.stack([ends[place] for place in range(len(masks))]), most
