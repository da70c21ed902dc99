"""The Similarity tab: how alike the residual stream is at different depths."""

from __future__ import annotations

from typing import Any

import gradio as gr

from inspector.measure.similarity import similarity
from inspector.units import Mask
from inspector.view import figures
from inspector.view.commands import command
from inspector.view.plot import Plot
from inspector.view.session import Session
from inspector.view.sidebar import Sidebar
from inspector.view.texts import cut, options_of, text_of
from inspector.view.wiring import Wiring

ABOUT = (
    "How far the residual stream turns between layers. **Low** means that the layers in between "
    "change little and are candidates for removal. Click a cell of the first map to mute its "
    "window."
)


def start(wiring: Wiring, session: Session, *text: Any) -> None:
    """Measure the similarity under the present mask."""
    bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
    options = cut(bench, *text)

    def work(loaded: Any, progress: Any) -> Any:
        windows = bench.windows(loaded, **options, progress=progress)
        return similarity(loaded, windows, mask, progress=progress)

    line = command("similarity", card, str(mask), **options_of(options), kind="angular")
    bench.run(session, "similarity", "Similarity", work, line)


def build(wiring: Wiring, sidebar: Sidebar, redraw_mask: tuple[str, ...]) -> None:
    """Build the tab into the page that is open, and wire it."""
    with gr.Row(equal_height=True, elem_classes="beside-buttons"):
        gr.Markdown(ABOUT)
        go = gr.Button(
            "Measure similarity",
            variant="primary",
            scale=0,
            min_width=200,
            elem_id="similarity-go",
        )
    with gr.Row(elem_classes="choices"):
        tokens = gr.Radio(
            [("Last token, as in the paper", "last"), ("All tokens", "all")],
            value="last",
            label="Tokens",
        )
        scale = gr.Radio(
            [("Raw", "raw"), ("Each row rescaled, as in the paper", "rescaled")],
            value="raw",
            label="Colours",
        )
    angular = Plot(empty="Measure the similarity to see this map.", elem_id="angular")
    with gr.Row():
        with gr.Column(min_width=320):
            stream = Plot(empty="The cosine between all unit boundaries.", elem_id="stream")
        with gr.Column(min_width=320):
            what = gr.Radio(
                [("Turn", "turn"), ("Growth", "growth")], value="turn", label="Each unit's"
            )
            units = Plot(empty="How much each unit turns or grows the stream.", elem_id="units")

    def draw(
        session: Session, kind: str = "last", rescaled: str = "raw", each: str = "turn"
    ) -> Any:
        found = session.similarity
        if found is None:
            return [None, None, None]
        return [
            figures.angular(found, tokens=kind, rescaled=rescaled == "rescaled"),
            figures.stream(found),
            figures.units(found, what=each),
        ]

    shown = [angular, stream, units]
    wiring.section("similarity", shown, lambda s: draw(s, *s.looks.get("similarity", ())))

    def choose(session: Session, kind: str, rescaled: str, each: str) -> None:
        session.looks["similarity"] = (kind, rescaled, each)

    def click(session: Session, event: gr.EventData) -> None:
        card = session.require_card()
        window = Mask.parse(text_of(event), card.depth)
        units = [unit for unit in window if str(unit) not in card.problems]
        session.set_mask(session.require_mask().mute(units))

    for each in (tokens, scale, what):
        wiring.on(each.input, choose, [tokens, scale, what], redraw=["similarity"])
    wiring.on(
        go.click,
        lambda session, *text: start(wiring, session, *text),
        sidebar.text,
        redraw=["status"],
    )
    wiring.on(angular.point, click, redraw=redraw_mask, with_event=True)
