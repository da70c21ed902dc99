"""The worker: one job at a time, in order, cancelled where it stands, nothing else in its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from inspector.errors import LoadError
from inspector.jobs import Cancelled, Job, Progress, Worker, part, patiently, silent

PATIENCE = 20.0


@pytest.fixture
def worker() -> Worker:
    return Worker()


class Gate:
    """Work that says that it has begun, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> str:
        self.begun.set()
        assert self.open.wait(PATIENCE)
        progress(1, 2)
        return "through"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def ended(job: Job) -> Job:
    assert job.wait(PATIENCE)
    return job


def test_jobs_run_one_at_a_time_in_order(worker: Worker) -> None:
    running, log, most = 0, [], 0

    def work(name: int) -> Any:
        def run(progress: Progress) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.01)
            log.append(name)
            running -= 1
            return name * 10

        return run

    jobs = [worker.submit(f"job {n}", work(n), owner="me", kind="test") for n in range(8)]
    assert [ended(job).result for job in jobs] == [n * 10 for n in range(8)]
    assert log == list(range(8))
    assert most == 1
    assert {job.state for job in jobs} == {"done"}
    assert len({job.id for job in jobs}) == 8
    assert (jobs[0].title, jobs[0].owner, jobs[0].kind) == ("job 0", "me", "test")


def test_submitting_returns_at_once_and_knows_the_queue(worker: Worker, gate: Gate) -> None:
    first = worker.submit("first", gate)
    later = [worker.submit("later", lambda _: None) for _ in range(3)]
    assert gate.begun.wait(PATIENCE)
    assert first.state == "running"
    assert [job.state for job in later] == ["queued"] * 3
    assert [worker.ahead_of(job) for job in (first, *later)] == [0, 1, 2, 3]
    assert not later[0].wait(0.01)
    gate.open.set()
    for job in (first, *later):
        assert ended(job).state == "done"
    assert [worker.ahead_of(job) for job in later] == [0, 0, 0]


def test_a_running_job_is_cancelled_at_its_next_progress(worker: Worker) -> None:
    begun, restored = threading.Event(), []

    def work(progress: Progress) -> None:
        try:
            for done in range(10**6):
                begun.set()
                progress(done, 10**6, "counting", {"done": done})
                time.sleep(0.001)
        finally:
            restored.append(True)

    job = worker.submit("count", work)
    assert begun.wait(PATIENCE)
    time.sleep(0.02)
    job.cancel()
    assert ended(job).state == "cancelled"
    assert restored == [True]
    assert job.result is None
    assert job.error == ""
    assert job.partial["done"] > 0  # what it had so far is kept
    assert ended(worker.submit("next", lambda _: "fine")).result == "fine"


def test_a_queued_job_that_is_cancelled_never_starts(worker: Worker, gate: Gate) -> None:
    ran = []
    worker.submit("first", gate)
    job = worker.submit("second", lambda _: ran.append(1))
    third = worker.submit("third", lambda _: 3)
    assert gate.begun.wait(PATIENCE)
    job.cancel()
    assert (job.state, job.wait(0), job.active) == ("cancelled", True, False)  # here and now
    assert worker.ahead_of(third) == 1
    gate.open.set()
    assert ended(third).result == 3
    assert ran == [] and job.state == "cancelled"


def test_cancelling_after_the_end_changes_nothing(worker: Worker) -> None:
    job = ended(worker.submit("quick", lambda _: 1))
    job.cancel()
    assert job.state == "done"
    assert job.result == 1


def test_a_users_mistake_is_one_sentence(worker: Worker, capsys: Any) -> None:
    def work(_: Progress) -> None:
        raise LoadError("there is no model of that name.")

    job = ended(worker.submit("load", work))
    assert (job.state, job.error) == ("failed", "there is no model of that name.")
    assert capsys.readouterr().err == ""
    assert ended(worker.submit("next", lambda _: 2)).result == 2


