"""The Pruning run tab: let a method remove units step by step, and go back to any step."""

from __future__ import annotations

from typing import Any

import gradio as gr

from inspector.errors import InspectorError
from inspector.measure.methods import METHODS, method_named
from inspector.measure.pruning import prune
from inspector.units import KINDS, Mask, all_units
from inspector.view import figures
from inspector.view.commands import command
from inspector.view.plot import Plot
from inspector.view.session import Session
from inspector.view.sidebar import Sidebar
from inspector.view.status import active, duration
from inspector.view.texts import customdata, cut, number, options_of, whole
from inspector.view.wiring import Wiring

ABOUT = (
    "A method removes the unit with the lowest score, scores all that are left again, and so on. "
    "Move the step slider, or click a row of the map, to put that step's mask on the layer map."
)
SAME = "the search text"


def start(wiring: Wiring, session: Session, form: dict[str, Any], *text: Any) -> None:
    """Start a run from the present mask."""
    bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
    options = cut(bench, *text)
    check = None if form["check"] in (None, "", SAME) else bench.text(form["check"])
    row = method_named(form["method"])
    until = number(form["until"], "the perplexity to stop at")
    remove = None if form["remove"] in (None, 0) else whole(form["remove"], "how many units", 1)
    only = form["only"] if form["only"] in KINDS else None

    def work(loaded: Any, progress: Any) -> Any:
        windows = bench.windows(loaded, **options, progress=progress)
        other = None
        if check:
            other = bench.windows(loaded, **{**options, "spec": check}, progress=progress)
        return prune(
            loaded,
            windows,
            mask,
            method=row.name,
            metric=form["metric"],
            remove=remove,
            until_perplexity=until,
            only=only,
            check=other,
            progress=progress,
        )

    line = command(
        "prune",
        card,
        str(mask),
        method=row.name,
        metric=form["metric"],
        remove=remove,
        until_perplexity=until,
        only=only,
        check_corpus=check,
        **options_of(options),
    )
    bench.run(session, "pruning", f"{row.label} run", work, line)
    session.step = None


def estimate(wiring: Wiring, session: Session, form: dict[str, Any], *text: Any) -> str:
    """How long a run with this form will take, in words."""
    bench = wiring.bench
    row = method_named(form["method"])
    if session.generation == 0:
        return f"{row.note} **Load the model** to start a run."
    if bench.pace is None or session.generation != bench.generation or not form["remove"]:
        return row.note
    options = cut(bench, *text)
    mask, card = session.require_mask(), session.require_card()
    kinds = [form["only"]] if form["only"] in KINDS else KINDS
    units = [
        u
        for u in all_units(card.depth)
        if u not in mask and u.kind in kinds and str(u) not in card.problems
    ]
    remove = int(form["remove"])
    if remove > len(units):
        return f"{row.note} **Only {len(units)} units** are left that can be removed."
    goal = row.metric(form["metric"])
    tokens = options["samples"] * options["length"]
    metric = "nll" if goal == "perplexity" else goal
    seconds = bench.pace.prune(units, remove, tokens, metric=metric)
    return f"{row.note} **About {duration(seconds)}** here for {remove} units."


