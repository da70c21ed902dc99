"""The Export tab: which forms the mask allows, what each saves, who loads it; and making one."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from inspector.errors import ExportError
from inspector.jobs import Progress, part
from inspector.model.export.forms import AUTO, NAMES, Choice, choices, choose
from inspector.model.export.making import Exported, export
from inspector.model.export.proof import Check, verdict
from inspector.model.export.pushing import check_hub, push
from inspector.units import Mask
from inspector.view.commands import command
from inspector.view.session import Session
from inspector.view.wiring import Wiring
from inspector.view.workbench import Workbench

ABOUT = (
    "Write the model without the muted units as a folder that others can load. It is loaded in a "
    "fresh process, or read back, and compared with the muted model before it gets its name."
)
SMALL = 10**9
"""The most bytes of weights that a public server offers as a download."""
NAME = "pruned-model"


@dataclass(frozen=True)
class Made:
    """A finished export; on a public server its archive, in a folder that goes when this does.

    `address` is where on the hub it is, if it was uploaded.
    """

    exported: Exported
    mask: str
    line: str
    archive: Path | None = None
    holder: Any = None
    address: str = ""


def build(wiring: Wiring) -> None:
    """Build the tab into the page that is open, and wire it."""
    bench = wiring.bench
    gr.Markdown(ABOUT)
    plan = gr.Markdown(elem_id="export-plan")
    with gr.Row(equal_height=True):
        names = [(f"{form.label} ({name})", name) for name, (form, _) in NAMES.items()]
        form = gr.Dropdown(
            [("The best that is possible (auto)", AUTO), *names],
            value=AUTO,
            label="Format",
            min_width=260,
            elem_id="export-format",
        )
        target = gr.Textbox(
            label="Folder to write",
            placeholder="its parent exists; it does not",
            visible=not bench.public,
            min_width=220,
            elem_id="export-folder",
        )
        force = gr.Checkbox(
            False,
            label="Replace an earlier export",
            visible=not bench.public,
            min_width=160,
            scale=0,
        )
        repository = gr.Textbox(
            label="Then upload to the hub",
            placeholder="organisation/name, private; or leave it empty",
            visible=not bench.public,
            min_width=220,
            elem_id="export-repository",
        )
        go = gr.Button("Export", variant="primary", scale=0, min_width=110, elem_id="export-go")
    report = gr.Markdown(elem_id="export-report")
    line = gr.Textbox(
        label="The command line that does the same",
        buttons=["copy"],
        interactive=False,
        visible=False,
        elem_id="export-command",
    )
    file = gr.File(label="Download", visible=False, elem_id="export-file")

    wiring.section("mask", [plan], lambda session: [plan_text(bench, session)])
    wiring.section("export", [report, line, file], draw)
    wiring.on(
        go.click,
        lambda session, *values: start(wiring, session, *values),
        [form, target, force, repository],
        redraw=["status", "export"],
    )


def start(
    wiring: Wiring,
    session: Session,
    form: str,
    target: str | None,
    force: bool,
    repository: str | None,
) -> None:
    """Queue the export of the present mask.

    Raises:
        InspectorError: no model, a form that is not possible, no folder named, or too large to be
            downloaded from a public server.
    """
    bench, card, mask = wiring.bench, session.require_card(), session.require_mask()
    bench.require_model(session)
    choice = choose(bench.loaded, mask, form) if bench.loaded is not None else None
    # A public server writes where it likes, and lends nobody its login.
    written, name = ("" if bench.public else (each or "").strip() for each in (target, repository))
    if not bench.public and not written:
        raise ExportError("name the folder to write.")
    line = command(
        "export",
        card,
        str(mask),
        format=form,
        output=written or NAME,
        force=force or None,
        push_to_hub=name,
    )
    if bench.public and choice is not None and choice.bytes > SMALL:
        raise ExportError(
            f"this export has {megabytes(choice.bytes)} of weights, and this server offers "
            f"{megabytes(SMALL)} at most: make it at home with  {line}"
        )
    results = [
        result for kind in ("perplexity", "benchmark") if (result := session.results.get(kind))
    ]

    def work(loaded: Any, progress: Progress) -> Made:
        options: dict[str, Any] = {"form": form, "results": results}
        if bench.public:
            return download(loaded, mask, line, options, progress)
        if not name:
            made = export(loaded, mask, written, force=force, progress=progress, **options)
            return Made(made, str(mask), line)
        check_hub(name)
        writing, uploading = part(progress, 0, 0.8, 1), part(progress, 0.8, 0.2, 1)
        made = export(loaded, mask, written, force=force, progress=writing, **options)
        return Made(made, str(mask), line, address=push(made.folder, name, progress=uploading))

    bench.run(session, "export", "Export", work)


def download(
    loaded: Any, mask: Mask, line: str, options: dict[str, Any], progress: Progress
) -> Made:
    """Export into a folder of the server's own choosing, and pack it."""
    holder = tempfile.TemporaryDirectory(prefix="layer-inspector-")
    folder = Path(holder.name) / NAME
    made = export(loaded, mask, folder, progress=part(progress, 0, 0.9, 1), **options)
    archive = Path(holder.name) / f"{NAME}.zip"
    with zipfile.ZipFile(archive, "w") as packed:  # weights do not get smaller by packing
        for path in sorted(folder.iterdir()):
            progress(0.9, 1, f"packing {path.name}")
            packed.write(path, f"{NAME}/{path.name}")
            path.unlink()
    return Made(made, str(mask), line, archive, holder)


