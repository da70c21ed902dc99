"""The Pruning run tab: let a method remove units step by step, and go back to any step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import gradio as gr

from inspector.errors import InspectorError
from inspector.measure.budget import Budget
from inspector.measure.methods import (
    METHODS,
    NO_TEXT,
    WAYS,
    Method,
    check_lazy,
    evolution,
    method_named,
)
from inspector.measure.methods.choices import Group, choices, reach
from inspector.measure.metrics import DIVERGENCES
from inspector.measure.pruning import prune
from inspector.units import Mask, all_units
from inspector.view import figures, unfinished
from inspector.view.commands import command
from inspector.view.plot import Plot
from inspector.view.session import Session
from inspector.view.sidebar import Sidebar
from inspector.view.status import active, duration
from inspector.view.tabs.pruning_form import FORM, SAME, TEXT, asked, bounds, form_fields, stops
from inspector.view.texts import customdata, cut, options_of
from inspector.view.unfinished import Asked
from inspector.view.wiring import Wiring

ABOUT = (
    "A method removes what costs least by its score, step by step. Move the step slider, or click "
    "a row of the map, to put that step's mask on the layer map."
)


def start(wiring: Wiring, session: Session, form: dict[str, Any], *text: Any) -> None:
    """Start a run from the present mask."""
    card, mask = session.require_card(), session.require_mask()
    _submit(wiring, session, Asked(card.source, card.dtype, str(mask), form, list(text)))


def go_on(wiring: Wiring, session: Session, name: str | None) -> None:
    """Go on with a run that was cut off, after the last step in its journal.

    Raises:
        InspectorError: there is none of that name, or another model is on the page.
    """
    if wiring.bench.public:
        raise InspectorError("on this server no run outlives the page that started it.")
    what = unfinished.asked(name)
    if set(what.form) != set(FORM) or len(what.text) != TEXT:
        raise InspectorError("another version of this program has started this run: delete it.")
    what.require(session.require_card())
    _submit(wiring, session, what, name=name or "")


def _submit(wiring: Wiring, session: Session, what: Asked, *, name: str = "") -> None:
    """Queue what was asked; `name` is that of the run to go on from."""
    bench, card, form = wiring.bench, session.require_card(), what.form
    mask, options = Mask.parse(what.mask, card.depth), cut(bench, *what.text)
    check = None if form["check"] in (None, "", SAME) else bench.text(form["check"])
    stop, arguments = bounds(form), asked(form, card)
    files = unfinished.Files(what, name)
    # Nobody could be shown to be the one who started a run on a public server, once it has died.
    keeps = not bench.public

    def work(loaded: Any, progress: Any) -> Any:
        windows = bench.windows(loaded, **options, progress=progress)
        other = None
        if check:
            other = bench.windows(loaded, **{**options, "spec": check}, progress=progress)
        rest = {**stop, **arguments, "check": other, "progress": progress}
        with files.kept() if keeps else nullcontext({}) as journal:
            return prune(loaded, windows, mask, **rest, **journal)

    named = {**arguments, "protect": str(arguments["protect"])}
    named["method_seed"] = named.pop("seed") or None
    named["no_early_exit"] = not named.pop("early_exit", True)
    named["search"] = "lazy" if named.pop("lazy", False) else None
    plan = named.pop("evolution")
    line = command(
        "prune",
        card,
        str(mask),
        **stop,
        **named,
        **(plan.options if plan else {}),
        check_corpus=check,
        **options_of(options),
    )
    title = f"{METHODS[arguments['method']].label} run"
    bench.run(session, "pruning", title, work, line, saved=files.discard)
    session.step = None


def estimate(wiring: Wiring, session: Session, form: dict[str, Any], *text: Any) -> str:
    """What the method is, what it searches on, and how long it will take, in words."""
    bench, row = wiring.bench, method_named(form["method"])
    words = [described(row), searched_on(row, *text)]
    if session.generation == 0:
        words.append("**Load the model** to start a run.")
    elif bench.pace is not None and session.generation == bench.generation:
        try:
            words.append(_time(wiring, session, form, *text))
        except InspectorError as error:
            words.append(f"**This cannot run:** {error}")
    return " ".join(filter(None, words))


def described(row: Method) -> str:
    """A method in a few sentences: grain, way and cost, then what is particular to it."""
    takes = "whole layers" if row.grain == "layer" else "attention and FFN units"
    takes = f"{row.kinds[0]} units" if len(row.kinds) == 1 else takes
    kept = f" {row.kept[0].upper()}{row.kept[1:]} stay." if row.kept else ""
    text = "" if row.calibration == NO_TEXT else f" The authors' text: {row.calibration}."
    how = f"Removes **{takes}**; {WAYS[row.way]} ({row.cost}; {row.paper})."
    return f"{how}{kept}{text} {row.note}"


def searched_on(row: Method, *text: Any) -> str:
    """Which text the search sees."""
    if row.calibration == NO_TEXT:
        return "Looks at no text."
    corpus, samples, length, *_ = text
    if not (corpus and samples and length):
        return ""
    return f"Searches on **{corpus}, {samples} x {length} tokens** (sidebar)."


def _time(wiring: Wiring, session: Session, form: dict[str, Any], *text: Any) -> str:
    """How long the run will take here, where that can be told.

    Raises:
        InspectorError: the run would be refused.
    """
    pace = wiring.bench.pace
    if pace is None or form["amount"] is None:
        return ""
    row, arguments = method_named(form["method"]), asked(form, session.require_card())
    check_lazy(row, arguments["metric"], lazy="lazy" in arguments, verify="verify" in arguments)
    groups, steps, plan = _plan(session, row, arguments, Budget.of(**bounds(form)))
    options = cut(wiring.bench, *text)
    tokens, metric = options["samples"] * options["length"], arguments["metric"]
    if plan is not None:
        shape = (options["samples"], options["length"])
        seconds = pace.evolve(plan, session.require_mask(), shape, metric=metric)
        seconds += (steps + 1) * pace.perplexity(tokens)
        repeats = plan.repeats(*shape)
        short = f" **No fresh text:** {repeats}, so choose more windows (sidebar)."
        parts = ((len(plan.pools) * plan.count, row.grain), (plan.generations, "generation"))
        what = " in ".join(f"{n} {name}" if n == 1 else f"{n} {name}s" for n, name in parts)
        return f"**At most {duration(seconds)}** here for {what}.{short if repeats else ''}"
    seconds = pace.prune(row, groups, steps, tokens, metric=metric)
    if seconds is None:
        return ""
    if metric != "perplexity" or row.way != "iterative" or form["check"] not in (None, "", SAME):
        seconds += (steps + 1) * pace.perplexity(tokens)
    races = row.way == "iterative" and metric in DIVERGENCES and "early_exit" not in arguments
    exact = form["stop"] == "remove" and not (races or "lazy" in arguments)
    what = row.grain if steps == 1 else f"{row.grain}s"
    return f"**{'About' if exact else 'At most'} {duration(seconds)}** here for {steps} {what}."


def _plan(
    session: Session, row: Method, arguments: dict[str, Any], budget: Budget
) -> tuple[list[Group], int, evolution.Plan | None]:
    """Of a run from the present mask: the candidates, the steps at most, and a search's plan."""
    card, mask = session.require_card(), session.require_mask()
    mutable = [unit for unit in all_units(card.depth) if str(unit) not in card.problems]
    only, protect = arguments["only"], arguments["protect"]
    groups = choices(row, mutable, mask, only=only, protect=protect)
    total = (card.parameters, card.kv_bytes)

    def size(group: Group) -> tuple[int, int]:
        costs = [card.units[str(unit)] for unit in group]
        return sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)

    plan = evolution.planned_for(
        row, groups, size, total, budget=budget, only=only, evolution=arguments["evolution"]
    )
    if plan is not None:
        return groups, plan.steps, plan
    sizes = [size(group) for group in reach(row, groups, mask)]
    return groups, budget.steps(sizes, total, grain=row.grain), None


