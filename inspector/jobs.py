"""Long work: how it reports, how it is cancelled, and the one thread that runs it for the page.

Compute code sees nothing of this but a `Progress`: one callable that carries progress out and
cancellation in. The page submits a job to the `Worker` and polls it; a job belongs to the server
and survives a closed tab.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from inspector.errors import InspectorError

T = TypeVar("T")

PATIENCE = 0.2
"""Seconds between two progress calls of `patiently`."""


class Cancelled(Exception):
    """Raised inside the work, by its own progress call, once somebody has cancelled it."""


class Progress(Protocol):
    """Called by compute code between pieces of work."""

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        """Report `done` of `total` parts, what is under way, and optionally the result so far.

        Raises:
            Cancelled: the user has cancelled; the caller lets it pass and its `with` blocks
            restore.
        """
        ...


def silent(done: float, total: float, note: str = "", partial: Any = None) -> None:
    """A progress that reports nowhere and never cancels."""


def part(progress: Progress, start: float, share: float, total: float) -> Progress:
    """A progress for a piece of work that is `share` of `total`, from `start` on."""
    whole = total

    def report(done: float, total: float, note: str = "", partial: Any = None) -> None:
        progress(start + share * (done / total if total else 1.0), whole, note, partial)

    return report


def patiently(work: Callable[[], T], progress: Callable[[], None]) -> T:
    """What `work` gives; meanwhile `progress` is called every fifth of a second.

    For work that takes seconds and calls nobody: it runs in a thread of its own. Where `progress`
    raises (Cancelled), that passes through at once, and the work goes on unheard to its end: it
    must be such that this does no harm, as reading files or fetching them.
    """
    outcome: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((True, work()))
        except BaseException as error:  # raised again where it is waited for
            outcome.put((False, error))

    progress()
    threading.Thread(target=run, name="inspector-patience", daemon=True).start()
    while True:
        try:
            done, found = outcome.get(timeout=PATIENCE)
        except queue.Empty:
            progress()
            continue
        if done:
            return found
        raise found


@dataclass
class Job:
    """One piece of long work and all that the page shows of it. Times are time.monotonic()."""

    id: int
    title: str
    owner: str
    state: str = "queued"  # queued, running, done, failed, cancelled
    done: float = 0.0
    total: float = 1.0
    note: str = ""
    partial: Any = None
    result: Any = None
    error: str = ""
    started: float | None = None
    finished: float | None = None
    kind: str = ""
    version: int = 0  # grows with every change, so that a poll can tell whether there is news
    _cancel: threading.Event = field(default_factory=threading.Event, repr=False)
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def report(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        """The `Progress` that the work is given."""
        if self._cancel.is_set():
            raise Cancelled
        self.done, self.total, self.note = done, total, note or self.note
        if partial is not None:
            self.partial = partial
        self.version += 1

    def cancel(self) -> None:
        """Ask the work to stop at its next progress call; a queued job ends here and now."""
        with self._turn:
            self._cancel.set()
            if self.state == "queued":
                self._end("cancelled")

    def _begin(self) -> bool:
        """Whether its turn has come; False where it was cancelled while it waited."""
        with self._turn:
            if self.state != "queued":
                return False
            self.started, self.state = time.monotonic(), "running"
            self.version += 1
            return True

    def _end(self, state: str) -> None:
        self.state, self.finished = state, time.monotonic()
        self.version += 1
        self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False if it has not come within `timeout` seconds."""
        return self._ended.wait(timeout)

    @property
    def active(self) -> bool:
        """Whether it is queued or running."""
        return self.state in ("queued", "running")

    @property
    def seconds(self) -> float:
        """How long it has run so far, or ran."""
        if self.started is None:
            return 0.0
        return (self.finished or time.monotonic()) - self.started

    @property
    def seconds_left(self) -> float | None:
        """Time left at the pace so far; None before there is a pace."""
        if self.state != "running" or self.done <= 0 or self.total <= 0:
            return None
        return max(0.0, self.seconds * (self.total - self.done) / self.done)


class Worker:
    """One thread that runs jobs one after another, so that no two ever use the model at once."""

    KEEP = 50  # finished jobs kept in the registry

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self._queue: queue.SimpleQueue[tuple[Job, Callable[[Progress], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="inspector-worker", daemon=True).start()

    def submit(
        self, title: str, work: Callable[[Progress], Any], *, owner: str = "", kind: str = ""
    ) -> Job:
        """Queue `work`, which is called with a `Progress`; returns at once."""
        with self._lock:
            job = Job(next(self._ids), title, owner, kind=kind)
            self.jobs[job.id] = job
            finished = [each.id for each in self.jobs.values() if not each.active]
            for old in finished[: max(0, len(finished) - self.KEEP)]:
                del self.jobs[old]
        self._queue.put((job, work))
        return job

    def ahead_of(self, job: Job) -> int:
        """How many unfinished jobs stand before this one."""
        return sum(other.active for other in list(self.jobs.values()) if other.id < job.id)

    def _run(self) -> None:
        while True:
            job, work = self._queue.get()
            if not job._begin():
                continue
            try:
                job.result = work(job.report)
                job._end("done")
            except Cancelled:
                job._end("cancelled")
            except InspectorError as error:
                job.error = str(error)
                job._end("failed")
            except BaseException as error:  # a bug, even an exit: the thread has to go on
                traceback.print_exc()
                job.error = f"unexpected {type(error).__name__}: {error}"
                job._end("failed")
