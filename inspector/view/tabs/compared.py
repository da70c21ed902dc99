"""The part of the Runs tab that sets several saved pruning runs beside each other."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from inspector.errors import ResultError
from inspector.measure.budget import percent, share
from inspector.results.base import Result
from inspector.results.comparison import NO_BAND, Agreement, Comparison, compare, fits
from inspector.results.measures import OWN, measures
from inspector.results.trajectory import Trajectory
from inspector.view.figures.comparison import comparison
from inspector.view.plot import Plot
from inspector.view.session import Session
from inspector.view.wiring import Wiring

Find = Callable[[Session, str | None], Result]

MOST = 40
"""The most runs in one comparison."""

CHECKED = 200
"""The most checks that are looked through, the newest first."""

AGREE = ("off in", "units", "which")
ABOUT = (
    "### Compare\nPruning runs of one model, by the share of parameters removed. Random runs of "
    "several seeds are drawn as a band. Where masks of their steps have been checked, by a "
    "benchmark, say, the runs can be compared by that, too."
)


def build(wiring: Wiring, find: Find, checks: Callable[[Session], list[str]]) -> gr.Dropdown:
    """Build it into the tab that is open, and wire it; the field whose choices are the runs.

    `checks` are the names of the checks that a page may see, the newest first.
    """
    gr.Markdown(ABOUT)
    with gr.Row(equal_height=True):
        names = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label="Pruning runs",
            scale=3,
            min_width=260,
            elem_id="compared-runs",
        )
        by = gr.Dropdown(
            [OWN],
            value=OWN,
            label="By",
            min_width=190,
            elem_id="compared-by",
        )
        at = gr.Textbox(
            label="Tables at, % removed",
            placeholder="as far as all go",
            min_width=190,
            elem_id="compared-at",
        )
        go = gr.Button("Compare", variant="primary", scale=0, min_width=110, elem_id="compared-go")
    plot = Plot(empty="Choose two runs or more.", elem_id="comparison")
    words = gr.Markdown(elem_id="compared-words", visible=False)
    standing = _table("standing", ["run"])
    units = _table("agreement", list(AGREE), "Units on which the runs agree")
    pairs = _table("overlap", [""])
    outputs = [plot, words, standing, units, pairs, by]
    wiring.section("comparison", outputs, draw)

    def act(
        session: Session, chosen: list[str] | None, wanted: str | None, check: str | None
    ) -> None:
        chosen = chosen or []
        if len(chosen) > MOST:
            raise ResultError(
                f"{len(chosen)} runs are chosen, and {MOST} is the most in one comparison: take "
                f"{len(chosen) - MOST} out."
            )
        runs = [trajectory(find(session, name), name) for name in chosen]
        known = _checks(find, session, checks(session), runs)
        session.comparison = compare(
            [*runs, *known],
            at=share((wanted or "").strip() or None, "this field"),
            by=check if check in measures(known) else OWN,
        )
        session.touch("comparison")

    for event in (go.click, by.input):
        wiring.on(event, act, [names, at, by], redraw=["comparison"])
    return names


def trajectory(result: Result, name: str) -> Trajectory:
    """The result, if it is a pruning run.

    Raises:
        ResultError: it is not.
    """
    if not isinstance(result, Trajectory):
        raise ResultError(f"{name} is no pruning run but a {result.kind}: leave it out.")
    return result


def _checks(
    find: Find, session: Session, names: list[str], runs: Sequence[Trajectory]
) -> list[Result]:
    """The results of these names, the oldest first, that check a mask of the runs' steps."""
    found = []
    for name in reversed(names[:CHECKED]):
        try:
            check = find(session, name)
        except ResultError:  # a file that cannot be read is no reason to compare nothing
            continue
        if fits(check, runs):
            found.append(check)
    return found


def draw(session: Session) -> list[Any]:
    """The figure, and the tables of the runs at equal parameters, the units and the overlap."""
    found = session.comparison
    if found is None:
        return [None, *(gr.update(visible=False) for _ in range(4)), gr.skip()]
    where = found.agreement
    return [
        comparison(found),
        gr.update(value=described(found), visible=True),
        gr.update(
            value={"headers": ["run", *found.standing], "data": _standing(found)}, visible=True
        ),
        gr.update(value=_units(where), label=where.agreeing(where.labels), visible=True),
        gr.update(
            value={"headers": ["overlap, 0 to 1", *where.labels], "data": _pairs(where)},
            visible=True,
        ),
        gr.update(choices=list(found.choices), value=found.by),
    ]


def described(found: Comparison) -> str:
    """What stands above the tables, as Markdown: a warning, how to make a band, and where they are.

    What a run's file says is no markup here.
    """
    parts = []
    if found.warning:
        parts.append(f"**{_plain(found.warning)}**")
    if found.reference:
        parts.append(f"{NO_BAND}\n\n```sh\n{' '.join(found.reference.split())}\n```")
    where = found.agreement
    parts.append(f"At **{percent(where.at)}** of {found.of} removed, or the first step above:")
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text in which Markdown and HTML find nothing."""
    return re.sub(
        r"([\\`*_\[\]<>&#|$~])", lambda found: f"&#{ord(found[1])};", " ".join(text.split())
    )


def _table(name: str, headers: list[str], label: str = "") -> gr.Dataframe:
    return gr.Dataframe(
        headers=headers,
        interactive=False,
        wrap=True,
        label=label or None,
        show_label=bool(label),
        visible=False,
        elem_id=f"compared-{name}",
        buttons=["copy", "fullscreen"],
    )


def _standing(found: Comparison) -> list[list[str]]:
    where = found.agreement
    rows = zip(where.labels, where.standing(_number, found.own), strict=True)
    return [[label, *row] for label, row in rows]


def _units(where: Agreement) -> list[list[Any]]:
    runs = len(where.counted)
    return [[f"{count} of {runs}", units, mask] for count, units, mask in where.by_count]


def _pairs(where: Agreement) -> list[list[Any]]:
    return [
        [label, *(_number(float(value)) for value in row)]
        for label, row in zip(where.labels, where.overlap, strict=True)
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
