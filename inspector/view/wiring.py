"""How the page is held together: sections that draw themselves, and events that act on a session.

A section is a group of components and a function from the session to their values. An event runs an
action on its page's session and redraws sections at once; a timer redraws whatever jobs have
changed.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from inspector.errors import InspectorError
from inspector.view.session import Session
from inspector.view.workbench import Workbench

Draw = Callable[[Session], list[Any]]


@dataclass(frozen=True)
class Section:
    """Components that change together; `draw` gives one value (or update) for each."""

    name: str
    outputs: Sequence[Any]
    draw: Draw


class Wiring:
    """Collects the page's sections and connects its events."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.sections: list[Section] = []
        self.estimates: list[tuple[Any, list[Any], Any]] = []

    def section(self, name: str, outputs: Sequence[Any], draw: Draw) -> Section:
        """Add a section. Several may share a name in `session.SECTIONS`."""
        made = Section(name, outputs, draw)
        self.sections.append(made)
        return made

    def on(
        self,
        event: Any,
        action: Callable[..., object],
        inputs: Sequence[Any] = (),
        *,
        redraw: Sequence[str] = (),
        keep: Sequence[Any] = (),
        with_event: bool = False,
        **more: Any,
    ) -> None:
        """On the event, run `action(session, *inputs)` and redraw the sections of these names.

        `keep` are components that are left alone although their section is redrawn: an input must
        not be overwritten while somebody is typing into it. With `with_event`, the action gets the
        `gr.EventData` after the session. What is a user's mistake is shown as one sentence.
        """
        chosen = [s for s in self.sections if s.name in redraw]
        outputs = [o for s in chosen for o in s.outputs if o not in keep]

        def run(session: Session, values: Sequence[Any]) -> Any:
            try:
                with session.lock:
                    action(session, *values)
                    drawn = [
                        value
                        for s in chosen
                        for output, value in zip(s.outputs, s.draw(session), strict=True)
                        if output not in keep
                    ]
            except InspectorError as error:
                raise _shown(error) from error
            return drawn[0] if len(drawn) == 1 else drawn

        def plain(request: gr.Request, *values: Any) -> Any:
            return run(self.bench.session(request), values)

        def eventful(request: gr.Request, data: gr.EventData, *values: Any) -> Any:
            return run(self.bench.session(request), (data, *values))

        event(
            eventful if with_event else plain,
            list(inputs),
            outputs,
            show_progress="hidden",
            api_visibility="private",
            **more,
        )

    def answer(
        self,
        event: Any,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        output: Any,
        **more: Any,
    ) -> None:
        """On the event, put what `function(session, *inputs)` gives into one component."""

        def run(request: gr.Request, *values: Any) -> Any:
            session = self.bench.session(request)
            try:
                with session.lock:
                    return function(session, *values)
            except InspectorError as error:
                raise _shown(error) from error

        event(
            run,
            list(inputs),
            output,
            show_progress="hidden",
            api_visibility="private",
            **more,
        )

    def outputs(self) -> list[Any]:
        """Every section's components."""
        return outputs_of(self.sections)

    def redraw(self, session: Session) -> list[Any]:
        """Values for `outputs`: of the sections that have changed, and skips for the others."""
        values: list[Any] = []
        fresh = {name: session.news(name) for name in session.changed}
        for section in self.sections:
            if fresh.get(section.name, True):
                values += section.draw(session)
            else:
                values += [gr.skip()] * len(section.outputs)
        return values


def outputs_of(sections: Iterable[Section]) -> list[Any]:
    """The components of these sections."""
    return [output for section in sections for output in section.outputs]


def draw_all(sections: Iterable[Section], session: Session) -> Any:
    """Values for `outputs_of` these sections; a single one by itself, as Gradio wants it."""
    values = [value for section in sections for value in section.draw(session)]
    return values[0] if len(values) == 1 else values


def _shown(error: InspectorError) -> gr.Error:
    """A user's mistake as the page shows it: one sentence, and nothing in the log."""
    text = str(error)
    sentence = html.escape(text[:1].upper() + text[1:])
    return gr.Error(sentence, title="", duration=12, print_exception=False)
