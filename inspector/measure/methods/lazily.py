"""Lazy greedy search: earlier scores say whom to score anew, and when to stop. An approximation.

What a candidate adds to the score of the mask changes little from step to step, so that what it
added when it was last scored says what it would cost now: candidates are scored anew in that order
until the best of them is below what the next one would cost. The neighbours of what has just gone,
with which it worked together, are scored anew in any case. Where another adds less than it is taken
to, the exact search may remove another unit. After M. Minoux, "Accelerated greedy algorithms for
maximizing submodular set functions" (1978), where it is exact; the scores here are not submodular.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from inspector.jobs import Progress, part
from inspector.measure.methods.choices import Group
from inspector.measure.methods.goals import SWEPT
from inspector.measure.methods.scores import scored
from inspector.measure.methods.search import Measured, Search, rank
from inspector.measure.metrics import DIVERGENCES
from inspector.measure.perplexity import of_loss
from inspector.measure.sweep import sweep
from inspector.units import Mask

Candidate = TypeVar("Candidate")

KEPT = 0.95
"""The share of what a candidate adds that is left after a step. Measured over 15 steps of SmolLM2,
by js and by perplexity: 0.97 and 1.02 in the median, below 0.9 for one candidate in ten and in
twenty. Neighbours of what has gone may fall to 0.4. What was scored long ago is tried sooner."""

FIRST = 4
"""Candidates that are scored together at first, as they share a pass; then twice as many."""


def cost(search: Search, mask: Mask) -> float:
    """The search's score of the mask itself, with no candidate gone besides: one pass.

    0 where scores are what candidates add to it, and of a divergence where nothing is muted.
    """
    added = search.metric not in {"perplexity", *DIVERGENCES}
    if added or (search.metric in DIVERGENCES and not mask.muted):
        return 0.0
    value = sweep(
        search.loaded,
        search.windows,
        mask,
        metric=SWEPT.get(search.metric, search.metric),
        units=search.groups[-1][-1:],  # which shares nearly all of the pass
        memory=search.memory,
        kept=search.kept,
        ranks=search.ranks,
    ).reference
    return of_loss(value) if search.metric == "perplexity" else value


def carried(
    search: Search, scores: Mapping[Group, float], gone: Group, was: float, now: float
) -> dict[Group, float]:
    """What candidates would cost now, by the `scores` of the step that removed `gone`.

    The mask cost `was` then and costs `now`. What a candidate adds is taken to be `KEPT` of what it
    added: the difference between its score and the mask's, of a perplexity between the logarithms.
    The nearest candidates before and behind what has gone are left out: theirs say little now.
    """
    order = sorted(scores)
    place = order.index(gone)
    near = {gone, *order[max(0, place - 1) : place + 2]}
    known = {group: score for group, score in scores.items() if group not in near}
    if search.metric == "perplexity":
        return {group: now * (score / was) ** KEPT for group, score in known.items()}
    if search.metric in DIVERGENCES:
        return {group: now + KEPT * (score - was) for group, score in known.items()}
    return {group: KEPT * score for group, score in known.items()}


def rescored(
    search: Search,
    mask: Mask,
    groups: Sequence[Group],
    before: Mapping[Group, float],
    progress: Progress,
) -> Measured:
    """Candidates' scores under the mask, some of them carried over from `before` (see `carried`).

    Those without an earlier score come first, and all of them where there is none at all.
    """
    search = replace(search, early_exit=False)  # what is scored here may be carried over later
    layers, heads, held, done = 0.0, 0.0, 0, 0

    def measure(some: Sequence[Group]) -> Mapping[Group, float]:
        nonlocal layers, heads, held, done
        here, wanted = part(progress, done, len(some), len(groups)), set(some)
        found = scored(search, mask, [group for group in groups if group in wanted], here)
        layers, heads, done = layers + found.layers, heads + found.heads, done + len(some)
        held = max(held, found.stream_bytes)
        return found.scores

    fresh = not_ruled_out(groups, before, measure)
    progress(len(groups), len(groups))
    scores = {group: fresh[group] if group in fresh else before[group] for group in groups}
    stale = frozenset(group for group in groups if group not in fresh)
    return Measured(scores, stale=stale, layers=layers, heads=heads, stream_bytes=held)


def not_ruled_out(
    candidates: Iterable[Candidate],
    before: Mapping[Candidate, float],
    measure: Callable[[Sequence[Candidate]], Mapping[Candidate, float]],
) -> dict[Candidate, float]:
    """Fresh scores of those candidates that their earlier scores, `before`, do not rule out.

    `measure` scores some of them; it is asked for a few at first, then for twice as many.
    """
    order = sorted(candidates, key=lambda each: rank(before.get(each, -math.inf)))
    size = FIRST if before else len(order)
    fresh: dict[Candidate, float] = {}
    while order:
        some, order, size = order[:size], order[size:], 2 * size
        fresh |= measure(some)
        if order and min(map(rank, fresh.values())) < rank(before.get(order[0], -math.inf)):
            break
    return fresh