def build(wiring: Wiring, sidebar: Sidebar, redraw_mask: tuple[str, ...]) -> None:
    """Build the tab into the page that is open, and wire it."""
    gr.Markdown(ABOUT)
    first = next(iter(METHODS.values()))
    fields, box = form_fields(first)
    with gr.Row(equal_height=True, elem_classes="beside-buttons"):
        about = gr.Markdown(described(first), elem_id="estimate")
        go = gr.Button("Start", variant="primary", scale=0, min_width=110, elem_id="prune-go")
        stop = gr.Button("Cancel", scale=0, min_width=110, elem_id="prune-cancel")
    slider = gr.Slider(
        0, 1, value=0, step=1, label="Step: its mask goes on the layer map", elem_id="step"
    )
    steps = Plot(empty="Start a run to watch which units go when.", elem_id="step-map")
    curve = Plot(empty="Perplexity and parameters along the steps.", elem_id="curve")
    wiring.section("pruning", [steps, curve, slider, stop], draw)
    _wire_form(wiring, sidebar, fields, box, about)

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


def split(values: tuple[Any, ...]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The form by its names, and the fields of the text."""
    return dict(zip(FORM, values, strict=False)), values[len(FORM) :]


def _wire_form(wiring: Wiring, sidebar: Sidebar, fields: list[Any], box: Any, about: Any) -> None:
    """Let the form follow the method, and the words beside Start follow the form."""
    method, metric, _, stop, *_ = fields

    def guess(request: gr.Request, *values: Any) -> str:
        try:
            form, text = split(values)
            return estimate(wiring, wiring.bench.session(request), form, *text)
        except InspectorError as error:
            return str(error)

    def follow(name: str, counted: str) -> Any:
        row = METHODS[name]
        return (
            gr.update(choices=list(row.metrics), value=row.metrics[0]),
            gr.update(choices=stops(row), value=counted),
            gr.update(visible=row.way == "evolution"),
        )

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    method.change(follow, [method, stop], [metric, stop, box], **quiet)
    inputs = [*fields, *sidebar.text]
    for each in inputs:
        each.change(guess, inputs, about, trigger_mode="always_last", **quiet)
    wiring.estimates.append((guess, inputs, about))


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
