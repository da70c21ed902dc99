"""`inspector methods`: every row of the table, all that it says, and without loading anything."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from inspector.cli import main
from inspector.measure.methods import METHODS, NO_TEXT, WAYS, Method
from inspector.measure.methods.facts import DIRECTION, TIES, constraints, removes
from inspector.view.tabs.pruning import described

ROWS = list(METHODS.values())


def ok(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_the_tables_have_every_method_and_all_that_it_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = ok(capsys, "methods")
    what, costs, ways, end = said.split("\n\n")
    for lines, cells in (
        (
            what.splitlines()[1:],
            [(row.label, row.paper, removes(row), row.way, ", ".join(row.metrics)) for row in ROWS],
        ),
        (
            costs.splitlines()[1:],
            [(row.calibration, constraints(row) or "-", row.cost) for row in ROWS],
        ),
    ):
        assert len(lines) == len(ROWS)
        for line, row, parts in zip(lines, ROWS, cells, strict=True):
            assert [line.split()[0], *parts] == [
                row.name,
                *(part for part in parts if f"  {part}" in line),
            ]
    assert all(f"{name} " in ways and words in ways for name, words in WAYS.items())
    assert DIRECTION in end


def test_the_json_has_all_of_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ok(capsys, "methods", "--json"))
    assert [each["name"] for each in found] == list(METHODS)
    for each, row in zip(found, ROWS, strict=True):
        assert [one["name"] for one in each["metrics"]] == list(row.metrics)
        assert all(one["formula"] for one in each["metrics"])
        for name in ("label", "paper", "grain", "way", "calibration", "cost", "note"):
            assert each[name] == getattr(row, name)
        assert each["constraints"] == constraints(row) and each["direction"] == DIRECTION
        assert each["ties"] == TIES[row.order] and each["as_published"] == row.published
    assert json.loads(ok(capsys, "methods", "sleb", "--json")) == found[list(METHODS).index("sleb")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("finercut", "--protect-first-until bars first layers for a while"),
        ("sleb", "the first layer and the last layer stay"),
        ("deepest", "the last layer stays"),
        ("shortened-ppl", "the first 4 layers and the last 2 layers stay"),
        ("blockpruner", ""),
    ],
)
def test_constraints_in_words(name: str, words: str) -> None:
    assert constraints(METHODS[name]) == words


@pytest.mark.parametrize("row", ROWS, ids=list(METHODS))
def test_one_method_in_full(row: Method, capsys: pytest.CaptureFixture[str]) -> None:
    said = ok(capsys, "methods", row.name)
    plain = " ".join(said.split())
    for part in (row.label, row.paper, WAYS[row.way], row.calibration, row.cost, row.note):
        assert " ".join(part.split()) in plain
    assert max(map(len, said.splitlines())) <= 100


def test_an_unknown_method_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "magic"]) == 2
    said = capsys.readouterr().err
    assert "unknown method 'magic': choose one of finercut" in said and said.count("\n") == 1


def test_the_table_loads_nothing_heavy() -> None:
    code = (
        "import sys; from inspector.cli import main; main(['methods']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", ROWS, ids=list(METHODS))
def test_the_page_says_which_text_the_authors_took(row: Method) -> None:
    has = f"The authors' text: {row.calibration}. " in described(row)
    assert has == (row.calibration != NO_TEXT)
