"""What muting each remaining unit would cost, for all units in one pass through the layers.

A candidate shares everything before its own unit with the model under the current mask. So one base
row runs through the layers, every candidate joins at its own layer as a further row (the base's
input with that unit muted), and all go on together: half the arithmetic of one forward pass a
candidate, and each layer's weights are read once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch

from inspector.errors import MaskError, OutOfMemory
from inspector.jobs import Progress, part, silent
from inspector.measure.corpus import Windows
from inspector.measure.kept import Candidate, Kept
from inspector.measure.metrics import Metric, metric_named
from inspector.measure.ranks import ALONE, Ranks
from inspector.measure.scoring import (
    Tick,
    groups,
    head_work,
    memory_levers,
    predicted,
    steadily,
    sums_by_window,
    ticker,
    window_sums,
)
from inspector.measure.sizes import readable_bytes
from inspector.measure.waves import own_stream, waves, waves_of_all
from inspector.model.loaded import LoadedModel
from inspector.results.scores import Scores
from inspector.units import Mask, Unit

NOTE = "measuring what each unit is worth"

STREAM_BYTES = 1 << 30
"""Bound on the streams held at once where none is given, or one candidate at a time if that takes
more; more candidates than fit go in waves."""

BESIDES = 3
"""Streams that are held besides the candidates': that under the mask, one that is on its way, and
the untouched model's."""


def sweep(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    metric: str = "nll",
    units: Iterable[Unit] | None = None,
    grain: str = "unit",
    progress: Progress = silent,
    memory: int | None = None,
    kept: Kept | None = None,
    ranks: Ranks = ALONE,
) -> Scores:
    """The cost of muting each unit, or each whole layer, one at a time under the current mask.

    Args:
        loaded: the model.
        windows: the text, [W, T] token ids.
        mask: what is muted already.
        metric: a name in `METRICS`; see `results.Scores` for the quantity, unit and direction.
        units: the candidates; by default every unit that is on and can be muted.
        grain: `unit`, or `layer` to mute the candidates of a layer together: each of them then
            carries the layer's score.
        progress: called after every few windows, with the `Scores` so far as `partial`.
        memory: bound in bytes on the streams held at once, `STREAM_BYTES` by default. The weights,
            and what a single pass takes inside a layer and in the head, come on top of it.
        kept: what is kept of this model on these windows, on top of that bound.
        ranks: processes that share the windows out, a group at a time; the scores are those of one
            process to the last bit.

    Raises:
        MaskError: the mask or a candidate does not fit the model, or no unit is left.
        OutOfMemory: names the levers, or what the bound has to be.
    """
    started = time.perf_counter()
    row = metric_named(metric)
    chosen = together(candidates(loaded, mask, units), grain)
    totals, kept = Totals(row, [None, *chosen]), kept or Kept(0)
    result = None
    count, held, read = len(windows), 0, loaded.bytes_read
    texts = [ids for _, ids in groups(windows.ids)]

    def measured(batch: tuple[int, list[torch.Tensor]]) -> list[list[float]]:
        first, some = batch
        windows_here = sum(map(len, some))
        here = part(progress, first, windows_here, count)
        tick = ticker(here, windows_here * work(loaded, chosen), NOTE)
        fit = at_once(loaded, some[0].numel(), len(chosen), memory)
        found: dict[Candidate | None, list[float]] = {each: [] for each in totals.sums}
        for each, sums in _sums(loaded, row, some, mask, chosen, fit, kept, first, tick):
            found[each] += sums.tolist()
        return list(found.values())

    with memory_levers(windows.ids.shape[1]):
        batches = numbered(side_by_side(loaded, texts, len(chosen), memory))
        for (first, some), found in ranks.spread(batches, measured):
            done = first + sum(map(len, some))
            fit = at_once(loaded, some[0].numel(), len(chosen), memory)
            tokens = sum(ids.numel() for ids in some)
            held = max(held, held_bytes(loaded, tokens, fit) + kept.bytes)
            for each, sums in zip(totals.sums, found, strict=True):
                totals.add(each, sums, predicted(row, windows.ids.shape[1]))
            means = totals.means()
            reference = means.pop(None)
            less = 0.0 if row.against_logits else reference
            result = Scores(
                provenance=loaded.provenance(corpus=windows.about, started=started),
                mask=str(mask),
                metric=metric,
                reference=reference,
                scores={
                    str(unit): value - less for each, value in means.items() for unit in each or ()
                },
                windows_done=done,
                windows=count,
                stream_bytes=held,
                weight_bytes=loaded.bytes_read - read,
            )
            progress(done, count, NOTE, result)
    if result is None:
        raise MaskError("there is no window of text to measure on.")
    return result


