"""The Runs tab: open a saved run, download it, bring one along, repeat it on the command line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from inspector.errors import InspectorError, ResultError
from inspector.measure import foreign
from inspector.measure.foreign import SUFFIXES
from inspector.measure.foreign.runs import as_run
from inspector.measure.metrics import metric_named
from inspector.results.base import Result
from inspector.results.files import from_json
from inspector.results.measures import CHECKS
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Trajectory
from inspector.units import Mask, all_units
from inspector.view import runs
from inspector.view.card import Card
from inspector.view.figures import figures_of
from inspector.view.session import Session
from inspector.view.tabs import compared, cut_off
from inspector.view.wiring import Wiring

RECORDED = "recorded: SmolLM2 pruned by FinerCut"
UPLOAD = "file: "
"""How uploaded runs are told from saved ones, whose names have no space."""
TAB_OF = {"similarity": "similarity", "scores": "sweep", "trajectory": "pruning"}
MAX_BYTES = 50_000_000
CONFIRM = "name => name && confirm(`Delete the run ${name}?`) ? name : null"
"""Asks in the browser before anything is deleted."""


def build(wiring: Wiring) -> None:
    """Build the tab into the page that is open, and wire it."""
    bench = wiring.bench
    gr.Markdown(
        "Every finished run is kept on this server. Opening one shows it in its tab; it does not "
        "change the model. Drop files anywhere on the page, or open them here: saved runs, or "
        "masks and orders of BlockPruner, LLM-Drop, EvoPress, PruneMe, mergekit, transformers and "
        "llama.cpp. A mask goes on the layer map; an opened run stays in the lists below."
    )
    with gr.Row(equal_height=True):
        name = gr.Dropdown(
            [RECORDED], value=RECORDED, label="Runs", scale=3, min_width=260, elem_id="run"
        )
        view = gr.Button("Open", variant="primary", scale=0, min_width=90, elem_id="run-open")
        fetch = gr.Button("Download", scale=0, min_width=110, elem_id="run-download")
        delete = gr.Button("Delete", scale=0, min_width=90, elem_id="run-delete")
        upload = gr.UploadButton(
            "Open files",
            file_count="multiple",
            file_types=list(SUFFIXES),
            scale=0,
            min_width=130,
            elem_id="run-upload",
        )
    file = gr.File(label="Download", visible=False, elem_id="run-file")
    about = gr.JSON(label="What made it", elem_id="run-about", visible=False)
    line = gr.Textbox(
        label="The command line that reproduces it",
        buttons=["copy"],
        interactive=False,
        lines=2,
        elem_id="run-command",
    )

    cut_off.build(wiring)

    def choices(session: Session, *kinds: str) -> list[str]:
        kept = [(RECORDED, Trajectory.kind)]
        kept += [(name, result.kind) for name, result in reversed(session.uploaded.items())]
        named = [name for name, kind in kept if kind in kinds or not kinds]
        return [*named, *bench.saved(session, *kinds)]

    def draw(session: Session) -> list[Any]:
        opened = session.results.get("opened")
        made = opened.provenance if opened else None
        facts = None
        if made is not None and opened is not None:
            facts = {"kind": opened.kind, "mask": opened.mask, **made.__dict__}
        return [
            gr.update(choices=choices(session)),
            gr.update(choices=choices(session, Trajectory.kind)),
            gr.update(value=facts, visible=facts is not None),
            made.command if made else "",
        ]

    several = compared.build(
        wiring,
        lambda session, run: find(wiring, session, run),
        lambda session: choices(session, *CHECKS),
    )
    wiring.section("runs", [name, several, about, line], draw)
    every = ["similarity", "sweep", "pruning", "check", "map", "runs"]

    def open_it(session: Session, run: str | None) -> None:
        show(wiring, session, find(wiring, session, run))

    wiring.on(view.click, open_it, [name], redraw=every)

    def delete_it(session: Session, run: str | None) -> Any:
        if run is None:  # it was not confirmed
            return gr.skip()
        remove(wiring, session, run)
        return gr.update(choices=choices(session), value=RECORDED)

    def prepare(session: Session, run: str | None) -> Any:
        found = find(wiring, session, run)
        stem = "recorded" if run == RECORDED else run
        if run in session.uploaded:
            stem = Path(run.removeprefix(UPLOAD)).stem
        path = Path(folder.name) / f"{stem}.json"
        path.write_text(found.dumps(), encoding="utf-8")
        return gr.update(value=str(path), visible=True)

    folder = tempfile.TemporaryDirectory(prefix="layer-inspector-")  # gone with the page

    wiring.answer(fetch.click, prepare, [name], file)
    wiring.answer(delete.click, delete_it, [name], name, js=CONFIRM)
    wiring.on(
        upload.upload,
        lambda session, paths: open_files(wiring, session, paths),
        [upload],
        redraw=[*every, "mask"],
    )


def find(wiring: Wiring, session: Session, name: str | None) -> Result:
    """The run of that name, if this page may see it.

    Raises:
        ResultError: there is none.
    """
    if name == RECORDED:
        return runs.recorded()[1]["pruning"]
    if name in session.uploaded:
        return session.uploaded[name]
    if name not in wiring.bench.saved(session):
        raise ResultError(f"there is no saved run {name!r}: pick one from the list.")
    return runs.open_run(name)


def remove(wiring: Wiring, session: Session, name: str) -> None:
    """Delete a saved run, or take an uploaded one off the list; what is shown of it stays.

    Raises:
        ResultError: there is none that this page may see, or it is the recorded one.
    """
    if name == RECORDED:
        raise ResultError("the recorded run belongs to the program: it cannot be deleted.")
    if name in session.uploaded:
        del session.uploaded[name]
        session.touch("runs")
        return
    if name not in wiring.bench.saved(session):
        raise ResultError(f"there is no saved run {name!r}: pick one from the list.")
    runs.forget([name])


def open_files(wiring: Wiring, session: Session, paths: list[str] | None) -> None:
    """Open uploaded files one after another; the first that cannot be opened ends it.

    Raises:
        InspectorError: as `open_file`, with the file's name where there are several.
    """
    for path in paths or []:
        try:
            open_file(wiring, session, path)
        except InspectorError as error:
            if len(paths or []) == 1:
                raise
            raise ResultError(f"{Path(path).name}: {error}") from error


def open_file(wiring: Wiring, session: Session, path: str) -> None:
    """Open an uploaded file: a run in its tab, a mask on the layer map.

    Raises:
        InspectorError: it cannot be read, or belongs to another model than the one on the page.
    """
    found = read(path, session.require_card())
    if isinstance(found, Mask):
        session.set_mask(found)
        return
    show(wiring, session, found)
    if found.kind in (Trajectory.kind, *CHECKS):
        session.add_upload(f"{UPLOAD}{Path(path).name}", found)


def read(path: str, card: Card) -> Result | Mask:
    """What an uploaded file holds: a saved run, or another tool's order as a run, or a mask.

    Raises:
        InspectorError: too large, of no known form, damaged, or for another depth.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ResultError("this file is larger than 50 MB: it is no run of this program.")
        text = file.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise ResultError("this file is no text in UTF-8: choose another one.") from error
    except OSError as error:
        raise ResultError(f"this file cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise ResultError("this file is empty: choose another one.")
    data = own(text)
    if data is not None:
        return from_json(data)
    found = foreign.read(text, depth=card.depth)
    card.check(found.mask)
    return as_run(found, card.provenance(), card.left) or found.mask


def own(text: str) -> dict[str, Any] | None:
    """The JSON of a result of this program; None for anything else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and "kind" in data else None


def show(wiring: Wiring, session: Session, result: Result) -> None:
    """Put a result into its tab.

    Raises:
        ResultError: it is for a model of another depth than the one on the page.
    """
    card = session.require_card()
    if result.depth != card.depth:
        raise ResultError(
            f"this run is of a model with {result.depth} layers, the page shows one with "
            f"{card.depth}: load {result.provenance.source} first."
        )
    require_drawable(result)
    session.results["opened"] = result
    session.results[TAB_OF.get(result.kind, result.kind)] = result
    if result.kind == "trajectory":
        session.step = None
    session.touch("similarity", "sweep", "pruning", "check", "map", "runs")


def require_drawable(result: Result) -> None:
    """Refuse a run that the page could not draw: every redraw would fail from then on.

    Raises:
        ResultError: something in it is of no use, such as a unit that the model does not have.
    """
    units = {str(unit) for unit in all_units(result.depth)}
    try:
        Mask.parse(result.mask, result.depth)
        figures_of(result)
        named: list[Any] = []
        if isinstance(result, Scores):
            metric_named(result.metric)
            named = [result.scores]
        if isinstance(result, Similarity):
            named = [result.turn, result.growth]
        if isinstance(result, Trajectory):
            named = [step.scores for step in result.steps]
            named += [dict.fromkeys([*each.removed, *each.restored]) for each in result.steps]
            masks = [Mask.parse(step.mask, result.depth) for step in result.steps]
            if [step.step for step in result.steps] != list(range(len(masks))):
                raise ResultError("its steps are not numbered from 0 on")
        strangers = set().union(*named) - units
        if strangers:
            raise ResultError(f"it names {min(strangers)!r}, which is no unit of that model")
    except (InspectorError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ResultError(f"this run cannot be shown: {error}.") from error
