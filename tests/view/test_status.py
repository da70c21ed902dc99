"""What is going on, in words: bars, times, and nothing that a browser would run."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from inspector.errors import InspectorError
from inspector.model.loaded import LoadedModel
from inspector.results.base import Result
from inspector.results.checks import Benchmark, Perplexity, Speed, SpeedRun, TaskScore
from inspector.view import map_panel, outcomes, sidebar
from inspector.view.card import Card
from inspector.view.session import Session
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


PERPLEXITY = "perplexity, pydoc:check, 2 x 16, stride 8"


def test_rows_say_what_was_off_and_what_it_saves(
    session: Session, measured: dict[str, Result], tiny: LoadedModel
):
    outcomes.note(session, "perplexity", checked(measured, "1.attn,2", 12345.678))
    mask = tiny.mask("1.attn,2")
    table = _history(session)
    assert table["headers"] == ["Mask", "Off", PERPLEXITY, "Parameters", "KV B/token"]
    old, untouched = table["data"]
    left = [tiny.parameters_left(mask), tiny.kv_bytes_left(mask)]
    assert old == ["1.attn,2", 3, 12345.678, *left]  # numbers, so that they sort as such
    assert untouched == ["nothing", 0, 300.25, tiny.parameters, tiny.kv_bytes_left(tiny.empty())]
    shown = table["metadata"]["display_value"]
    assert shown[0] == ["1.attn,2", "3", "12,346", *(f"{each:,}" for each in left)]
    assert shown[1][2] == "300.2"


def test_a_mask_has_one_row_and_what_was_measured_in_two_ways_two_columns(
    session: Session, measured: dict[str, Result]
):
    scores = [
        TaskScore("own", metric, 0.75, 0.1, 40, baseline=0.5) for metric in ("acc", "acc_norm")
    ]
    made = measured["sweep"].provenance
    outcomes.note(session, "benchmark", Benchmark(made, "1", scores))
    outcomes.note(session, "perplexity", checked(measured, "2", 9.0))
    more = [replace(scores[0], items=50, value=0.25)]
    outcomes.note(session, "benchmark", Benchmark(made, "1", more))
    table = _history(session)
    assert table["headers"][2:-2] == [
        PERPLEXITY,
        "own, acc, 40 items",
        "own, acc, 50 items",
        "own, acc_norm, 40 items",
    ]
    rows = {row[0]: row[2:-2] for row in table["data"]}
    assert list(rows) == ["1", "nothing", "2"]  # the one measured last comes first
    assert rows["1"] == [None, 0.75, 0.25, 0.75]
    assert rows["nothing"] == [300.25, 0.5, 0.5, 0.5]
    assert rows["2"] == [9.0, None, None, None]
    assert table["metadata"]["display_value"][0][2] == ""
    outcomes.note(session, "perplexity", checked(measured, "2", 8.0))
    assert _history(session)["data"][0][2] == 8.0 and len(session.history) == 3
    lines = outcomes.csv_of(session).splitlines()
    assert len(lines) == 4 and lines[1].startswith("2,2,8,,,,")


def test_a_speed_is_in_tokens_a_second(session: Session, measured: dict[str, Result]):
    here, base = (
        [SpeedRun(each, 1000 / each) for each in row] for row in ((50, 40, 60), (20, 30, 25))
    )
    made = Speed(measured["sweep"].provenance, "1.attn", 512, 32, 2, 3, here, base)
    outcomes.note(session, "speed", made)
    table = _history(session)
    cut = "tokens/s, 512 + 32 tokens, batch 2"
    assert table["headers"][-3:] == ["KV B/token", f"decode, {cut}", f"prefill, {cut}"]
    assert [row[-2:] for row in table["data"]] == [[100.0, 50.0], [50.0, 25.0]]


def test_a_row_is_forgotten(session: Session, measured: dict[str, Result], tiny: LoadedModel):
    for text in ("1", "2"):
        outcomes.note(session, "perplexity", checked(measured, text, 9.0))
    outcomes.forget(session, tiny.mask("1"))
    outcomes.forget(session, tiny.empty())
    assert [row["Mask"] for row in session.history] == ["2"]
    with pytest.raises(InspectorError, match="has no row in this table"):
        outcomes.forget(session, tiny.mask("3"))


def test_other_results_and_the_live_one_are_no_rows(session: Session, measured: dict[str, Result]):
    for kind, result in measured.items():
        outcomes.note(session, kind, result)
    outcomes.note(session, "live", checked(measured, "1", 2.0))
    assert session.history == []
    (baseline,) = session.baselines.values()
    assert baseline.summary["perplexity"] == 300.25


def test_the_history_is_bounded(
    session: Session, measured: dict[str, Result], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outcomes, "HISTORY", 3)
    for text in ("1", "2", "3", "1.attn"):
        outcomes.note(session, "perplexity", checked(measured, text, 2.0))
    assert [row["Mask"] for row in session.history] == ["1.attn", "nothing", "3"]
