"""The Check tab: what the edit costs, each figure beside the untouched model's, and a history."""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from inspector.errors import InspectorError, TaskError
from inspector.measure.baselines import shelf
from inspector.measure.benchmark import benchmark
from inspector.measure.generation import generate
from inspector.measure.perplexity import perplexity
from inspector.measure.sequential import until_decided
from inspector.measure.speed import PROMPT as PROMPT_TOKENS
from inspector.measure.speed import ROUNDS, TOKENS, speed
from inspector.results.checks import Benchmark, Flip, Perplexity, Speed
from inspector.units import Mask
from inspector.view import figures, outcomes
from inspector.view.commands import command
from inspector.view.plot import Plot
from inspector.view.session import Session
from inspector.view.side_by_side import side_by_side
from inspector.view.sidebar import Sidebar
from inspector.view.texts import cut, number, options_of, whole
from inspector.view.wiring import Wiring

PROMPT = "The three most important things to know about volcanoes are"
_NAME = re.compile(r"\w[\w-]{0,99}", re.ASCII)
_DASHES = re.compile(r"\n?^---[ \t\r]*$\n?", re.MULTILINE)
FLIPS = ("Task", "Question", "Right", "This mask", "Untouched")
SURE = "() => confirm('Clear the table of what was tried?')"
SHOWN = 200
"""The most items in the table of those answered otherwise."""


def build(wiring: Wiring, sidebar: Sidebar, redraw_mask: tuple[str, ...]) -> None:
    """Build the tab into the page that is open, and wire it."""
    with gr.Row():
        with gr.Column(min_width=320):
            _perplexity(wiring, sidebar)
        with gr.Column(min_width=320):
            _benchmark(wiring)
    _speed(wiring)
    _generation(wiring)
    _history_table(wiring, redraw_mask)


def _history_table(wiring: Wiring, redraw_mask: tuple[str, ...]) -> None:
    gr.Markdown(
        "### What was tried\nA row a mask. Click a row to put its mask on the layer map again; the "
        "menu (⋮) of a column sorts by it."
    )
    history = gr.Dataframe(
        headers=[*outcomes.FIRST, *outcomes.AFTER],
        interactive=False,
        wrap=True,
        show_label=False,
        elem_id="history",
        buttons=["copy", "fullscreen"],
    )
    with gr.Row():
        small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 180}
        fetch = gr.DownloadButton("Download CSV", elem_id="history-csv", **small)
        drop = gr.Button(
            "Delete this mask's row", elem_id="history-delete", **{**small, "min_width": 180}
        )
        clear = gr.Button("Clear the table", elem_id="history-clear", **small)
    folder = tempfile.TemporaryDirectory(prefix="layer-inspector-")  # gone with the page

    def draw(session: Session) -> list[Any]:
        return [_history(session), gr.update(value=_csv(Path(folder.name), session))]

    wiring.section("check", [history, fetch], draw)

    def back(session: Session, event: gr.EventData) -> None:
        session.set_mask(row_mask(session, event))

    def delete(session: Session) -> None:
        outcomes.forget(session, session.require_mask())

    def forget(session: Session, sure: bool | None) -> None:
        if sure:
            session.history = []
            session.touch("check")

    sure = gr.Checkbox(visible=False)
    wiring.on(history.select, back, redraw=redraw_mask, with_event=True)
    wiring.on(drop.click, delete, redraw=["check"])
    wiring.on(clear.click, forget, [sure], redraw=["check"], js=SURE)


def _csv(folder: Path, session: Session) -> str | None:
    """The path of the history as a file, in a place of this page's own; None while it is empty."""
    if not session.history:
        return None
    # The page's name comes from the browser, so it is no part of a path.
    place = folder / hashlib.sha256(session.id.encode()).hexdigest()[:16]
    place.mkdir(exist_ok=True)
    path = place / "checks.csv"
    path.write_text(outcomes.csv_of(session), encoding="utf-8")
    return str(path)


def row_mask(session: Session, event: gr.EventData) -> Mask:
    """The mask of the row of the history that was clicked.

    Raises:
        InspectorError: there is no such row any more.
    """
    data = getattr(event, "_data", None)
    value = data.get("row_value") if isinstance(data, dict) else None
    text = value[0] if isinstance(value, list) and value else None
    known = {row["Mask"] for row in session.history}
    if not isinstance(text, str) or text not in known:
        raise InspectorError("this row is gone: measure again.")
    return Mask.parse("" if text == outcomes.NOTHING else text, session.require_card().depth)


