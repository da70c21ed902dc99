"""One model, one worker, many pages: loading, following, jobs, and what a public server refuses."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from inspector import assets
from inspector.errors import InspectorError
from inspector.measure import corpus
from inspector.measure.corpus import DEFAULT_CHECK, Windows
from inspector.measure.perplexity import perplexity
from inspector.measure.sweep import sweep
from inspector.model import loading
from inspector.results.base import Result
from inspector.results.checks import Perplexity
from inspector.units import Mask
from inspector.view import map_panel, page, runs, workbench
from inspector.view.session import Session
from inspector.view.status import active, status_html
from inspector.view.workbench import Workbench
from tests.view.conftest import TINY, Pages, finish, request, settle

GEMMA = ("tiny:gemma2", "cpu", "fp32")


def mask(text: str) -> Mask:
    return Mask.parse(text, 4)


class Gate:
    """Work that reports a partial result and then waits to be let go."""

    def __init__(self, found: Result, partial: Result | None = None) -> None:
        self.found, self.partial = found, partial
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, loaded: Any, progress: Any) -> Result:
        progress(1, 2, "halfway", self.partial)
        self.begun.set()
        assert self.go.wait(30)
        progress(2, 2)
        return self.found


# ---- sessions ------------------------------------------------------------------------------------


def test_a_new_page_starts_with_the_recorded_run(bench: Workbench):
    session = bench.session(request("a"))
    card = session.require_card()
    assert card.recorded and session.generation == 0
    assert session.similarity and session.scores and session.trajectory
    with pytest.raises(InspectorError, match="needs the model in memory: press Load model"):
        bench.run(session, "sweep", "x", lambda *_: None)


def test_pages_do_not_share_masks_or_results(bench: Workbench):
    one, two = bench.session(request("a")), bench.session(request("b"))
    one.set_mask(mask("1"))
    one.results.clear()
    assert str(two.require_mask()) == "" and two.scores
    assert bench.session(request("a")) is one


def test_a_page_without_the_recorded_run_still_loads_models(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    runs.recorded.cache_clear()
    session = bench.session(request("a"))
    assert session.card is None
    assert "recorded/model.json is missing" in status_html(bench, session)
    finish(bench, session, bench.load(session, *TINY))
    assert session.require_card().source == "tiny:llama"
    assert status_html(bench, session) == ""


def test_the_oldest_pages_are_forgotten_closed_ones_first(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workbench, "SESSIONS", 2)
    old, new = bench.session(request("old")), bench.session(request("new"))
    bench.close(request("new"))
    bench.session(request("third"))
    assert bench.session(request("old")) is old
    assert bench.session(request("new")) is not new


def test_a_connection_that_breaks_off_loses_nothing(ready: Workbench):
    session = ready.session(request("a"))
    session.set_mask(mask("1"))
    ready.close(request("a"))
    again = ready.session(request("a"))
    assert again is session and str(again.mask) == "1" and not again.closed
    ready.close(request("nobody"))  # and a page that is not known is no error


TAB = "0123456789abcdef" * 2


def test_a_reloaded_page_has_everything_back(ready: Workbench, measured: dict[str, Result]):
    session = ready.session(request("a"))
    ready.resume(session, TAB)
    for text in ("1", "1,2.ffn"):
        session.set_mask(mask(text))
    session.history = [{"Mask": "x"}]
    gate = Gate(measured["pruning"], replace(measured["pruning"], finished=False))
    job = ready.run(session, "pruning", "Run", gate)
    assert gate.begun.wait(30)
    reloaded = ready.session(request("b"))
    ready.resume(reloaded, TAB)
    ready.close(request("a"))  # the old page's end is heard of late
    assert str(reloaded.mask) == "1,2.ffn" and reloaded.history == [{"Mask": "x"}]
    assert active(reloaded) == [job] and job.owner == "b"
    gate.go.set()
    finish(ready, reloaded, job)
    assert reloaded.trajectory and reloaded.trajectory.finished
    assert reloaded.own_runs == runs.names()
    reloaded.undo()
    assert (str(reloaded.mask), str(session.mask)) == ("1", "1,2.ffn")


def test_a_duplicated_tab_starts_from_a_copy(bench: Workbench):
    one, two = bench.session(request("a")), bench.session(request("b"))
    bench.resume(one, TAB)
    one.set_mask(mask("1"))
    bench.resume(two, TAB)
    one.set_mask(mask("1-2"))
    two.set_mask(mask("0"))
    assert (str(one.mask), str(two.mask)) == ("1-2", "0")
    two.undo()
    assert str(two.mask) == "1"


@pytest.mark.parametrize("tab", [None, "", "x", 5, TAB[:-1], TAB.upper(), "f" * 32, [TAB]])
def test_what_is_not_the_tabs_secret_gives_nothing(bench: Workbench, tab: Any):
    one, two = bench.session(request("a")), bench.session(request("b"))
    bench.resume(one, TAB)
    one.set_mask(mask("1"))
    for _ in range(2):
        bench.resume(two, tab)
        assert str(two.require_mask()) == ""


# ---- loading -------------------------------------------------------------------------------------


def test_loading_frees_the_former_model_and_counts_on(ready: Workbench):
    session, before = ready.session(request("a")), ready.loaded
    assert before is not None and ready.generation == 1 and ready.pace is not None
    session.set_mask(mask("1"))
    finish(ready, session, ready.load(session, *GEMMA))
    assert ready.generation == session.generation == 2
    assert ready.loaded is not None and ready.loaded.source == "tiny:gemma2"
    assert session.require_card().source == "tiny:gemma2"
    assert all(parameter.numel() == 0 for parameter in before.model.parameters())
    assert (str(session.mask), session.results) == ("1", {})


def test_a_new_attempt_clears_what_earlier_ones_failed_at(ready: Workbench):
    session = ready.session(request("a"))
    failed = {"speed": "too long", "pruning": "too many", "runs": "the disk is full", "live": "no"}
    session.errors = dict(failed)
    finish(ready, session, ready.run(session, "live", "x", measure_of("1", ready)))
    assert {**session.errors, "live": "no"} == failed
    finish(ready, session, ready.run(session, "perplexity", "x", measure_of("1", ready)))
    assert not session.errors.get("speed") and not session.errors.get("pruning")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("tiny:nothing", "knows no model type"),
        ("/no/such/folder", "there is no file or folder /no/such/folder"),
        ("", "no model is named"),
    ],
)
def test_a_failed_load_leaves_the_present_model_and_says_why(
    ready: Workbench, source: str, reason: str
):
    session, before = ready.session(request("a")), ready.loaded
    finish(ready, session, ready.load(session, source, "cpu", "fp32"))
    assert reason in session.errors["load"]
    assert reason[1:] in status_html(ready, session)
    assert ready.loaded is before and ready.generation == session.generation == 1
    finish(ready, session, ready.run(session, "perplexity", "x", measure_of("1", ready)))
    assert isinstance(session.results["perplexity"], Perplexity)


def measure_of(text: str, bench: Workbench) -> Any:
    """Work that measures perplexity, as the Check tab does."""

    def work(loaded: Any, progress: Any) -> Perplexity:
        windows = bench.windows(loaded, DEFAULT_CHECK, length=16, samples=2)
        return perplexity(loaded, windows, mask(text), progress=progress)

    return work


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Memory that holds one model and no second one; `kept` says that a model is in it."""
    state = {"kept": True}

    def available(device: Any, freed: Any = None) -> int:
        return 0 if state["kept"] and freed is None else 10**9

    def free(loaded: Any) -> None:
        state["kept"] = False

    monkeypatch.setattr(loading, "memory_available", available)
    monkeypatch.setattr(workbench, "free", free)
    return state


