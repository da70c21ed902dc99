"""A trajectory as arrays: what was scored, gone, removed and restored at every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inspector.results.comparison import SEARCHED
from inspector.results.trajectory import STATUSES, Step, Trajectory
from inspector.units import KINDS, Mask
from inspector.view.figures.style import in_words, kinds_of, metric_words, split


@dataclass(frozen=True)
class StepGrid:
    """The candidates of every step, per kind of unit as [steps, layers].

    `steps` are the step numbers, the baseline left out. `score` is NaN where nothing was scored;
    `shade` in [0, 1] is its place within its step (see `shades`); `gone` says that the unit was
    muted before the step; `status` is an index into `STATUSES`, -1 where nothing was scored.
    `removed` and `restored` are (row, unit text).
    """

    steps: list[int]
    kinds: list[str]
    score: dict[str, np.ndarray]
    shade: dict[str, np.ndarray]
    gone: dict[str, np.ndarray]
    status: dict[str, np.ndarray]
    removed: list[tuple[int, str]]
    restored: list[tuple[int, str]]


def shades(scores: dict[str, float]) -> dict[str, float]:
    """Each score's place in its step: 0 is the step's lowest, 1 its upper quartile and all above.

    Why not one scale for all steps: late steps cost many times what early ones do, and would leave
    the early rows one flat colour. Why not ranks: near ties would look far apart. Why the quartile:
    a few units (mostly the first FFN) cost a hundred times the rest, while the choice is among the
    cheap ones. NaN stays NaN; equal scores are all 0.
    """
    finite = np.array([score for score in scores.values() if math.isfinite(score)])
    if not finite.size:
        return dict.fromkeys(scores, math.nan)
    low = float(finite.min())
    span = float(np.quantile(finite, 0.75)) - low or float(finite.max()) - low or 1.0
    return {unit: min((score - low) / span, 1.0) for unit, score in scores.items()}


def step_grid(trajectory: Trajectory) -> StepGrid:
    """The arrays of the step map."""
    depth = trajectory.depth
    steps = [step for step in trajectory.steps if step.step > 0]
    named = (unit for step in steps for unit in (*step.scores, *step.removed, *step.restored))
    kinds = kinds_of(named)
    shape = (len(steps), depth)
    score = {kind: np.full(shape, np.nan) for kind in KINDS}
    shade = {kind: np.full(shape, np.nan) for kind in KINDS}
    status = {kind: np.full(shape, -1) for kind in KINDS}
    gone = {kind: np.zeros(shape, dtype=bool) for kind in KINDS}
    before = trajectory.mask
    for row, step in enumerate(steps):
        for unit in Mask.parse(before, depth):
            gone[unit.kind][row, unit.layer] = True
        placed = shades(step.scores)
        for text, value in step.scores.items():
            layer, kind = split(text)
            score[kind][row, layer] = value
            shade[kind][row, layer] = placed[text]
            status[kind][row, layer] = STATUSES.index(step.score_status[text])
        before = step.mask
    return StepGrid(
        steps=[step.step for step in steps],
        kinds=kinds,
        score=score,
        shade=shade,
        gone=gone,
        status=status,
        removed=[(row, unit) for row, step in enumerate(steps) for unit in step.removed],
        restored=[(row, unit) for row, step in enumerate(steps) for unit in step.restored],
    )


def in_short(trajectory: Trajectory) -> tuple[str, str]:
    """What the step map shows, and what its scores are."""
    searched = trajectory.method in SEARCHED
    state = "" if trajectory.finished else "Not finished. "
    of = "each new mask" if searched else "each candidate"
    how = f"{state}{trajectory.method}: {metric_words(trajectory.metric)} of {of}"
    if repeats := trajectory.options.get("repeats"):
        how += f"; no fresh text: {repeats}"
    if trajectory.remark:
        how += f"; {trajectory.remark}"
    if searched:
        return "How the search went from mask to mask", how
    return "What every candidate would have cost at every step", how


def runs(gone: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Layer, first row and number of rows of every unbroken run of gone cells of one kind."""
    for layer in range(gone.shape[1]):
        column = np.concatenate(([False], gone[:, layer], [False])).astype(int)
        change = np.diff(column)
        for start, end in zip(
            np.flatnonzero(change == 1), np.flatnonzero(change == -1), strict=True
        ):
            yield layer, int(start), int(end - start)


def step_rows(trajectory: Trajectory) -> Iterator[tuple[int, str, float, str, int]]:
    """Step, unit, score, status and whether it was removed then, of every candidate."""
    for step in trajectory.steps:
        for unit, score in step.scores.items():
            yield step.step, unit, score, step.score_status[unit], int(unit in step.removed)
        for unit in step.removed:
            if unit not in step.scores:
                yield step.step, unit, math.nan, "", 1


@dataclass(frozen=True)
class Course:
    """The course of a trajectory, one entry a step.

    `perplexity` is NaN where it was not measured; `parameters` and `kv` are what is left in % of
    the first step.
    """

    steps: list[int]
    perplexity: list[float]
    parameters: list[float]
    kv: list[float]
    removed: list[str]


def course(trajectory: Trajectory) -> Course:
    """The numbers of the curve."""
    steps = trajectory.steps
    return Course(
        steps=[step.step for step in steps],
        perplexity=[step.perplexity for step in steps],
        parameters=_percent(steps, "parameters"),
        kv=_percent(steps, "kv_bytes_per_token"),
        removed=[", ".join(step.removed) for step in steps],
    )


def _percent(steps: list[Step], field: str) -> list[float]:
    amounts = [float(getattr(step, field)) for step in steps]
    return [100 * amount / amounts[0] if amounts[0] else math.nan for amount in amounts]


def removed_in_words(text: str) -> str:
    """An entry of `Course.removed` in words; many units are counted."""
    units = text.split(", ") if text else []
    if len(units) > 4:
        return f"removed {len(units)} units"
    return "removed " + "; ".join(map(in_words, units)) if units else "nothing removed"
