"""The whole page: sidebar, layer map, tabs, and the timer that keeps them up to date."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio import themes

from inspector.assets import asset
from inspector.view import map_panel, sidebar
from inspector.view.session import Session
from inspector.view.status import active, status_html
from inspector.view.tabs import check, export, pruning, runs, similarity, sweep
from inspector.view.wiring import Wiring, draw_all, outputs_of
from inspector.view.workbench import Workbench

POLL_SECONDS = 0.5
FIRST = ("status", "map", "mask", "live", "model")
"""The sections that are drawn first when a page opens: those that clicks change, and small ones."""
TITLE = "Layer inspector"
ON_OPENING = Path(__file__).resolve().parent / "static" / "page.js"
"""What the browser does once: make room on a phone, and take files that are dropped."""

TAB_ID = """() => {
  let id = sessionStorage.getItem('layer-inspector');
  if (!id) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    id = Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
    sessionStorage.setItem('layer-inspector', id);
  }
  return id;
}"""
"""A secret of this browser tab, by which a reloaded page has its mask and results back."""


def build(bench: Workbench) -> gr.Blocks:
    """The page over a workbench."""
    wiring = Wiring(bench)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        with gr.Sidebar(width=300, elem_id="sidebar"):
            inputs = sidebar.build(wiring)
        map_panel.build(wiring, inputs)
        with gr.Row(elem_id="status-row", equal_height=True):
            status = gr.HTML(elem_id="status")
            cancel = gr.Button(
                "Cancel", size="sm", scale=0, min_width=90, visible=False, elem_id="cancel"
            )
        wiring.section("status", [status, cancel], lambda s: _draw_status(bench, s))
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Pruning run", id="pruning"):
                pruning.build(wiring, inputs, map_panel.MASK)
            with gr.Tab("Similarity", id="similarity"):
                similarity.build(wiring, inputs, map_panel.MASK)
            with gr.Tab("What next", id="sweep"):
                sweep.build(wiring, inputs, map_panel.MASK)
            with gr.Tab("Check", id="check"):
                check.build(wiring, inputs, map_panel.MASK)
            with gr.Tab("Export", id="export"):
                export.build(wiring)
            with gr.Tab("Runs", id="runs"):
                runs.build(wiring)
        wiring.on(cancel.click, _cancel, redraw=["status"])
        _keep_up(page, wiring, inputs)
    return page


def _keep_up(page: gr.Blocks, wiring: Wiring, inputs: sidebar.Sidebar) -> None:
    """Fill the page when it opens, and redraw what jobs have changed twice a second."""
    bench = wiring.bench

    def opened(request: gr.Request, tab: Any) -> Any:
        session = bench.session(request)
        bench.resume(session, tab)
        with session.lock:
            for section in session.changed:
                session.news(section)  # all is drawn here and in `rest`
            return draw_all(first, session)

    def rest(request: gr.Request) -> Any:
        session = bench.session(request)
        with session.lock:
            return draw_all(others, session)

    def tick(request: gr.Request) -> Any:
        session = bench.session(request)
        with session.lock:
            bench.poll(session)
            bench.follow(session)
            map_panel.check_live(wiring, session)
            return wiring.redraw(session)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    tab = gr.Textbox(visible=False)  # filled by the script
    # What a click changes comes first and by itself: a drawing that takes long would be overtaken
    # by the click and then undo it on the screen.
    first = [section for section in wiring.sections if section.name in FIRST]
    others = [section for section in wiring.sections if section.name not in FIRST]
    filled = page.load(opened, tab, outputs_of(first), js=TAB_ID, **quiet)
    filled.then(rest, None, outputs_of(others), **quiet)
    for function, fields, output in wiring.estimates:
        page.load(function, fields, output, **quiet)
        inputs.now.change(function, fields, output, **quiet)
    page.load(inputs.sized, inputs.where, inputs.size, **quiet)
    page.load(inputs.offer, None, inputs.where[0], **quiet)
    page.unload(bench.close)
    gr.Timer(POLL_SECONDS).tick(tick, None, wiring.outputs(), concurrency_limit=None, **quiet)


def _draw_status(bench: Workbench, session: Session) -> list[Any]:
    text = status_html(bench, session)
    busy = bool(active(session))
    if session.last_status == (text, busy):
        return [gr.skip(), gr.skip()]
    session.last_status = (text, busy)
    return [text, gr.update(visible=busy)]


def _cancel(session: Session) -> None:
    for job in active(session):
        job.cancel()


def theme() -> themes.Base:
    """The page's theme: system fonts, so that nothing is fetched from elsewhere."""
    return themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )


def serve(
    *,
    host: str = "127.0.0.1",
    port: int | None = 7860,
    open_browser: bool = False,
    block: bool = True,
) -> tuple[gr.Blocks, str]:
    """Serve the page; anything but a loopback address counts as public (see `Workbench`).

    Args:
        host: the address to listen on.
        port: the port; None takes a free one.
        open_browser: open the page in the default browser.
        block: return only when the server ends.

    Returns:
        The page and its address.
    """
    loopback = host in ("127.0.0.1", "localhost", "::1")
    space = bool(os.environ.get("SPACE_ID"))
    bench = Workbench(public=space or not loopback)
    bench.warm_up()
    page = build(bench)
    style: Path = asset("style.css")
    page.queue(default_concurrency_limit=None)
    _, address, _ = page.launch(
        server_name="0.0.0.0" if space else host,
        server_port=port,
        inbrowser=open_browser,
        share=False,
        theme=theme(),
        css=style.read_text(encoding="utf-8"),
        footer_links=[],
        prevent_thread_lock=True,
        ssr_mode=False,
        js=ON_OPENING.read_text(encoding="utf-8"),
        enable_monitoring=False,
    )
    if block:
        page.block_thread()
    return page, address
