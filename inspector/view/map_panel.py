"""The layer map and what stands around it: the mask as text, undo, presets, colours, perplexity."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import gradio as gr

from inspector.errors import InspectorError, MaskError
from inspector.measure.corpus import DEFAULT_CHECK
from inspector.measure.metrics import METRICS
from inspector.measure.perplexity import perplexity
from inspector.results.base import DTYPES
from inspector.results.checks import Perplexity
from inspector.units import Mask, layers
from inspector.view import outcomes
from inspector.view.colours import COLOURS, chosen, map_value
from inspector.view.grid import LayerMap, read_clicks, read_mask
from inspector.view.session import Session
from inspector.view.sidebar import Sidebar
from inspector.view.tabs import similarity, sweep
from inspector.view.wiring import Wiring

LIVE_SAMPLES, LIVE_LENGTH = 4, 256
MASK = ("map", "mask", "live", "status")
"""The sections to redraw after the mask was changed from outside the map."""


def build(wiring: Wiring, sidebar: Sidebar) -> None:
    """Build the panel into the page that is open, and wire it."""
    bench = wiring.bench
    with gr.Row(elem_id="map-head", equal_height=False):
        gr.Markdown(
            "# Layer inspector\nSwitch attention and FFN units of a language model off and on, let "
            "a method choose them, and see at once what it costs."
        )
        live = gr.HTML(elem_id="live")
    banner = gr.HTML(elem_id="banner")
    with gr.Row(visible=False, elem_id="model-choice") as choice:
        small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 150}
        now = gr.Button("Load it now", variant="primary", elem_id="load-now", **small)
        take = gr.Button("Use that model here", **small)
        mine = gr.Button("Load mine again", **small)
    with gr.Row(elem_id="colour-tools"):
        colour = gr.Dropdown(
            list(COLOURS), label="Colour the map by", scale=0, min_width=280, elem_id="colour"
        )
        refresh = gr.Button("Measure again", size="sm", scale=0, min_width=120, elem_id="refresh")
    layer_map = LayerMap(elem_id="map")
    with gr.Row(elem_id="mask-tools"):
        undo = gr.Button("Undo", size="sm", scale=0, min_width=64, elem_id="undo")
        redo = gr.Button("Redo", size="sm", scale=0, min_width=64, elem_id="redo")
        reset = gr.Button("All on", size="sm", scale=0, min_width=70, elem_id="reset")
        text = gr.Textbox(
            label="Mask: what is off",
            placeholder="nothing. Write 5.attn, 17, 21-28.attn",
            buttons=["copy"],
            scale=4,
            min_width=260,
            elem_id="mask-text",
        )
        count = gr.Number(4, label="Layers", precision=0, scale=0, min_width=70, elem_id="preset-n")
        last = gr.Button("Mute last", size="sm", scale=0, min_width=84, elem_id="preset-last")
        best = gr.Button(
            "Mute best window", size="sm", scale=0, min_width=140, elem_id="preset-best"
        )

    wiring.section("map", [layer_map, colour], _draw_map)
    wiring.section("mask", [text, undo, redo], _draw_mask)
    # On its own: the perplexity comes in while somebody may be typing a mask.
    wiring.section("live", [live], lambda s: [_live_html(s, wiring)])
    wiring.section("model", [banner, choice, now, take, mine], lambda s: _draw_banner(s, wiring))

    def set_text(session: Session, written: str) -> None:
        card = session.require_card()
        session.set_mask(_read(written, card.depth))
        session.written = None  # to be written out in its usual form

    def toggled(session: Session, value: Any) -> None:
        card = session.require_card()
        session.clicks = read_clicks(value)
        session.touch("map")  # where it is refused, the map is painted as it was
        mask = read_mask(value, before=session.require_mask(), disabled=card.problems)
        session.set_mask(mask)
        session.news("map")  # the browser has painted it already

    def undo_it(session: Session) -> None:
        session.undo()

    def redo_it(session: Session) -> None:
        session.redo()

    def clear(session: Session) -> None:
        session.set_mask(Mask(session.require_card().depth))

    def last_n(session: Session, n: float | None) -> None:
        depth = session.require_card().depth
        first = depth - _layers(n, depth)
        _mute_layers(session, first, depth - 1)

    def best_n(session: Session, n: float | None) -> None:
        depth = session.require_card().depth
        if session.similarity is None:
            raise InspectorError("the best window comes from the similarity: measure that first.")
        number = _layers(n, depth)
        start, _ = session.similarity.windows()[number]
        _mute_layers(session, start, start + number - 1)

    def recolour(session: Session, name: str) -> None:
        session.colour = name
        session.touch("map")
        if name in COLOURS and COLOURS[name].of(session) is None:
            raise InspectorError(f"{name} has not been measured yet: press Measure again.")

    def again(session: Session, *text: Any) -> None:
        wanted = COLOURS.get(session.colour) or chosen(session)
        if wanted.refresh == "similarity":
            similarity.start(wiring, session, *text)
        elif wanted.refresh == "sweep":
            sweep.start(wiring, session, _metric(session, wanted.name), *text)
            session.colour = next(iter(COLOURS))  # where its scores will show
            session.touch("map")
        else:
            raise InspectorError(f"{wanted.name} needs no measuring.")

    def load_mine(session: Session) -> None:
        card = session.require_card()
        place = card.device.partition(" ")[0]  # without the product's name
        bench.load(session, card.source, place, DTYPES.get(card.dtype, "auto"))

    wiring.on(
        layer_map.toggle,
        toggled,
        [layer_map],
        redraw=["mask", "live"],
        trigger_mode="always_last",
    )
    wiring.on(text.submit, set_text, [text], redraw=MASK)
    for event, action in (
        (undo.click, undo_it),
        (redo.click, redo_it),
        (reset.click, clear),
        (layer_map.undo, undo_it),
        (layer_map.redo, redo_it),
    ):
        wiring.on(event, action, redraw=MASK)
    wiring.on(last.click, last_n, [count], redraw=MASK)
    wiring.on(best.click, best_n, [count], redraw=MASK)
    wiring.on(colour.input, recolour, [colour], redraw=["map"], keep=[colour])
    wiring.on(now.click, bench.load, sidebar.where, redraw=["status"])
    wiring.on(take.click, bench.take)
    wiring.on(mine.click, load_mine, redraw=["status"])
    wiring.on(refresh.click, again, sidebar.text, redraw=["status"])


def _metric(session: Session, colour: str) -> str:
    """What to measure anew by, so that the map goes on showing the same quantity."""
    if colour != next(iter(COLOURS)) and session.trajectory is not None:
        by = session.trajectory.metric
        return by if by in METRICS else "nll"
    return session.scores.metric if session.scores else "nll"


def _read(written: str, depth: int) -> Mask:
    """A mask from text or from its JSON."""
    written = (written or "").strip()
    if written.startswith("{"):
        try:
            return Mask.from_json(json.loads(written), depth)
        except ValueError as error:
            raise MaskError(f"this is not the JSON of a mask: {error}.") from error
    return Mask.parse(written, depth)


def _layers(n: float | None, depth: int) -> int:
    if n is None or not 1 <= n <= depth:
        raise InspectorError(f"choose 1 to {depth} layers.")
    return int(n)


def _mute_layers(session: Session, first: int, last: int) -> None:
    """Mute what can be muted of these layers, on top of the mask."""
    card = session.require_card()
    units = [unit for unit in layers(first, last) if str(unit) not in card.problems]
    session.set_mask(session.require_mask().mute(units))


def _draw_map(session: Session) -> list[Any]:
    return [map_value(session), session.colour or chosen(session).name]


def _draw_mask(session: Session) -> list[Any]:
    text = str(session.mask) if session.mask is not None else ""
    same, session.written = text == session.written, text
    return [
        gr.skip() if same else text,  # somebody may be typing
        gr.update(interactive=bool(session.done)),
        gr.update(interactive=bool(session.undone)),
    ]


def _notice(session: Session) -> str:
    """That what is shown is recorded, while nothing is loaded."""
    if session.card is None or session.generation != 0:
        return ""
    return (
        '<p class="banner" role="status">This is a <strong>recorded</strong> run of '
        f"{escape(session.card.source)}: the map and its figures can be explored as they are. "
        "Load the model to measure anew.</p>"
    )


def _draw_banner(session: Session, wiring: Wiring) -> list[Any]:
    there = wiring.bench.card
    unloaded = session.generation == 0
    here = session.generation == wiring.bench.generation and not unloaded
    buttons = [gr.update(visible=on) for on in (not here, unloaded, not unloaded, not unloaded)]
    if unloaded or here:
        return [_notice(session), *buttons]
    words = "A load that failed needed the room: the model of this page is no longer in memory."
    if there is not None:
        words = (
            f"Another page has loaded <strong>{escape(there.source)}</strong> "
            f"({escape(there.dtype)}). This page still shows its own model, which is no longer in "
            "memory."
        )
    return [f'<p class="banner" role="status">{words}</p>', *buttons]


def _live_html(session: Session, wiring: Wiring) -> str:
    """The perplexity of the present mask, kept up to date after every change."""
    found = session.live.get("result")
    job = session.jobs.get("live")
    if session.generation == 0 or session.card is None:
        return _card("Perplexity", "–", "load the model to see what each change costs")
    if job is not None and job.active:
        waits = job.state == "queued" and wiring.bench.worker.ahead_of(job)
        words = "waiting for another job" if waits else "measuring what this change costs"
        return _card("Perplexity", "…", words)
    if not isinstance(found, Perplexity) or found.mask != str(session.require_mask()):
        words = session.errors.get("live") or "not measured for this mask"
        return _card("Perplexity", "–", words)
    base = found.baseline["perplexity"]
    if len(session.require_mask()) == len(session.card.toggleable()):
        return _card("Perplexity", f"{found.perplexity:.4g}", "warning: every unit is off")
    change = 100 * (found.perplexity / base - 1)
    made = found.provenance.corpus
    words = f"untouched {base:.2f} ({change:+.1f} %) · {made['name']}, " + (
        f"{made['windows']} x {found.length} tokens"
    )
    return _card("Perplexity", f"{found.perplexity:.2f}", words)


def _card(label: str, value: str, words: str) -> str:
    return (
        f'<div class="card"><div class="card-label">{escape(label)}</div>'
        f'<div class="card-value">{escape(value)}</div>'
        f'<div class="card-words">{escape(words)}</div></div>'
    )


def check_live(wiring: Wiring, session: Session) -> None:
    """Measure the present mask's perplexity in the background; a newer change replaces it."""
    bench = wiring.bench
    if bench.loaded is None or session.generation != bench.generation:
        return
    mask = session.require_mask()
    if session.live.get("wanted") == (session.generation, str(mask)):
        return
    session.live["wanted"] = (session.generation, str(mask))

    def work(loaded: Any, progress: Any) -> Perplexity:
        length = min(LIVE_LENGTH, loaded.max_length or LIVE_LENGTH)
        windows = bench.windows(
            loaded, DEFAULT_CHECK, progress=progress, length=length, samples=LIVE_SAMPLES
        )
        known = session.baselines.get(outcomes.text_key(windows.about))
        warm = bench.warm(loaded, windows)
        return perplexity(loaded, windows, mask, baseline=known, warm=warm, progress=progress)

    bench.run(session, "live", "Perplexity of this mask", work)
