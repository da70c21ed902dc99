"""EvoPress (arXiv 2410.14649): an evolutionary search over masks of one size.

A mask's score is the mean over tokens of KL(P || P'), P the untouched model. All masks of a stage
go through the layers together (`judge`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from inspector.jobs import Progress, part
from inspector.measure.methods.evolution import (
    SURVIVORS,
    Plan,
    State,
    draw_children,
    draw_starts,
    draw_windows,
    muting,
)
from inspector.measure.methods.judge import Judge
from inspector.measure.methods.search import Proposal, Search, rank
from inspector.results.trajectory import Step
from inspector.units import Mask

Scored = tuple[float, State]
"""A mask's score, and what it mutes."""


def propose(
    search: Search, mask: Mask, progress: Progress, taken: Sequence[Step] = ()
) -> Iterator[Proposal]:
    """The best random mask, then a proposal for each generation: two stages, elitist.

    One that has not changed the elite proposes nothing but the place to go on from: its number and
    the state of the generator of random numbers. Each removed unit carries the score of the mask
    that it is part of, on the windows on which that was chosen. Equal scores go to the child, as in
    the authors' code.
    """
    plan, windows = search.plan, search.windows
    if plan is None or bool(taken) != bool(search.place):
        raise ValueError("an evolutionary search needs its plan, and the place of its last step")
    first, second = plan.stages(*windows.shape)
    draw = random.Random(search.seed)
    judge = Judge.of(search, search.metric)
    begins, each = plan.asked.starts * first, plan.asked.offspring * first
    whole = each + (SURVIVORS + 1) * second
    work = begins + plan.generations * whole
    done = 0

    def scaled(done: float, total: float, note: str = "", partial: object = None) -> None:
        progress(search.steps * done / total, search.steps, note)

    def best(states: Sequence[State], wanted: int, share: int, note: str) -> list[Scored]:
        nonlocal done
        masks = [muting(mask, state) for state in states]
        numbers = draw_windows(len(windows), wanted, draw)
        found = judge.scores(masks, numbers, note=note, progress=part(scaled, done, share, work))
        done += share
        return sorted(zip(found, states, strict=True), key=lambda each: rank(each[0]))

    def changed(number: int, before: State, after: Scored) -> Proposal:
        score, state = after
        removed = [unit for group in sorted(state - before) for unit in group]
        restored = [unit for group in sorted(before - state) for unit in group]
        scores = dict.fromkeys(map(str, removed), score)
        return Proposal(
            scores,
            dict.fromkeys(scores, "exact"),
            removed,
            restored,
            stream_bytes=judge.held,
            done=search.steps * done / work,
            place={"generation": number, "draw": draw.getstate()},
        )

    if taken:
        begun, elite = search.place["generation"], _elite(plan, mask.depth, taken[-1])
        version, numbers, spare = search.place["draw"]
        draw.setstate((version, tuple(numbers), spare))
        done = begins + begun * whole
    else:
        chosen = best(draw_starts(plan, draw), first, begins, "measuring random masks")[0]
        begun, elite = 0, chosen[1]
        yield changed(0, frozenset(), chosen)
        judge.held = 0
    for number in range(begun + 1, plan.generations + 1):
        note = f"generation {number} of {plan.generations}"
        children = draw_children(plan, elite, draw)
        if not children:  # everything that may go is gone
            break
        alive = [state for _, state in best(children, first, each, note)[:SURVIVORS]]
        chosen = best([*alive, elite], second, (SURVIVORS + 1) * second, note)[0]
        parent, elite = elite, chosen[1]
        yield changed(number, parent, chosen)
        if elite != parent:
            judge.held = 0  # of the next step
    scaled(work, work)


def _elite(plan: Plan, depth: int, step: Step) -> State:
    """What the last step muted besides the mask at the start, whose units no pool has."""
    muted = Mask.parse(step.mask, depth)
    return frozenset(group for pool in plan.pools for group in pool if group[0] in muted)
