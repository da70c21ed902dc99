"""`inspector methods`: the table of what can choose what to remove, or one row of it in full."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from inspector.cli.text import table
from inspector.measure.methods import METHODS, WAYS, Method, method_named
from inspector.measure.methods.facts import DIRECTION, constraints, facts, removes

if TYPE_CHECKING:
    from inspector.cli.progress import Meter

WIDTH = 100
"""Characters in a line of running text."""


def methods(args: argparse.Namespace, meter: Meter) -> None:
    """Print every method, or all about the one that is named."""
    row = method_named(args.name) if args.name else None
    if args.json:
        data = facts(row) if row else [facts(each) for each in METHODS.values()]
        print(json.dumps(data, indent=1))
        return
    print(described(row) if row else listed(METHODS.values()))


def listed(rows: Iterable[Method]) -> str:
    """Two tables, for lines that a terminal holds, and what their words mean."""
    rows = list(rows)
    what = [
        [row.name, row.label, row.paper, removes(row), row.way, ", ".join(row.metrics)]
        for row in rows
    ]
    costs = [[row.name, row.calibration, constraints(row) or "-", row.cost] for row in rows]
    ways = [[name, words] for name, words in WAYS.items()]
    parts = [
        _left(["method", "label", "paper", "removes", "way", "goes by"], what),
        _left(["method", "the authors' text", "constraints", "cost in passes"], costs),
        _left(["way", ""], ways),
        f"Of all that methods go by, {DIRECTION}. The first is the default; C candidates, k "
        "removals.\n`inspector methods NAME` says how one goes.",
    ]
    return "\n\n".join(parts)


def _left(header: list[str], rows: list[list[str]]) -> str:
    return table(header, rows, align="<" * len(header))


def described(row: Method) -> str:
    """All about one method, a line or a paragraph each."""
    said = facts(row)
    scores = "; ".join(map(_score, said["metrics"]))
    parts = {
        "method": f"{row.name}: {row.label}, {row.paper}",
        "removes": said["removes"],
        "way": f"{row.way}: {WAYS[row.way]}",
        "goes by": f"{scores}; {said['direction']}",
        "equal scores": said["ties"],
        "authors' text": row.calibration,
        "constraints": said["constraints"] or "none",
        "cost": row.cost,
        "as published": row.published or "as here",
        "note": row.note,
    }
    indent = max(map(len, parts)) + 2
    return "\n".join(
        textwrap.fill(
            words, WIDTH, initial_indent=f"{name:{indent}}", subsequent_indent=" " * indent
        )
        for name, words in parts.items()
    )


def _score(one: dict[str, Any]) -> str:
    unit = f" ({one['unit']})" if one["unit"] else ""
    return f"{one['name']}{unit} = {one['formula']}"
