"""What is going on, in words: bars, times, and nothing that a browser would run."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from inspector.model.loaded import LoadedModel
from inspector.results.base import Result
from inspector.results.checks import Benchmark, Perplexity, Speed, SpeedRun, TaskScore
from inspector.view import map_panel, outcomes, sidebar
from inspector.view.card import Card
from inspector.view.session import HISTORY, Session
from inspector.view.status import active, duration, status_html
from inspector.view.tabs.check import _history
from inspector.view.wiring import Wiring
from inspector.view.workbench import Workbench
from tests.view.conftest import request

EVIL = "<img src=x onerror=alert(1)>&\"'"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (605, "10 min"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words


def test_a_running_job_and_those_behind_it(bench: Workbench):
    session = bench.session(request("a"))
    begun, go = threading.Event(), threading.Event()

    def work(progress: Any) -> None:
        progress(1, 4, EVIL)
        begun.set()
        assert go.wait(30)

    first = bench._submit(session, "load", f"Loading {EVIL}", work)
    second = bench._submit(session, "sweep", "What next", work)
    assert begun.wait(30)
    html = status_html(bench, session)
    assert 'aria-valuenow="25"' in html and "waiting for 1 other job<" in html
    assert "<img" not in html and html.count("&lt;img") == 3
    assert active(session) == [first, second]
    first.cancel()
    second.cancel()
    go.set()
    assert first.wait(30) and second.wait(30)
    bench.poll(session)
    assert active(session) == [] and status_html(bench, session) == ""


def test_errors_are_said_and_escaped_and_the_live_one_stands_elsewhere(bench: Workbench):
    session = bench.session(request("a"))
    session.errors = {"load": f"no model {EVIL}", "sweep": "", "live": "out of memory"}
    html = status_html(bench, session)
    assert html.count('role="alert"') == 1 and "No model &lt;img" in html
    assert "<img" not in html and "out of memory" not in html


def test_untrusted_names_are_escaped_wherever_they_are_written_as_html(ready: Workbench):
    session = ready.session(request("a"))
    evil = replace(session.require_card(), source=EVIL, weights=EVIL, dtype=EVIL, device=EVIL)
    wiring = Wiring(ready)
    ready.card, session.card, session.generation = evil, evil, 7
    session.errors["live"] = EVIL
    parts = [
        map_panel._draw_banner(session, wiring)[0],
        map_panel._live_html(session, wiring),
        sidebar._now(session, 7),
        sidebar._now(session, 8),
    ]
    session.generation = 0
    parts.append(sidebar._now(session, 7))
    for html in parts:
        assert "&lt;img" in html and "<img" not in html


def test_the_sidebar_says_whether_the_model_is_there(ready: Workbench):
    session = ready.session(request("a"))
    assert "In memory: <strong>tiny:llama" in sidebar._now(session, 1)
    assert "No longer in memory" in sidebar._now(session, 2)
    assert "No model is loaded" in sidebar._now(Session("x"), 0)


# ---- the history ---------------------------------------------------------------------------------


@pytest.fixture
def session(tiny: LoadedModel) -> Session:
    made = Session("a")
    made.attach(Card.of(tiny), 1)
    return made


def checked(measured: dict[str, Result], mask: str, value: float) -> Perplexity:
    made = replace(measured["sweep"].provenance, corpus={"name": "pydoc:check", "windows": 2})
    base = {"perplexity": 300.25, "nll": 5.7, "tokens": 30}
    return Perplexity(made, mask, value, 5.0, 30, 16, 8, base)


def test_rows_say_what_was_off_and_what_it_saves(
    session: Session, measured: dict[str, Result], tiny: LoadedModel
):
    outcomes.note(session, "perplexity", checked(measured, "1.attn,2", 12345.678))
    outcomes.note(session, "perplexity", checked(measured, "", 300.25))
    mask = tiny.mask("1.attn,2")
    new, old = _history(session)
    assert old == [
        "perplexity, pydoc:check, 2 x 16, stride 8",
        "1.235e+04",
        "300.2",
        "3",
        f"{tiny.parameters_left(mask):,}",
        f"{tiny.kv_bytes_left(mask):,}",
        "1.attn,2",
    ]
    whole = f"{tiny.kv_bytes_left(tiny.empty()):,}"
    assert new[3:] == ["0", f"{tiny.parameters:,}", whole, "nothing"]


def test_a_benchmark_is_a_row_for_each_metric(session: Session, measured: dict[str, Result]):
    scores = [
        TaskScore("own", metric, 0.75, 0.1, 40, baseline=0.5) for metric in ("acc", "acc_norm")
    ]
    outcomes.note(session, "benchmark", Benchmark(measured["sweep"].provenance, "1", scores))
    assert [row[:4] for row in _history(session)] == [
        ["own, acc_norm, 40 items", "0.75", "0.5", "2"],
        ["own, acc, 40 items", "0.75", "0.5", "2"],
    ]


def test_a_speed_is_a_row_for_prefill_and_one_for_decoding(
    session: Session, measured: dict[str, Result]
):
    here, base = (
        [SpeedRun(each, 1000 / each) for each in row] for row in ((50, 40, 60), (20, 30, 25))
    )
    made = Speed(measured["sweep"].provenance, "1.attn", 512, 32, 1, 3, here, base)
    outcomes.note(session, "speed", made)
    assert [row[:4] for row in _history(session)] == [
        ["prefill, tokens/s, 512 + 32 tokens, batch 1", "50", "25", "1"],
        ["decode, ms/token, 512 + 32 tokens, batch 1", "20", "40", "1"],
    ]


def test_other_results_and_the_live_one_are_no_rows(session: Session, measured: dict[str, Result]):
    for kind, result in measured.items():
        outcomes.note(session, kind, result)
    outcomes.note(session, "live", checked(measured, "1", 2.0))
    assert session.history == []
    (baseline,) = session.baselines.values()
    assert baseline.summary["perplexity"] == 300.25


def test_the_history_is_bounded(session: Session, measured: dict[str, Result]):
    for number in range(HISTORY + 3):
        outcomes.note(session, "perplexity", checked(measured, "", float(number)))
    assert len(session.history) == HISTORY
    assert session.history[0]["This mask"] == HISTORY + 2