def build(wiring: Wiring, sidebar: Sidebar, redraw_mask: tuple[str, ...]) -> None:
    """Build the tab into the page that is open, and wire it."""
    gr.Markdown(ABOUT)
    first = next(iter(METHODS.values()))
    with gr.Row(equal_height=True):
        method = gr.Dropdown(
            [(f"{row.label} ({row.paper})", name) for name, row in METHODS.items()],
            value=first.name,
            label="Method",
            min_width=200,
            elem_id="method",
        )
        metric = gr.Dropdown(
            list(first.metrics), value=first.metrics[0], label="Score", min_width=110
        )
        only = gr.Dropdown(
            [("attention and FFN", "both"), ("attention only", "attn"), ("FFN only", "ffn")],
            value="both",
            label="Units",
            min_width=150,
        )
        remove = gr.Number(
            8, label="Units to remove", precision=0, minimum=1, min_width=90, elem_id="remove"
        )
        until = gr.Textbox(label="Stop above perplexity", placeholder="never", min_width=120)
        check = gr.Dropdown(
            [SAME, "pydoc:check", "wikitext2:validation", "wikitext2:test"],
            value="pydoc:check",
            allow_custom_value=True,
            label="Perplexity along the run on",
            min_width=170,
        )
    with gr.Row(equal_height=True):
        about = gr.Markdown(first.note, elem_id="estimate")
        go = gr.Button("Start", variant="primary", scale=0, min_width=110, elem_id="prune-go")
        stop = gr.Button("Cancel", scale=0, min_width=110, elem_id="prune-cancel")
    slider = gr.Slider(
        0, 1, value=0, step=1, label="Step: its mask goes on the layer map", elem_id="step"
    )
    steps = Plot(empty="Start a run to watch which units go when.", elem_id="step-map")
    curve = Plot(empty="Perplexity and parameters along the steps.", elem_id="curve")
    fields = [method, metric, only, remove, until, check]
    names = ("method", "metric", "only", "remove", "until", "check")

    def split(values: tuple[Any, ...]) -> tuple[dict[str, Any], tuple[Any, ...]]:
        return dict(zip(names, values, strict=False)), values[len(names) :]

    def begin(session: Session, *values: Any) -> None:
        form, text = split(values)
        start(wiring, session, form, *text)

    def cancel(session: Session) -> None:
        job = session.jobs.get("pruning")
        if job is None or not job.active:
            raise InspectorError("no run is going on.")
        job.cancel()

    def click(session: Session, event: gr.EventData) -> None:
        data = customdata(event)
        go_to(session, data[0] if isinstance(data, list) and data else data)

    wiring.section("pruning", [steps, curve, slider, stop], draw)

    def guess(request: gr.Request, *values: Any) -> str:
        try:
            form, text = split(values)
            return estimate(wiring, wiring.bench.session(request), form, *text)
        except InspectorError as error:
            return str(error)

    def metrics_of(name: str) -> Any:
        row = METHODS[name]
        return gr.update(choices=list(row.metrics), value=row.metrics[0])

    method.change(metrics_of, method, metric, show_progress="hidden", api_visibility="private")
    for each in (*fields, *sidebar.text):
        each.change(
            guess,
            [*fields, *sidebar.text],
            about,
            show_progress="hidden",
            api_visibility="private",
            trigger_mode="always_last",
        )
    wiring.estimates.append((guess, [*fields, *sidebar.text], about))
    wiring.on(go.click, begin, [*fields, *sidebar.text], redraw=["status", "pruning"])
    wiring.on(stop.click, cancel, redraw=["status"])
    wiring.on(
        slider.input,
        go_to,
        [slider],
        redraw=[*redraw_mask, "pruning"],
        keep=[slider],
        trigger_mode="always_last",
    )
    for plot in (steps, curve):
        wiring.on(plot.point, click, redraw=[*redraw_mask, "pruning"], with_event=True)


def go_to(session: Session, step: Any) -> None:
    """Put the mask of a step on the page.

    Raises:
        InspectorError: there is no run, or no such step.
    """
    run = session.trajectory
    if run is None or not run.steps:
        raise InspectorError("start or open a run first.")
    numbers = [each.step for each in run.steps]
    if not isinstance(step, int | float) or step not in numbers:
        raise InspectorError(f"this run has steps {numbers[0]} to {numbers[-1]}.")
    card = session.require_card()
    if run.depth != card.depth:
        raise InspectorError(
            f"this run is for {run.depth} layers, the model on the page has {card.depth}."
        )
    session.set_mask(Mask.parse(run.steps[numbers.index(step)].mask, run.depth))
    session.step = int(step)
    session.touch("pruning")


def draw(session: Session) -> list[Any]:
    """The step map, the curve, the slider and the cancel button for this page."""
    run = session.trajectory
    running = any(job.kind == "pruning" for job in active(session))
    stop = gr.update(interactive=running)
    if run is None or not run.steps:
        return [None, None, gr.update(maximum=1, value=0, interactive=False), stop]
    last = run.steps[-1].step
    here = session.step if session.step is not None and session.step <= last else None
    slider = gr.update(maximum=max(1, last), value=here or 0, interactive=last > 0)
    some = len(run.steps) > 1
    return [
        figures.step_map(run, step=here) if some else None,
        figures.curve(run, step=here),
        slider,
        stop,
    ]
