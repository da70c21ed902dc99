"""Pruning runs that were cut off: kept with what was asked, gone on with, refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from inspector.errors import ResultError
from inspector.jobs import Job
from inspector.results.journal import Journal
from inspector.results.trajectory import Step, Trajectory
from inspector.units import Mask
from inspector.view import runs, unfinished
from inspector.view.session import Session
from inspector.view.tabs import cut_off as cut_off_tab
from inspector.view.tabs import pruning
from inspector.view.wiring import Wiring
from tests.view.conftest import TINY, Pages, finish, request
from tests.view.test_tabs import EVOPRESS, FORM, TEXT

LONG = {**FORM, "amount": 4, "check": "the search text"}


def started(pages: Pages, form: dict[str, Any] = LONG) -> tuple[Session, Job]:
    session = pages.bench.session(request("a"))
    pruning.start(Wiring(pages.bench), session, form, *TEXT)
    return session, session.jobs["pruning"]


def files() -> set[str]:
    """The endings of what is in the run folder."""
    return {path.suffix for path in runs.folder().iterdir()}


def after(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], Any]) -> list[int]:
    """Have `act` called once a step is on the disk; the steps that are written from now on."""
    add, written = Journal.add, []

    def adding(self: Journal, one: Step | None, *place: Any) -> None:
        add(self, one, *place)
        if one:
            written.append(one.step)
            if one.step == step:
                act()

    monkeypatch.setattr(Journal, "add", adding)
    return written


@pytest.fixture
def cut_off(
    ready_pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Trajectory]:
    """What a kill after two of four removals leaves in the run folder, and the whole run."""
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        after(patch, 2, lambda: shutil.copytree(runs.folder(), killed))
        session, job = started(ready_pages)
        finish(ready_pages.bench, session, job)
    whole = session.trajectory
    assert whole is not None and whole.finished and files() == {".json"}
    monkeypatch.setenv("INSPECTOR_RUNS", str(killed))
    (name,) = unfinished.names()
    assert unfinished.removals(name) == 2
    return name, whole


def restarted(pages: Pages, *model: str) -> Session:
    """The page of a new server, with a model in memory."""
    pages.bench.__init__(public=False)
    session = pages.bench.session(request("a"))
    finish(pages.bench, session, pages.bench.load(session, *(model or TINY)))
    return session


def gone_on(pages: Pages, session: Session, name: str) -> Trajectory | None:
    pages.fire("cut-off-go", "click", name)
    finish(pages.bench, session, session.jobs["pruning"])
    return session.trajectory


def shape(run: Trajectory) -> list[Any]:
    return [
        (each.mask, each.removed, each.scores, each.score_status, each.perplexity, each.parameters)
        for each in run.steps
    ]


def test_a_run_goes_on_after_the_server_has_died(
    ready_pages: Pages, cut_off: tuple[str, Trajectory], monkeypatch: pytest.MonkeyPatch
):
    name, whole = cut_off
    session = restarted(ready_pages)
    session.set_mask(Mask.parse("0.attn", 4))  # the run's own mask counts, not the map's
    written = after(monkeypatch, -1, lambda: None)
    found = gone_on(ready_pages, session, name)
    assert found is not None and found.finished and not session.errors["pruning"]
    assert shape(found) == shape(whole) and found.options == whole.options
    assert found.provenance.command == whole.provenance.command
    assert written == [3, 4]  # the others were not measured again
    assert files() == {".json"} and unfinished.names() == []


def test_the_runs_tab_offers_it_once_there_is_one(
    ready_pages: Pages, cut_off: tuple[str, Trajectory]
):
    name, _ = cut_off
    row, box = cut_off_tab.draw(Wiring(ready_pages.bench))
    assert row["visible"] and box["value"] == name
    assert box["choices"] == [(f"{name}, 2 steps", name)]
    ready_pages.fire("cut-off-delete", "click", None)  # not confirmed
    assert unfinished.names() == [name]
    ready_pages.fire("cut-off-delete", "click", name)
    assert not list(runs.folder().iterdir())
    row, box = cut_off_tab.draw(Wiring(ready_pages.bench))
    assert not row["visible"] and box["choices"] == []


def test_a_cancelled_run_can_go_on_and_one_without_a_removal_leaves_nothing(
    ready_pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    bench = ready_pages.bench
    with monkeypatch.context() as patch:
        after(patch, 0, lambda: session.jobs["pruning"].cancel())
        session, job = started(ready_pages)
        finish(bench, session, job)
    assert job.state == "cancelled" and not files() - {".json"}
    with monkeypatch.context() as patch:
        after(patch, 1, lambda: session.jobs["pruning"].cancel())
        session, job = started(ready_pages)
        finish(bench, session, job)
    assert job.state == "cancelled"
    (name,) = unfinished.names()
    assert unfinished.removals(name) == 1
    found = gone_on(ready_pages, session, name)
    assert found is not None and found.finished and len(found.steps) == 5
    assert files() == {".json"}


def test_a_run_under_way_is_not_offered(ready_pages: Pages, monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []

    def look() -> None:
        seen.append((unfinished.names(), files()))
        (path,) = runs.folder().glob("*.asked")
        with pytest.raises(gr.Error, match="from the list"):
            ready_pages.fire("cut-off-delete", "click", path.stem)

    after(monkeypatch, 1, look)
    session, job = started(ready_pages)
    finish(ready_pages.bench, session, job)
    assert job.state == "done" and seen == [([], {".asked", ".journal"})]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (("tiny:gemma2", "cpu", "fp32"), "is of tiny:llama in float32.*shows tiny:gemma2"),
        (("tiny:llama", "cpu", "bf16"), "is of tiny:llama in float32.*in bfloat16: load that"),
    ],
)
def test_another_model_is_refused_by_name(
    ready_pages: Pages, cut_off: tuple[str, Trajectory], model: tuple[str, ...], message: str
):
    restarted(ready_pages, *model)
    with pytest.raises(gr.Error, match=message):
        ready_pages.fire("cut-off-go", "click", cut_off[0])
    assert unfinished.names() == [cut_off[0]]


def test_before_loading_it_says_what_to_do(ready_pages: Pages, cut_off: tuple[str, Trajectory]):
    ready_pages.bench.__init__(public=False)
    with pytest.raises(gr.Error, match="press Load model"):
        ready_pages.fire("cut-off-go", "click", cut_off[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text", ["pydoc:search", 3, 16, ""], "text windows was 2 and is 3"),
        ("mask", "0.ffn", "mask was nothing and is 0.ffn"),
        ("form", {**LONG, "amount": 3}, "bounds remove was 4 and is 3"),
        ("form", {**LONG, "metric": "kl"}, "metric was js and is kl"),
    ],
)
def test_what_differs_from_the_journal_is_refused_by_name_and_nothing_is_lost(
    ready_pages: Pages, cut_off: tuple[str, Trajectory], field: str, value: Any, message: str
):
    name, _ = cut_off
    path = runs.folder() / f"{name}.asked"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    session = restarted(ready_pages)
    gone_on(ready_pages, session, name)
    assert message in session.errors["pruning"]
    assert unfinished.names() == [name] and unfinished.removals(name) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", '{"form": {}}', '{"a": 1}', None], ids=repr
)
def test_what_is_damaged_is_one_sentence(
    ready_pages: Pages, cut_off: tuple[str, Trajectory], content: str | None
):
    name, _ = cut_off
    path = runs.folder() / f"{name}.asked"
    path.write_text(json.dumps({**json.loads(path.read_text()), "form": {}}))
    if content is not None:
        path.write_text(content)
    with pytest.raises(gr.Error, match="delete it"):
        ready_pages.fire("cut-off-go", "click", name)


@pytest.mark.parametrize("name", ["../x", "nothing", None, ""])
def test_what_is_no_such_run_is_one_sentence(ready_pages: Pages, name: str | None):
    with pytest.raises(gr.Error, match="from the list"):
        ready_pages.fire("cut-off-go", "click", name)


def test_one_that_has_ended_meanwhile_says_so(
    ready_pages: Pages, cut_off: tuple[str, Trajectory], monkeypatch: pytest.MonkeyPatch
):
    name, _ = cut_off
    session = restarted(ready_pages)
    windows = ready_pages.bench.windows

    def late(*args: Any, **more: Any) -> Any:
        unfinished.forget(name)  # by another page, while this job waited for its turn
        return windows(*args, **more)

    monkeypatch.setattr(ready_pages.bench, "windows", late)
    gone_on(ready_pages, session, name)
    assert "has ended or was deleted" in session.errors["pruning"]


def test_an_evolutionary_search_goes_on_as_well(
    ready_pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    bench = ready_pages.bench
    short = {"generations": "3", "offspring": "2", "starts": "2", "search_tokens": "16,16"}
    with monkeypatch.context() as patch:
        after(patch, 1, lambda: session.jobs["pruning"].cancel())
        session, job = started(ready_pages, {**FORM, **EVOPRESS, **short})
        finish(bench, session, job)
    assert job.state == "cancelled"
    (name,) = unfinished.names()
    assert unfinished.removals(name) == 1
    found = gone_on(ready_pages, session, name)
    assert found is not None and found.finished and not session.errors["pruning"]
    assert files() == {".json"} and unfinished.names() == []


def test_a_result_that_cannot_be_saved_leaves_the_run_to_go_on_from(
    ready_pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise ResultError("cannot write it: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", full)
        session, job = started(ready_pages)
        finish(ready_pages.bench, session, job)
    assert job.state == "done" and "No space left" in session.errors["runs"]
    (name,) = unfinished.names()
    assert unfinished.removals(name) == 4
    written = after(monkeypatch, -1, lambda: None)
    found = gone_on(ready_pages, session, name)
    assert found is not None and found.finished and written == []
    assert files() == {".json"} and unfinished.names() == []


def test_a_public_server_keeps_none(ready_pages: Pages, cut_off: tuple[str, Trajectory]):
    bench = ready_pages.bench
    bench.public = True
    session, job = started(ready_pages, LONG)
    finish(bench, session, job)
    assert job.state == "done", job.error
    assert unfinished.names() == [cut_off[0]]
    row, _ = cut_off_tab.draw(Wiring(bench))
    assert not row["visible"]
    with pytest.raises(gr.Error, match="no run outlives"):
        ready_pages.fire("cut-off-go", "click", cut_off[0])
    with pytest.raises(gr.Error, match="from the list"):
        ready_pages.fire("cut-off-delete", "click", cut_off[0])


def test_a_folder_that_cannot_be_written_costs_only_the_journal(
    ready_pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("INSPECTOR_RUNS", str(tmp_path / "file/runs"))
    session, job = started(ready_pages)
    finish(ready_pages.bench, session, job)
    assert job.state == "done" and session.trajectory is not None and session.trajectory.finished
    assert "run folder cannot be made" in session.errors["runs"]
