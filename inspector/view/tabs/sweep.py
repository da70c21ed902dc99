"""The What next tab: what muting each remaining unit would cost, under the present mask."""

from __future__ import annotations

from typing import Any

import gradio as gr

from inspector.measure.metrics import METRICS
from inspector.measure.sweep import sweep
from inspector.units import unit
from inspector.view import figures
from inspector.view.commands import command
from inspector.view.plot import Plot
from inspector.view.session import Session
from inspector.view.sidebar import Sidebar
from inspector.view.texts import cut, options_of, text_of
from inspector.view.wiring import Wiring

ABOUT = (
    "What muting each unit that is still on would cost, one at a time, **under the present mask**. "
    "The lowest bar is the safest to remove next. Click a bar to mute its unit."
)


def start(wiring: Wiring, session: Session, metric: str, *text: Any) -> None:
    """Score every remaining unit under the present mask."""
    bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
    options = cut(bench, *text)

    def work(loaded: Any, progress: Any) -> Any:
        windows = bench.windows(loaded, **options, progress=progress)
        return sweep(loaded, windows, mask, metric=metric, progress=progress)

    line = command("sweep", card, str(mask), metric=metric, **options_of(options))
    bench.run(session, "sweep", "What next", work, line)


def build(wiring: Wiring, sidebar: Sidebar, redraw_mask: tuple[str, ...]) -> None:
    """Build the tab into the page that is open, and wire it."""
    with gr.Row(equal_height=True, elem_classes="beside-buttons"):
        gr.Markdown(ABOUT)
        metric = gr.Dropdown(
            [(f"{row.label} ({row.unit})", name) for name, row in METRICS.items()],
            value="nll",
            label="Measure",
            min_width=300,
            scale=0,
            elem_id="sweep-metric",
        )
        go = gr.Button("Score all units", variant="primary", scale=0, elem_id="sweep-go")
    plot = Plot(empty="Score the units to see what to remove next.", elem_id="sweep")

    def draw(session: Session) -> list[Any]:
        return [figures.sweep(session.scores) if session.scores else None]

    wiring.section("sweep", [plot], draw)

    def click(session: Session, event: gr.EventData) -> None:
        card = session.require_card()
        one = unit(text_of(event), card.depth)
        session.set_mask(session.require_mask().mute([one]))

    wiring.on(
        go.click,
        lambda session, name, *text: start(wiring, session, name, *text),
        [metric, *sidebar.text],
        redraw=["status"],
    )
    wiring.on(plot.point, click, redraw=redraw_mask, with_event=True)