def _perplexity(wiring: Wiring, sidebar: Sidebar) -> None:
    gr.Markdown("### Perplexity\nOn the text to check on (sidebar). Lower is better.")
    with gr.Row(equal_height=True):
        stride = gr.Textbox(label="Stride", placeholder="no overlap", min_width=110)
        go = gr.Button(
            "Measure perplexity", variant="primary", min_width=200, elem_id="perplexity-go"
        )
    plot = Plot(empty="Not measured yet.", elem_id="perplexity")
    with gr.Accordion("By position in the window", open=False, visible=False) as more:
        places = Plot(empty="Not measured yet.", elem_id="perplexity-by-position")

    def draw(session: Session) -> list[Any]:
        found = session.results.get("perplexity")
        drawn = figures.figures_of(found) if isinstance(found, Perplexity) else []
        whole, by_position = [*drawn, None, None][:2]
        return [whole, gr.update(visible=by_position is not None), by_position]

    def start(session: Session, every: Any, *text: Any) -> None:
        bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
        options = cut(bench, *text, stride=every)

        def work(loaded: Any, progress: Any) -> Any:
            windows = bench.windows(loaded, **options, progress=progress)
            known = session.baselines.get(outcomes.text_key(windows.about))
            warm = bench.warm(loaded, windows)
            return perplexity(loaded, windows, mask, baseline=known, warm=warm, progress=progress)

        line = command("perplexity", card, str(mask), **options_of(options))
        bench.run(session, "perplexity", "Perplexity", work, line)

    wiring.section("check", [plot, more, places], draw)
    wiring.on(go.click, start, [stride, *sidebar.check], redraw=["status"])


def _benchmark(wiring: Wiring) -> None:
    gr.Markdown("### Benchmark\nMultiple choice through lm-eval. Higher is better.")
    with gr.Row(equal_height=True):
        tasks = gr.Textbox(
            "own",
            label="Tasks",
            info="own (offline), lm-eval names, a suite, or a .jsonl",
            min_width=160,
            elem_id="tasks",
        )
        limit = gr.Number(40, label="Items", precision=0, minimum=1, min_width=80)
    with gr.Row(equal_height=True):
        decide = gr.Checkbox(
            False,
            label="Stop once decided",
            info="asks on, 50 items at first, until the difference is no chance",
            min_width=160,
            elem_id="benchmark-decide",
        )
        anew = gr.Checkbox(
            False,
            label="Fresh baseline",
            info="measures the untouched model again, also where its scores are kept",
            min_width=160,
            elem_id="benchmark-fresh",
        )
        go = gr.Button("Run benchmark", variant="primary", elem_id="benchmark-go")
    plot = Plot(empty="Not run yet.", elem_id="benchmark")
    with gr.Accordion("Items answered otherwise", open=False, visible=False) as more:
        flips = gr.Dataframe(
            headers=list(FLIPS),
            interactive=False,
            wrap=True,
            show_label=False,
            max_height=420,
            elem_id="flips",
            buttons=["copy", "fullscreen"],
            column_widths=["12%", "40%", "16%", "16%", "16%"],
        )

    def draw(session: Session) -> list[Any]:
        found = session.results.get("benchmark")
        if not isinstance(found, Benchmark):
            return [None, gr.update(visible=False), []]
        label = f"Items answered otherwise: {len(found.flips)}"
        shown = gr.update(visible=bool(found.flips), label=label)
        return [figures.benchmark(found), shown, _flips(found)]

    def start(
        session: Session,
        written: str,
        most: float | None,
        soon: bool = False,
        fresh: bool = False,
    ) -> None:
        bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
        names = [name.strip() for name in (written or "").split(",") if name.strip()]
        if not names:
            raise TaskError("name a task: own, or a name that lm-eval knows.")
        by_name = all(_NAME.fullmatch(name) and not Path(name).exists() for name in names)
        if bench.public and not by_name:
            raise TaskError("on this server tasks are chosen by name: own, or one of lm-eval's.")
        items = None if most is None else whole(most, "how many items", 1)

        def work(loaded: Any, progress: Any) -> Any:
            if soon:
                return until_decided(loaded, names, mask, limit=items, progress=progress)
            kept = shelf(fresh=bool(fresh))
            return benchmark(loaded, names, mask, limit=items, shelf=kept, progress=progress)

        asked = {"tasks": ",".join(names), "limit": items, "until_decided": bool(soon)}
        line = command("bench", card, str(mask), **asked, fresh_baseline=bool(fresh and not soon))
        bench.run(session, "benchmark", "Benchmark", work, line)

    wiring.section("check", [plot, more, flips], draw)
    wiring.on(go.click, start, [tasks, limit, decide, anew], redraw=["status"])