def test_a_load_that_does_not_fit_beside_the_present_one_frees_first(
    ready: Workbench, scarce: dict[str, bool], monkeypatch: pytest.MonkeyPatch
):
    there = []
    real = workbench.load

    def watched(*args: Any, **more: Any) -> Any:
        there.append(ready.loaded)
        return real(*args, **more)

    monkeypatch.setattr(workbench, "load", watched)
    session = ready.session(request("a"))
    finish(ready, session, ready.load(session, *GEMMA))
    assert there == [None] and not scarce["kept"]
    assert session.require_card().source == "tiny:gemma2"
    assert session.generation == ready.generation


def test_one_that_never_fits_is_refused_with_numbers_and_frees_nothing(
    ready: Workbench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loading, "memory_available", lambda *_: 0)
    session, before = ready.session(request("a")), ready.loaded
    finish(ready, session, ready.load(session, *GEMMA))
    assert "tiny:gemma2 needs" in session.errors["load"] and "0 MiB free" in session.errors["load"]
    assert ready.loaded is before and before is not None
    assert all(parameter.numel() for parameter in before.model.parameters())


def test_a_page_is_told_when_its_model_was_freed_in_vain(
    ready_pages: Pages, scarce: dict[str, bool], monkeypatch: pytest.MonkeyPatch
):
    bench = ready_pages.bench

    def broken(*_: Any, **__: Any) -> Any:
        raise InspectorError("the file is cut short.")

    monkeypatch.setattr(workbench, "load", broken)
    session = bench.session(request("a"))
    finish(bench, session, bench.load(session, *GEMMA))
    assert session.errors["load"] == "the file is cut short."
    assert bench.loaded is None and session.generation != bench.generation
    words, *_ = map_panel._draw_banner(session, map_panel.Wiring(bench))
    assert "no longer in memory" in words
    session.set_mask(mask("1"))
    map_panel.check_live(map_panel.Wiring(bench), session)  # asks for nothing that must fail
    assert "live" not in active_kinds(session)
    with pytest.raises(InspectorError, match="press Load model first"):
        bench.run(session, "sweep", "x", lambda *_: None)
    with pytest.raises(InspectorError, match="no model is in memory now"):
        bench.take(session)