def test_a_bug_is_said_and_printed_in_full(worker: Worker, capsys: Any) -> None:
    def work(_: Progress) -> None:
        raise ZeroDivisionError("by nought")

    job = ended(worker.submit("divide", work))
    assert (job.state, job.error) == ("failed", "unexpected ZeroDivisionError: by nought")
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "by nought" in printed
    assert ended(worker.submit("next", lambda _: 2)).result == 2


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_not_even_an_exit_ends_the_worker(worker: Worker, error: BaseException) -> None:
    def work(_: Progress) -> None:
        raise error

    job = ended(worker.submit("leave", work))
    assert job.state == "failed" and type(error).__name__ in job.error
    assert ended(worker.submit("next", lambda _: 2)).result == 2


def test_progress_is_seen_from_outside(worker: Worker) -> None:
    seen, looked = threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        progress(3, 4, "a note", "so far")
        seen.set()
        assert looked.wait(PATIENCE)
        progress(4, 4)

    job = worker.submit("work", work)
    assert seen.wait(PATIENCE)
    assert (job.done, job.total, job.note, job.partial) == (3, 4, "a note", "so far")
    assert job.active
    version = job.version
    looked.set()
    ended(job)
    assert (job.done, job.total, job.note, job.partial) == (4, 4, "a note", "so far")
    assert job.version > version
    assert not job.active


def test_time_left_at_the_pace_so_far() -> None:
    now = time.monotonic()
    job = Job(1, "work", "")
    assert job.seconds == 0.0
    assert job.seconds_left is None
    job.state, job.started = "running", now - 10
    assert job.seconds_left is None  # no pace yet
    job.done, job.total = 1, 5
    assert job.seconds == pytest.approx(10, abs=0.5)
    assert job.seconds_left == pytest.approx(40, abs=2)
    job.done = 5
    assert job.seconds_left == 0.0
    job.state, job.finished = "done", now
    assert job.seconds == pytest.approx(10)
    assert job.seconds_left is None


def test_old_finished_jobs_are_forgotten(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "KEEP", 3)
    jobs = [ended(worker.submit(f"{n}", lambda _: None)) for n in range(6)]
    last = ended(worker.submit("last", lambda _: None))
    assert list(worker.jobs) == [job.id for job in jobs[3:]] + [last.id]


def test_unfinished_jobs_are_never_forgotten(
    worker: Worker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "KEEP", 1)
    jobs = [worker.submit("first", gate), *(worker.submit("x", lambda _: None) for _ in range(5))]
    assert all(job.id in worker.jobs for job in jobs)
    gate.open.set()
    for job in jobs:
        ended(job)


def test_part_maps_a_piece_onto_the_whole() -> None:
    calls: list[tuple[Any, ...]] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        calls.append((done, total, note, partial))

    piece = part(progress, 2, 3, 10)
    piece(0, 8)
    piece(4, 8, "half", "so far")
    piece(8, 8)
    piece(0, 0)
    inner = part(piece, 1, 1, 2)
    inner(1, 2)
    assert calls == [
        (2, 10, "", None),
        (3.5, 10, "half", "so far"),
        (5, 10, "", None),
        (5, 10, "", None),
        (2 + 3 * 0.75, 10, "", None),
    ]


def test_part_lets_a_cancel_pass() -> None:
    job = Job(1, "work", "")
    job.cancel()
    with pytest.raises(Cancelled):
        part(job.report, 0, 1, 2)(1, 2)


def test_silent_never_cancels() -> None:
    assert silent(1, 2, "note", object()) is None


def test_patience_hears_a_cancel_and_passes_results_and_errors_on() -> None:
    heard: list[int] = []

    def told(most: int) -> None:
        heard.append(1)
        if len(heard) > most:
            raise Cancelled

    assert patiently(lambda: 5, partial(told, 9)) == 5
    with pytest.raises(KeyError):
        patiently(lambda: {}["x"], partial(told, 9))
    gate = threading.Event()
    heard.clear()
    with pytest.raises(Cancelled):
        patiently(gate.wait, partial(told, 2))  # it would wait for ever
    gate.set()
    heard.clear()
    with pytest.raises(Cancelled):
        patiently(lambda: pytest.fail("it was begun"), partial(told, 0))
