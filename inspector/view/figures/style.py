"""What all figures share: the sheet they are drawn on, colours, limits, words and CSV."""

from __future__ import annotations

import csv
import html
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import diverging, sequential

from inspector.results.base import Result
from inspector.units import KINDS

KIND_WORDS = {"attn": "attention", "ffn": "FFN"}
"""How a kind of unit is called in words."""

KIND_COLOURS = {"attn": "#3572b8", "ffn": "#a06a00"}
"""Bars and lines by kind: at least 3:1 against a white and a near-black page, 4.5:1 under white
text, told apart by the colour-blind."""

MAIN = "#0d8a80"
"""What the model scores: lines and bars that belong to no kind of unit."""

ACCENT = "#d6336c"
"""The chosen step and the safest units: far from everything in cividis and in both kinds."""

WHITE, GREY = "#ffffff", "rgba(128,128,128,0.9)"
GRID = "rgba(128,128,128,0.22)"
INK = "#1f2937"

ONE_SIDED = list(sequential.Cividis)
SIGNED = list(reversed(diverging.RdBu[1:-1]))
"""Blue below 0, white, red above; without the darkest ends, which vanish on a dark page."""

METRICS = {
    "nll": ("rise of the NLL", "nats per token"),
    "perplexity": ("perplexity", ""),
    "kl": ("KL divergence of the logits", "nats per token"),
    "js": ("JS divergence of the logits", "nats per token"),
    "js-reversed": ("reversed JS divergence of the logits", "nats per token"),
    "angular": ("angular distance of the logits", "radians per token"),
    "norm": ("distance of the logits", "Frobenius norm per window"),
    "kl-per-parameter": ("rise of the KL for what is saved", "nats per token and million"),
    "loss-per-parameter": ("rise of the NLL for what is saved", "nats per token and million"),
    "turn": ("turn of the stream, 1 - cosine", ""),
    "influence": ("Block Influence, 1 - cosine", ""),
    "influence-flat": ("Block Influence of all tokens laid end to end", ""),
    "distance": ("angular distance across the window that begins there", "of pi"),
    "l1": ("l1 norm of the layer's weights", ""),
    "l2": ("l2 norm of the layer's weights", ""),
    "taylor": ("|weight x gradient| of the layer", "nats per token"),
    "random": ("random number", ""),
    "from-end": ("number of layers behind", ""),
}
"""Metric name to what it measures and its unit; an unknown metric is shown by its name."""

SUBTITLE_WIDTH = 118
"""Characters in a line of the subtitle; the page wraps anew for its own width."""


@dataclass(frozen=True)
class Limits:
    """The ends of a scale. `clipped` says that some values lie beyond `high`.

    A signed scale gives its colours to -`reach` to `reach`, so that its middle is 0.
    """

    low: float
    high: float
    clipped: bool = False

    @property
    def reach(self) -> float:
        """The greater distance of the two ends from 0."""
        return max(abs(self.low), abs(self.high))


def limits(values: Iterable[float]) -> Limits:
    """The ends of a scale that one outlier cannot flatten.

    Muting the first FFN often costs a hundred times what any other unit costs. When the greatest
    value is more than three times as far from the least as nine tenths of the values are, the scale
    ends at that nine-tenths point. NaN and infinity are ignored; no values at all give 0 to 1.
    """
    finite = np.array([value for value in values if math.isfinite(value)], dtype=float)
    if not finite.size:
        return Limits(0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    most = float(np.quantile(finite, 0.9))
    clipped = finite.size >= 8 and most > low and high - low > 3 * (most - low)
    high = most if clipped else high
    if high <= low:
        high = low + (abs(low) or 1.0)
    return Limits(low, high, clipped)


def split(unit: str) -> tuple[int, str]:
    """Layer and kind of a unit text: ``5.attn`` -> (5, "attn")."""
    layer, _, kind = unit.partition(".")
    return int(layer), kind


def in_words(unit: str) -> str:
    """``5.attn`` -> ``layer 5, attention``."""
    layer, kind = split(unit)
    return f"layer {layer}, {KIND_WORDS.get(kind, kind)}"


def kinds_of(units: Iterable[str]) -> list[str]:
    """The kinds that occur, in the order in which a layer applies them; at least one."""
    found = {split(unit)[1] for unit in units}
    return [kind for kind in KINDS if kind in found] or [KINDS[0]]


def sentence(text: str) -> str:
    """The text with its first letter in capitals."""
    return text[:1].upper() + text[1:]


def metric_words(metric: str) -> str:
    """What a metric measures, with its unit in brackets."""
    words, unit = METRICS.get(metric, (metric, ""))
    return f"{words} ({unit})" if unit else words


def number(value: float) -> str:
    """Four significant digits; ``unknown`` for NaN."""
    if not math.isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with a header line; floats with six significant digits, NaN as an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_field(value) for value in row] for row in rows)
    return out.getvalue()