def plan_text(bench: Workbench, session: Session) -> str:
    """What the present mask allows, as Markdown."""
    loaded = bench.loaded
    if session.generation == 0 or session.generation != bench.generation or loaded is None:
        return "**Load the model** to see which formats its mask allows, and what each saves."
    mask = session.require_mask()
    if not len(mask):
        return "Nothing is off: mute units on the layer map first."
    found = choices(loaded, mask)
    head = f"The source has {megabytes(found[0].source_bytes)} of weights in this precision."
    return "\n".join([head, "", *map(_line, found)])


def _line(choice: Choice) -> str:
    """One form as an item of a list, which also fits a phone."""
    form = choice.form
    if choice.problem:
        return f"- `{form.name}`: not possible, {choice.problem}."
    loads = "; ".join(f"{reader}: {how}" for reader, how in form.loads.items())
    size = f"{megabytes(choice.bytes)}, {choice.saved:.1%} saved"
    return f"- `{form.name}`: **{size}**. {form.what[:1].upper()}{form.what[1:]}. {loads}."


def megabytes(size: int) -> str:
    """Bytes in MB, as file managers count."""
    return f"{size / 1e6:,.1f} MB"


def draw(session: Session) -> list[Any]:
    """The report, the command line and the download of the last export."""
    made: Any = session.results.get("export")
    if not isinstance(made, Made):
        return ["", gr.update(visible=False), gr.update(visible=False)]
    return [
        report_text(made),
        gr.update(value=made.line, visible=True),
        gr.update(
            value=str(made.archive) if made.archive else None, visible=made.archive is not None
        ),
    ]


def report_text(made: Made) -> str:
    """What was made and how it was checked, as Markdown."""
    exported = made.exported
    choice, form = exported.choice, exported.choice.form
    loads = "; ".join(f"{reader}: {how}" for reader, how in form.loads.items())
    checks = "\n".join(f"- {_said(check)}: {check['what']}." for check in exported.checks)
    uploaded = f"\nUploaded to {made.address}, private.\n" if made.address else ""
    return (
        f"### Exported as `{choice.name}`\n"
        f"{megabytes(exported.bytes)} with everything, {choice.saved:.1%} less weights than "
        f"the source, without `{made.mask}`. {loads}.\n\n{checks}\n{uploaded}"
    )


def _said(check: Check) -> str:
    if check["exact"] or check["difference"] is None:
        return verdict(check)
    return f"{verdict(check)}, off by {check['difference']:.2g} at most"
