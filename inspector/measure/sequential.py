"""A benchmark that asks no more items than it needs to tell the edited model from the untouched.

Items are asked in growing parts, of both models in turn, and after each part the difference of the
task's first metric is looked at with its interval. Looking several times gives chance several
chances, so each look's interval is that of a smaller error: all looks together err in 5 % at most
(Bonferroni).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from statistics import NormalDist, fmean, stdev

from inspector.errors import TaskError
from inspector.jobs import Progress, patiently, silent
from inspector.measure.benchmark import Key, Score, Turn, compare, take_turn
from inspector.measure.harness import Meter, import_lm_eval, quiet
from inspector.measure.tasks import Found, find
from inspector.model.loaded import LoadedModel
from inspector.paired import paired
from inspector.results.checks import Benchmark, Cut
from inspector.units import Mask

FIRST, LOOKS = 50, 6
"""Items of the first part; every look doubles what has been asked, the last one takes the rest."""

Z = NormalDist().inv_cdf(1 - 0.025 / LOOKS)
"""Standard errors to each side of a look's interval."""

Turns = tuple[Turn, Turn]
"""Of the edited and of the untouched model."""


def until_decided(
    loaded: LoadedModel,
    tasks: Iterable[str],
    mask: Mask,
    *,
    width: float | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> Benchmark:
    """A `benchmark` of as many items of each task as it takes; `stopped` says why it ended.

    A task ends once the interval of its difference leaves zero out, or reaches no further than
    `width` to either side of it, or when all items, or `limit`, have been asked.

    Args:
        loaded: the model.
        tasks: specs, see `tasks.find`.
        mask: what is muted; not nothing.
        width: half the width of an interval that is narrow enough, in (0, 1); None asks on for a
            decision.
        limit: the most items of each task.
        progress: called between pieces of work, with the `Benchmark` so far as `partial`.

    Raises:
        TaskError: nothing is muted, a width or limit out of range, or a task whose metrics are no
            means over items; see also `tasks.find`.
    """
    started = time.perf_counter()
    loaded.check(mask)
    if not len(mask):
        raise TaskError("nothing is muted, so there is nothing to decide: mute a unit first.")
    if width is not None and not 0 < width < 1:
        raise TaskError("the width of the interval must be between 0 and 1, such as 0.03.")
    if limit is not None and limit < 1:
        raise TaskError(f"cannot ask {limit} items: choose a limit of 1 or more, or none for all.")
    patiently(import_lm_eval, partial(progress, 0, 1, "starting lm-eval"))
    done: Turns = (Turn({}), Turn({}))
    reasons: list[str] = []
    so_far: Benchmark | None = None
    with quiet():
        found = find(tasks, progress=progress)
        for number, name in enumerate(found.tasks):
            one, turns = Found({name: found.tasks[name]}), (Turn({}), Turn({}))
            every, reason = min(limit or math.inf, len(one.tasks[name].eval_docs)), ""
            for items in _parts(int(every)):
                here = _within(progress, number, len(found.tasks), items, int(every), so_far)
                turns = _more(turns, _asked(loaded, one, mask, items, here))
                reason = _reason(name, turns, width)
                asked = Found({each: found.tasks[each] for each in list(found.tasks)[: number + 1]})
                so_far = compare(loaded, mask, asked, None, started, *_both(done, turns))
                if reason:
                    break
            reasons.append(reason or f"{name}: undecided after all {int(every)} items")
            done = _both(done, turns)
    return replace(compare(loaded, mask, found, None, started, *done), stopped="; ".join(reasons))


def _parts(every: int) -> Iterator[range]:
    """The items of each look: 50 at first, then as many as before; the last look takes the rest."""
    start = 0
    for look in range(LOOKS):
        end = every if look == LOOKS - 1 else min(every, FIRST << look)
        yield range(start, end)
        start = end
        if end == every:
            return


def _within(
    progress: Progress, number: int, tasks: int, items: range, every: int, so_far: Benchmark | None
) -> Progress:
    """The progress of one part; meanwhile the result of the parts before it is shown."""

    def report(done: float, total: float, note: str = "", partial: object = None) -> None:
        share = (items.start + len(items) * done / total) / every
        progress(number + share, tasks, note, so_far)

    return report


def _asked(loaded: LoadedModel, one: Found, mask: Mask, items: range, progress: Progress) -> Turns:
    edited = Meter(progress, "the edited model", 0, 2)
    untouched = Meter(progress, "the untouched model", 1, 2)
    return (
        take_turn(loaded, one, mask, items=items, meter=edited),
        take_turn(loaded, one, loaded.empty(), items=items, meter=untouched),
    )


def _more(turns: Turns, new: Turns) -> Turns:
    """Both models' turns with the answers to further items of the same task."""
    first, second = (
        Turn(
            {key: _with(a.scores.get(key), score, key) for key, score in b.scores.items()},
            {name: a.picks.get(name, []) + picks for name, picks in b.picks.items()},
            {name: a.items.get(name, []) + items for name, items in b.items.items()},
            _all_cut(a, b),
        )
        for a, b in zip(turns, new, strict=True)
    )
    return first, second


def _all_cut(a: Turn, b: Turn) -> dict[str, Cut]:
    """The items that were too long, of those asked before and of the new ones."""
    found = {}
    for name in a.cut | b.cut:
        both = [turn.cut[name] for turn in (a, b) if name in turn.cut]
        asked = sum(_asked_of(turn, name) for turn in (a, b))
        fewest = min(cut.tokens for cut in both)
        found[name] = Cut(name, sum(cut.items for cut in both), asked, fewest)
    return found


def _asked_of(turn: Turn, task: str) -> int:
    return next((score.items for (name, _), score in turn.scores.items() if name == task), 0)


def _with(known: Score | None, new: Score, key: Key) -> Score:
    """One metric over the items of both; the standard error is that of a mean."""
    if not new.each:
        raise TaskError(
            f"{key[0]} reports {key[1]}, which is no mean over items, so it cannot be asked in "
            "parts: ask a fixed number of items."
        )
    each = [*(known.each if known else []), *new.each]
    error = stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return Score(fmean(each), error, len(each), each)


def _both(done: Turns, turns: Turns) -> Turns:
    """Both models' turns over the tasks before and the present one."""
    first, second = (
        Turn(a.scores | b.scores, a.picks | b.picks, a.items | b.items, a.cut | b.cut)
        for a, b in zip(done, turns, strict=True)
    )
    return first, second


def _reason(name: str, turns: Turns, width: float | None) -> str:
    """Why this task need not go on; empty where it should."""
    here, untouched = turns
    key = next(iter(here.scores))
    change = paired(here.scores[key].each, untouched.scores[key].each, z=Z)
    if change is None:
        return ""
    if change.decided:
        return f"{name}: decided by {key[1]} after {change.items} items"
    if width is not None and change.high - change.low <= 2 * width:
        return f"{name}: {key[1]} within {width:g} after {change.items} items"
    return ""