def active_kinds(session: Session) -> set[str]:
    return {kind for kind, job in session.jobs.items() if job.active}


def test_another_page_is_told_and_takes_the_model_or_loads_its_own(ready_pages: Pages):
    bench = ready_pages.bench
    wiring = map_panel.Wiring(bench)
    one, two = bench.session(request("a")), bench.session(request("b"))
    assert two.generation == 1  # a page that opens now starts with the loaded model
    two.set_mask(mask("2"))
    bench.follow(two)
    assert map_panel._draw_banner(two, wiring)[0] == ""
    while two.news("model"):
        pass

    finish(bench, one, bench.load(one, *GEMMA))
    bench.follow(one)
    bench.follow(two)
    assert two.news("model")
    assert map_panel._draw_banner(one, wiring)[0] == ""
    words, choice, *_ = map_panel._draw_banner(two, wiring)
    assert "Another page has loaded <strong>tiny:gemma2</strong>" in words and choice["visible"]
    assert two.require_card().source == "tiny:llama"
    with pytest.raises(InspectorError, match="another page has loaded another model"):
        bench.run(two, "sweep", "x", lambda *_: None)

    bench.take(two)
    assert (two.require_card().source, two.generation) == ("tiny:gemma2", 2)
    assert map_panel._draw_banner(two, wiring)[0] == ""

    finish(bench, one, bench.load(one, *TINY))
    bench.follow(two)
    finish(bench, two, bench.load(two, two.require_card().source, "cpu", "fp32"))
    assert two.require_card().source == "tiny:gemma2"
    bench.follow(one)
    assert "tiny:gemma2" in map_panel._draw_banner(one, wiring)[0]


def test_a_page_with_the_recorded_run_takes_over_what_another_loads(bench: Workbench):
    one, two = bench.session(request("a")), bench.session(request("b"))
    two.set_mask(mask("2"))
    finish(bench, one, bench.load(one, *TINY))
    bench.follow(two)
    assert (two.generation, two.require_card().weights) == (1, "random, seed 0")
    assert str(two.mask) == "2" and two.results == {}


