"""The measured speed of the masked model beside the untouched one, with the spread of the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from inspector.results.checks import Speed, Spread
from inspector.view.figures.outcomes import MASKED, UNTOUCHED
from inspector.view.figures.style import GREY, MAIN, about, csv_text, number, sheet

ROW, GAP = 74, 52
"""Heights in pixels: two bars, and what stands between them and the next two."""

CSV = (
    *("model", "round", "prefill_tokens_per_s", "decode_ms_per_token", "memory_bytes"),
    *("kv_measured_bytes_per_token", "kv_computed_bytes_per_token"),
)

Panel = tuple[str, Spread, Spread]
"""Axis title, this mask, untouched."""


def panels(result: Speed) -> list[Panel]:
    """What was measured: a panel a quantity; memory only where it could be measured."""
    mib = float(1 << 20)
    found = [
        (words, _scaled(result.here(name), unit), _scaled(result.untouched(name), unit))
        for name, words, unit in (
            ("prefill", "prefill (tokens/s), higher = better", 1.0),
            ("decode", "decode (ms/token), lower = better", 1.0),
            ("memory", "peak above weights (MiB), lower = better", mib),
        )
    ]
    kept = (result.kv_measured, result.baseline_kv_measured)
    here, untouched = (Spread(each, each, each) for each in kept)
    found.append(("KV cache (B/token), lower = better", here, untouched))
    return [
        panel for panel in found if any(math.isfinite(each.median) for each in panel[1:])
    ] or found[:1]


def speed(result: Speed) -> go.Figure:
    """Two bars a quantity: medians, with the least and the greatest run; the ratio in words."""
    shown = panels(result)
    height = ROW * len(shown) + GAP * (len(shown) - 1)
    figure = make_subplots(
        rows=len(shown),
        cols=1,
        vertical_spacing=GAP / height if len(shown) > 1 else 0.0,
    )
    for row, (title, here, untouched) in enumerate(shown, start=1):
        for trace in _bars(here, untouched):
            figure.add_trace(trace, row=row, col=1)
        highs = [each.high for each in (here, untouched) if math.isfinite(each.high)]
        top = max(highs, default=0.0) or 1.0
        figure.update_xaxes(title_text=title, range=[0, top * 1.3], nticks=6, row=row, col=1)
    figure.update_yaxes(showgrid=False)
    done, asked = len(result.runs), result.rounds
    rounds = f"{done} round{'s' if done != 1 else ''}" + ("" if done == asked else f" of {asked}")
    return sheet(
        figure,
        name="speed",
        title="Speed and memory",
        lines=[
            f"A prompt of {result.prompt_length} tokens, then {result.new_tokens} one by one, "
            f"batch {result.batch}; both models in turns, {rounds}. Bars are medians, lines run "
            "from the least to the greatest run",
            _ratios(result),
            "KV cache of the units that are on, computed: "
            f"{result.kv_computed:,} of {result.baseline_kv_computed:,} B/token",
            about(result),
        ],
        csv=csv_text(CSV, _rows(result)),
        plot_height=height,
    ).update_layout(margin_l=118, bargap=0.35)


def _bars(here: Spread, untouched: Spread) -> Sequence[go.Bar | go.Scatter]:
    names, both = [UNTOUCHED, MASKED], [untouched, here]
    medians = [each.median if math.isfinite(each.median) else None for each in both]
    bars = go.Bar(
        x=medians,
        y=names,
        orientation="h",
        showlegend=False,
        marker={"color": [GREY, MAIN], "opacity": 0.5},  # the lines are to be seen on them
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [each.high - each.median for each in both],
            "arrayminus": [each.median - each.low for each in both],
            "thickness": 2,
            "width": 5,
            "color": "rgb(110,110,110)",
        },
        hovertext=[f"{number(each.low)} to {number(each.high)}" for each in both],
        hovertemplate="%{y}: %{x:.5g}<br>%{hovertext}<extra></extra>",
    )
    words = go.Scatter(  # beyond the line, which a bar's own text would lie on
        x=[each.high if math.isfinite(each.high) else None for each in both],
        y=names,
        mode="text",
        text=["  " + number(each.median) for each in both],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    return bars, words


def _ratios(result: Speed) -> str:
    """The mask's over the untouched model's, round by round."""
    words = []
    for name in ("prefill", "decode", "memory"):
        ratio = result.ratio(name)
        if math.isfinite(ratio.median):
            ends = f"{number(ratio.low)} to {number(ratio.high)}"
            words.append(f"{name} {number(ratio.median)} ({ends})")
    said = "This mask over untouched, round by round: " + ", ".join(words) if words else "No run"
    memory = math.isfinite(result.here("memory").median)
    return said + ("" if memory else "; peak memory is not measured here")


def _rows(result: Speed) -> list[Sequence[object]]:
    sides = (
        (MASKED, result.runs, result.kv_measured, result.kv_computed),
        (UNTOUCHED, result.baseline_runs, result.baseline_kv_measured, result.baseline_kv_computed),
    )
    return [
        (name, number, run.prefill, run.decode, run.memory, measured, computed)
        for name, runs, measured, computed in sides
        for number, run in enumerate(runs, start=1)
    ]


def _scaled(spread: Spread, unit: float) -> Spread:
    return Spread(spread.median / unit, spread.low / unit, spread.high / unit)
