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
from inspector.results.checks import Perplexity
from inspector.units import Mask

NOTE = "measuring perplexity"


def perplexity(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    baseline: dict[str, float] | None = None,
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
        baseline: the untouched model's perplexity, nll and tokens on these very windows, where they
            are known already; measured here otherwise.
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
        total, tokens = nll(loaded, windows, loaded.empty(), progress=part(progress, 0, 1, 2))
        baseline = _summary(total, tokens)
    total, tokens = nll(loaded, windows, mask, warm=warm, progress=own)
    here = _summary(total, tokens)
    return Perplexity(
        provenance=loaded.provenance(corpus=windows.about, started=started),
        mask=str(mask),
        perplexity=here["perplexity"],
        nll=here["nll"],
        tokens=tokens,
        length=windows.ids.shape[1],
        stride=windows.stride,
        baseline=baseline if baseline is not None else here,
    )


def nll(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    warm: Warm | None = None,
    progress: Progress = silent,
) -> tuple[float, int]:
    """The total NLL in nats under the mask and the number of tokens it is the sum over."""
    total, tokens, done = 0.0, 0, 0
    predictions = windows.ids.shape[1] - 1
    known = overlapping(windows)
    pieces = [(windows.ids[:1], 0), (windows.ids[1:], known)] if known else [(windows.ids, 0)]
    with memory_levers(windows.ids.shape[1]):
        for piece, skip in pieces:
            for _, ids in groups(piece):
                progress(done, len(windows), NOTE)
                streams = warm.final_streams(done, ids, mask) if warm else None
                sums = window_sums(loaded, METRICS["nll"], ids, mask, streams=streams, skip=skip)
                total += float(sums.sum())
                tokens += len(ids) * (predictions - skip)
                done += len(ids)
    progress(done, len(windows), NOTE)
    return total, tokens


def overlapping(windows: Windows) -> int:
    """How many of a window's predicted tokens the window before it has predicted already."""
    return max(0, windows.ids.shape[1] - 1 - windows.stride)


def _summary(total: float, tokens: int) -> dict[str, float]:
    mean = total / tokens if tokens else math.nan
    try:
        value = math.exp(mean)
    except OverflowError:
        value = math.inf
    return {"perplexity": value, "nll": mean, "tokens": tokens}
