"""Progress lines, tables and summaries, in which nothing can steer a terminal."""

from __future__ import annotations

import io
import math

import pytest

from inspector.cli.progress import CLEAR_LINE, Meter, describe, duration
from inspector.cli.summaries import SUMMARIES, summary
from inspector.cli.text import number, printable, table
from inspector.results.base import Provenance
from inspector.results.checks import (
    Benchmark,
    Continuation,
    Cut,
    Flip,
    Generation,
    Perplexity,
    Speed,
    SpeedRun,
    TaskScore,
)
from inspector.results.files import KINDS

MADE = Provenance("tiny:llama", "random", "llama", "float32", "cpu", 4)


class Clock:
    """A clock that somebody sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_updating_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream, clock = Terminal(), Clock()
    meter = Meter(stream, clock=clock)
    report = meter.phase("sweeping")
    report(0, 4)
    clock.now = 0.05
    report(1, 4)  # too soon after the last one
    clock.now = 2.0
    report(2, 4, "measuring what each unit is worth")
    meter.clear()
    meter.clear()
    assert stream.getvalue().split(CLEAR_LINE) == [
        "",
        "sweeping: 0 %",
        "measuring what each unit is w",
        "",
    ]


def test_a_file_gets_a_line_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    meter = Meter(stream, clock=clock)
    report = meter.phase("pruning")
    for second in range(31):
        clock.now = float(second)
        report(second, 60, partial=second)
    meter.clear()
    assert stream.getvalue().splitlines() == [
        "pruning: 17 %, 50 s left",
        "pruning: 33 %, 40 s left",
        "pruning: 50 %, 30 s left",
    ]
    assert meter.partial == 30


def test_a_new_phase_has_a_pace_of_its_own() -> None:
    stream, clock = io.StringIO(), Clock()
    meter = Meter(stream, clock=clock)
    meter.phase("loading")(1, 2)
    clock.now = 100.0
    report = meter.phase("sweeping")
    clock.now = 110.0
    report(1, 2)
    assert stream.getvalue() == "sweeping: 50 %, 10 s left\n"


def test_progress_cannot_steer_a_terminal() -> None:
    stream = Terminal()
    Meter(stream).phase("reading \x1b[2Jfile\n")(1, 2)
    assert stream.getvalue() == f"{CLEAR_LINE}reading �[2Jfile�: 50 %"


def test_there_is_no_time_left_before_there_is_a_pace() -> None:
    assert describe("x", 0, 10, 100.0) == "x: 0 %"
    assert describe("x", 1, 10, 0.5) == "x: 10 %"
    assert describe("x", 1, 0, 5.0) == "x: 0 %"
    assert describe("x", 5, 10, 80.0) == "x: 50 %, 1 min 20 s left"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (80, "1 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_columns_are_aligned() -> None:
    assert table(["unit", "cost"], [["0.attn", "1"], ["11.ffn", "-2.5"]]) == (
        "unit    cost\n0.attn     1\n11.ffn  -2.5"
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "-"),
        (math.inf, "inf"),
        (0.012345, "0.01235"),
        (12345.6, "12,346"),
        (-20000, "-20,000"),
        (3e12, "3e+12"),
    ],
)
def test_numbers(value: float, said: str) -> None:
    assert number(value) == said


def test_what_a_model_writes_cannot_steer_a_terminal() -> None:
    text = "a\x1b]0;title\x07\x9b2J\r\nb\tc"
    result = Generation(MADE, "", [Continuation("say", text, "", 3, 0)])
    shown = summary(result)
    assert not {each for each in shown if ord(each) < 32} - {"\n", "\t"}
    assert "\x9b" not in shown
    assert "�\nb\tc" in shown
    assert printable(text, lines=False).count("\n") == 0


def test_where_two_texts_part_is_said() -> None:
    one = Continuation("say", "abc", "abd", 3, 3, parted=2, shared=2)
    shown = summary(Generation(MADE, "1", [one, Continuation("x", "y", "y", 1, 1, shared=1)]))
    assert shown.count("--- the two part after 2 tokens") == 1
    assert shown.count("--- the two are the same") == 1
    assert shown.count("--- prompt") == 2
    assert "drawn" not in shown
    unknown = summary(Generation(MADE, "1", [Continuation("x", "y", "z", 1, 1)], 0.5, 0.9, 7))
    assert "the two" not in unknown
    assert "drawn at temperature 0.5, top-p 0.9, seed 7" in unknown


def test_every_kind_of_result_has_a_summary() -> None:
    assert set(SUMMARIES) == set(KINDS.values())


def test_a_speed_says_medians_and_spread() -> None:
    runs, base = [SpeedRun(60.0, 10.0), SpeedRun(80.0, 14.0)], [SpeedRun(40.0, 20.0)] * 2
    shown = summary(Speed(MADE, "1", 512, 32, 1, 5, runs, base, 68.0, 128.0, 64, 128))
    lines = [line.split("  ") for line in shown.splitlines()]
    rows = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    assert rows["prefill (tokens/s), higher = better"] == [
        "70 (60 to 80)",
        "40 (40 to 40)",
        "1.75 (1.5 to 2)",
    ]
    assert rows["peak memory above the weights (MiB), lower = better"] == ["not measured"] * 3
    assert rows["KV cache as measured (B/token)"] == ["68", "128", "0.5312"]
    assert "both models in turns, 2 of 5 rounds" in shown


def test_a_benchmark_stands_beside_its_baseline() -> None:
    here, untouched = [1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    rows = [
        TaskScore("own", "acc", 0.75, 0.03, 4, 1.0, 0.028, here, untouched),
        TaskScore("own", "f1", 0.5, math.nan, 4),
    ]
    flips = [Flip("own", 1, "2 + 2 is", ["4", "5"], gold=0, here=1, untouched=0)]
    out = summary(Benchmark(MADE, "1", rows, limit=9, flips=flips)).splitlines()
    assert out[:2] == ["tiny:llama · random · float32", "muted: 1"]
    assert "the first 9 items" in out[3]
    change = rows[0].change
    assert change is not None and change.lost == 1
    interval = [f"({change.low:+.3f}", "to", f"{change.high:+.3f})"]
    cells = ["0.750", "±", "0.030", "1.000", "±", "0.028", "-0.250", *interval, "4"]
    assert out[-4].split() == ["own", "acc", *cells]
    assert out[-3].split() == ["own", "f1", "0.500", "-", "-", "4"]
    assert out[-1].startswith("1 item is answered otherwise")


def test_a_perplexity_that_overflows_is_said() -> None:
    baseline = {"perplexity": 10.0, "nll": math.log(10), "tokens": 9}
    out = summary(Perplexity(MADE, "0", math.inf, 800.0, 9, 10, 10, baseline))
    assert "ratio: inf" in out
    assert out.splitlines()[-4].split() == ["this", "mask", "inf", "800.0000", "9"]


def test_nll_by_position_is_a_table_on_demand() -> None:
    baseline = {"perplexity": 10.0, "nll": math.log(10), "tokens": 4}
    places = {"by_position": [2.5, 2.0], "baseline_by_position": [2.0, 2.25]}
    found = Perplexity(
        MADE, "0", 12.0, math.log(12), 4, 3, 3, baseline, **places, position_tokens=[2, 2]
    )
    assert "by position" not in summary(found)
    lines = summary(found, by_position=True).splitlines()
    assert lines[-5] == "NLL (nats/token) by position in the window"
    assert lines[-2].split() == ["1", "2.5000", "2.0000", "+0.5000", "2"]
    assert lines[-1].split() == ["2", "2.0000", "2.2500", "-0.2500", "2"]


def test_a_benchmark_says_what_was_cut_and_what_was_kept() -> None:
    rows = [TaskScore("own", "acc", 0.75, 0.03, 200, 1.0, 0.028)]
    cut = [Cut("own", 3, 200, 2048), Cut("a\x1bb", 1, 9, 64)]
    made = Benchmark(MADE, "1", rows, cut=cut, baseline_from="2026-01-02T03:04:05+00:00")
    assert summary(made).splitlines()[-3:] == [
        "3 of 200 items of own were cut to the last 2048 tokens",
        "1 of 9 items of a�b was cut to the last 64 tokens",
        "the untouched model was measured in an earlier run, on 2026-01-02 at 03:04 UTC",
    ]


def test_logits_that_are_no_numbers_are_said() -> None:
    baseline = {"perplexity": math.nan, "nll": math.nan, "tokens": 9}
    out = summary(Perplexity(MADE, "0", math.nan, math.nan, 9, 10, 10, baseline))
    assert out.splitlines()[-1].startswith("The model's logits are not numbers (NaN)")
