"""What the map can be coloured by: one table of measures, each from what the page has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inspector.measure.metrics import METRICS
from inspector.results.base import Result
from inspector.units import Mask, layers
from inspector.view.grid import layer_map_value, measure
from inspector.view.session import Session

Colouring = tuple[dict[str, float], dict[str, Any]]


@dataclass(frozen=True)
class Colour:
    """One row: `of` gives the scores by unit text and what they mean, or None without data.

    `refresh` names the kind of job that measures it anew under the present mask, where one does.
    """

    name: str
    of: Callable[[Session], Colouring | None]
    refresh: str = ""


def _meaning(session: Session, found: Result, label: str, **more: Any) -> dict[str, Any]:
    """What a result's colours mean; marked where they are of another model or another mask."""
    made, card = found.provenance, session.card
    mine = card is not None and (card.source, card.weights, card.dtype) == (
        made.source,
        made.weights,
        made.dtype,
    )
    stale = "" if mine else f"another model, {made.source} in {made.dtype}."
    mask = Mask.parse(more.pop("under", found.mask), found.depth)
    return measure(label, stale=stale, mask=mask, **more)


def _sweep(session: Session) -> Colouring | None:
    scores = session.scores
    if scores is None:
        return None
    row = METRICS[scores.metric]
    label = "Cost of muting next" if scores.metric == "nll" else f"Muting next: {row.label}"
    signed = scores.metric == "nll"
    return scores.scores, _meaning(session, scores, label, unit=row.unit, signed=signed)


def _similarity(what: str, label: str) -> Callable[[Session], Colouring | None]:
    def of(session: Session) -> Colouring | None:
        found = session.similarity
        if found is None:
            return None
        return getattr(found, what), _meaning(session, found, label)

    return of


def _angular(session: Session) -> Colouring | None:
    found = session.similarity
    if found is None:
        return None
    scores = {
        str(unit): float(found.angular_last[unit.layer, unit.layer + 1])
        for unit in layers(0, found.depth - 1)
    }
    return scores, _meaning(session, found, "Angle across the layer", unit="of pi")


def _step(session: Session) -> Colouring | None:
    run = session.trajectory
    if run is None or len(run.steps) < 2:
        return None
    at = min((session.step or 0) + 1, len(run.steps) - 1)
    label, before = f"Score at step {at} of the run", run.steps[at - 1].mask
    marks = {name: MARKS[status] for name, status in run.steps[at].score_status.items()}
    meaning = _meaning(
        session, run, label, unit=run.metric, under=before,
        marks={name: mark for name, mark in marks.items() if mark},
    )  # fmt: skip
    return run.steps[at].scores, meaning


def _cost(index: int, label: str) -> Callable[[Session], Colouring | None]:
    def of(session: Session) -> Colouring | None:
        card = session.card
        if card is None:
            return None
        scores = {name: float(cost[index]) for name, cost in card.units.items()}
        return scores, measure(label, direction="higher = more is saved")

    return of


MARKS = {"exact": "", "lower_bound": "≥ ", "stale": "carried over: "}
"""What stands before a score of a run, by its status."""


COLOURS: dict[str, Colour] = {
    colour.name: colour
    for colour in (
        Colour("What next: cost of muting", _sweep, "sweep"),
        Colour("Turn of the stream", _similarity("turn", "Turn: 1 - cosine"), "similarity"),
        Colour("Growth of the stream", _similarity("growth", "Growth: |f| / |x|"), "similarity"),
        Colour("Angle across the layer", _angular, "similarity"),
        Colour("Score at the run's next step", _step, "sweep"),
        Colour("Parameters", _cost(0, "Parameters")),
        Colour("KV cache", _cost(1, "KV bytes per token")),
    )
}


def chosen(session: Session) -> Colour:
    """The colour that the page asks for, or the first that there is data for."""
    for name in (session.colour, *COLOURS):
        if name in COLOURS and COLOURS[name].of(session) is not None:
            return COLOURS[name]
    return COLOURS["Parameters"]


def map_value(session: Session) -> dict[str, Any] | None:
    """The value of the layer map for this page; None without a model."""
    card = session.card
    if card is None:
        return None
    scores, meaning = chosen(session).of(session) or ({}, None)
    session.drawings += 1
    return layer_map_value(
        session.require_mask(),
        scores=scores,
        measure=meaning,
        disabled=card.problems,
        costs=card.units,
        totals={
            "parameters": card.parameters,
            "kv": card.kv_bytes,
            "bytes_per_parameter": card.bytes_per_parameter,
        },
        details=_details(session),
        types=card.types,
        clicks=session.clicks,
        drawing=session.drawings,
    )


def _details(session: Session) -> dict[str, list[tuple[str, str]]]:
    """What the page knows of each unit besides its cost, as label and value."""
    known: dict[str, list[tuple[str, str]]] = {}

    def add(label: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            known.setdefault(name, []).append((label, f"{value:.4g}"))

    if session.similarity is not None:
        add("Turn", session.similarity.turn)
        add("Growth", session.similarity.growth)
    if session.scores is not None:
        add(f"Muting next, {session.scores.metric}", session.scores.scores)
    if session.trajectory is not None:
        for step in session.trajectory.steps:
            for name in step.removed:
                known.setdefault(name, []).append(("Removed at step", str(step.step)))
    return known
