"""Methods that remove the candidate with the lowest score: one-shot, or scored anew every time."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.jobs import Progress, part
from inspector.measure.methods.choices import Group
from inspector.measure.methods.scores import scored
from inspector.measure.methods.search import Proposal, Search, by_unit, lowest
from inspector.units import Mask


def propose(search: Search, mask: Mask, progress: Progress) -> Iterator[Proposal]:
    """One removal a step, for at most `search.steps` steps from the mask on.

    An iterative method scores what is left under the mask so far; a one-shot method scores all
    candidates before its first step and carries the scores over.
    """
    left = list(search.groups)
    known: dict[Group, float] = {}
    for gone in range(search.steps):
        allowed = search.allowed(left, gone)
        fresh = search.row.way == "iterative" or not gone
        if fresh:
            known = scored(search, mask, allowed, part(progress, gone, 1, search.steps))
        scores = {group: known[group] for group in allowed}
        chosen = lowest(search, allowed, scores)
        found = Proposal(by_unit(scores), fresh, list(chosen), [])
        yield found
        mask = found.applied(mask)
        left.remove(chosen)
