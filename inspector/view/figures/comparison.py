"""The figure of several pruning runs: a quantity against the share of parameters removed."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

from inspector.results.comparison import Comparison
from inspector.results.lines import Band, Line
from inspector.results.measures import OWN
from inspector.view.figures.style import GREY, csv_text, log_ticks, sheet
from inspector.view.figures.trajectory_numbers import removed_in_words

COLOURS = ("#0d8a80", "#d6336c", "#3572b8", "#a06a00", "#8257d0", "#4f8a1f", "#c2541b", "#7a7f87")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon")
"""Eight colours and seven symbols: 56 lines before a pair comes again."""

WIDTH = 900
"""Pixels that a page of plain figures has for the axes."""

BAND = "rgba(128,128,128,0.22)"
DECADE = 10


COLUMNS = ("run", "step", "removed_percent", "units_off", "kv_bytes_per_token_left")
"""Those of the CSV before what the runs are compared by and the units; bands have only the share
and the values."""


def comparison(compared: Comparison) -> go.Figure:
    """One line a run, a marker a step; random runs of several seeds are a band with its median.

    The perplexity axis is logarithmic where the greatest value is more than ten times the least.
    `customdata` of a point is the mask after its step.
    """
    figure = go.Figure()
    for band in compared.bands:
        figure.add_traces(list(_band(band, compared.by)))
    drawn = [line for line in compared.lines if any(map(math.isfinite, line.values))]
    for place, line in enumerate(drawn):
        figure.add_trace(_line(line, place, compared.by))
    _axes(figure, compared)
    text = compared.text if compared.own else {}
    on = f" on {text.get('name')}, {text.get('windows')} x {text.get('length')} tokens"
    better = "Higher" if compared.higher else "Lower"
    lines = [
        f"{_capital(compared.by)}{on if text else ''}, by the share of {compared.of} removed. "
        f"{better} = better",
        compared.about,
    ]
    if compared.warning:
        lines.insert(0, compared.warning)
    left_out = [line.label for line in compared.lines if line not in drawn]
    if left_out:
        lines.append(f"No {compared.by} was measured for {'; '.join(left_out)}")
    sheet(
        figure,
        name="comparison",
        title="Pruning runs compared",
        lines=lines,
        csv=csv_text((*COLUMNS, compared.by, "units"), _rows(compared)),
        plot_height=380,
        legend=len(drawn) + 2 * len(compared.bands),
    )
    return _make_room(figure)


def _make_room(figure: go.Figure) -> go.Figure:
    """More rows for a legend of many runs; the page counts them anew for its own width.

    Plotly gives all entries the width of the longest.
    """
    traces: list[Any] = list(figure.data)
    names = [len(trace.name) for trace in traces if trace.name and trace.showlegend is not False]
    if names:
        across = max(1, int(WIDTH / (48 + 6.8 * max(names))))
        more = 26 * (math.ceil(len(names) / across) - 1)
        layout: Any = figure.layout
        figure.update_layout(margin_t=layout.margin.t + more, height=layout.height + more)
    return figure


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] if text.startswith("perplexity") else text


def _line(line: Line, place: int, by: str) -> go.Scatter:
    colour, symbol = COLOURS[place % len(COLOURS)], SYMBOLS[place % len(SYMBOLS)]
    each = zip(line.steps, line.units, line.off, line.kv_bytes, strict=True)
    words = [
        f"step {step}: {removed_in_words(units)}<br>units off: {off}, KV cache left: {kv:,} B/token"
        for step, units, off, kv in each
    ]
    return go.Scatter(
        x=line.removed,
        y=[value if math.isfinite(value) else None for value in line.values],
        mode="lines+markers",
        connectgaps=by != OWN,  # a check is of some steps
        name=html.escape(line.label, quote=False),
        line={"color": colour, "width": 2},
        marker={"color": colour, "symbol": symbol, "size": 7},
        customdata=line.masks,
        hovertext=words,
        hovertemplate="%{fullData.name}<br>%{hovertext}<br>%{x:.2f} % removed, "
        f"{html.escape(by, quote=False)} %{{y:.5g}}<extra></extra>",
    )


def _band(band: Band, by: str) -> Iterator[go.Scatter]:
    """The lower edge, the area up to the upper edge, and the median."""
    edge = {"x": band.removed, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    yield go.Scatter(y=band.low, showlegend=False, legendgroup=band.label, **edge)
    yield go.Scatter(
        y=band.high,
        fill="tonexty",
        fillcolor=BAND,
        name=f"{band.label}, least to greatest",
        legendgroup=band.label,
        **edge,
    )
    yield go.Scatter(
        x=band.removed,
        y=band.median,
        mode="lines",
        line={"color": GREY, "width": 2, "dash": "dash"},
        name=f"{band.label}, median",
        hovertext=[
            f"{low:.5g} to {high:.5g}" for low, high in zip(band.low, band.high, strict=True)
        ],
        hovertemplate="%{fullData.name}<br>%{x:.2f} % removed, "
        f"{html.escape(by, quote=False)} %{{y:.5g}} (%{{hovertext}})<extra></extra>",
    )


def _axes(figure: go.Figure, compared: Comparison) -> None:
    values = [value for line in compared.lines for value in line.values]
    values += [value for band in compared.bands for value in (*band.low, *band.high)]
    known = [value for value in values if math.isfinite(value) and value > 0]
    by = html.escape(compared.by, quote=False)
    if known and not compared.higher and max(known) > DECADE * min(known):
        figure.update_yaxes(title_text=f"{by} (log)", **log_ticks(known))
    else:
        figure.update_yaxes(title_text=by, nticks=6)
    figure.update_xaxes(title_text=f"removed, % of {compared.of}", nticks=8)


def _rows(compared: Comparison) -> Iterator[tuple[Any, ...]]:
    for line in compared.lines:
        columns = (line.steps, line.removed, line.off, line.kv_bytes, line.values, line.units)
        for row in zip(*columns, strict=True):
            yield (line.label, *row)
    for band in compared.bands:
        for name, values in (("least", band.low), ("median", band.median), ("most", band.high)):
            for step, (share, value) in enumerate(zip(band.removed, values, strict=True)):
                yield f"{band.label}, {name}", step, share, "", "", value, ""