def _speed(wiring: Wiring) -> None:
    gr.Markdown("### Speed\nBoth models in turns, as this machine runs them now.")
    with gr.Row(equal_height=True):
        prompt = gr.Number(
            PROMPT_TOKENS, label="Prompt tokens", precision=0, minimum=1, min_width=110
        )
        tokens = gr.Number(TOKENS, label="New tokens", precision=0, minimum=1, min_width=110)
        rounds = gr.Number(ROUNDS, label="Rounds", precision=0, minimum=1, min_width=80)
        go = gr.Button("Measure speed", variant="primary", min_width=160, elem_id="speed-go")
    plot = Plot(empty="Not measured yet.", elem_id="speed")

    def draw(session: Session) -> list[Any]:
        found = session.results.get("speed")
        return [figures.speed(found) if isinstance(found, Speed) else None]

    def start(session: Session, *counts: float | None) -> None:
        bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
        asked = ("how many prompt tokens", "how many new tokens", "how many rounds")
        length, new, times = (
            whole(each, what, 1) for each, what in zip(counts, asked, strict=True)
        )

        def work(loaded: Any, progress: Any) -> Any:
            return speed(
                loaded, mask, prompt_length=length, new_tokens=new, rounds=times, progress=progress
            )

        line = command("speed", card, str(mask), prompt_tokens=length, tokens=new, rounds=times)
        bench.run(session, "speed", "Speed", work, line)

    wiring.section("check", [plot], draw)
    wiring.on(go.click, start, [prompt, tokens, rounds], redraw=["status"])


def _generation(wiring: Wiring) -> None:
    gr.Markdown("### A few generated lines\nThe same prompts through both models.")
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(
            PROMPT,
            label="Prompts",
            info="Several: put a line of three dashes (---) between them.",
            lines=2,
            scale=3,
            min_width=260,
            elem_id="prompt",
        )
        tokens = gr.Number(48, label="Tokens", precision=0, minimum=1, min_width=80, scale=0)
        chat = gr.Checkbox(False, label="Chat template", min_width=130, scale=0)
        go = gr.Button("Generate", variant="primary", scale=0, elem_id="generate-go")
    with gr.Row():
        temperature = gr.Textbox(
            label="Temperature", placeholder="none: the most likely tokens", min_width=220
        )
        top_p = gr.Textbox(label="Top-p", placeholder="1", min_width=80)
        seed = gr.Textbox(label="Seed of the draws", placeholder="0", min_width=80)
    texts = gr.HTML(elem_id="generated")

    def start(
        session: Session, written: str, count: float | None, template: bool, *drawn: str | None
    ) -> None:
        bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
        most = whole(count, "how many tokens", 1)
        prompts, settings = prompts_of(written), _drawn(*drawn)

        def work(loaded: Any, progress: Any) -> Any:
            return generate(
                loaded, prompts, mask, tokens=most, chat=template, **settings, progress=progress
            )

        line = command("generate", card, str(mask), tokens=most, chat=template, **settings)
        # The shell's quoting; a prompt may begin with a dash.
        line += " " + shlex.join(f"--prompt={each}" for each in prompts)
        bench.run(session, "generation", "Generation", work, line)

    wiring.section("check", [texts], lambda s: [side_by_side(s.generated)])
    inputs = [prompt, tokens, chat, temperature, top_p, seed]
    wiring.on(go.click, start, inputs, redraw=["status"])


def prompts_of(written: str | None) -> list[str]:
    """The prompts in a field, as they stand between lines of three dashes; blank ones are left out.

    Raises:
        InspectorError: there is none.
    """
    found = [each for each in _DASHES.split(written or "") if each.strip()]
    if not found:
        raise InspectorError("write a prompt first.")
    return found


def _drawn(temperature: str | None, top_p: str | None, seed: str | None) -> dict[str, Any]:
    """Arguments of `generate` from the fields; empty ones are left out."""
    start = number(seed, "the seed")
    options = {
        "temperature": number(temperature, "the temperature"),
        "top_p": number(top_p, "top-p"),
        "seed": None if start is None else whole(start, "the seed", 0),
    }
    return {name: value for name, value in options.items() if value is not None}


def _flips(found: Benchmark) -> list[list[str]]:
    """A row an item: task, question, and the right choice, the mask's, the untouched model's."""
    return [
        [
            flip.task,
            flip.question,
            *(_choice(flip, at) for at in (flip.gold, flip.here, flip.untouched)),
        ]
        for flip in found.flips[:SHOWN]
    ]


def _choice(flip: Flip, at: int) -> str:
    return flip.choices[at] if 0 <= at < len(flip.choices) else "?"


def _history(session: Session) -> dict[str, Any]:
    """The table as Gradio takes it: numbers to sort by, and how people read them."""
    found = outcomes.rows(session)
    shown = [[_shown(value) for value in row] for row in found]
    return {
        "headers": outcomes.columns(session),
        "data": found,
        "metadata": {"display_value": shown},
    }


def _shown(value: Any) -> str:
    """A value as people read it; empty for what was not measured."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return "unknown"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value or ""
