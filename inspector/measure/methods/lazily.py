"""Lazy greedy search: earlier scores say whom to score anew, and when to stop. An approximation.

Most scores rise from step to step, so that an earlier score is close to a lower bound of the
present one: candidates are scored anew in the order of their last scores until the best of them is
below the next earlier score. Where a score has fallen meanwhile, the exact search may remove
another unit. After M. Minoux, "Accelerated greedy algorithms for maximizing submodular set
functions" (1978), where it is exact; the scores here are not submodular.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from inspector.jobs import Progress, part
from inspector.measure.methods.choices import Group
from inspector.measure.methods.scores import scored
from inspector.measure.methods.search import Measured, Search, rank
from inspector.units import Mask

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
    order = sorted(groups, key=lambda group: rank(before.get(group, -math.inf)))
    size = FIRST if before else len(order)
    fresh: dict[Group, float] = {}
    layers, heads, held = 0.0, 0.0, 0
    while order:
        some, order = set(order[:size]), order[size:]
        here = part(progress, len(fresh), len(some), len(groups))
        found = scored(search, mask, [group for group in groups if group in some], here)
        fresh |= found.scores
        layers, heads, size = layers + found.layers, heads + found.heads, 2 * size
        held = max(held, found.stream_bytes)
        if order and min(map(rank, fresh.values())) < rank(before.get(order[0], -math.inf)):
            break
    progress(len(groups), len(groups))
    scores = {group: fresh[group] if group in fresh else before[group] for group in groups}
    return Measured(scores, stale=frozenset(order), layers=layers, heads=heads, stream_bytes=held)
