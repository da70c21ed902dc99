"""The server behind the pages: one model, one worker, and a session for every open page."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from inspector.errors import InspectorError
from inspector.jobs import Job, Progress, Worker, part, silent
from inspector.measure import corpus
from inspector.measure.corpus import Windows
from inspector.measure.pace import Pace, pace
from inspector.measure.warm import Warm
from inspector.model.loaded import LoadedModel
from inspector.model.loading import free, load, size_of
from inspector.model.sources import BUNDLED, bundled_file, parse
from inspector.results.base import Result
from inspector.view import outcomes, runs
from inspector.view.card import Card
from inspector.view.session import Session

SESSIONS = 500
WINDOWS = 16
WARM, WARM_BYTES = 2, 1 << 29
"""Texts whose streams are kept for the next perplexity, and the bound on each in bytes."""
SECTIONS_OF = {
    "load": ("model",),
    "similarity": ("similarity", "map"),
    "sweep": ("sweep", "map"),
    "pruning": ("pruning", "map"),
    "perplexity": ("check",),
    "benchmark": ("check",),
    "speed": ("check",),
    "generation": ("check",),
    "export": ("export",),
    "live": ("live",),
}
"""The sections of the page that show what a kind of job brings."""

_TAB = re.compile(r"[0-9a-f]{32}")

ENDED = -1
"""Stands for the version of a job whose end has been taken over."""

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
        self._warm: list[Warm] = []
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
                    _, old = self._sessions.popitem(last=False)
                    self._abandon(old)
                    if self.public:  # nobody else may see them
                        runs.forget(old.own_runs)
            session.closed = False
            self._sessions.move_to_end(key)
            return session

    def _start(self, session: Session) -> None:
        try:
            card, results = runs.recorded()
        except InspectorError as error:  # an incomplete installation can still load models
            session.errors["recorded"] = str(error)
        else:
            session.attach(card, 0)
            session.results = dict(results)
        if self.card is not None:
            session.attach(self.card, self.generation)
        if not self.public:
            self._adopt(session)

    def _adopt(self, session: Session) -> None:
        """Take over the jobs of closed pages: a reloaded page is a new one, and its run goes on."""
        for other in self._sessions.values():
            for kind, job in list(other.jobs.items()) if other.closed else ():
                if job.active and kind != "live":
                    session.jobs[kind], session.born[kind] = job, other.born[kind]

    def resume(self, session: Session, tab: Any) -> None:
        """Give a reloaded page what it had: its mask, results, history and jobs.

        `tab` is the secret of the browser's tab; a tab that was duplicated has the same, and starts
        from a copy.
        """
        if not isinstance(tab, str) or not _TAB.fullmatch(tab):
            return
        with self._lock:
            others = [each for each in self._sessions.values() if each is not session]
            before = next((each for each in reversed(others) if each.tab == tab), None)
            session.tab = tab
        if before is not None:
            first, second = sorted((before, session), key=lambda each: each.id)
            with first.lock, second.lock:
                session.inherit(before)

    def close(self, request: gr.Request) -> None:
        """A page was closed, or its connection broke off: then it may come back, so it is kept.

        Jobs that nobody could see any more are cancelled: the live perplexity, and on a public
        server all that are the page's own. What they have measured is saved as a run.
        """
        key = request.session_hash or ""
        with self._lock:
            session = self._sessions.get(key)
            if session is not None:
                session.closed = True
                session.live.pop("wanted", None)
                self._sessions.move_to_end(key, last=False)
                self._abandon(session)

    def _abandon(self, session: Session) -> None:
        for kind, job in list(session.jobs.items()):
            if job.owner == session.id and (kind == "live" or (self.public and kind != "load")):
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
        if self.public and text.strip() != BUNDLED:
            try:
                kind = parse(text).kind
            except InspectorError:  # it would tell which paths there are
                kind = ""
            if kind not in ("hub", "tiny"):
                raise InspectorError("on this server models come from the hub, by their name.")
        return text

    def windows(
        self, loaded: LoadedModel, spec: str, *, progress: Progress = silent, **cut: Any
    ) -> Windows:
        """Windows of a text, kept for the next time unless it is a file. Called inside jobs."""
        key = (self.generation, spec, *sorted(cut.items()))
        if key in self._windows:
            self._windows.move_to_end(key)
            return self._windows[key]
        found = corpus.windows(
            loaded.tokenizer,
            self.text(spec),
            max_length=loaded.max_length,
            progress=part(progress, 0, 0, 1),  # a note and a way to cancel, no share of the work
            **cut,
        )
        if not spec.startswith("file:"):  # whoever has changed the file wants the new text
            self._windows[key] = found
            while len(self._windows) > WINDOWS:
                self._windows.popitem(last=False)
        return found

    def warm(self, loaded: LoadedModel, windows: Windows) -> Warm | None:
        """The streams that were kept of these windows, for the next mask. Called inside jobs."""
        if loaded.not_replayable:
            return None
        found = next((kept for kept in self._warm if kept.windows is windows), None)
        found = found or Warm(loaded, windows, bound=WARM_BYTES)
        self._warm = [*(kept for kept in self._warm if kept is not found), found][-WARM:]
        return found

    def load(self, session: Session, source: str | None, device: str, dtype: str) -> Job:
        """Queue loading a model for everybody.

        A load that fails leaves the present model where it was, unless both did not fit at once.
        """
        source = self.source(source or "")

        def work(progress: Progress) -> Card:
            size = size_of(source, device=device, dtype=dtype)
            if not size.fits and self.loaded is not None:
                size = size_of(source, device=device, dtype=dtype, freed=self.loaded)
                if size.fits:
                    self._put(None, None, None)
            loaded = load(source, device=device, dtype=dtype, progress=part(progress, 0, 0.9, 1))
            progress(0.9, 1, "measuring this machine's pace")
            speed = None if loaded.not_replayable else pace(loaded)
            card = Card.of(loaded)
            self._put(loaded, speed, card)
            return card

        return self._submit(session, "load", f"Loading {source}", work)

    def _put(self, loaded: LoadedModel | None, speed: Pace | None, card: Card | None) -> None:
        """Put a model, or none, in the place of the present one, which is freed."""
        before = self.loaded
        with self._lock:
            self.loaded, self.pace, self.card = loaded, speed, card
            self.generation += 1
        self._windows.clear()
        self._warm.clear()
        if before is not None:
            free(before)

    def take(self, session: Session) -> None:
        """Put the server's model on a page.

        Raises:
            InspectorError: there is none.
        """
        with self._lock:
            card, generation = self.card, self.generation
        if card is None:
            raise InspectorError("no model is in memory now: press Load model first.")
        session.attach(card, generation)

    def run(
        self,
        session: Session,
        kind: str,
        title: str,
        work: Work,
        command: str = "",
        *,
        saved: Callable[[], None] | None = None,
    ) -> Job:
        """Queue work on the loaded model; `command` is the command line that does the same.

        `saved` is called in the job once the work has ended and its result is on the disk.

        Raises:
            InspectorError: no model is loaded, another page has changed it, or a job of this kind
                is still going on here.
        """
        generation = self.require_model(session)

        def guarded(progress: Progress) -> Any:
            if self.loaded is None or self.generation != generation:
                raise InspectorError(f"{title} was not started: the model has changed meanwhile.")
            found: Any = None
            kept = False

            def report(done: float, total: float, note: str = "", partial: Any = None) -> None:
                nonlocal found
                partial = _with_command(partial, command)
                progress(done, total, note, partial)
                found = found if partial is None else partial

            try:
                found = _with_command(work(self.loaded, report), command)
            finally:
                # Here and not in `poll`: the page may be closed by now.
                if kind != "live" and isinstance(found, Result):
                    kept = self._keep(session, found)
            if kept and saved:
                saved()
            return found

        return self._submit(session, kind, title, guarded)

    def _keep(self, session: Session, found: Result) -> bool:
        """Save what a job has measured, finished or not; whether it could be saved."""
        try:
            name = runs.keep(found)
        except InspectorError as error:  # the result itself is still shown
            with session.lock:
                session.errors["runs"] = str(error)
            return False
        with session.lock:
            session.errors.pop("runs", None)
            session.own_runs.append(name)
            session.touch("runs")
        return True

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
        with session.lock:
            running = session.jobs.get(kind)
            if running is not None and running.active:
                if kind != "live":
                    raise InspectorError(f"{running.title} is still going on: wait, or cancel it.")
                running.cancel()
            elif running is not None:
                self._look(session, kind, running)  # it has ended since the last poll
            stays = session.errors if kind == "live" else {"live", "runs", "recorded"}
            session.errors = {  # what earlier attempts failed at has been read by now
                name: text
                for name, text in session.errors.items()
                if name in stays and name != kind
            }
            job = self.worker.submit(title, work, owner=session.id, kind=kind)
            session.jobs[kind], session.born[kind] = job, session.generation
            session.taken.pop(kind, None)
            session.touch(*SECTIONS_OF[kind])
            return job

    def poll(self, session: Session) -> None:
        """Take over what this page's jobs have brought since the last poll."""
        with session.lock:
            for kind, job in list(session.jobs.items()):
                self._look(session, kind, job)

    def _look(self, session: Session, kind: str, job: Job) -> None:
        version, state = job.version, job.state  # once each: the worker goes on meanwhile
        if session.taken.get(kind) in (version, ENDED):
            return
        session.taken[kind] = version if state in ("queued", "running") else ENDED
        found = job.result if state == "done" else job.partial
        if kind == "load":
            if found is not None and found is self.card:
                self.take(session)
        elif session.born.get(kind) != session.generation:
            found = None  # of a model that is no longer on this page
        elif found is not None and session.results.get(kind) is not found:
            session.results[kind] = found
            session.touch(*SECTIONS_OF[kind])
        if session.taken[kind] == ENDED:
            session.errors[kind] = job.error
            session.touch("runs")  # it may have been started by the page before this one
            if state == "done" and found is not None:
                outcomes.note(session, kind, found)
        if kind == "live" or session.taken[kind] == ENDED:
            session.touch(*SECTIONS_OF[kind])

    def follow(self, session: Session) -> None:
        """Tell a page that the server's model has changed; one without a model takes it over."""
        if session.server == self.generation:
            return
        session.server = self.generation
        if session.generation == 0 and self.card is not None:
            self.take(session)
        session.touch("model")

    def warm_up(self) -> None:
        """Have the bundled model's size ready for the first page: its header takes seconds."""
        if bundled_file() is not None:
            threading.Thread(target=size_of, args=(BUNDLED,), daemon=True).start()

    def saved(self, session: Session, *kinds: str) -> list[str]:
        """The runs that this page may see, the newest first; of some kinds of result, or all."""
        found = runs.names(*kinds)
        return [name for name in found if not self.public or name in session.own_runs]


def _with_command(result: Any, command: str) -> Any:
    if not command or not isinstance(result, Result):
        return result
    return replace(result, provenance=replace(result.provenance, command=command))