def at_once(loaded: LoadedModel, tokens: int, count: int, memory: int | None) -> int:
    """How many candidates out of `count` go through the layers together.

    Args:
        loaded: the model.
        tokens: those of the windows that go through at once.
        count: the candidates, one at least.
        memory: the bound in bytes on all streams, or None.

    Raises:
        OutOfMemory: not even one fits; says what is needed.
    """
    if loaded.not_replayable:
        return 1
    stream = held_bytes(loaded, tokens, 1 - BESIDES)
    fit = (STREAM_BYTES if memory is None else memory) // stream - BESIDES
    if fit < 1 and memory is not None:
        raise OutOfMemory(
            f"{readable_bytes(memory)} do not hold the streams of one candidate at a time: use "
            f"--memory {held_bytes(loaded, tokens, 1)}B or more, or shorter windows (--length)."
        )
    return max(1, min(fit, count))


def side_by_side(
    loaded: LoadedModel, texts: Sequence[torch.Tensor], count: int = 0, memory: int | None = None
) -> Iterator[list[torch.Tensor]]:
    """The texts that go through the layers together: one by one where the weights are there.

    Where they have to be brought in, as many as the bound on all streams allows with all of the
    `count` candidates, so that each layer comes as few times as can be.
    """
    bound = STREAM_BYTES if memory is None else memory
    some: list[torch.Tensor] = []
    for ids in texts:
        tokens = sum(each.numel() for each in some) + ids.numel()
        if some and (not loaded.brought_by_layer or held_bytes(loaded, tokens, count) > bound):
            yield some
            some = []
        some = [*some, ids]
    if some:
        yield some


