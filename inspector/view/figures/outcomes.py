"""Figures that set the masked model beside the untouched one: perplexity and benchmarks."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from inspector.paired import Paired
from inspector.results.checks import NO_NUMBER, Benchmark, Perplexity, buckets, span
from inspector.view.figures.style import (
    GREY,
    MAIN,
    about,
    csv_text,
    limits,
    number,
    sentence,
    sheet,
)

MASKED, UNTOUCHED = "this mask", "untouched"
CSV = (
    *("task", "metric", "score", "stderr", "baseline", "baseline_stderr", "items"),
    *("difference", "low95", "high95", "gained", "lost", "p"),
)


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
    change = result.change if result.mask else None
    ratio = ""
    if change is not None and math.isfinite(change.low):
        low, high = (math.exp(min(end, 700.0)) for end in (change.low, change.high))
        ratio = (
            f". Between {number(low)} and {number(high)} times the untouched model's "
            f"(95 %, over {change.items} windows)"
        )
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
            f"{result.length} every {result.stride}. Lower = better{ratio}",
            *([NO_NUMBER] if result.no_number else []),
            about(result),
        ],
        csv=csv_text(("model", "perplexity", "nll_nats", "tokens"), rows),
        plot_height=60 + 40 * len(values),
    ).update_layout(margin_l=118)


def by_position(result: Perplexity) -> go.Figure:
    """The mean NLL by the position of a token in its window, of the mask and the untouched model.

    Both are there where something is muted; the results without this figure have no `by_position`.
    """
    places = buckets(result.length)
    words = [span(place) for place in places]
    lines = {MASKED: result.by_position}
    if result.mask:
        lines = {UNTOUCHED: result.baseline_by_position, **lines}
    figure = go.Figure(
        [
            go.Scatter(
                x=[(place.start + place.stop - 1) / 2 for place in places],
                y=[value if math.isfinite(value) else None for value in values],
                mode="lines+markers",
                name=name,
                line={"width": 2, "color": MAIN if name == MASKED else GREY},
                marker={
                    "size": 7,
                    "symbol": "circle" if name == MASKED else "circle-open",
                    "color": MAIN if name == MASKED else GREY,
                },
                hovertext=words,
                hovertemplate="%{hovertext} tokens before<br>" + name + ": %{y:.4f}<extra></extra>",
            )
            for name, values in lines.items()
        ]
    )
    figure.update_xaxes(title_text="tokens before, in the window", range=[0, result.length])
    figure.update_yaxes(title_text="NLL (nats per token)")
    rows = zip(
        words,
        result.by_position,
        result.baseline_by_position,
        result.position_tokens,
        strict=True,
    )
    return sheet(
        figure,
        name="perplexity-by-position",
        title="NLL by position in the window",
        lines=[
            "Mean NLL of the tokens that have so many others before them in their window. Lower = "
            "better",
            about(result),
        ],
        csv=csv_text(("tokens_before", "nll_nats", "baseline_nll_nats", "tokens"), rows),
        plot_height=180,
        legend=len(lines) if len(lines) > 1 else 0,
    )


def benchmark(result: Benchmark) -> go.Figure:
    """Every task's score under the mask and of the untouched model, with one standard error.

    Where both answered the same items, the difference stands beside it with its 95 % interval.
    """
    names = [f"{task.task}, {task.metric}" for task in result.tasks]
    shown = [html.escape(name, quote=False) for name in names]
    items = [task.items for task in result.tasks]
    changes = [task.change for task in result.tasks]
    paired = any(change is not None for change in changes)
    figure = _side_by_side() if paired else go.Figure()
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
    if paired:
        figure.add_trace(_changes(shown, changes), row=1, col=2)
        figure.add_vline(x=0, line={"width": 1, "color": GREY}, row=1, col=2)  # pyright: ignore
        figure.update_xaxes(
            title_text="difference", autorange=True, range=None, dtick=None, nticks=5, row=1, col=2
        )
    rows = (
        (
            *(t.task, t.metric, t.value, t.stderr, t.baseline, t.baseline_stderr, t.items),
            *((c.difference, c.low, c.high, c.gained, c.lost, c.p) if c else [math.nan] * 6),
        )
        for t, c in zip(result.tasks, changes, strict=True)
    )
    limit = f", the first {result.limit} items of each task" if result.limit else ""
    return sheet(
        figure,
        name="benchmark",
        title="Benchmark scores",
        lines=[
            f"Mean and one standard error{limit}. Higher = better"
            + ("; the difference, item by item, with its 95 % interval" if paired else ""),
            *([sentence("; ".join(result.remarks))] if result.remarks else []),
            about(result),
        ],
        csv=csv_text(CSV, rows),
        plot_height=60 + 44 * max(1, len(names)),
        legend=1 + compared,
    ).update_layout(scattermode="group", scattergap=0.55, yaxis_automargin=True)


def _side_by_side() -> go.Figure:
    return make_subplots(
        rows=1, cols=2, shared_yaxes=True, column_widths=[0.62, 0.38], horizontal_spacing=0.06
    )


def _changes(tasks: Sequence[str], changes: Sequence[Paired | None]) -> go.Scatter:
    """What the mask changes, with 95 % intervals; filled where these leave zero out."""
    known = [(name, change) for name, change in zip(tasks, changes, strict=True) if change]
    return go.Scatter(
        x=[change.difference for _, change in known],
        y=[name for name, _ in known],
        mode="markers",
        orientation="h",
        showlegend=False,
        error_x={
            "array": [change.high - change.difference for _, change in known],
            "arrayminus": [change.difference - change.low for _, change in known],
            "thickness": 1.5,
            "width": 4,
            "color": MAIN,
        },
        marker={
            "size": 9,
            "symbol": ["circle" if change.decided else "circle-open" for _, change in known],
            "color": MAIN,
            "line": {"width": 2, "color": MAIN},
        },
        hovertext=[
            f"{change.low:+.3f} to {change.high:+.3f}<br>{change.gained} items gained, "
            f"{change.lost} lost, p = {change.p:.3g}"
            for _, change in known
        ],
        hovertemplate="%{y}<br>difference: %{x:+.4f}<br>%{hovertext}<extra></extra>",
    )


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
