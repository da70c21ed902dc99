"""Greedy pruning: sweep, remove the unit that costs least, sweep again under the new mask."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from inspector.errors import MaskError
from inspector.jobs import Progress, part, silent
from inspector.measure.corpus import Windows
from inspector.measure.methods import Method, method_named
from inspector.measure.perplexity import overlapping, perplexity
from inspector.measure.sweep import candidates, sweep
from inspector.model.loaded import LoadedModel
from inspector.results import Scores, Step, Trajectory
from inspector.units import KINDS, Mask, Unit, unit


def prune(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    method: str,
    remove: int | None = None,
    until_perplexity: float | None = None,
    metric: str | None = None,
    only: str | None = None,
    check: Windows | None = None,
    progress: Progress = silent,
) -> Trajectory:
    """Remove units one by one, each time the one with the lowest score under the mask so far.

    Args:
        loaded: the model.
        windows: the text to search on, [W, T] token ids.
        mask: where to start; its units stay muted.
        method: a name in `METHODS`.
        remove: how many units to remove.
        until_perplexity: stop after the first step whose perplexity is above this.
        metric: what to go by, the method's own by default.
        only: `attn` or `ffn`, to remove units of one kind alone.
        check: the text of the perplexity recorded along the way; the search text by default.
        progress: called between pieces of work, with the `Trajectory` so far as `partial`.

    Returns:
        The trajectory; step 0 is the mask at the start.

    Raises:
        MaskError: fewer units are left than are to be removed, or neither bound is given.
        ResultError: unknown method or metric.
        OutOfMemory: names the levers.
    """
    started = time.perf_counter()
    row = method_named(method)
    goal = row.metric(metric)
    left = _candidates(loaded, mask, only)
    count = _count(remove, until_perplexity, available=len(left))
    check = windows if check is None else check
    check_corpus = check.about
    run = Trajectory(
        provenance=loaded.provenance(corpus=windows.about),
        mask=str(mask),
        method=method,
        metric=goal,
        steps=[],
        check_corpus=check_corpus,
        finished=False,
    )
    progress(0, count, "measuring where it starts")
    step = _step(loaded, 0, mask, _perplexity(loaded, check, mask), started)
    run = replace(run, steps=[step])
    for number in range(1, count + 1):
        if until_perplexity is not None and not step.perplexity <= until_perplexity:
            break
        here = part(progress, number - 1, 1, count)
        progress(number - 1, count, f"step {number} of {count}", run)
        begun = time.perf_counter()
        scores = _scores(loaded, windows, mask, goal, left, here)
        chosen = _lowest(scores, row)
        mask, left = mask.mute([chosen]), [unit for unit in left if unit != chosen]
        if goal == "perplexity" and check is windows and not overlapping(windows):
            value = scores[str(chosen)]
        else:
            value = _perplexity(loaded, check, mask)
        step = _step(loaded, number, mask, value, begun, chosen=chosen, scores=scores)
        stamp = loaded.provenance(corpus=windows.about, started=started)
        run = replace(run, steps=[*run.steps, step], provenance=stamp)
        progress(number, count, f"step {number} of {count}: removed {chosen}", run)
    return replace(run, finished=True)


def _candidates(loaded: LoadedModel, mask: Mask, only: str | None) -> list[Unit]:
    if only is not None and only not in KINDS:
        raise MaskError(f"--only takes {' or '.join(KINDS)}, not {only!r}.")
    return [unit for unit in candidates(loaded, mask) if only in (None, unit.kind)]


def _count(remove: int | None, until: float | None, *, available: int) -> int:
    if remove is None and until is None:
        raise MaskError("say how many units to remove, or up to which perplexity.")
    if until is not None and not until > 0:
        raise MaskError("the perplexity to stop at must be above 0.")
    if remove is None:
        return available
    if remove < 1:
        raise MaskError("remove 1 unit or more.")
    if remove > available:
        raise MaskError(f"cannot remove {remove} units: {available} are left that can be.")
    return remove


def _scores(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    goal: str,
    units: list[Unit],
    progress: Progress,
) -> dict[str, float]:
    """Unit text to score under the mask; lower = safer to remove."""
    metric = "nll" if goal == "perplexity" else goal

    def without_partial(done: float, total: float, note: str = "", partial: object = None) -> None:
        progress(done, total)  # a sweep is not the kind of result that this run has

    found: Scores = sweep(
        loaded, windows, mask, metric=metric, units=units, progress=without_partial
    )
    if goal == "perplexity":
        return {u: _exp(found.reference + s) for u, s in found.scores.items()}
    return found.scores


def _lowest(scores: dict[str, float], row: Method) -> Unit:
    """The unit with the lowest score, ties by the method's order; NaN counts as the worst."""
    depth = 1 + max(int(text.partition(".")[0]) for text in scores)
    units = [unit(text, depth) for text in scores]
    if row.order == "attn_first":
        units.sort(key=lambda each: (KINDS.index(each.kind), each.layer))

    def key(each: Unit) -> float:
        score = scores[str(each)]
        return math.inf if math.isnan(score) else score

    return min(units, key=key)


def _perplexity(loaded: LoadedModel, check: Windows, mask: Mask) -> float:
    return perplexity(loaded, check, mask, baseline={}).perplexity


def _step(
    loaded: LoadedModel,
    number: int,
    mask: Mask,
    value: float,
    begun: float,
    *,
    chosen: Unit | None = None,
    scores: dict[str, float] | None = None,
) -> Step:
    return Step(
        step=number,
        mask=str(mask),
        removed=[str(chosen)] if chosen else [],
        restored=[],
        scores=scores or {},
        score_status=dict.fromkeys(scores or {}, "exact"),
        perplexity=value,
        parameters=loaded.parameters_left(mask),
        kv_bytes_per_token=loaded.kv_bytes_left(mask),
        seconds=time.perf_counter() - begun,
    )


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
