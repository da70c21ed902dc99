"""Methods that remove the candidate with the lowest score: one-shot, or scored anew every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.jobs import Progress, part
from inspector.measure.methods.choices import Group
from inspector.measure.methods.lazily import carried, cost, rescored
from inspector.measure.methods.scores import scored
from inspector.measure.methods.search import Proposal, Search, by_unit, lowest
from inspector.results.trajectory import Step
from inspector.units import Mask


def propose(
    search: Search, mask: Mask, progress: Progress, taken: Sequence[Step] = ()
) -> Iterator[Proposal]:
    """One removal a step, for at most `search.steps` steps from the mask on, after those `taken`.

    An iterative method scores what is left under the mask so far, a lazy one only as much of it as
    `lazily` says; a one-shot method scores all candidates before its first step and carries the
    scores over.
    """
    left = list(search.groups)
    known: dict[Group, float] = {}
    chosen: Group = ()
    costs = [cost(search, mask)] if search.lazy else []
    for step in taken:
        mask = mask.mute(Mask.of(mask.depth, step.removed))
        scores = {group: step.scores.get(str(group[0])) for group in left}
        known = {group: score for group, score in scores.items() if score is not None}
        chosen = next(group for group in left if str(group[0]) in step.removed)
        left.remove(chosen)
        costs.append(known[chosen])
    for gone in range(len(taken), search.steps):
        allowed = search.allowed(left, gone)
        if search.row.way == "iterative" or not gone:
            here = part(progress, gone, 1, search.steps)
            if search.lazy:
                known = carried(search, known, chosen, *costs[-2:]) if gone else known
                found = rescored(search, mask, allowed, known, here)
            else:
                found = scored(search, mask, allowed, here)
            known = found.scores
            status = {group: found.status(group) for group in allowed}
            effort = found.layers, found.heads, found.stream_bytes
        else:
            status, effort = dict.fromkeys(allowed, "stale"), (0.0, 0.0, 0)
        scores = {group: known[group] for group in allowed}
        chosen = lowest(search, allowed, scores)
        proposal = Proposal(by_unit(scores), by_unit(status), list(chosen), [], *effort)
        yield proposal
        mask = proposal.applied(mask)
        left.remove(chosen)
        costs.append(known[chosen])
