"""A journal holds every finished step, drops a torn line, and belongs to one run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from inspector.errors import ResultError
from inspector.results.base import Provenance
from inspector.results.files import save
from inspector.results.journal import (
    Journal,
    discard,
    refuse_unfinished,
    require_unfinished,
    steps_in,
)
from inspector.results.trajectory import Step, Trajectory

ABOUT = {"model": "tiny:llama", "mask": "", "text": {"name": "own", "windows": 4}}


def step(number: int) -> Step:
    return Step(number, "1.attn", ["1.attn"], [], {"1.attn": 0.1 / 3, "2.ffn": math.nan},
                {"1.attn": "exact", "2.ffn": "stale"}, 9.5, 100, 8, 0.5)  # fmt: skip


def test_steps_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path, ABOUT)
    assert not journal.steps
    for number in range(3):
        journal.add(step(number))
    again = Journal(path, ABOUT, resume=True)
    assert [each.step for each in again.steps] == [0, 1, 2]
    assert again.steps[0].scores["1.attn"] == 0.1 / 3
    assert math.isnan(again.steps[0].scores["2.ffn"])
    again.add(step(3))
    assert len(Journal(path, ABOUT, resume=True).steps) == 4
    discard(path)
    assert not path.exists()
    discard(path)  # twice does no harm


def test_a_search_finds_its_place_again(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path, ABOUT)
    journal.add(step(0))
    assert Journal(path, ABOUT, resume=True).place == {}
    journal.add(step(1), {"generation": 0, "draw": (3, (1, 2), None)})
    for number in (1, 2):
        journal.add(None, {"generation": number, "draw": (3, (5, number), None)})
    again = Journal(path, ABOUT, resume=True)
    assert again.place == {"generation": 2, "draw": [3, [5, 2], None]}
    assert [each.step for each in again.steps] == [0, 1]
    assert steps_in(path) == 2 and steps_in(tmp_path / "none") == 0
    with pytest.raises(ResultError, match="holds 2 finished steps"):
        Journal(path, ABOUT)


def test_what_cannot_be_resumed_is_told_from_what_is_finished(tmp_path: Path) -> None:
    path, result = tmp_path / "run.json.journal", tmp_path / "run.json"
    with pytest.raises(ResultError, match=r"there is no .*journal to resume: leave out --resume"):
        require_unfinished(path, result)
    result.write_text("something else")
    with pytest.raises(ResultError, match="there is no "):
        require_unfinished(path, result)
    made = Provenance("tiny:llama", "", "llama", "float32", "cpu", 4)
    run = Trajectory(made, "", method="sleb", metric="nll", steps=[step(0)])
    save(dataclasses.replace(run, finished=False), result)
    with pytest.raises(ResultError, match="there is no "):
        require_unfinished(path, result)
    save(run, result)
    with pytest.raises(ResultError, match=r"run\.json holds a finished run, so there"):
        require_unfinished(path, result)
    Journal(path, ABOUT)
    require_unfinished(path, result)


def test_a_torn_line_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path, ABOUT)
    journal.add(step(0))
    before = path.read_bytes()
    journal.add(step(1))
    whole = path.read_bytes()
    for cut in range(len(before), len(whole), 7):
        path.write_bytes(whole[:cut])
        taken = Journal(path, ABOUT, resume=True)
        assert [each.step for each in taken.steps] == [0]
        assert path.read_bytes() == before
        taken.add(step(1))
        assert path.read_bytes() == whole


def test_a_journal_in_the_way_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    refuse_unfinished(path)
    Journal(path, ABOUT)
    refuse_unfinished(path)
    Journal(path, ABOUT).add(step(0))  # no step was finished: nothing is lost
    for attempt in (lambda: Journal(path, ABOUT), lambda: refuse_unfinished(path)):
        with pytest.raises(ResultError, match=r"holds 1 finished steps.*--resume.*or delete it"):
            attempt()
    assert len(Journal(path, ABOUT, resume=True).steps) == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "other"}, "model was tiny:llama and is other"),
        ({"mask": "3"}, "mask was nothing and is 3"),
        ({"text": {"name": "own", "windows": 5}}, "text windows was 4 and is 5"),
        ({"more": 1}, "more was nothing and is 1"),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path: Path, changed: dict, said: str) -> None:
    path = tmp_path / "run.journal"
    Journal(path, ABOUT).add(step(0))
    before = path.read_bytes()
    with pytest.raises(ResultError, match=f"is of another run and cannot be resumed: {said}\\."):
        Journal(path, {**ABOUT, **changed}, resume=True)
    assert path.read_bytes() == before


def test_a_line_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path, ABOUT)
    journal.add(step(0))
    journal.add(step(1))
    path.write_text(path.read_text().replace("9.5", "8.5", 1))
    with pytest.raises(ResultError, match=r"line 2 of .* is damaged or was changed"):
        Journal(path, ABOUT, resume=True)
    with pytest.raises(ResultError, match=r"there is no .* to resume"):
        Journal(tmp_path / "none", ABOUT, resume=True)
    path.write_bytes(b"\xff\xfe\n\n")
    with pytest.raises(ResultError, match="line 1"):
        Journal(path, ABOUT, resume=True)
    with pytest.raises(ResultError, match="cannot write"):
        Journal(tmp_path / "no" / "such", ABOUT)
