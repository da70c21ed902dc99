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
from inspector.measure.metrics import Metric, metric_named
from inspector.measure.ranks import ALONE, Ranks
from inspector.measure.scoring import (
    Tick,
    groups,
    head_work,
    idle,
    memory_levers,
    predicted,
    stream_sums,
    through,
    through_in_place,
    ticker,
    untouched,
    window_sums,
)
from inspector.measure.sizes import readable_bytes
from inspector.model.loaded import LoadedModel
from inspector.model.replay import Calls, record
from inspector.model.surgery import mute_units
from inspector.results.scores import Scores
from inspector.units import KINDS, Mask, Unit

NOTE = "measuring what each unit is worth"

Candidate = tuple[Unit, ...]
"""What is muted together: a unit, or all that is on of a layer."""

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
        ranks: processes that share the windows out, a group at a time; the scores are those of one
            process to the last bit.

    Raises:
        MaskError: the mask or a candidate does not fit the model, or no unit is left.
        OutOfMemory: names the levers, or what the bound has to be.
    """
    started = time.perf_counter()
    row = metric_named(metric)
    chosen = together(candidates(loaded, mask, units), grain)
    totals = Totals(row, [None, *chosen])
    result = None
    count, held = len(windows), 0

    def measured(group: tuple[int, torch.Tensor]) -> list[list[float]]:
        first, ids = group
        here = part(progress, first, len(ids), count)
        tick = ticker(here, len(ids) * work(loaded, chosen), NOTE)
        fit = at_once(loaded, ids.numel(), len(chosen), memory)
        sums = dict(_group_sums(loaded, row, ids, mask, chosen, fit, tick))
        return [sums[each].tolist() for each in totals.sums]

    with memory_levers(windows.ids.shape[1]):
        for (first, ids), found in ranks.spread(groups(windows.ids), measured):
            fit = at_once(loaded, ids.numel(), len(chosen), memory)
            held = max(held, held_bytes(loaded, ids.numel(), fit))
            for each, sums in zip(totals.sums, found, strict=True):
                totals.add(each, sums, predicted(row, ids.shape[1]))
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
                windows_done=first + len(ids),
                windows=count,
                stream_bytes=held,
            )
            progress(first + len(ids), count, NOTE, result)
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


def held_bytes(loaded: LoadedModel, tokens: int, candidates: int) -> int:
    """What the streams take that are held at once, for so many candidates and tokens of text."""
    if loaded.not_replayable:
        return 0  # whole forward passes: no stream is held
    width = loaded.model.config.get_text_config().hidden_size * loaded.dtype.itemsize
    return (candidates + BESIDES) * tokens * width


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


def _group_sums(
    loaded: LoadedModel,
    metric: Metric,
    ids: torch.Tensor,
    mask: Mask,
    chosen: list[Candidate],
    fit: int,
    tick: Tick,
) -> Iterator[tuple[Candidate | None, torch.Tensor]]:
    """For a few windows [w, T]: each candidate and its sums [w]; None is the mask itself."""
    reference = untouched(loaded, ids) if metric.against_logits else None
    if loaded.not_replayable:
        yield from _plain_sums(loaded, metric, ids, mask, chosen, reference, tick)
        return
    base, calls = record(loaded, ids)
    for names, streams in waves(loaded, base, calls, mask, chosen, fit, tick=tick):
        sums = []
        for index, window in enumerate(ids):
            against = None if reference is None else reference[index : index + 1]
            some = streams[:, index]
            sums.append(stream_sums(loaded, metric, some, window, against, spent=True, tick=tick))
        yield from zip(names, torch.stack(sums, dim=1), strict=True)


def waves(
    loaded: LoadedModel,
    base: torch.Tensor,
    calls: Calls,
    mask: Mask,
    chosen: Sequence[Candidate],
    size: int,
    *,
    steady: bool = False,
    own: bool = True,
    tick: Tick = idle,
) -> Iterator[tuple[Sequence[Candidate | None], torch.Tensor]]:
    """Candidates in waves, and what leaves the last layer for each: [n, w, T, H].

    The base row goes through the layers once, over all waves: each wave takes it up at its first
    candidate's layer and leaves it at its last one's.

    Args:
        loaded: the model.
        base: what enters layer 0 for a few windows, [w, T, H].
        calls: how the layers are called.
        mask: what is muted already.
        chosen: the candidates, in the order of the forward pass.
        size: candidates in a wave.
        steady: have a candidate's numbers depend on itself alone, see `through_in_place`.
        own: at last give what leaves it under the mask itself, too, as [None].
        tick: told of the work done.
    """
    at = 0  # the layer that `base` is about to enter
    with mute_units(loaded, mask), torch.no_grad():
        for start in range(0, len(chosen), size):
            wave = chosen[start : start + size]
            rows = base.new_empty((len(wave), *base.shape))
            joined = 0
            for layer in range(at, loaded.depth):
                if joined:
                    here = rows[:joined].flatten(0, 1)
                    through_in_place(loaded, layer, here, calls, steady=steady, tick=tick)
                for each in wave:
                    if each[0].layer == layer:
                        rows[joined] = _joining(loaded, mask, each, base, calls, tick)
                        joined += 1
                if layer < wave[-1][0].layer:
                    base, at = through(loaded, layer, base, calls), layer + 1
            yield wave, rows
        for layer in range(at, loaded.depth if own else 0):
            base = through(loaded, layer, base, calls)
    if own:
        yield [None], base.unsqueeze(0)


def _joining(
    loaded: LoadedModel,
    mask: Mask,
    each: Candidate,
    base: torch.Tensor,
    calls: Calls,
    tick: Tick,
) -> torch.Tensor:
    """The base's stream after the candidate's own layer, without the candidate."""
    layer = each[0].layer
    if {Unit(layer, kind) for kind in KINDS} <= mask.muted | set(each):
        return base  # the probe has found that a layer muted whole passes its input on
    with mute_units(loaded, each):
        return through(loaded, layer, base, calls, tick=tick)


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
