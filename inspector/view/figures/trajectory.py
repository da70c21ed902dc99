"""Figures of a pruning run: the map of every step's candidates, and the course of the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from inspector.results.trajectory import STATUSES, Trajectory
from inspector.view.figures.style import (
    ACCENT,
    GREY,
    KIND_COLOURS,
    KIND_WORDS,
    MAIN,
    ONE_SIDED,
    about,
    colour_bar,
    csv_text,
    layer_axis,
    log_ticks,
    number,
    sheet,
    split,
)
from inspector.view.figures.trajectory_numbers import (
    StepGrid,
    course,
    in_short,
    removed_in_words,
    runs,
    step_grid,
    step_rows,
)

SIDE_BY_SIDE = 64
"""Up to this many layers attention and FFN stand side by side on one axis of steps."""

STATUS_WORDS = {"exact": "", "lower_bound": "at least ", "stale": "carried over: "}


def step_map(trajectory: Trajectory, *, step: int | None = None) -> go.Figure:
    """Every candidate's score at every step: steps down, layers across, a panel a kind of unit.

    Colour is the place of the score within its step: 0 is the lowest (the safest), 1 the upper
    quartile and all above. Scores grow many-fold in the course of a run and a few units cost a
    hundred times the others, so a common or unclipped scale would show two colours; within a step
    and below its quartile is where the choice is made. Hover and CSV give the scores themselves.

    A cross marks what a step removed, hatching what was gone before, a ring what it brought back, a
    chevron and a pale colour a lower bound, a dash a score that is carried over; `step` is framed.
    `customdata` of a cell is [step, unit text].
    """
    grid = step_grid(trajectory)
    depth, panels = trajectory.depth, len(grid.kinds)
    across = depth <= SIDE_BY_SIDE
    rows = 1 if across else panels
    row_height = min(24.0, max(8.0, 420 / max(len(grid.steps), 1)))
    height = max(90, round(row_height * len(grid.steps))) * rows + 46 * (rows - 1)
    figure = make_subplots(
        rows=rows,
        cols=panels if across else 1,
        shared_yaxes=across,
        horizontal_spacing=0.03,
        vertical_spacing=46 / height if rows > 1 else 0,
    )
    shown: set[str] = set()
    for place, kind in enumerate(grid.kinds):
        row, col = (1, place + 1) if across else (place + 1, 1)
        shown |= _draw_panel(figure, grid, kind, shown, row, col)
        figure.update_xaxes(title_text=f"{KIND_WORDS[kind]}, layer", row=row, col=col)
        if col == 1:
            figure.update_yaxes(title_text="step", row=row, col=col)
    figure.update_xaxes(**layer_axis(depth))
    _step_axis(figure, grid.steps)
    _frame(figure, grid, step)
    columns = ("step", "unit", trajectory.metric, "status", "removed")
    title, how = in_short(trajectory)
    return sheet(
        figure,
        name="step_map",
        title=title,
        lines=[how, about(trajectory)],
        csv=csv_text(columns, step_rows(trajectory)),
        plot_height=height,
        legend=len(shown),
        bar="place within the step, lower = safer to remove",
        stack=across and panels > 1,
    )


def _draw_panel(
    figure: go.Figure, grid: StepGrid, kind: str, shown: set[str], row: int, col: int
) -> set[str]:
    """Draw one kind of unit; the names that its traces add to the legend."""
    marks = list(_status_marks(grid, kind))
    added: set[str] = set()
    for trace in (*_panel(grid, kind, bar=row == col == 1), *(entry for entry, _ in marks)):
        name = str(trace.name or "")
        trace.showlegend = bool(name) and name not in shown | added
        added |= {name} - {""}
        figure.add_trace(trace, row=row, col=col)
    for _, shape in marks:
        figure.add_shape(shape, row=row, col=col)
    return added


def _panel(grid: StepGrid, kind: str, *, bar: bool) -> Iterator[Any]:
    bounds = grid.status[kind] == STATUSES.index("lower_bound")
    yield _cells(grid, kind, ~bounds, bar=bar)
    if bounds.any():
        yield _cells(grid, kind, bounds, opacity=0.4)
    if grid.gone[kind].any():
        yield from _gone(grid, kind)
    if any(split(unit)[1] == kind for _, unit in grid.removed):
        yield _crosses(grid, kind)
    if any(split(unit)[1] == kind for _, unit in grid.restored):
        yield _rings(grid, kind)


def _cells(
    grid: StepGrid, kind: str, where: np.ndarray, *, bar: bool = False, opacity: float = 1.0
) -> go.Heatmap:
    shade = np.where(where & ~grid.gone[kind], grid.shade[kind], np.nan)
    texts = [
        [
            STATUS_WORDS[STATUSES[status]] + number(score) if status >= 0 else ""
            for score, status in zip(scores, statuses, strict=True)
        ]
        for scores, statuses in zip(grid.score[kind], grid.status[kind], strict=True)
    ]
    return go.Heatmap(
        x=np.arange(shade.shape[1]),
        y=grid.steps,
        z=shade.astype(np.float32),
        text=texts,
        customdata=_points(grid, kind),
        colorscale=ONE_SIDED,
        zmin=0.0,
        zmax=1.0,
        hoverongaps=False,
        hovertemplate=_hover(kind) + "score: %{text}<br>place in its step: %{z:.2f}<extra></extra>",
        showscale=bar,
        opacity=opacity,
        colorbar=_bar() if bar else None,
        **_gaps(shade.shape),
    )


def _gone(grid: StepGrid, kind: str) -> Iterator[Any]:
    """A pale cell to hover over and click, and one hatched bar a run: heatmaps have no hatching."""
    gone = grid.gone[kind]
    scored = gone & (grid.status[kind] >= 0)  # windows of layers may begin at one that is gone
    texts = [
        [f"<br>score: {number(score)}" if known else "" for score, known in zip(*row, strict=True)]
        for row in zip(grid.score[kind], scored, strict=True)
    ]
    yield go.Heatmap(
        x=np.arange(gone.shape[1]),
        y=grid.steps,
        z=np.where(gone, 0.0, np.nan).astype(np.float32),
        text=texts if scored.any() else None,
        customdata=_points(grid, kind),
        colorscale=[[0, "rgba(128,128,128,0.10)"], [1, "rgba(128,128,128,0.10)"]],
        hoverongaps=False,
        hovertemplate=_hover(kind)
        + f"removed before{'%{text}' if scored.any() else ''}<extra></extra>",
        showscale=False,
    )
    found = list(runs(gone))
    yield go.Bar(
        x=[layer for layer, _, _ in found],
        y=[length for _, _, length in found],
        base=[grid.steps[start] - 0.5 for _, start, _ in found],
        width=1,
        marker={
            "color": "rgba(128,128,128,0.05)",
            "line": {"width": 0},
            "pattern": {"shape": "/", "size": 5, "solidity": 0.22, "fgcolor": GREY},
        },
        hoverinfo="skip",
        name="removed before",
        legendgroup="gone",
    )


_MARKS = {
    "lower_bound": ("lower bound", "triangle-up-open", [(-0.16, 0.1), (0.0, -0.12), (0.16, 0.1)]),
    "stale": ("carried over", "line-ew-open", [(-0.14, 0.0), (0.14, 0.0)]),
}
"""Status to its legend entry, its symbol there, and its mark as offsets within a cell."""


def _status_marks(grid: StepGrid, kind: str) -> Iterator[tuple[go.Scatter, dict[str, Any]]]:
    """Lower bounds and carried-over scores: a legend entry and the marks, one path a tone.

    Thousands of marks are quick as one path of a shape, and slow as points or lines of a trace.
    """
    faint = 0.5 if grid.gone[kind].shape[1] <= SIDE_BY_SIDE else 0.36
    light, dark = f"rgba(255,255,255,{faint})", f"rgba(17,24,39,{faint})"
    removed = np.zeros_like(grid.gone[kind])
    for row, unit in grid.removed:
        layer, its_kind = split(unit)
        removed[row, layer] |= its_kind == kind
    for status, (name, symbol, mark) in _MARKS.items():
        here = (grid.status[kind] == STATUSES.index(status)) & ~grid.gone[kind] & ~removed
        if not here.any():
            continue
        # White on the dark half of the scale, dark on the bright half.
        bright = np.nan_to_num(grid.shade[kind]) > 0.55
        entry = go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"symbol": symbol, "size": 7, "color": GREY, "line": {"width": 1.5}},
            name=name,
        )
        for where, colour in ((here & ~bright, light), (here & bright, dark)):
            if where.any():
                line = {"color": colour, "width": 1}
                path = _path(grid, where, mark)
                yield entry, {"type": "path", "path": path, "line": line, "name": name}


def _path(grid: StepGrid, where: np.ndarray, mark: list[tuple[float, float]]) -> str:
    """The mark at every cell of `where`, in the SVG path notation of shapes."""
    parts = []
    for row, layer in np.argwhere(where).tolist():
        points = (f"{layer + dx:g},{grid.steps[row] + dy:g}" for dx, dy in mark)
        parts.append("M" + "L".join(points))
    return "".join(parts)


def _crosses(grid: StepGrid, kind: str) -> go.Scatter:
    mine = [(row, unit) for row, unit in grid.removed if split(unit)[1] == kind]
    scores = [grid.score[kind][row, split(unit)[0]] for row, unit in mine]
    return go.Scatter(
        x=[split(unit)[0] for _, unit in mine],
        y=[grid.steps[row] for row, _ in mine],
        mode="markers",
        marker={
            "symbol": "x",
            "size": 10 if grid.gone[kind].shape[1] <= SIDE_BY_SIDE else 8,
            "color": "white",
            "line": {"color": "#111827", "width": 1.5},
        },
        customdata=[[grid.steps[row], unit] for row, unit in mine],
        text=[number(score) for score in scores],
        hovertemplate=f"step %{{y}} removed layer %{{x}}, {KIND_WORDS[kind]}"
        "<br>score: %{text}<extra></extra>",
        name="removed at this step",
        legendgroup="removed",
    )


def _rings(grid: StepGrid, kind: str) -> go.Scatter:
    mine = [(row, unit) for row, unit in grid.restored if split(unit)[1] == kind]
    return go.Scatter(
        x=[split(unit)[0] for _, unit in mine],
        y=[grid.steps[row] for row, _ in mine],
        mode="markers",
        marker={"symbol": "circle-open", "size": 10, "color": ACCENT, "line": {"width": 2}},
        customdata=[[grid.steps[row], unit] for row, unit in mine],
        hovertemplate=f"step %{{y}} brought back layer %{{x}}, {KIND_WORDS[kind]}<extra></extra>",
        name="brought back",
        legendgroup="restored",
    )


def _points(grid: StepGrid, kind: str) -> list[list[list[Any]]]:
    layers = range(grid.score[kind].shape[1])
    return [[[step, f"{layer}.{kind}"] for layer in layers] for step in grid.steps]


def _hover(kind: str) -> str:
    return f"step %{{y}}: layer %{{x}}, {KIND_WORDS[kind]}<br>"


def _gaps(shape: tuple[int, ...]) -> dict[str, int]:
    return {"xgap": int(shape[1] <= SIDE_BY_SIDE), "ygap": int(shape[0] <= 40)}


def _bar() -> dict[str, Any]:
    return colour_bar(tickvals=[0, 1], ticktext=["safest", "dearest quarter"])


def _step_axis(figure: go.Figure, steps: list[int]) -> None:
    first, last = (steps[0], steps[-1]) if steps else (1, 1)
    every = next(k for k in (1, 2, 5, 10, 20, 50, 100) if (last - first) / k <= 14 or k == 100)
    figure.update_yaxes(
        range=[last + 0.5, first - 0.5],
        tick0=0 if every > 1 else first,
        dtick=every,
        showgrid=False,
    )
    figure.update_layout(barmode="overlay")


def _frame(figure: go.Figure, grid: StepGrid, step: int | None) -> None:
    if step not in grid.steps:
        return
    for place in range(1, len(grid.kinds) + 1):
        axis = "" if place == 1 else str(place)
        figure.add_shape(
            type="rect",
            xref=f"x{axis} domain",
            yref=f"y{axis}",
            x0=0,
            x1=1,
            y0=step - 0.5,
            y1=step + 0.5,
            line={"color": ACCENT, "width": 2},
            name="chosen step",
        )


def curve(trajectory: Trajectory, *, step: int | None = None) -> go.Figure:
    """Perplexity along the steps, and parameters and KV bytes left in % of the first step.

    The perplexity axis is logarithmic when the greatest is more than twenty times the least. The
    subtitle says on which text it was measured and whether the search saw that text. The step
    `step` is marked; `customdata` is [step, removed unit texts].
    """
    numbers = course(trajectory)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    points = [list(point) for point in zip(numbers.steps, numbers.removed, strict=True)]
    removed = [removed_in_words(text) for text in numbers.removed]
    for row, values, name, colour, words in (
        (1, numbers.perplexity, "perplexity", MAIN, "perplexity: %{y:.5g}"),
        (2, numbers.parameters, "parameters", KIND_COLOURS["attn"], "%{y:.1f} % of parameters"),
        (2, numbers.kv, "KV cache", KIND_COLOURS["ffn"], "%{y:.1f} % of the KV bytes per token"),
    ):
        line = {"color": colour, "width": 2, "dash": "dot" if name == "KV cache" else "solid"}
        figure.add_scatter(
            x=numbers.steps,
            y=[value if math.isfinite(value) else None for value in values],
            mode="lines+markers",
            name=name,
            line=line,
            marker={
                "size": [11 if at == step else 6 for at in numbers.steps],
                "opacity": 1,
                "line": {"width": 0},
            },
            customdata=points,
            hovertext=removed,
            hovertemplate="step %{x}<br>" + words + "<br>%{hovertext}<extra></extra>",
            showlegend=row == 2,
            row=row,
            col=1,
        )
    _curve_axes(figure, numbers.steps, numbers.perplexity)
    if step in numbers.steps:
        figure.add_vline(x=step, line={"color": GREY, "width": 1, "dash": "dash"})
    columns = ("step", "removed", "perplexity", "parameters_percent", "kv_percent")
    rows = zip(
        numbers.steps, numbers.removed, numbers.perplexity, numbers.parameters, numbers.kv,
        strict=True,
    )  # fmt: skip
    return sheet(
        figure,
        name="curve",
        title="Perplexity and size along the steps",
        lines=[_checked_on(trajectory), about(trajectory)],
        csv=csv_text(columns, rows),
        plot_height=330,
        legend=2,
    )


def _curve_axes(figure: go.Figure, steps: list[int], perplexity: list[float]) -> None:
    known = [value for value in perplexity if math.isfinite(value) and value > 0]
    if known and max(known) > 20 * min(known):
        figure.update_yaxes(title_text="perplexity (log)", row=1, col=1, **log_ticks(known))
    else:
        figure.update_yaxes(title_text="perplexity", nticks=5, row=1, col=1)
    figure.update_yaxes(title_text="left, %", nticks=5, row=2, col=1)
    last = max(steps, default=0)
    every = next(k for k in (1, 2, 5, 10, 20, 50, 100) if last / k <= 14 or k == 100)
    figure.update_xaxes(range=[-0.4, last + 0.4], tick0=0, dtick=every)
    figure.update_xaxes(title_text="step", row=2, col=1)


def _checked_on(trajectory: Trajectory) -> str:
    corpus = trajectory.check_corpus
    if not any(math.isfinite(step.perplexity) for step in trajectory.steps):
        return "No perplexity was measured"
    text = f"{corpus.get('name')}, {corpus.get('windows')} x {corpus.get('length')} tokens"
    on = f"Perplexity on {text}" if corpus else "Perplexity on an unnamed text"
    if trajectory.checked_on_search_text:
        return f"{on}: the very text that the search used, so it flatters. Lower = better"
    return f"{on}: not the text that the search used. Lower = better"
