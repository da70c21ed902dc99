"""Perplexity of the model under a mask: total NLL over predicted tokens, exponentiated once."""

from __future__ import annotations

import math
import time

from inspector.jobs import Progress, part, silent
from inspector.measure.corpus import Windows
from inspector.measure.metrics import METRICS
from inspector.measure.scoring import groups, memory_levers, window_sums
from inspector.measure.warm import Warm
from inspector.model.loaded import LoadedModel
from inspector.results.checks import Perplexity, Untouched
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
        progress: called after every few windows.

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
        baseline = _untouched(losses(loaded, windows, loaded.empty(), progress=first))
    found = losses(loaded, windows, mask, warm=warm, progress=own)
    here = _untouched(found)
    there = here if baseline is None else baseline
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
    )


def losses(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    warm: Warm | None = None,
    progress: Progress = silent,
) -> list[tuple[float, int]]:
    """Of each window the NLL in nats under the mask and the number of tokens it is the sum over."""
    found: list[tuple[float, int]] = []
    predictions = windows.ids.shape[1] - 1
    known = overlapping(windows)
    pieces = [(windows.ids[:1], 0), (windows.ids[1:], known)] if known else [(windows.ids, 0)]
    with memory_levers(windows.ids.shape[1]):
        for piece, skip in pieces:
            for _, ids in groups(piece):
                progress(len(found), len(windows), NOTE)
                streams = warm.final_streams(len(found), ids, mask) if warm else None
                sums = window_sums(loaded, METRICS["nll"], ids, mask, streams=streams, skip=skip)
                found += [(total, predictions - skip) for total in sums.tolist()]
    progress(len(found), len(windows), NOTE)
    return found


def overlapping(windows: Windows) -> int:
    """How many of a window's predicted tokens the window before it has predicted already."""
    return max(0, windows.ids.shape[1] - 1 - windows.stride)


def _untouched(found: list[tuple[float, int]]) -> Untouched:
    each = [total / tokens if tokens else math.nan for total, tokens in found]
    return Untouched(summary(found), each)


def summary(found: list[tuple[float, int]]) -> dict[str, float]:
    """Perplexity, nll (mean, nats) and tokens of what `losses` gave."""
    total, tokens = math.fsum(each for each, _ in found), sum(count for _, count in found)
    mean = total / tokens if tokens else math.nan
    try:
        value = math.exp(mean)
    except OverflowError:
        value = math.inf
    return {"perplexity": value, "nll": mean, "tokens": tokens}
