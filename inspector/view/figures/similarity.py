"""Figures of one forward pass: windows of layers, the residual stream, and each unit's share."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from inspector.errors import ResultError
from inspector.results.scores import Similarity
from inspector.view.figures.style import (
    ACCENT,
    ONE_SIDED,
    SIGNED,
    about,
    colour_bar,
    csv_text,
    layer_axis,
    limits,
    sheet,
)
from inspector.view.figures.unit_bars import unit_bars, unit_rows

TOKENS = {"last": "the last token of each sample", "all": "all tokens"}


def window_distances(
    similarity: Similarity, *, tokens: str = "last", rescaled: bool = False
) -> np.ndarray:
    """d(l, l+n) as [n - 1, l]: [L, L], NaN where the window does not fit.

    Raw values are angular distances in [0, 1]. With `rescaled` every row runs from 0 (its best
    window) to 1; a row with one window or with equal ones is 0.

    Raises:
        ResultError: `tokens` is neither ``last`` nor ``all``.
    """
    if tokens not in TOKENS:
        raise ResultError(f"tokens is {tokens!r}: choose one of {', '.join(TOKENS)}.")
    distance = similarity.angular_last if tokens == "last" else similarity.angular_all
    depth = similarity.depth
    grid = np.full((depth, depth), np.nan)
    for n in range(1, depth + 1):
        grid[n - 1, : depth - n + 1] = np.diagonal(distance, n)
    if not rescaled:
        return grid
    low = np.nanmin(grid, axis=1, keepdims=True)
    span = np.nanmax(grid, axis=1, keepdims=True) - low
    return (grid - low) / np.where(span > 0, span, 1.0)


def angular(similarity: Similarity, *, tokens: str = "last", rescaled: bool = False) -> go.Figure:
    """Angular distance across every window of n layers (y) that starts at layer l (x).

    Values are d(l, l+n) = arccos(cos) / pi in [0, 1] (UIDL, arXiv 2403.17887, equation 7 and
    figure 4), or each row rescaled to [0, 1] as that figure does. Lower = safer to remove together.
    The best window of every n is marked; `customdata` is the text of the window as a mask.
    """
    depth = similarity.depth
    grid = window_distances(similarity, tokens=tokens, rescaled=rescaled)
    best = {n: start for n, (start, _) in similarity.windows(tokens=tokens).items()}
    texts = [[_window(start, n) for start in range(depth)] for n in range(1, depth + 1)]
    quantity = "rescaled to 0..1 within each n" if rescaled else "angular distance / pi"
    hover = "layers %{customdata} (%{y} in all)<br>" + quantity + ": %{z:.4f}<extra></extra>"
    scale = limits(grid[np.isfinite(grid)])
    figure = go.Figure()
    figure.add_heatmap(
        x=np.arange(depth),
        y=np.arange(1, depth + 1),
        z=grid.astype(np.float32),
        customdata=texts,
        colorscale=ONE_SIDED,
        zmin=0.0 if rescaled else scale.low,
        zmax=1.0 if rescaled else scale.high,
        hoverongaps=False,
        hovertemplate=hover,
        colorbar=colour_bar(),
    )
    figure.add_scatter(
        x=list(best.values()),
        y=list(best),
        mode="markers",
        name="best window of n layers",
        customdata=[_window(start, n) for n, start in best.items()],
        hovertemplate="best window of %{y}: layers %{customdata}<extra></extra>",
        marker=_best_marker(depth),
    )
    rows = (
        (n, start, start + n - 1, grid[n - 1, start], int(best[n] == start))
        for n in range(1, depth + 1)
        for start in range(depth - n + 1)
    )
    figure.update_xaxes(title_text="first layer of the window, l", **layer_axis(depth))
    counts = {**layer_axis(depth), "range": [0.5, depth + 0.5]}  # whole numbers, as for layers
    figure.update_yaxes(title_text="layers in the window, n", **counts)
    return sheet(
        figure,
        name=f"angular_{tokens}{'_rescaled' if rescaled else ''}",
        title="Angular distance across windows of layers",
        lines=[
            f"How far the residual stream turns from the input of layer l to that of layer l + n, "
            f"on {TOKENS[tokens]}",
            about(similarity),
        ],
        csv=csv_text(("n", "first_layer", "last_layer", "value", "best"), rows),
        plot_height=380,
        bar=f"{quantity}, lower = safer to remove",
        legend=1,
    )


def boundaries(depth: int) -> list[str]:
    """The unit boundaries of the stream, [2L + 1]: ``in 0``, ``0.attn``, ``in 1``, ..., ``out``.

    ``in 5`` is the stream that enters layer 5, ``5.attn`` the stream after its attention.
    """
    names = [text for layer in range(depth) for text in (f"in {layer}", f"{layer}.attn")]
    return [*names, "out"]


def stream(similarity: Similarity) -> go.Figure:
    """Mean cosine in [-1, 1] between the residual stream at any two unit boundaries."""
    names = boundaries(similarity.depth)
    words = [_boundary_in_words(name) for name in names]
    every = next(k for k in (1, 2, 4, 10, 20, 40, 80) if len(names) / k <= 13 or k == 80)
    ticks = {"tickvals": words[::every], "ticktext": names[::every], "tickangle": 0}
    values = similarity.stream[np.isfinite(similarity.stream)]
    signed = bool(values.size and values.min() < 0)
    scale = limits(values)
    figure = go.Figure(
        go.Heatmap(
            x=words,
            y=words,
            z=similarity.stream,
            colorscale=SIGNED if signed else ONE_SIDED,
            zmin=-1.0 if signed else scale.low,
            zmax=1.0,
            hoverongaps=False,
            hovertemplate="%{y}<br>and %{x}<br>cosine: %{z:.4f}<extra></extra>",
            colorbar=colour_bar(),
        )
    )
    figure.update_xaxes(title_text="boundary", showgrid=False, **ticks)
    figure.update_yaxes(title_text="boundary", showgrid=False, autorange="reversed", **ticks)
    rows = ([name, *row] for name, row in zip(names, similarity.stream, strict=True))
    return sheet(
        figure,
        name="stream",
        title="Cosine of the residual stream between unit boundaries",
        lines=[
            '"in 5" enters layer 5, "5.attn" leaves its attention. A bright block on the diagonal '
            "= units that hardly turn the stream",
            about(similarity),
        ],
        csv=csv_text(("boundary", *names), rows),
        plot_height=440,
        bar="cosine, 1 = same direction",
    )


UNIT_MEASURES = {
    "turn": ("How much each unit turns the stream", "1 - cos(x, x + f)"),
    "growth": ("How much each unit adds to the stream", "|f| / |x|"),
}
"""Title and axis title of the per-unit measures; x is the stream, f what the unit adds."""


def units(similarity: Similarity, *, what: str = "turn") -> go.Figure:
    """Per-unit bars of `turn`, in [0, 2], or `growth`, 0 or more: lower = more redundant.

    Raises:
        ResultError: `what` is neither ``turn`` nor ``growth``.
    """
    if what not in UNIT_MEASURES:
        raise ResultError(f"{what!r} is not measured: choose one of {', '.join(UNIT_MEASURES)}.")
    values = similarity.turn if what == "turn" else similarity.growth
    title, axis = UNIT_MEASURES[what]
    figure, _, scale = unit_bars(values, depth=similarity.depth, quantity=axis)
    cut = "; the scale stops short of the greatest" if scale.clipped else ""
    return sheet(
        figure,
        name=f"units_{what}",
        title=title,
        lines=[
            f"{axis}, mean over tokens; x is the stream, f what the unit adds. "
            f"Lower = more redundant{cut}",
            about(similarity),
        ],
        csv=csv_text(("unit", "layer", "kind", what), unit_rows(values)),
        plot_height=300,
    )


def _window(start: int, n: int) -> str:
    return str(start) if n == 1 else f"{start}-{start + n - 1}"


def _best_marker(depth: int) -> dict[str, object]:
    size = 7 if depth <= 48 else 4
    return {"size": size, "color": "white", "line": {"color": ACCENT, "width": 1.5}}


def _boundary_in_words(name: str) -> str:
    if name == "out":
        return "leaving the last layer"
    if name.startswith("in "):
        return f"entering layer {name[3:]}"
    return f"after the attention of layer {name.split('.')[0]}"
