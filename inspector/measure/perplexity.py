"""Perplexity of the model under a mask: total NLL over predicted tokens, exponentiated once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from inspector.jobs import Progress, part, silent
from inspector.measure.corpus import Windows
from inspector.measure.metrics import METRICS
from inspector.measure.ranks import ALONE, Ranks
from inspector.measure.scoring import (
    Tick,
    groups,
    head_work,
    idle,
    memory_levers,
    ticker,
    window_parts,
)
from inspector.measure.sweep import numbered, side_by_side
from inspector.measure.warm import Warm
from inspector.measure.waves import waves_of_all
from inspector.model.loaded import LoadedModel
from inspector.results.checks import Perplexity, Untouched, buckets
from inspector.units import Mask

NOTE = "measuring perplexity"


def perplexity(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    baseline: Untouched | None = None,
    warm: Warm | None = None,
    progress: Progress = silent,
) -> Perplexity:
    """exp(total NLL / predicted tokens) under the mask, and of the untouched model on that text.

    Windows overlap where their stride is shorter than their length; each then scores only the
    tokens that no earlier window has scored, with the earlier ones as context.

    Args:
        loaded: the model.
        windows: the text, [W, T] token ids.
        mask: what is muted.
        baseline: what the untouched model has on these very windows, where it is known already;
            measured here otherwise.
        warm: streams of these very windows, kept from the mask before; what they share with this
            one is not computed again. They are those of this mask afterwards.
        progress: called after every few windows have gone through a layer.

    Raises:
        MaskError: the mask does not fit the model.
        OutOfMemory: names the levers.
    """
    started = time.perf_counter()
    loaded.check(mask)
    own = progress
    if baseline is None and len(mask):
        own = part(progress, 1, 1, 2)
        first = part(progress, 0, 1, 2)
        baseline = _untouched(
            windows, token_losses(loaded, windows, loaded.empty(), progress=first)
        )
    found = token_losses(loaded, windows, mask, warm=warm, progress=own)
    here = _untouched(windows, found)
    there = here if baseline is None else baseline
    known = bool(there.by_position)
    return Perplexity(
        provenance=loaded.provenance(corpus=windows.about, started=started),
        mask=str(mask),
        perplexity=here.summary["perplexity"],
        nll=here.summary["nll"],
        tokens=int(here.summary["tokens"]),
        length=windows.ids.shape[1],
        stride=windows.stride,
        baseline=there.summary,
        each=here.each,
        baseline_each=there.each,
        by_position=here.by_position if known else [],
        baseline_by_position=there.by_position,
        position_tokens=[len(values) for values in _by_bucket(windows, found)] if known else [],
    )


def losses(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    warm: Warm | None = None,
    ranks: Ranks = ALONE,
) -> list[tuple[float, int]]:
    """Of each window the NLL in nats under the mask and the number of tokens it is the sum over.

    `ranks` share the windows out, a batch at a time.
    """

    def measured(batch: Batch) -> list[tuple[float, int]]:
        return _sums(_token_losses(loaded, batch, mask, warm, idle))

    with memory_levers(windows.ids.shape[1]):
        found = [
            each
            for _, sums in ranks.spread(_batches(loaded, windows, warm), measured)
            for each in sums
        ]
    return [(total, tokens) for total, tokens in found]  # JSON has made lists of them


def token_losses(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    warm: Warm | None = None,
    progress: Progress = silent,
) -> list[torch.Tensor]:
    """Of each window the NLL in nats of every token that it scores, in float64.

    These are the window's last tokens: all but the first one where no earlier window overlaps it.
    """
    found: list[torch.Tensor] = []
    work = loaded.depth + head_work(loaded)  # a window's, as ticks count it
    with memory_levers(windows.ids.shape[1]):
        for batch in _batches(loaded, windows, warm):
            count = sum(map(len, batch.texts))
            share = part(progress, len(found), count, len(windows))
            tick = ticker(share, count * work, NOTE)
            tick(0.0)
            found += _token_losses(loaded, batch, mask, warm, tick)
    progress(len(found), len(windows), NOTE)
    return found


class Batch(NamedTuple):
    """Texts that go through the layers side by side, each of a few windows [w, T].

    `first` is the first window's number, `skip` the predicted tokens of a window that do not count.
    """

    first: int
    texts: list[torch.Tensor]
    skip: int


def _batches(loaded: LoadedModel, windows: Windows, warm: Warm | None) -> Iterator[Batch]:
    known = overlapping(windows)
    pieces = [(0, 1, 0), (1, len(windows), known)] if known else [(0, len(windows), 0)]
    for first, end, skip in pieces:
        texts = [ids for _, ids in groups(windows.ids[first:end])]
        together = [[ids] for ids in texts] if warm else side_by_side(loaded, texts)
        for number, some in numbered(together):
            yield Batch(first + number, some, skip)


def _token_losses(
    loaded: LoadedModel, batch: Batch, mask: Mask, warm: Warm | None, tick: Tick
) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for ids, streams in _streams(loaded, batch, mask, warm, tick):
        metric = METRICS["nll"]
        found += window_parts(
            loaded, metric, ids, mask, streams=streams, skip=batch.skip, tick=tick
        )
    return found


def _streams(
    loaded: LoadedModel, batch: Batch, mask: Mask, warm: Warm | None, tick: Tick
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """The texts, and what left the last layer where that is had before the head is run."""
    if warm is None and loaded.brought_by_layer:
        for one in waves_of_all(loaded, batch.texts, mask, [], 1, reference=False, tick=tick):
            yield batch.texts[one.text], one.streams[0]
        return
    for ids in batch.texts:
        yield ids, warm.final_streams(batch.first, ids, mask, tick=tick) if warm else None


def _sums(found: Iterable[torch.Tensor]) -> list[tuple[float, int]]:
    return [(float(each.sum()), len(each)) for each in found]


def overlapping(windows: Windows) -> int:
    """How many of a window's predicted tokens the window before it has predicted already."""
    return max(0, windows.ids.shape[1] - 1 - windows.stride)


def _untouched(windows: Windows, found: list[torch.Tensor]) -> Untouched:
    sums = _sums(found)
    each = [total / tokens if tokens else math.nan for total, tokens in sums]
    means = [float(values.mean()) for values in _by_bucket(windows, found)]
    return Untouched(summary(sums), each, means)


def _by_bucket(windows: Windows, found: list[torch.Tensor]) -> list[torch.Tensor]:
    """The NLLs of all windows at the positions of each bucket; the first window has them all."""
    length = windows.ids.shape[1]
    firsts = [length - len(each) for each in found]  # the position of a window's first NLL
    return [
        torch.cat(
            [
                each[max(0, at.start - first) : max(0, at.stop - first)]
                for each, first in zip(found, firsts, strict=True)
            ]
        )
        for at in buckets(length)
    ]


def summary(found: list[tuple[float, int]]) -> dict[str, float]:
    """Perplexity, nll (mean, nats) and tokens of what `losses` gave."""
    total, tokens = math.fsum(each for each, _ in found), sum(count for _, count in found)
    mean = total / tokens if tokens else math.nan
    return {"perplexity": of_loss(mean), "nll": mean, "tokens": tokens}


def of_loss(nll: float) -> float:
    """The perplexity of text with that mean loss in nats per token; inf where it is too large."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
