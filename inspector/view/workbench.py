"""The server behind the pages: one model, one worker, and a session for every open page."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from inspector.errors import InspectorError
from inspector.jobs import Job, Progress, Worker, part
from inspector.measure import corpus
from inspector.measure.corpus import Windows
from inspector.measure.pace import Pace, pace
from inspector.model.loaded import LoadedModel
from inspector.model.loading import free, load, size_of
from inspector.model.sources import BUNDLED, bundled_file, parse
from inspector.results import Result
from inspector.view import outcomes, runs
from inspector.view.card import Card
from inspector.view.session import Session

SESSIONS = 500
SECTIONS_OF = {
    "load": ("model",),
    "similarity": ("similarity", "map"),
    "sweep": ("sweep", "map"),
    "pruning": ("pruning", "map"),
    "perplexity": ("check",),
    "benchmark": ("check",),
    "generation": ("check",),
    "live": ("mask",),
}
"""The sections of the page that show what a kind of job brings."""

Work = Callable[[LoadedModel, Progress], Any]


class Workbench:
    """What all pages share. The model is only ever used inside the worker's jobs.

    `public` is set where strangers can reach the page: then nothing that they write is taken for a
    path on this machine, and saved runs are shown to their own page alone.
    """

    def __init__(self, *, public: bool | None = None) -> None:
        self.public = bool(os.environ.get("SPACE_ID")) if public is None else public
        self.worker = Worker()
        self.loaded: LoadedModel | None = None
        self.card: Card | None = None
        self.pace: Pace | None = None
        self.generation = 0
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._windows: OrderedDict[tuple[Any, ...], Windows] = OrderedDict()
        self._lock = threading.Lock()

    def session(self, request: gr.Request) -> Session:
        """The session of the page that sent the request; a new one starts with the recorded run."""
        key = request.session_hash or ""
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                session = self._sessions[key] = Session(key)
                self._start(session)
                while len(self._sessions) > SESSIONS:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(key)
            return session

    def _start(self, session: Session) -> None:
        card, results = runs.recorded()
        session.attach(card, 0)
        session.results = dict(results)
        if self.card is not None:
            session.attach(self.card, self.generation)

    def close(self, request: gr.Request) -> None:
        """A page was closed: its mask goes, its jobs that nobody can see any more are cancelled."""
        session = self._sessions.pop(request.session_hash or "", None)
        for kind, job in session.jobs.items() if session else ():
            if kind == "live":  # all else is saved as a run when it ends
                job.cancel()

    def text(self, spec: str) -> str:
        """A text's spec, if it may be read here.

        Raises:
            InspectorError: a path, on a public server.
        """
        if self.public and spec not in corpus.specs():
            raise InspectorError("on this server texts are chosen from the list.")
        return spec

    def source(self, text: str) -> str:
        """A model's source, if it may be read here.

        Raises:
            InspectorError: a path, on a public server.
        """
        if self.public and text != BUNDLED and parse(text).kind not in ("hub", "tiny"):
            raise InspectorError("on this server models come from the hub, by their name.")
        return text

    def windows(self, loaded: LoadedModel, spec: str, **cut: Any) -> Windows:
        """Windows of a text, kept for the next time. Called inside jobs."""
        key = (self.generation, spec, *sorted(cut.items()))
        if key not in self._windows:
            self._windows[key] = corpus.windows(
                loaded.tokenizer, self.text(spec), max_length=loaded.max_length, **cut
            )
            while len(self._windows) > 16:
                self._windows.popitem(last=False)
        return self._windows[key]

    def load(self, session: Session, source: str, device: str, dtype: str) -> Job:
        """Queue loading a model for everybody.

        A load that fails leaves the present model where it was, unless both did not fit at once.
        """
        self.source(source)

        def work(progress: Progress) -> Card:
            before = self.loaded
            size = size_of(source, device=device, dtype=dtype)
            if not size.fits and before is not None:
                size = size_of(source, device=device, dtype=dtype, freed=before)
                if size.fits:
                    self._forget(before)
                    before = None
            loaded = load(source, device=device, dtype=dtype, progress=part(progress, 0, 0.9, 1))
            progress(0.9, 1, "measuring this machine's pace")
            speed = None if loaded.not_replayable else pace(loaded)
            self._forget(before)
            self.loaded, self.pace, self.card = loaded, speed, Card.of(loaded)
            self.generation += 1
            return self.card

        return self._submit(session, "load", f"Loading {source}", work)

    def _forget(self, loaded: LoadedModel | None) -> None:
        self.loaded = self.card = self.pace = None
        self._windows.clear()
        if loaded is not None:
            free(loaded)

    def run(self, session: Session, kind: str, title: str, work: Work, command: str = "") -> Job:
        """Queue work on the loaded model; `command` is the command line that does the same.

        Raises:
            InspectorError: no model is loaded, another page has changed it, or a job of this kind
                is still going on here.
        """
        generation = self.require_model(session)

        def guarded(progress: Progress) -> Any:
            if self.loaded is None or self.generation != generation:
                raise InspectorError("another page has loaded another model meanwhile.")

            def report(done: float, total: float, note: str = "", partial: Any = None) -> None:
                progress(done, total, note, _with_command(partial, command))

            return _with_command(work(self.loaded, report), command)

        return self._submit(session, kind, title, guarded)

    def require_model(self, session: Session) -> int:
        """The generation of the model that this page and the server share.

        Raises:
            InspectorError: there is none; says which button helps.
        """
        if session.generation == 0 or self.loaded is None:
            raise InspectorError("this needs the model in memory: press Load model first.")
        if session.generation != self.generation:
            raise InspectorError(
                "another page has loaded another model: choose one at the top of this page first."
            )
        return self.generation

    def _submit(self, session: Session, kind: str, title: str, work: Any) -> Job:
        running = session.jobs.get(kind)
        if running is not None and running.active:
            if kind != "live":
                raise InspectorError(f"{running.title} is still going on: wait, or cancel it.")
            running.cancel()
        session.errors.pop(kind, None)
        job = self.worker.submit(title, work, owner=session.id, kind=kind)
        session.jobs[kind] = job
        session.touch(*SECTIONS_OF[kind])
        return job

    def poll(self, session: Session) -> None:
        """Take over what this page's jobs have brought since the last poll."""
        with session.lock:
            for kind, job in list(session.jobs.items()):
                version = job.version
                if session.taken.get(job.id) == version:
                    continue
                session.taken[job.id] = version
                self._take(session, kind, job)

    def _take(self, session: Session, kind: str, job: Job) -> None:
        found = job.result if job.state == "done" else job.partial
        if kind == "load":
            if job.state == "done" and self.card is not None and found is self.card:
                session.attach(self.card, self.generation)
        elif found is not None and session.results.get(kind) is not found:
            session.results[kind] = found
            session.touch(*SECTIONS_OF[kind])
        if not job.active:
            session.errors[kind] = job.error
            if found is not None and kind not in ("load", "live"):
                name = runs.keep(found)
                session.own_runs.append(name)
                session.touch("runs")
            if job.state == "done":
                outcomes.note(session, kind, found)
            session.touch(*SECTIONS_OF[kind])

    def follow(self, session: Session) -> None:
        """Tell a page that the server's model has changed; one without a model takes it over."""
        if session.server == self.generation:
            return
        session.server = self.generation
        if session.generation == 0 and self.card is not None:
            session.attach(self.card, self.generation)
        session.touch("model")

    def warm_up(self) -> None:
        """Have the bundled model's size ready for the first page: its header takes seconds."""
        if bundled_file() is not None:
            threading.Thread(target=size_of, args=(BUNDLED,), daemon=True).start()

    def saved(self, session: Session) -> list[str]:
        """The runs that this page may see, the newest first."""
        return [name for name in runs.names() if not self.public or name in session.own_runs]


def _with_command(result: Any, command: str) -> Any:
    if not command or not isinstance(result, Result):
        return result
    return replace(result, provenance=replace(result.provenance, command=command))