def numbered(
    batches: Iterable[list[torch.Tensor]],
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Batches of texts, each of a few windows [w, T], with the number of their first window."""
    first = 0
    for some in batches:
        yield first, some
        first += sum(map(len, some))


def held_bytes(loaded: LoadedModel, tokens: int, candidates: int) -> int:
    """What the streams take that are held at once, for so many candidates and tokens of text."""
    if loaded.not_replayable:
        return 0  # whole forward passes: no stream is held
    return (candidates + BESIDES) * tokens * loaded.stream_bytes


def candidates(loaded: LoadedModel, mask: Mask, units: Iterable[Unit] | None = None) -> list[Unit]:
    """The units to score, in the order of the forward pass.

    Raises:
        MaskError: one is muted already, cannot be muted, or none is left.
    """
    loaded.check(mask)
    free = [unit for unit in loaded.toggleable() if unit not in mask]
    if units is None:
        chosen = free
    else:
        wanted = set(units)
        for unit in sorted(wanted - set(free)):
            reason = loaded.info(unit).problem or "it is muted already"
            raise MaskError(f"{unit} cannot be scored: {reason}.")
        chosen = [unit for unit in free if unit in wanted]
    if not chosen:
        raise MaskError("no unit is left to score: everything that can be muted is muted.")
    return chosen


def together(units: Iterable[Unit], grain: str) -> list[Candidate]:
    """The units one by one, or those of each layer together; they come in the layers' order."""
    if grain == "unit":
        return [(unit,) for unit in units]
    return [tuple(found) for _, found in groupby(units, key=lambda unit: unit.layer)]


def work(loaded: LoadedModel, chosen: Sequence[Candidate]) -> float:
    """What a sweep costs a window at most, in windows gone through one layer."""
    head = head_work(loaded) * (len(chosen) + 1)
    if loaded.not_replayable:
        return (loaded.depth + head_work(loaded)) * (len(chosen) + 1)
    return sum(loaded.depth - each[0].layer for each in chosen) + head


class Totals:
    """Sums and counts of a metric for each candidate; the candidate None is the mask itself."""

    def __init__(self, metric: Metric, chosen: list[Candidate | None]) -> None:
        self.metric = metric
        self.sums = dict.fromkeys(chosen, 0.0)
        self.counts = dict.fromkeys(chosen, 0)

    def add(self, each: Candidate | None, sums: Iterable[float], tokens: int) -> None:
        """Add windows' sums over tokens, [w]."""
        for total in sums:
            value, count = self.metric.of_window(total, tokens)
            self.sums[each] += value
            self.counts[each] += count

    def means(self) -> dict[Candidate | None, float]:
        """Each candidate's mean over all tokens, or windows, so far."""
        return {each: self.sums[each] / self.counts[each] for each in self.sums}


def _sums(
    loaded: LoadedModel,
    metric: Metric,
    texts: Sequence[torch.Tensor],
    mask: Mask,
    chosen: list[Candidate],
    fit: int,
    kept: Kept,
    first: int,
    tick: Tick,
) -> Iterator[tuple[Candidate | None, torch.Tensor]]:
    """For texts of a few windows [w, T]: each candidate and its sums [w]; None is the mask.

    `first` is the number of the first window.
    """
    steady = steadily(loaded, metric)
    if loaded.brought_by_layer:
        for one in waves_of_all(
            loaded, texts, mask, chosen, fit, reference=metric.against_logits, steady=steady,
            tick=tick,
        ):  # fmt: skip
            ids = texts[one.text]
            yield from _of_streams(
                loaded, metric, one.chosen, one.streams, ids, one.reference, tick
            )
        return
    for ids in texts:
        number, first = first, first + len(ids)
        reference = kept.untouched(loaded, number, ids) if metric.against_logits else None
        if loaded.not_replayable:
            yield from _plain_sums(loaded, metric, ids, mask, chosen, reference, tick)
            continue
        trunk = kept.trunk(loaded, number, ids, mask)
        here = [(0, each) for each in chosen]
        for entries, streams in waves([trunk], mask, here, fit, steady=steady, tick=tick):
            names = [each for _, each in entries]
            yield from _of_streams(loaded, metric, names, streams, ids, reference, tick)
        own = own_stream(trunk, mask).unsqueeze(0)
        yield from _of_streams(loaded, metric, [None], own, ids, reference, tick)


def _of_streams(
    loaded: LoadedModel,
    metric: Metric,
    names: Sequence[Candidate | None],
    streams: torch.Tensor,
    ids: torch.Tensor,
    reference: torch.Tensor | None,
    tick: Tick,
) -> Iterator[tuple[Candidate | None, torch.Tensor]]:
    """From what left the last layer, [n, w, T, H], to each candidate's sums [w]."""
    yield from zip(
        names, sums_by_window(loaded, metric, streams, ids, reference, tick), strict=True
    )


def _plain_sums(
    loaded: LoadedModel,
    metric: Metric,
    ids: torch.Tensor,
    mask: Mask,
    chosen: list[Candidate],
    reference: torch.Tensor | None,
    tick: Tick,
) -> Iterator[tuple[Candidate | None, torch.Tensor]]:
    """The plain way, one forward pass a candidate, where layers cannot be run one by one."""
    for each in (None, *chosen):
        yield each, window_sums(loaded, metric, ids, mask.mute(each or ()), reference)
        tick(len(ids) * (loaded.depth + head_work(loaded)))
