"""Lazy greedy search: earlier scores say whom to score anew, and when to stop. An approximation.

Most scores rise from step to step, so that an earlier score is close to a lower bound of the
present one: candidates are scored anew in the order of their last scores until the best of them is
below the next earlier score. Where a score has fallen meanwhile, the exact search may remove
another unit. After M. Minoux, "Accelerated greedy algorithms for maximizing submodular set
functions" (1978), where it is exact; the scores here are not submodular.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from inspector.jobs import Progress, part
from inspector.measure.methods.choices import Group
from inspector.measure.methods.scores import scored
from inspector.measure.methods.search import Measured, Search, rank
from inspector.units import Mask

Candidate = TypeVar("Candidate")

FIRST = 4
"""Candidates that are scored together at first, as they share a pass; then twice as many."""


def rescored(
    search: Search,
    mask: Mask,
    groups: Sequence[Group],
    before: Mapping[Group, float],
    progress: Progress,
) -> Measured:
    """Candidates' scores under the mask, some of them carried over from `before`.

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