def about(result: Result) -> str:
    """Where the numbers come from: model, weights, dtype, text, and the mask."""
    mask = textwrap.shorten(result.mask.replace(",", ", "), 80, placeholder=" ...")
    return f"{result.provenance.about} · {'muted: ' + mask if mask else 'nothing muted'}"


def sheet(
    figure: go.Figure,
    *,
    name: str,
    title: str,
    lines: Sequence[str],
    csv: str,
    plot_height: int,
    legend: int = 0,
    bar: str = "",
    stack: bool = False,
) -> go.Figure:
    """Lay out the figure: title, subtitle lines, margins, height, and what downloads need.

    `plot_height` is that of the axes in pixels, `legend` the number of legend entries, `bar` the
    title of the colour bar. Plain `title` and `lines` also go into `layout.meta`, so that a narrow
    page can wrap them anew, and `stack`, which lets it put two panels under one another.
    """
    wrapped = [part for line in lines for part in textwrap.wrap(line, SUBTITLE_WIDTH)]
    top = 40 + 17 * len(wrapped) + (32 if legend else 8)
    foot = 106 if bar else 52
    lead = f"<b>{_safe(title)}</b>"
    rest = f'<span style="font-size:12px">{"<br>".join(map(_safe, wrapped))}</span>'
    figure.update_layout(
        template="none",
        title={
            "text": f"{lead}<br>{rest}",
            "font": {"size": 15},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 20, "l": 4},
        },
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 58, "r": 16, "t": top, "b": foot},
        height=top + plot_height + foot,
        hoverlabel={"align": "left", "font": {"size": 12}},
        hovermode="closest",
        showlegend=bool(legend),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
        uirevision=name,
        meta={
            "name": name,
            "csv": csv,
            "title": title,
            "lines": list(lines),
            "stack": stack,
        },
    )
    figure.update_xaxes(**_AXIS, zeroline=False)
    figure.update_yaxes(**_AXIS)
    if bar:
        # Not the bar's own title: plotly sets that across a bar that hangs from the container.
        figure.add_annotation(
            text=bar, x=0, y=0, xref="paper", yref="paper", xanchor="left", yanchor="top",
            yshift=-52, showarrow=False, name="bar",
        )  # fmt: skip
    return figure


_AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "showline": False,
    "ticks": "",
    "automargin": False,
    "title_standoff": 8,
    "title_font_size": 12,
    "tickfont_size": 11,
}


def colour_bar(**more: Any) -> dict[str, Any]:
    """A thin horizontal colour bar under the axes, where plotly's mode bar cannot cover it.

    `sheet` writes its title.
    """
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
        "ypad": 6,
        "xpad": 0,
        "len": 0.5,
        "thickness": 10,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "nticks": 5,
        **more,
    }


def layer_axis(depth: int, **more: Any) -> dict[str, Any]:
    """An x axis of layers 0 to `depth` - 1, with as many numbers as stay readable."""
    every = next(step for most, step in ((16, 1), (40, 5), (80, 10), (10**9, 20)) if depth <= most)
    return {
        "range": [-0.5, depth - 0.5],
        "tick0": 0,
        "dtick": every,
        "tickangle": 0,
        "showgrid": False,
        **more,
    }


def log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis over these positive values, with as many numbers as stay readable."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    leads = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [lead * 10.0**power for power in powers for lead in leads]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}


def _field(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}" if math.isfinite(value) else ""
    return value


def _safe(text: str) -> str:
    """Names of models and files are not ours: plotly reads <, > and & in texts as markup."""
    return html.escape(text, quote=False)
