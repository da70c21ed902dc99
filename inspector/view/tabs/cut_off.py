"""The part of the Runs tab that goes on with pruning runs that were cut off."""

from __future__ import annotations

from typing import Any

import gradio as gr

from inspector.view import unfinished
from inspector.view.session import Session
from inspector.view.tabs import pruning
from inspector.view.wiring import Wiring

INFO = "Cancelled, or under way when the server ended. Going on needs the same model in memory."
CONFIRM = "name => name && confirm(`Delete the steps of ${name}?`) ? name : null"
"""Asks in the browser before anything is deleted."""


def build(wiring: Wiring) -> None:
    """Build it into the tab that is open, and wire it; nothing is seen of it without such a run."""
    with gr.Row(equal_height=True, visible=False, elem_id="cut-off") as row:
        name = gr.Dropdown(
            [],
            label="Pruning runs that were cut off",
            info=INFO,
            scale=3,
            min_width=260,
            elem_id="cut-off-run",
        )
        more = gr.Button("Go on", variant="primary", scale=0, min_width=90, elem_id="cut-off-go")
        delete = gr.Button("Delete", scale=0, min_width=90, elem_id="cut-off-delete")
    wiring.section("runs", [row, name], lambda _: draw(wiring))

    def delete_it(session: Session, run: str | None) -> None:
        if run is not None:  # it was confirmed
            unfinished.delete(None if wiring.bench.public else run)

    wiring.on(
        more.click,
        lambda session, run: pruning.go_on(wiring, session, run),
        [name],
        redraw=["status", "pruning"],
    )
    wiring.on(delete.click, delete_it, [name], redraw=["runs"], js=CONFIRM)


def draw(wiring: Wiring) -> list[Any]:
    """The row, and the runs with their number of steps; a single one is chosen already."""
    found = [] if wiring.bench.public else unfinished.names()
    choices = [(f"{name}, {_steps(unfinished.removals(name))}", name) for name in found]
    return [
        gr.update(visible=bool(found)),
        gr.update(choices=choices, value=found[0] if len(found) == 1 else None),
    ]


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
