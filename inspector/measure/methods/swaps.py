"""The project's own method: the least loss per parameter, and swaps that both halves agree on.

Greedy search takes nothing back, and prefers small units because they cost little, not because they
cost little for what they save. Here a step removes the unit that adds the least loss per parameter.
Then removed units come back one at a time, each for another of its kind and size, for as long as
that lowers the loss on both halves of the text: a swap that one half alone is for fits that half
and not the model. Where the run is to remove a share of the parameters, its last removal is the
unit that adds the least loss of all that are large enough to meet it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from inspector.jobs import Progress, part
from inspector.measure.methods.choices import Group
from inspector.measure.methods.judge import Judge
from inspector.measure.methods.lazily import rescored
from inspector.measure.methods.scores import parameters, scored
from inspector.measure.methods.search import Measured, Proposal, Search, by_unit, lowest, rank
from inspector.results.trajectory import Step
from inspector.units import Mask

BACK = 2
"""Removed units that may come back in a round: those whose return takes most loss away."""

INSTEAD = 12
"""Units that may go in the place of each: those that added least when they were last scored."""

ROUNDS = 4
"""Swaps after one removal at most."""


def propose(
    search: Search, mask: Mask, progress: Progress, taken: Sequence[Step] = ()
) -> Iterator[Proposal]:
    """A removal a step and the swaps that follow it, after the steps that are `taken`.

    Every candidate's score is that before the removal, of which only those are scored anew that
    `lazily` picks: where a unit comes back or goes in a swap, the whole mask has been measured.
    """
    origin = mask
    known: dict[Group, float] = {}
    for step in taken:
        mask = Mask.parse(step.mask, mask.depth)
        known |= {
            group: step.scores[str(group[0])]
            for group in search.groups
            if str(group[0]) in step.scores
        }
    swapping = _Swapping(search, origin)
    for number in range(len(taken), search.steps):
        here = part(progress, number, 1, search.steps)
        found, chosen = _removal(search, mask, origin, known, part(here, 0, 1, 2))
        known |= found.scores
        after, measured = swapping.better(mask.mute(chosen), known, part(here, 1, 1, 2))
        yield Proposal(
            by_unit(found.scores),
            by_unit({group: found.status(group) for group in found.scores}),
            removed=sorted(after.muted - mask.muted),
            restored=sorted(mask.muted - after.muted),
            layers=found.layers + measured,
            heads=found.heads + measured,
            stream_bytes=found.stream_bytes,
        )
        mask = after


def _removal(
    search: Search, mask: Mask, origin: Mask, known: Mapping[Group, float], progress: Progress
) -> tuple[Measured, Group]:
    """The candidates' scores, and what goes by them."""
    left = [group for group in search.groups if group[0] not in mask]
    found = rescored(search, mask, left, known, part(progress, 0, 1, 2))
    chosen = lowest(search, left, found.scores)
    size = partial(parameters, search.loaded)
    wanting = search.parameters - sum(size((unit,)) for unit in mask.muted - origin.muted)
    if size(chosen) <= wanting or wanting <= 0:
        return found, chosen
    # It ends the run, and what it saves beyond the bound counts for nothing.
    enough = [group for group in left if size(group) >= wanting]
    ends = scored(search, mask, enough, part(progress, 1, 1, 2))
    measured = Measured(
        found.scores | ends.scores,
        stale=found.stale - set(enough),
        layers=found.layers + ends.layers,
        heads=found.heads + ends.heads,
        stream_bytes=max(found.stream_bytes, ends.stream_bytes),
    )
    loss = {group: ends.scores[group] * size(group) for group in enough}
    return measured, lowest(search, enough, loss)


class _Swapping:
    """The swaps of a search that began with the mask `origin`."""

    def __init__(self, search: Search, origin: Mask) -> None:
        self.search, self.origin = search, origin
        count = len(search.windows)
        halves = range(0, count, 2), range(1, count, 2)
        self.halves = [list(half) for half in halves if half]
        self.judge = Judge.of(search, "nll")

    def better(
        self, mask: Mask, known: Mapping[Group, float], progress: Progress
    ) -> tuple[Mask, int]:
        """The mask after the swaps that both halves are for, and how many masks were measured.

        `known` are the candidates' last scores, those that are muted now included.
        """
        if len(self._gone(mask)) < 2:  # what has just gone was the best choice
            return mask, 0
        now, measured = self._losses([mask])[0], 1
        for number in range(ROUNDS):
            progress(number, ROUNDS, "looking for swaps")
            masks = self._swapped(mask, known)
            measured += len(self._gone(mask)) + len(masks)
            found = zip(self._losses(masks), masks, strict=True)
            agreed = [each for each in found if all(map(operator.lt, each[0], now))]
            if not agreed:
                break
            now, mask = min(agreed, key=lambda each: sum(each[0]))
        return mask, measured

    def _gone(self, mask: Mask) -> list[Group]:
        groups = self.search.groups
        return [group for group in groups if group[0] in mask and group[0] not in self.origin]

    def _swapped(self, mask: Mask, known: Mapping[Group, float]) -> list[Mask]:
        """The mask with one removed unit back and another of its kind and size in its place."""
        gone, size = self._gone(mask), partial(parameters, self.search.loaded)
        without = [mask.unmute(group) for group in gone]
        losses = {
            group: sum(values) / size(group)
            for group, values in zip(gone, self._losses(without), strict=True)
        }
        left = [group for group in self.search.groups if group[0] not in mask]
        left.sort(key=lambda group: rank(known[group]))
        masks = []
        for back in sorted(gone, key=losses.__getitem__)[:BACK]:
            alike = [
                each for each in left if each[0].kind == back[0].kind and size(each) == size(back)
            ]
            masks += [mask.unmute(back).mute(each) for each in alike[:INSTEAD]]
        return masks

    def _losses(self, masks: Sequence[Mask]) -> list[list[float]]:
        """The mean loss of each half of the text under each mask."""
        halves = [self.judge.scores(masks, half) for half in self.halves]
        return [list(values) for values in zip(*halves, strict=True)]
