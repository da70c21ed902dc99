"""Figures that set the masked model beside the untouched one: perplexity and benchmarks."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from inspector.results import Benchmark, Perplexity
from inspector.view.figures.style import (
    GREY,
    MAIN,
    about,
    csv_text,
    limits,
    number,
    sheet,
)

MASKED, UNTOUCHED = "this mask", "untouched"


def perplexity(result: Perplexity) -> go.Figure:
    """Perplexity of the mask and, where it was measured, of the untouched model."""
    values = {MASKED: result.perplexity}
    if "perplexity" in result.baseline:
        values = {UNTOUCHED: result.baseline["perplexity"], **values}
    figure = go.Figure(
        go.Bar(
            x=[value if math.isfinite(value) else None for value in values.values()],
            y=list(values),
            orientation="h",
            width=0.5,
            marker={"color": [MAIN if name == MASKED else GREY for name in values]},
            text=[number(value) for value in values.values()],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}<br>perplexity: %{x:.5g}<extra></extra>",
        )
    )
    top = limits(values.values()).high
    figure.update_xaxes(title_text="perplexity", range=[0, top * 1.15], nticks=6)
    figure.update_yaxes(showgrid=False)
    baseline = result.baseline
    rows = [(MASKED, result.perplexity, result.nll, result.tokens)]
    if baseline:
        nll, tokens = baseline.get("nll", math.nan), int(baseline.get("tokens", 0))
        rows.append((UNTOUCHED, baseline.get("perplexity", math.nan), nll, tokens))
    return sheet(
        figure,
        name="perplexity",
        title="Perplexity",
        lines=[
            f"exp of the mean NLL over {result.tokens:,} predicted tokens, windows of "
            f"{result.length} every {result.stride}. Lower = better",
            about(result),
        ],
        csv=csv_text(("model", "perplexity", "nll_nats", "tokens"), rows),
        plot_height=60 + 40 * len(values),
    ).update_layout(margin_l=118)


def benchmark(result: Benchmark) -> go.Figure:
    """Every task's score under the mask and of the untouched model, with one standard error."""
    names = [f"{task.task}, {task.metric}" for task in result.tasks]
    shown = [html.escape(name, quote=False) for name in names]
    items = [task.items for task in result.tasks]
    figure = go.Figure()
    compared = any(math.isfinite(task.baseline) for task in result.tasks)
    if compared:
        figure.add_trace(
            _dots(
                UNTOUCHED,
                shown,
                [task.baseline for task in result.tasks],
                [task.baseline_stderr for task in result.tasks],
                items,
            )
        )
    figure.add_trace(
        _dots(
            MASKED,
            shown,
            [task.value for task in result.tasks],
            [task.stderr for task in result.tasks],
            items,
        )
    )
    figure.update_xaxes(title_text="score", range=[-0.02, 1.02], dtick=0.2)
    figure.update_yaxes(autorange="reversed")
    rows = (
        (t.task, t.metric, t.value, t.stderr, t.baseline, t.baseline_stderr, t.items)
        for t in result.tasks
    )
    limit = f", the first {result.limit} items of each task" if result.limit else ""
    return sheet(
        figure,
        name="benchmark",
        title="Benchmark scores",
        lines=[f"Mean and one standard error{limit}. Higher = better", about(result)],
        csv=csv_text(
            ("task", "metric", "score", "stderr", "baseline", "baseline_stderr", "items"), rows
        ),
        plot_height=60 + 44 * max(1, len(names)),
        legend=1 + compared,
    ).update_layout(scattermode="group", scattergap=0.55, yaxis_automargin=True)


def _dots(
    name: str,
    tasks: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    items: Sequence[int],
) -> go.Scatter:
    masked = name == MASKED
    colour = MAIN if masked else GREY
    return go.Scatter(
        x=[value if math.isfinite(value) else None for value in values],
        y=list(tasks),
        mode="markers",
        orientation="h",
        offsetgroup=name,
        name=name,
        error_x={
            "array": [error if math.isfinite(error) else 0.0 for error in errors],
            "thickness": 1.5,
            "width": 4,
            "color": colour,
        },
        marker={
            "size": 11,
            "symbol": "circle" if masked else "circle-open",
            "color": colour,
            "line": {"width": 0 if masked else 2, "color": colour},
        },
        hovertext=[f"{count} items" for count in items],
        hovertemplate="%{y}<br>" + name + ": %{x:.4f}<br>%{hovertext}<extra></extra>",
    )
