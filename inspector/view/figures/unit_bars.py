"""One bar a unit, attention above FFN on a common axis of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from inspector.view.figures.style import (
    GREY,
    GRID,
    KIND_COLOURS,
    KIND_WORDS,
    WHITE,
    Limits,
    in_words,
    kinds_of,
    layer_axis,
    limits,
    number,
    split,
)

NAMED = 48
"""Up to this many layers, bars that run off the scale are wide enough to carry their value."""


def unit_rows(values: Mapping[str, float]) -> Iterator[tuple[str, int, str, float]]:
    """Unit text, layer, kind and value of every unit."""
    for unit, value in values.items():
        yield unit, *split(unit), value


def unit_bars(
    values: Mapping[str, float], *, depth: int, quantity: str
) -> tuple[go.Figure, list[str], Limits]:
    """The bars, the kinds in the order of their panels, and the scale that both panels share.

    The scale follows `limits`; bars that run off it carry their value where they are wide enough.
    Hover says the unit in words, `customdata` is its text. A negative value makes the scale run
    below 0.
    """
    kinds = kinds_of(values)
    figure = make_subplots(rows=len(kinds), cols=1, shared_xaxes=True, vertical_spacing=0.1)
    scale = limits(map(abs, values.values()))
    for row, kind in enumerate(kinds, start=1):
        mine = {unit: value for unit, value in values.items() if split(unit)[1] == kind}
        figure.add_trace(_bars(mine, kind=kind, quantity=quantity), row=row, col=1)
        if scale.clipped and depth <= NAMED:
            _name_overflow(figure, mine, scale.high, row)
        figure.update_yaxes(title_text=KIND_WORDS[kind], row=row, col=1)
    low = min((value for value in values.values() if math.isfinite(value)), default=0.0)
    floor = -min(scale.high, -low) * 1.15 if low < 0 else 0.0
    figure.update_yaxes(range=[floor, scale.high * (1.18 if scale.clipped else 1.12)], nticks=5)
    figure.update_yaxes(zeroline=True, zerolinecolor=GREY, zerolinewidth=1, gridcolor=GRID)
    figure.update_xaxes(**layer_axis(depth))
    figure.update_xaxes(title_text="layer", row=len(kinds), col=1)
    return figure, kinds, scale


def _bars(values: Mapping[str, float], *, kind: str, quantity: str) -> go.Bar:
    return go.Bar(
        x=[split(unit)[0] for unit in values],
        y=[value if math.isfinite(value) else None for value in values.values()],
        customdata=list(values),
        hovertext=[in_words(unit) for unit in values],
        hovertemplate="%{hovertext}<br>" + quantity + ": %{y:.4g}<extra></extra>",
        marker={"color": KIND_COLOURS[kind], "line": {"width": 0}},
        width=0.78,
        name=KIND_WORDS[kind],
        showlegend=False,
    )


def _name_overflow(figure: go.Figure, values: Mapping[str, float], high: float, row: int) -> None:
    """Write the value into every bar that runs off the scale."""
    for unit, value in values.items():
        if value > high:
            figure.add_annotation(
                x=split(unit)[0],
                y=min(value, high * 1.16),
                text=number(value),
                textangle=-90,
                yanchor="top",
                showarrow=False,
                font={"size": 10, "color": WHITE},
                row=row,
                col=1,
            )