def test_load_mine_again_asks_for_the_same_device_and_dtype(
    ready_pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    bench = ready_pages.bench
    session, asked = bench.session(request("a")), []
    monkeypatch.setattr(bench, "load", lambda _, *rest: asked.append(rest))
    session.card = replace(session.require_card(), device="cuda:1 (Some GPU)", dtype="float16")
    button = ready_pages.component(gr.Button, value="Load mine again")
    ready_pages.handler(button, "click")(request("a"))
    assert asked == [("tiny:llama", "cuda:1", "fp16")]


# ---- jobs ----------------------------------------------------------------------------------------


def test_partials_and_results_are_taken_and_the_run_is_kept(
    ready: Workbench, measured: dict[str, Result]
):
    session = ready.session(request("a"))
    halfway = replace(measured["sweep"], windows_done=1)
    gate = Gate(measured["sweep"], halfway)
    job = ready.run(session, "sweep", "What next", gate, "inspector sweep x")
    with pytest.raises(InspectorError, match="What next is still going on: wait, or cancel it"):
        ready.run(session, "sweep", "again", gate)
    assert gate.begun.wait(30)
    ready.poll(session)
    assert session.scores is not None and not session.scores.complete
    assert session.scores.provenance.command == "inspector sweep x"
    assert runs.names() == []

    gate.go.set()
    finish(ready, session, job)
    assert session.scores is not None and session.scores.complete
    (name,) = runs.names()
    kept = runs.open_run(name)
    assert (kept.to_json(), session.own_runs) == (session.scores.to_json(), [name])
    ready.poll(session)
    assert len(runs.names()) == 1


def test_a_cancelled_run_keeps_what_it_has(ready: Workbench, measured: dict[str, Result]):
    session = ready.session(request("a"))
    begun = replace(measured["pruning"], finished=False)
    gate = Gate(measured["pruning"], begun)
    job = ready.run(session, "pruning", "Run", gate)
    assert gate.begun.wait(30)
    job.cancel()
    gate.go.set()
    finish(ready, session, job)
    assert job.state == "cancelled" and session.errors["pruning"] == ""
    assert session.trajectory is not None and not session.trajectory.finished
    (name,) = runs.names()
    assert runs.open_run(name).to_json() == session.trajectory.to_json()


def test_a_job_without_a_partial_leaves_no_run_when_it_is_cancelled(ready: Workbench):
    session = ready.session(request("a"))
    gate = Gate(None)  # pyright: ignore
    job = ready.run(session, "similarity", "Similarity", gate)
    assert gate.begun.wait(30)
    job.cancel()
    gate.go.set()
    finish(ready, session, job)
    assert runs.names() == [] and session.similarity is None


def test_a_run_is_kept_when_its_page_is_closed_and_a_reloaded_page_finds_it(
    ready: Workbench, measured: dict[str, Result]
):
    session = ready.session(request("a"))
    gate = Gate(measured["pruning"], replace(measured["pruning"], finished=False))
    job = ready.run(session, "pruning", "Run", gate)
    assert gate.begun.wait(30)
    ready.close(request("a"))
    reloaded = ready.session(request("reloaded"))
    assert reloaded is not session
    assert active(reloaded) == [job]
    ready.poll(reloaded)
    assert reloaded.trajectory is not None and not reloaded.trajectory.finished
    gate.go.set()
    finish(ready, reloaded, job)
    assert reloaded.trajectory.finished and job.state == "done"
    assert len(runs.names()) == 1
    assert active(ready.session(request("third"))) == []


def test_a_page_that_is_open_keeps_its_jobs_to_itself(
    ready: Workbench, measured: dict[str, Result]
):
    session = ready.session(request("a"))
    gate = Gate(measured["pruning"])
    job = ready.run(session, "pruning", "Run", gate)
    assert active(ready.session(request("b"))) == []
    gate.go.set()
    finish(ready, session, job)


def test_the_second_of_two_quick_runs_does_not_swallow_the_first(ready: Workbench):
    session = ready.session(request("a"))
    first = ready.run(session, "perplexity", "Perplexity", measure_of("1", ready))
    assert first.wait(30)  # ended, and no poll since
    finish(ready, session, ready.run(session, "perplexity", "P", measure_of("2", ready)))
    assert [row["Mask"] for row in session.history] == ["2", "nothing", "1"]


def test_a_result_is_noted_once_however_it_is_polled(ready: Workbench):
    session = ready.session(request("a"))
    job = ready.run(session, "perplexity", "Perplexity", measure_of("1", ready))
    settle(ready, session, lambda: not job.active)
    for _ in range(3):
        job.version += 1  # as the worker's last change may, after a poll has seen the end
        ready.poll(session)
    assert [row["Mask"] for row in session.history] == ["1", "nothing"]


def test_a_bug_in_a_job_is_said_and_ends_only_that_job(ready: Workbench):
    session = ready.session(request("a"))

    def broken(loaded: Any, progress: Any) -> Any:
        raise ZeroDivisionError("oh")

    finish(ready, session, ready.run(session, "sweep", "x", broken))
    assert session.errors["sweep"] == "unexpected ZeroDivisionError: oh"
    finish(ready, session, ready.run(session, "perplexity", "x", measure_of("1", ready)))
    assert "perplexity" in session.results


def test_a_full_disk_loses_no_result(ready: Workbench, monkeypatch: pytest.MonkeyPatch):
    def full(_: Any) -> str:
        raise InspectorError("cannot write x: No space left on device.")

    monkeypatch.setattr(runs, "keep", full)
    session = ready.session(request("a"))
    finish(ready, session, ready.run(session, "perplexity", "x", measure_of("1", ready)))
    assert isinstance(session.results["perplexity"], Perplexity)
    assert len(session.history) == 2
    assert "No space left" in status_html(ready, session)


def test_a_job_of_the_former_model_is_not_started(ready: Workbench, measured: dict[str, Result]):
    session = ready.session(request("a"))
    gate = Gate(measured["sweep"])
    first = ready.run(session, "similarity", "Similarity", gate)
    assert gate.begun.wait(30)
    load = ready.load(session, *GEMMA)
    late = ready.run(session, "sweep", "What next", gate)
    gate.go.set()
    assert first.wait(30) and late.wait(30)
    finish(ready, session, load)
    assert "the model has changed meanwhile" in session.errors["sweep"]
    assert session.results == {}  # nor is what the first one has measured shown for the new model


def test_a_former_models_result_and_baseline_are_not_taken_for_the_new_one(ready: Workbench):
    one, two = ready.session(request("a")), ready.session(request("b"))
    two.set_mask(mask("1"))
    wiring = map_panel.Wiring(ready)
    map_panel.check_live(wiring, two)
    slow = ready.run(two, "perplexity", "x", measure_of("1", ready))
    assert slow.wait(30)  # both have ended; their page has not polled
    finish(ready, one, ready.load(one, *GEMMA))
    ready.take(two)
    ready.poll(two)
    assert (two.results, two.history, two.baselines) == ({}, [], {})
    assert "result" not in two.live
    assert len(runs.names()) == 1  # it is among the saved runs all the same


# ---- live perplexity -----------------------------------------------------------------------------


def live_value(session: Session) -> Perplexity:
    found = session.live["result"]
    assert isinstance(found, Perplexity)
    return found


def wait_live(bench: Workbench, session: Session) -> None:
    map_panel.check_live(map_panel.Wiring(bench), session)
    settle(bench, session, lambda: not session.jobs["live"].active)
    bench.poll(session)


def test_live_perplexity_is_the_perplexity_and_reuses_the_baseline(
    ready: Workbench, monkeypatch: pytest.MonkeyPatch
):
    session, given = ready.session(request("a")), []
    real = map_panel.perplexity

    def watched(*args: Any, **more: Any) -> Perplexity:
        given.append(more["baseline"])
        return real(*args, **more)

    monkeypatch.setattr(map_panel, "perplexity", watched)
    wait_live(ready, session)
    session.set_mask(mask("1,2.ffn"))
    wait_live(ready, session)
    assert ready.loaded is not None
    windows = corpus.windows(ready.loaded.tokenizer, DEFAULT_CHECK, length=256, samples=4)
    direct = perplexity(ready.loaded, windows, mask("1,2.ffn"))
    assert live_value(session).mask == "1,2.ffn"
    assert live_value(session).perplexity == direct.perplexity
    assert live_value(session).baseline == direct.baseline
    assert given == [None, direct.untouched]
    html = map_panel._live_html(session, map_panel.Wiring(ready))
    assert f"{direct.perplexity:.2f}" in html and f"{direct.baseline['perplexity']:.2f}" in html
    assert runs.names() == [] and session.history == []


def test_an_unchanged_mask_is_not_measured_twice(ready: Workbench):
    session = ready.session(request("a"))
    wait_live(ready, session)
    job = session.jobs["live"]
    map_panel.check_live(map_panel.Wiring(ready), session)
    assert session.jobs["live"] is job


def test_a_newer_change_replaces_the_live_job(ready: Workbench, measured: dict[str, Result]):
    session, wiring = ready.session(request("a")), map_panel.Wiring(ready)
    gate = Gate(measured["sweep"])
    ready.run(session, "sweep", "What next", gate)
    assert gate.begun.wait(30)
    jobs = []
    for text in ("1", "2", "3"):
        session.set_mask(mask(text))
        map_panel.check_live(wiring, session)
        jobs.append(session.jobs["live"])
    assert "waiting for another job" in map_panel._live_html(session, wiring)
    gate.go.set()
    assert jobs[-1].wait(30)
    ready.poll(session)
    assert [job.state for job in jobs] == ["cancelled", "cancelled", "done"]
    assert live_value(session).mask == "3"


def test_it_is_never_shown_for_another_mask(ready: Workbench):
    session, wiring = ready.session(request("a")), map_panel.Wiring(ready)
    session.set_mask(mask("1"))
    wait_live(ready, session)
    shown = f"{live_value(session).perplexity:.2f}"
    assert shown in map_panel._live_html(session, wiring)
    session.set_mask(mask("2"))
    assert shown not in map_panel._live_html(session, wiring)
    session.undo()
    assert shown in map_panel._live_html(session, wiring)


def test_before_a_model_is_loaded_it_says_what_to_do(bench: Workbench):
    session, wiring = bench.session(request("a")), map_panel.Wiring(bench)
    map_panel.check_live(wiring, session)
    assert "live" not in session.jobs
    assert "load the model" in map_panel._live_html(session, wiring)


def test_closing_a_page_cancels_its_live_job_and_coming_back_measures_again(
    ready: Workbench, measured: dict[str, Result]
):
    session, wiring = ready.session(request("a")), map_panel.Wiring(ready)
    gate = Gate(measured["sweep"])
    other = ready.run(session, "sweep", "What next", gate)
    assert gate.begun.wait(30)
    session.set_mask(mask("1"))
    map_panel.check_live(wiring, session)
    live = session.jobs["live"]
    ready.close(request("a"))
    gate.go.set()
    assert live.wait(30) and other.wait(30)
    assert (live.state, other.state) == ("cancelled", "done")
    wait_live(ready, ready.session(request("a")))
    assert live_value(session).mask == "1"


def test_the_live_result_does_not_touch_the_field_that_somebody_types_into(ready: Workbench):
    session = ready.session(request("a"))
    session.set_mask(mask("1"))
    for name in session.changed:
        session.news(name)
    wait_live(ready, session)
    assert session.news("live") and not session.news("mask")


# ---- windows -------------------------------------------------------------------------------------


def test_windows_are_kept_by_text_cut_and_model(ready: Workbench):
    session, cut = ready.session(request("a")), {"length": 16, "samples": 2}
    first = ready.windows(ready.loaded, DEFAULT_CHECK, **cut)  # pyright: ignore
    assert ready.windows(ready.loaded, DEFAULT_CHECK, **cut) is first  # pyright: ignore
    more = ready.windows(ready.loaded, DEFAULT_CHECK, length=16, samples=3)  # pyright: ignore
    assert len(more) == 3
    finish(ready, session, ready.load(session, *TINY))
    assert ready.windows(ready.loaded, DEFAULT_CHECK, **cut) is not first  # pyright: ignore


def test_a_file_that_has_changed_is_read_again(ready: Workbench, tmp_path: Path):
    file = tmp_path / "own.txt"
    seen: list[Windows] = []
    for words in ("one " * 20, "two " * 20):
        file.write_text(words, encoding="utf-8")
        seen.append(ready.windows(ready.loaded, f"file:{file}", length=16, samples=2))  # pyright: ignore
    assert seen[0].ids.tolist() != seen[1].ids.tolist()


def test_only_so_many_windows_are_kept(ready: Workbench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workbench, "WINDOWS", 2)
    for samples in (1, 2, 3):
        ready.windows(ready.loaded, DEFAULT_CHECK, length=16, samples=samples)  # pyright: ignore
    assert len(ready._windows) == 2


# ---- public --------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Workbench:
    made = Workbench(public=True)
    session = made.session(request("a"))
    finish(made, session, made.load(session, *TINY))
    return made


@pytest.mark.parametrize("spec", ["file:/etc/passwd", "file:x.txt", "/etc/passwd", "../x", ""])
def test_a_public_server_reads_no_text_from_its_disk(public: Workbench, spec: str):
    with pytest.raises(InspectorError, match="texts are chosen from the list"):
        public.text(spec)
    assert Workbench(public=False).text(spec) == spec


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("form", ["{}/model.gguf", "{}", "{}/weights.bin", "~/x", "./x", "a/b/c"])
def test_a_public_server_takes_no_path_for_a_model_and_tells_nothing_of_its_disk(
    public: Workbench, tmp_path: Path, form: str, there: bool
):
    folder = tmp_path / "models"
    if there:
        folder.mkdir()
        (folder / "model.gguf").write_bytes(b"x")
        (folder / "weights.bin").write_bytes(b"x")
    session = public.session(request("a"))
    with pytest.raises(InspectorError) as caught:
        public.load(session, form.format(folder), "cpu", "fp32")
    assert str(caught.value) == "on this server models come from the hub, by their name."


@pytest.mark.parametrize("source", ["smollm2", "tiny:llama", "org/name", "org/name@main", "gpt2"])
def test_names_are_taken(public: Workbench, source: str):
    assert public.source(source) == source


def test_a_public_servers_runs_are_seen_by_their_own_page_alone(
    public: Workbench, monkeypatch: pytest.MonkeyPatch
):
    one, two = public.session(request("a")), public.session(request("b"))
    finish(public, one, public.run(one, "perplexity", "x", measure_of("1", public)))
    (name,) = runs.names()
    assert (public.saved(one), public.saved(two)) == ([name], [])
    private = Workbench(public=False)
    assert private.saved(private.session(request("c"))) == [name]
    # When the page is forgotten nobody can see them any more, and they go.
    monkeypatch.setattr(workbench, "SESSIONS", 1)
    public.session(request("d"))
    assert runs.names() == []


def test_on_a_public_server_a_closed_pages_jobs_are_cancelled_and_shown_to_nobody(
    public: Workbench, measured: dict[str, Result]
):
    session = public.session(request("a"))
    gate = Gate(measured["pruning"])
    job = public.run(session, "pruning", "Run", gate)
    assert gate.begun.wait(30)
    public.close(request("a"))
    assert active(public.session(request("b"))) == []
    gate.go.set()
    assert job.wait(30) and job.state == "cancelled"


def test_what_counts_as_public(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert not Workbench().public
    monkeypatch.setenv("SPACE_ID", "org/space")
    assert Workbench().public


# ---- the timer -----------------------------------------------------------------------------------


def tick(pages: Pages, at: str = "a") -> list[Any]:
    return pages.handler(pages.component(gr.Timer), "tick")(request(at))


def test_a_tick_draws_what_is_new_and_nothing_twice(ready_pages: Pages):
    bench = ready_pages.bench
    session = bench.session(request("a"))
    session.set_mask(mask("1"))
    settle(bench, session, lambda: bool(tick(ready_pages)) and "result" in session.live)
    tick(ready_pages)
    skip = gr.skip()
    assert all(value == skip for value in tick(ready_pages))


def test_every_handler_and_every_drawing_holds_the_sessions_lock(
    ready_pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    held = []
    redraw, draw_all = page.Wiring.redraw, page.draw_all

    def watched(wiring: Any, session: Session) -> Any:
        held.append(session.lock._is_owned())  # pyright: ignore
        return redraw(wiring, session)

    def watched_all(sections: Any, session: Session) -> Any:
        held.append(session.lock._is_owned())  # pyright: ignore
        return draw_all(sections, session)

    monkeypatch.setattr(page.Wiring, "redraw", watched)
    monkeypatch.setattr(page, "draw_all", watched_all)
    tick(ready_pages)
    handlers: dict[Any, Any] = {f.name: f.fn for f in ready_pages.blocks.fns.values()}
    handlers["opened"](request("a"), "")
    handlers["rest"](request("a"))
    assert held == [True, True, True]


def test_a_page_is_filled_in_two_parts_and_then_has_no_news_but_the_mask(ready_pages: Pages):
    session = ready_pages.bench.session(request("a"))
    handlers: dict[Any, Any] = {f.name: f.fn for f in ready_pages.blocks.fns.values()}
    first, others = handlers["opened"](request("a"), ""), handlers["rest"](request("a"))
    wiring = len(tick(ready_pages))
    assert len(first) + len(others) == wiring
    assert not any(session.news(name) for name in session.changed)


def test_a_sweep_through_the_page_equals_the_plain_call(ready_pages: Pages, tiny: Any, text: Any):
    bench = ready_pages.bench
    session = bench.session(request("a"))
    session.set_mask(mask("1.attn"))
    ready_pages.fire("sweep-go", "click", "kl", "pydoc:search", 2, 16, "")
    settle(bench, session, lambda: not active(session))
    direct = sweep(tiny, text, mask("1.attn"), metric="kl")
    assert session.scores is not None and session.scores.scores == direct.scores
