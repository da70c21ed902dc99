"""What a finished check leaves on the page: its mask's row of the history, the live perplexity."""

from __future__ import annotations

import math
from typing import Any

from inspector.errors import InspectorError
from inspector.results.checks import Benchmark, Perplexity, Speed
from inspector.units import Mask
from inspector.view.figures.style import csv_text
from inspector.view.session import HISTORY, Session

FIRST, AFTER = ("Mask", "Off"), ("Parameters", "KV B/token")
"""Columns before the scores, and between these and the speeds."""

SPEEDS = {"decode": "decode, tokens/s", "prefill": "prefill, tokens/s"}
"""Quantities of a speed, and how their columns begin."""

PERPLEXITY = "perplexity, "
"""How the columns of perplexities begin."""

NOTHING = "nothing"
"""What stands in the table for the empty mask."""


def note(session: Session, kind: str, result: Any) -> None:
    """Take a finished check into the history; other results leave it alone."""
    if kind == "live" and isinstance(result, Perplexity):
        session.live["result"] = result
        session.baselines[text_key(result.provenance.corpus)] = result.untouched
        session.touch("live")
    elif isinstance(result, Perplexity):
        session.baselines[text_key(result.provenance.corpus)] = result.untouched
        untouched = result.baseline["perplexity"]
        _put(session, result.mask, {f"{PERPLEXITY}{_cut(result)}": (result.perplexity, untouched)})
    elif isinstance(result, Benchmark):
        names = [f"{each.task}, {each.metric}, {each.items} items" for each in result.tasks]
        scores = [(each.value, each.baseline) for each in result.tasks]
        _put(session, result.mask, dict(zip(names, scores, strict=True)))
    elif isinstance(result, Speed):
        _put(session, result.mask, _speeds(result))


def _speeds(result: Speed) -> dict[str, tuple[float, float]]:
    """Tokens a second of all sequences together, under the mask and of the untouched model."""
    cut = f"{result.prompt_length} + {result.new_tokens} tokens, batch {result.batch}"
    decode, prefill = (
        [side(name).median for side in (result.here, result.untouched)] for name in SPEEDS
    )
    here, untouched = (1e3 * result.batch / each if each else math.nan for each in decode)
    return {
        f"{SPEEDS['decode']}, {cut}": (here, untouched),
        f"{SPEEDS['prefill']}, {cut}": (prefill[0], prefill[1]),
    }


def text_key(about: dict[str, Any]) -> str:
    """A text and how it was cut: what the untouched model's perplexity may be reused for."""
    return repr(sorted(about.items()))


def columns(session: Session) -> list[str]:
    """The columns of the history: what was measured in two ways has two.

    Perplexities come first, then tasks, each by name; speeds stand at the end.
    """
    found = sorted({name for row in session.history for name in row} - {*FIRST, *AFTER})
    speeds = [name for name in found if name.startswith(tuple(SPEEDS.values()))]
    perplexities = [name for name in found if name.startswith(PERPLEXITY)]
    tasks = [name for name in found if name not in (*speeds, *perplexities)]
    return [*FIRST, *perplexities, *tasks, *AFTER, *speeds]


def rows(session: Session) -> list[list[Any]]:
    """The history, a row a mask, the one measured last first; None for what was not measured."""
    names = columns(session)
    return [[row.get(name) for name in names] for row in session.history]


def csv_of(session: Session) -> str:
    """The history as CSV."""
    return csv_text(columns(session), rows(session))


def forget(session: Session, mask: Mask) -> None:
    """Take a mask's row out of the history.

    Raises:
        InspectorError: it has none.
    """
    left = [row for row in session.history if row["Mask"] != (str(mask) or NOTHING)]
    if len(left) == len(session.history):
        raise InspectorError(
            "the mask on the layer map has no row in this table: click the row first."
        )
    session.history = left
    session.touch("check")


def _cut(result: Perplexity) -> str:
    made = result.provenance.corpus
    return f"{made.get('name')}, {made.get('windows')} x {result.length}, stride {result.stride}"


def _put(session: Session, mask: str, scores: dict[str, tuple[float, float]]) -> None:
    """Write scores of a mask and of the untouched model into their rows."""
    _write(session, "", {name: untouched for name, (_, untouched) in scores.items()})
    _write(session, mask, {name: here for name, (here, _) in scores.items()})
    session.history = session.history[:HISTORY]
    session.touch("check")


def _write(session: Session, mask: str, values: dict[str, float]) -> None:
    card = session.require_card()
    off = Mask.parse(mask, card.depth)
    fixed = {
        "Mask": mask or NOTHING,
        "Off": len(off),
        "Parameters": card.parameters - sum(card.units[str(unit)][0] for unit in off),
        "KV B/token": card.kv_bytes - sum(card.units[str(unit)][1] for unit in off),
    }
    before = [row for row in session.history if row["Mask"] == fixed["Mask"]]
    others = [row for row in session.history if row["Mask"] != fixed["Mask"]]
    session.history = [{**fixed, **(before[0] if before else {}), **values}, *others]
