"""The sidebar: which model, where, how precisely, how large; and the text to measure on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from inspector.errors import InspectorError
from inspector.measure.corpus import (
    CHECK_LENGTH,
    CHECK_SAMPLES,
    DEFAULT_CHECK,
    DEFAULT_LENGTH,
    DEFAULT_SAMPLES,
    DEFAULT_SEARCH,
    specs,
)
from inspector.model.loading import DEVICES, DTYPES, size_of
from inspector.model.sources import BUNDLED, bundled_file, cached_models
from inspector.results.base import brief
from inspector.view.session import Session
from inspector.view.wiring import Wiring


@dataclass(frozen=True)
class Sidebar:
    """What other parts of the page read: components, and the function that fills `size`.

    `where` are model, device and dtype; `offer` gives the models to choose from anew.
    """

    where: list[Any]
    offer: Callable[[], Any]
    size: Any
    sized: Callable[..., Any]
    now: Any
    corpus: Any
    samples: Any
    length: Any
    seed: Any
    check_corpus: Any
    check_samples: Any
    check_length: Any

    @property
    def text(self) -> list[Any]:
        """The text to search on: corpus, samples, length, seed."""
        return [self.corpus, self.samples, self.length, self.seed]

    @property
    def check(self) -> list[Any]:
        """The text to check on: corpus, samples, length."""
        return [self.check_corpus, self.check_samples, self.check_length]


def build(wiring: Wiring) -> Sidebar:
    """Build the sidebar into the page that is open, and wire it."""
    bench = wiring.bench
    gr.Markdown("## Model")
    offered = _offered()
    source = gr.Dropdown(
        offered,
        value=offered[0],
        allow_custom_value=True,
        label="Model",
        info="The bundled SmolLM2-135M, a hub id, a folder, a .gguf file, or tiny:llama",
        elem_id="source",
    )
    with gr.Row():
        device = gr.Dropdown(list(DEVICES), value="auto", label="Device", min_width=90)
        dtype = gr.Dropdown(["auto", *DTYPES], value="auto", label="Precision", min_width=90)
    size = gr.HTML(elem_id="size")
    load = gr.Button("Load model", variant="primary", elem_id="load")
    now = gr.HTML(elem_id="model-now")
    search, check = specs(), specs()
    with gr.Accordion("Text to measure on", open=False, elem_id="text-search"):
        corpus = gr.Dropdown(
            search,
            value=DEFAULT_SEARCH,
            allow_custom_value=True,
            label="Text",
            info="For similarity, what next and pruning. file:PATH reads your own .txt or .jsonl",
        )
        with gr.Row():
            samples = gr.Number(
                DEFAULT_SAMPLES, label="Windows", precision=0, minimum=1, min_width=80
            )
            length = gr.Number(
                DEFAULT_LENGTH, label="Tokens each", precision=0, minimum=2, min_width=80
            )
        seed = gr.Textbox(label="Seed", placeholder="empty: the first windows")
    with gr.Accordion("Text to check on", open=False, elem_id="text-check"):
        check_corpus = gr.Dropdown(
            check,
            value=DEFAULT_CHECK,
            allow_custom_value=True,
            label="Text",
            info="For perplexity: choose one that no search has used",
        )
        with gr.Row():
            check_samples = gr.Number(
                CHECK_SAMPLES, label="Windows", precision=0, minimum=1, min_width=80
            )
            check_length = gr.Number(
                CHECK_LENGTH, label="Tokens each", precision=0, minimum=2, min_width=80
            )

    wiring.section("model", [now], lambda session: [_now(session, bench.generation)])

    def sized(request: gr.Request, text: str, where: str, kind: str) -> Any:
        """The size from the config alone, before any weights are read."""
        session = bench.session(request)
        session.sized = asked = (text, where, kind)
        try:
            found = size_of(bench.source(text or ""), device=where, dtype=kind, freed=bench.loaded)
            words, bad = str(found), not found.fits
        except InspectorError as error:
            words, bad = str(error), True
        if session.sized is not asked:  # it took long, and another has been asked for meanwhile
            return gr.skip()
        return f'<p class="note{" bad" if bad else ""}">{escape(words)}</p>'

    where = [source, device, dtype]
    for each in where:
        each.change(sized, where, size, show_progress="hidden", trigger_mode="always_last")

    wiring.on(load.click, bench.load, where, redraw=["status"])
    return Sidebar(
        where,
        lambda: gr.update(choices=_offered()),
        size,
        sized,
        now,
        corpus,
        samples,
        length,
        seed,
        check_corpus,
        check_samples,
        check_length,
    )


def _offered() -> list[str]:
    """The bundled model, what is in the hub's cache by now, and two tiny ones."""
    bundled = [BUNDLED] if bundled_file() else []
    return [*bundled, *cached_models(), "tiny:llama", "tiny:gemma2"]


def _now(session: Session, generation: int) -> str:
    card = session.card
    if card is None:
        return '<p class="note">No model is loaded.</p>'
    if session.generation == 0:
        return (
            '<p class="note">On the page: a <strong>recorded</strong> run of '
            f"{escape(card.source)} ({escape(card.dtype)}). Load a model to measure anew.</p>"
        )
    where = "In memory" if session.generation == generation else "No longer in memory"
    return (
        f'<p class="note">{where}: <strong>{escape(card.source)}</strong>, '
        f"{escape(brief(card.weights))}, {escape(card.dtype)} on {escape(card.device)}.</p>"
    )
