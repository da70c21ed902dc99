"""A benchmark in parts: the same answers as in one go, and it stops when, and because, it may."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from inspector.errors import TaskError
from inspector.jobs import Cancelled
from inspector.measure import sequential
from inspector.measure.benchmark import Item, Score, Turn, benchmark
from inspector.measure.sequential import FIRST, LOOKS, until_decided
from inspector.measure.suites import SUITES
from inspector.measure.tasks import _expanded
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.checks import Cut
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return plain.tiny("llama")


def write(path: Path, count: int) -> Path:
    row = {"query": "one two", "choices": ["three", "four"], "gold": 0}
    lines = [json.dumps({**row, "query": f"{number} and"}) for number in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Fates:
    """Stands in for the models: item by item whether each of the two is right."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, here: list[int], there: list[int]) -> None:
        self.right, self.asked = {True: here, False: there}, []
        monkeypatch.setattr(sequential, "take_turn", self.turn)

    def turn(self, loaded: Any, found: Any, mask: Any, *, items: range, meter: Any) -> Turn:
        (name,) = found.tasks
        found.tasks[name].build_all_requests(rank=0, world_size=1)
        each = [float(self.right[len(mask) > 0][at]) for at in items]
        if len(mask):
            self.asked.append((name, items))
        meter.requests = len(items)
        meter.report()
        picks = [1 - int(value) for value in each]
        rows = [Item("q", ["a", "b"], 0)] * len(items)
        return Turn({(name, "acc"): Score(0.5, 0.1, len(each), each)}, {name: picks}, {name: rows})


def test_all_items_in_parts_are_all_items(loaded: LoadedModel, tmp_path: Path) -> None:
    mask = loaded.mask("1.attn,2")
    parts = until_decided(loaded, ["own"], mask, limit=130)
    whole = benchmark(loaded, ["own"], mask, limit=130)
    assert "undecided after all 130 items" in parts.stopped  # else equality would tell less
    for one, other in zip(parts.tasks, whole.tasks, strict=True):
        assert (one.task, one.metric, one.items) == (other.task, other.metric, other.items)
        assert (one.each, one.baseline_each) == (other.each, other.baseline_each)
        assert one.value == pytest.approx(other.value)
        assert one.stderr == pytest.approx(other.stderr)
        assert one.baseline_stderr == pytest.approx(other.baseline_stderr)
    assert (parts.picks, parts.baseline_picks) == (whole.picks, whole.baseline_picks)
    assert parts.flips == whole.flips


def test_it_stops_once_the_difference_is_no_chance(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "some.jsonl", 500)
    draw = random.Random(0)
    there = [1] * 500
    here = [int(draw.random() < 0.9) for _ in range(500)]  # a tenth lost: 50 items do not tell
    fates = Fates(monkeypatch, here, there)
    found = until_decided(loaded, [str(data)], loaded.mask("1"))
    assert [items for _, items in fates.asked] == [range(50), range(50, 100)]
    assert found.stopped == "some: decided by acc after 100 items"
    assert found.tasks[0].items == 100 and len(found.picks["some"]) == 100
    assert [flip.item for flip in found.flips] == [at for at in range(100) if not here[at]]


def test_it_stops_once_the_interval_is_narrow(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "some.jsonl", 450)
    fates = Fates(monkeypatch, [1] * 450, [1] * 450)
    found = until_decided(loaded, [str(data)], loaded.mask("1"), width=0.03)
    assert found.stopped == "some: acc within 0.03 after 100 items"
    fates.asked.clear()
    found = until_decided(loaded, [str(data)], loaded.mask("1"), width=0.001)
    assert found.stopped == "some: undecided after all 450 items"
    assert [len(items) for _, items in fates.asked] == [50, 50, 100, 200, 50]
    fates.asked.clear()
    found = until_decided(loaded, [str(data)], loaded.mask("1"), limit=70)
    assert found.stopped == "some: undecided after all 70 items"
    assert [items for _, items in fates.asked] == [range(50), range(50, 70)]


