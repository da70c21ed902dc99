"""The project's own method: the least cost per parameter, and exchanges that both halves agree on.

Greedy search takes nothing back, and prefers small units because they cost little, not because they
cost little for what they save. Here a step removes the unit, or the whole layer, that adds the
least cost per parameter. Then what has been removed is exchanged for something else, for as long as
that lowers the cost on both halves of the text: an exchange that one half alone is for fits that
half and not the model. A text of a single window has no second half, and nothing is exchanged on
it. Where the run is to remove a share of the parameters, exchanges may be of
different sizes as long as the share is met; else they are of one unit for another of its kind and
size, so that as many units are off as were asked for.

The cost is the KL divergence from the untouched model, or the loss. The loss goes by the one token
that came next, the divergence by all that might have come, which is less noisy on a short text but
not what perplexity measures: each is the better one at some shares (the README's table).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

from inspector.jobs import Progress
from inspector.measure.methods.choices import Group
from inspector.measure.methods.goals import SWEPT
from inspector.measure.methods.judge import Judge
from inspector.measure.methods.lazily import not_ruled_out
from inspector.measure.methods.search import Proposal, Search, rank
from inspector.results.trajectory import Step
from inspector.units import Mask, Unit
from inspector.units import unit as named

LAYERS = 8
"""Whole layers that are scored at a step: those whose units' last scores are lowest together."""

BACK = 2
"""Removed units of which each is tried against every other unit of its kind and size."""

INSTEAD = 12
"""Units that may go in a round of exchanges: those that added least when they were last scored."""

FILLED = 6
"""Removed units that may come back for whatever saves as much."""

ROUNDS = 4
"""Exchanges after the last removal at most; after the others there is one."""

Cost = tuple[float, ...]
"""The mean cost of each half of the text."""


def propose(
    search: Search, mask: Mask, progress: Progress, taken: Sequence[Step] = ()
) -> Iterator[Proposal]:
    """A removal a step and the exchanges that follow it, after the steps that are `taken`.

    Every candidate's score is that before the removal. Only those are scored anew that earlier
    scores do not rule out, as in `lazily`; where a whole layer goes, its units carry its score.
    """
    going = _Going(search, mask, progress)
    for step in taken:
        mask = Mask.parse(step.mask, mask.depth)
        going.known |= {named(text, mask.depth): score for text, score in step.scores.items()}
    for number in range(len(taken), search.steps):
        before, going.measured, going.judge.held = mask, 0, 0
        going.turn_to(number, 0, "scoring what is left")
        scores, status, chosen = going.removal(mask)
        mask = mask.mute(chosen)
        for turn in range(1, going.rounds(mask, number) + 1):
            going.turn_to(number, turn, "looking for exchanges")
            better = going.exchanged(mask)
            if better is None:
                break
            mask = better
        yield Proposal(
            {str(each): score for each, score in scores.items()},
            {str(each): said for each, said in status.items()},
            removed=sorted(mask.muted - before.muted),
            restored=sorted(before.muted - mask.muted),
            layers=going.measured,
            heads=going.measured,
            stream_bytes=going.judge.held,
        )
    going.turn_to(search.steps, 0, "")
    going.hear(0, 1)


