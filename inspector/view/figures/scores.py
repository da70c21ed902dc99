"""The figure of a sweep: what muting each remaining unit would cost."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from inspector.results.scores import Scores
from inspector.units import Mask
from inspector.view.figures.style import (
    ACCENT,
    GREY,
    METRICS,
    WHITE,
    about,
    csv_text,
    in_words,
    kinds_of,
    metric_words,
    number,
    sentence,
    sheet,
    split,
)
from inspector.view.figures.unit_bars import unit_bars, unit_rows

MARKED = 3
"""How many of the safest units carry their rank."""


def safest(scores: Scores, count: int = MARKED) -> list[str]:
    """The `count` units with the lowest cost, the safest first; unknown costs are left out."""
    return [unit for unit in scores.ranking() if math.isfinite(scores.scores[unit])][:count]


def sweep(scores: Scores) -> go.Figure:
    """Bars of the cost of muting each remaining unit, in the metric's units.

    Lower = safer to remove; the safest few carry their rank, units that are muted already a cross.
    Negative costs (NLL) mean that the text got easier without the unit. `customdata` is the unit.
    """
    quantity = METRICS.get(scores.metric, (scores.metric, ""))[0]
    figure, kinds, scale = unit_bars(scores.scores, depth=scores.depth, quantity=quantity)
    best = safest(scores)
    muted = [str(unit) for unit in Mask.parse(scores.mask, scores.depth)]
    for row, kind in enumerate(kinds, start=1):
        figure.add_trace(_ranks(scores, best, kind, _leads(best, kind), scale.high), row=row, col=1)
        if muted:
            figure.add_trace(_crosses(muted, kind, _leads(muted, kind)), row=row, col=1)
    cut = "; the scale stops short of the greatest" if scale.clipped else ""
    done = f"{scores.windows_done} of {scores.windows} windows"
    state = "" if scores.complete else f"Preliminary: {done} measured. "
    rank = {unit: place for place, unit in enumerate(scores.ranking(), start=1)}
    rows = ((*row, rank[row[0]]) for row in unit_rows(scores.scores))
    return sheet(
        figure,
        name=f"sweep_{scores.metric}",
        title="What muting one more unit would cost",
        lines=[
            f"{state}{sentence(metric_words(scores.metric))}, lower = safer to remove; "
            f"the mask itself stands at {number(scores.reference)}{cut}",
            about(scores),
        ],
        csv=csv_text(("unit", "layer", "kind", scores.metric, "rank"), rows),
        plot_height=320,
        legend=1 + bool(muted),
    )


def _leads(units: list[str], kind: str) -> bool:
    """Whether this kind's panel is the first that has one of the units.

    Its points stand for all in the legend, where plotly leaves out a trace without any.
    """
    return kinds_of(units)[0] == kind


def _ranks(scores: Scores, best: list[str], kind: str, first: bool, high: float) -> go.Scatter:
    mine = [unit for unit in best if split(unit)[1] == kind]
    layers = [split(unit)[0] for unit in mine]
    # Neighbours stand above one another, or their numbers would overlap.
    near = scores.depth / 45
    lift = [sum(abs(x - y) < near for y in layers[:i]) for i, x in enumerate(layers)]
    return go.Scatter(
        x=layers,
        y=[
            max(scores.scores[unit], 0.0) + (0.1 + 0.2 * up) * high
            for unit, up in zip(mine, lift, strict=True)
        ],
        text=[str(best.index(unit) + 1) for unit in mine],
        mode="markers+text",
        textfont={"size": 10, "color": WHITE},
        marker={"size": 15, "color": ACCENT},
        customdata=mine,
        hovertext=[in_words(unit) for unit in mine],
        hovertemplate="%{hovertext}<br>number %{text} of the safest<extra></extra>",
        name="safest to remove next",
        legendgroup="safest",
        showlegend=first,
    )


def _crosses(muted: list[str], kind: str, first: bool) -> go.Scatter:
    mine = [unit for unit in muted if split(unit)[1] == kind]
    return go.Scatter(
        x=[split(unit)[0] for unit in mine],
        y=[0.0] * len(mine),
        mode="markers",
        marker={"symbol": "x-thin", "size": 8, "line": {"color": GREY, "width": 2}},
        customdata=mine,
        hovertext=[in_words(unit) for unit in mine],
        hovertemplate="%{hovertext}<br>muted already<extra></extra>",
        name="muted already",
        legendgroup="muted",
        showlegend=first,
        cliponaxis=False,
    )