def test_every_task_goes_its_own_way(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / name, 60) for name in ("a.jsonl", "b.jsonl")]
    fates = Fates(monkeypatch, [0] * 60, [1] * 60)
    found = until_decided(loaded, [str(path) for path in paths], loaded.mask("1"))
    assert fates.asked == [("a", range(50)), ("b", range(50))]
    assert found.stopped == "a: decided by acc after 50 items; b: decided by acc after 50 items"
    assert [row.task for row in found.tasks] == ["a", "b"]


def test_what_is_too_long_is_counted_over_all_parts(tmp_path: Path) -> None:
    loaded = load("tiny:llama", dtype="fp32")
    loaded.model.config.max_position_embeddings = 40
    rows = [
        {"query": "x" * (60 if at % 25 == 7 else 9), "choices": ["a", "b"], "gold": at % 2}
        for at in range(70)
    ]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = until_decided(loaded, [str(path)], loaded.mask("1"))
    assert found.tasks[0].items == 70  # else the parts are not put together
    assert found.cut == [Cut("some", 3, 70, 40)]


def test_looks_cover_all_items_and_are_few() -> None:
    for every in (1, 49, 50, 51, 100, 5000):
        parts = list(sequential._parts(every))
        assert [at for part in parts for at in part] == list(range(every))
        assert len(parts) <= LOOKS and all(parts) and len(parts[0]) == min(every, FIRST)


def test_all_looks_together_seldom_decide_where_there_is_nothing() -> None:
    """Two models that are equally good, 1,600 items: at most one run in twenty may be wrong."""
    draw, wrong, runs = random.Random(1), 0, 600
    for _ in range(runs):
        fates = draw.choices((1, -1, 0), (0.05, 0.05, 0.9), k=1600)
        here, there = [float(f > 0) for f in fates], [float(f < 0) for f in fates]
        for part in sequential._parts(1600):
            end = part.stop
            turns = tuple(
                Turn({("t", "acc"): Score(0, 0, end, each[:end])}) for each in (here, there)
            )
            if sequential._reason("t", turns, None):  # pyright: ignore
                wrong += 1
                break
    assert wrong / runs <= 0.05


def test_progress_rises_shows_what_there_is_and_cancels(loaded: LoadedModel) -> None:
    seen: list[tuple[float, Any]] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        seen.append((done / total, partial))
        if done / total > 0.7:
            raise Cancelled

    with pytest.raises(Cancelled):
        until_decided(loaded, ["own"], loaded.mask("2"), limit=120, width=1e-6, progress=progress)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and len(set(shares)) > 10
    partial = seen[-1][1]
    assert partial.tasks[0].items in (50, 100) and not math.isnan(partial.tasks[0].baseline)
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


@pytest.mark.parametrize(
    ("mask", "more", "message"),
    [
        ("", {}, "nothing is muted"),
        ("1", {"width": 0.0}, "must be between 0 and 1"),
        ("1", {"width": 2.0}, "must be between 0 and 1"),
        ("1", {"limit": 0}, "cannot ask 0 items"),
    ],
)
def test_bad_input(loaded: LoadedModel, mask: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        until_decided(loaded, ["own"], loaded.mask(mask), **more)


def test_a_metric_that_is_no_mean_is_refused(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn(loaded: Any, found: Any, mask: Any, *, items: range, meter: Any) -> Turn:
        return Turn({("some", "perplexity"): Score(9.0, 0.1, len(items))})

    monkeypatch.setattr(sequential, "take_turn", turn)
    data = write(tmp_path / "some.jsonl", 60)
    with pytest.raises(TaskError, match="perplexity, which is no mean over items"):
        until_decided(loaded, [str(data)], loaded.mask("1"))


def test_a_suite_stands_for_its_tasks_once_each() -> None:
    asked = _expanded(["uidl-suite", "own", "finercut-suite"])
    assert list(asked)[:3] == ["mmlu", "boolq", "own"]
    assert (asked["mmlu"], asked["boolq"], asked["own"], asked["piqa"]) == (5, 0, None, 0)
    assert len(asked) == 1 + len(
        {name for s in ("uidl", "finercut") for name, _ in SUITES[f"{s}-suite"].tasks}
    )