class _Going:
    """A search that began with the mask `origin`, and the scores that it has seen last."""

    def __init__(self, search: Search, origin: Mask, progress: Progress) -> None:
        self.search, self.origin, self.progress = search, origin, progress
        self.units = [each for group in search.groups for each in group]
        self.size = {each: search.loaded.info(each).parameters for each in self.units}
        self.known: dict[Unit, float] = {}
        """The cost that a unit added for each million of its parameters, when last scored."""
        self.measured = 0
        """Masks in this step."""
        count = len(search.windows)
        self.halves = [list(half) for half in (range(0, count, 2), range(1, count, 2)) if half]
        self.judge = Judge.of(search, SWEPT[search.metric])
        self.at = self.start = 0.0
        self.note = ""

    def turn_to(self, step: int, turn: int, note: str) -> None:
        """Say what comes now; a step is its removal and its rounds of exchanges."""
        self.start, self.note = step + turn / (ROUNDS + 1), note

    def hear(self, done: float, total: float, note: str = "", partial: object = None) -> None:
        """Tell how far the search is; each phase measures several times, so it may stand still."""
        self.at = max(self.at, self.start + done / total / (ROUNDS + 1))
        self.progress(self.at, self.search.steps, self.note)

    def costs(self, masks: Sequence[Mask]) -> list[Cost]:
        """The cost of each half under each mask."""
        if not masks:
            return []
        self.measured += len(masks)
        halves = [self.judge.scores(masks, half, progress=self.hear) for half in self.halves]
        return list(zip(*halves, strict=True))

    def whole(self, cost: Cost) -> float:
        """The mean cost of the whole text."""
        return sum(map(operator.mul, cost, map(len, self.halves))) / len(self.search.windows)

    def saved(self, units: Iterable[Unit]) -> int:
        """The parameters of those units that this search has removed."""
        return sum(self.size[unit] for unit in units if unit in self.size)

    def gone(self, mask: Mask) -> list[Unit]:
        """What this search has removed."""
        return [unit for unit in mask if unit not in self.origin]

    def left(self, mask: Mask) -> list[Unit]:
        """What it may remove."""
        return [unit for unit in self.units if unit not in mask]

    def rounds(self, mask: Mask, number: int) -> int:
        """How many exchanges may follow the removal of this number, which led to the mask."""
        if len(self.halves) < 2:  # there is nobody to agree with
            return 0
        if self.search.parameters:
            last = self.saved(self.gone(mask)) >= self.search.parameters
        else:
            last = number + 1 == self.search.steps
        return ROUNDS if last else 1

    def removal(self, mask: Mask) -> tuple[dict[Unit, float], dict[Unit, str], Group]:
        """Every unit's score, what kind of score it is, and what goes: a unit, or a layer."""
        now, left = self.whole(self.costs([mask])[0]), self.left(mask)
        fresh: dict[Group, float] = {}

        def score(groups: Sequence[Group]) -> None:
            groups = [group for group in groups if group not in fresh]
            found = self.costs([mask.mute(group) for group in groups])
            for group, cost in zip(groups, found, strict=True):
                fresh[group] = 1e6 * (self.whole(cost) - now) / self.saved(group)

        def one_by_one(units: Sequence[Unit]) -> dict[Unit, float]:
            score([(unit,) for unit in units])
            return {unit: fresh[unit,] for unit in units}

        self.known |= not_ruled_out(left, self.known, one_by_one)
        score(self._layers(left))
        wanting = self.search.parameters - self.saved(self.gone(mask))
        chosen = min(fresh, key=lambda group: (rank(fresh[group]), group))
        if 0 < wanting < self.saved(chosen):
            # It ends the run, and what it saves beyond the bound counts for nothing.
            self.known |= one_by_one([unit for unit in left if self.size[unit] >= wanting])
            enough = [group for group in fresh if self.saved(group) >= wanting]
            chosen = min(enough, key=lambda g: (rank(fresh[g] * self.saved(g)), g))
        self.known |= dict.fromkeys(chosen, fresh[chosen])
        status = {unit: "exact" if (unit,) in fresh or unit in chosen else "stale" for unit in left}
        return {unit: self.known[unit] for unit in left}, status, chosen

    def _layers(self, left: Sequence[Unit]) -> list[Group]:
        """Whole layers worth a look, where a run need not end with a number of units."""
        if not self.search.parameters:
            return []
        by_layer: dict[int, list[Unit]] = {}
        for unit in left:
            by_layer.setdefault(unit.layer, []).append(unit)
        both = [tuple(units) for units in by_layer.values() if len(units) > 1]
        return sorted(both, key=lambda group: (rank(self._guess(group)), group))[:LAYERS]

    def _guess(self, group: Group) -> float:
        """What a group would add for each parameter if its units added up."""
        return sum(self.known[unit] * self.size[unit] for unit in group) / self.saved(group)

    def exchanged(self, mask: Mask) -> Mask | None:
        """The mask after the best exchange that both halves are for; None where there is none."""
        gone = self.gone(mask)
        if len(gone) < 2:  # what has just gone was the best choice
            return None
        now, *back = self.costs([mask, *(mask.unmute([unit]) for unit in gone)])
        worth = {
            unit: (self.whole(now) - self.whole(cost)) / self.size[unit]
            for unit, cost in zip(gone, back, strict=True)
        }
        # What takes most of the cost away where it comes back, for each of its parameters.
        dear = sorted(gone, key=lambda unit: (-worth[unit], unit))
        bounded = self.search.parameters
        masks = self._of_any_size(mask, dear, worth) if bounded else self._swaps(mask, dear)
        masks = [each for each in dict.fromkeys(masks) if each != mask]
        found = zip(self.costs(masks), masks, strict=True)
        agreed = [each for each in found if all(map(operator.lt, each[0], now))]
        return min(agreed, key=lambda each: self.whole(each[0]))[1] if agreed else None

    def _cheap(self, mask: Mask) -> list[Unit]:
        left = self.left(mask)
        return sorted(left, key=lambda unit: (rank(self.known[unit]), unit))

    def _swaps(self, mask: Mask, dear: Sequence[Unit]) -> list[Mask]:
        """One unit back, and another of its kind and size in its place."""
        masks = []
        for back in dear[:BACK]:
            alike = [
                unit
                for unit in self._cheap(mask)
                if (unit.kind, self.size[unit]) == (back.kind, self.size[back])
            ]
            masks += [mask.unmute([back]).mute([unit]) for unit in alike[:INSTEAD]]
        return masks

    def _of_any_size(
        self, mask: Mask, dear: Sequence[Unit], worth: Mapping[Unit, float]
    ) -> list[Mask]:
        """Another unit or layer off, and back what the share allows; or the other way about."""
        saved, cheap = self.saved(self.gone(mask)), self._cheap(mask)
        # Once the run's share is met, what lies beyond it may come back.
        least = min(saved, self.search.parameters)
        masks = []
        for group in [*((unit,) for unit in cheap[:INSTEAD]), *self._layers(self.left(mask))]:
            room, back = saved + self.saved(group) - least, list[Unit]()
            for unit in dear:
                if worth[unit] > 0 and self.size[unit] <= room:
                    back.append(unit)
                    room -= self.size[unit]
            masks.append(mask.mute(group).unmute(back))
        for back in dear[:FILLED]:
            wanting, filling = least - saved + self.size[back], list[Unit]()
            for unit in cheap:
                if wanting > 0:
                    filling.append(unit)
                    wanting -= self.size[unit]
            if wanting <= 0:
                masks.append(mask.unmute([back]).mute(filling))
        return masks
