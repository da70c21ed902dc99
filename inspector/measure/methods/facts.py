"""What the table says of a method, in words and as JSON: for the command line and the README."""

from __future__ import annotations

from typing import Any

from inspector.measure.methods import Method
from inspector.measure.methods.goals import SCORES

DIRECTION = "lower = safer to remove"
"""That of every score that a method goes by: the lowest goes first."""

TIES = {
    "forward": "in forward order",
    "attn_first": "attentions first, then FFNs, each from the first layer on",
    "module": "by the modules' names",
}
"""What goes first of candidates with equal scores, by `Method.order`."""


def removes(row: Method) -> str:
    """What one removal takes: ``layers``, or units of one kind or of both."""
    return "layers" if row.grain == "layer" else " and ".join(row.kinds) + " units"


def constraints(row: Method) -> str:
    """What it never removes, or not at first, in words; empty where there is nothing such."""
    parts = [f"{row.kept} {'stays' if sum(row.keep) == 1 else 'stay'}"] if row.kept else []
    if row.bars_first:
        parts.append("--protect-first-until bars first layers for a while")
    return "; ".join(parts)


def facts(row: Method) -> dict[str, Any]:
    """All that the row says, as JSON; the first of `metrics` is the default."""
    return {
        "name": row.name,
        "label": row.label,
        "paper": row.paper,
        "grain": row.grain,
        "removes": removes(row),
        "way": row.way,
        "metrics": [metric(name) for name in row.metrics],
        "calibration": row.calibration,
        "constraints": constraints(row),
        "ties": TIES[row.order],
        "cost": row.cost,
        "direction": DIRECTION,
        "as_published": row.published,
        "note": row.note,
    }


def metric(name: str) -> dict[str, str]:
    """What a method goes by: name, label, unit and formula."""
    from inspector.measure.metrics import METRICS  # here, because torch comes along

    found = SCORES.get(name) or METRICS[name]
    return {part: getattr(found, part) for part in ("name", "label", "unit", "formula")}
