"""`compare` on runs of a tiny model: the tables, the file, and what it refuses."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from inspector.cli import main
from inspector.results.files import load, save
from inspector.results.trajectory import Trajectory

MODEL = "tiny:llama"
SMALL = ["--samples", "2", "--length", "32", "--dtype", "fp32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two methods, and one at random by two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for name, more in (
        ("finercut", ["--remove", "4"]),
        ("reverse", ["--remove", "2"]),
        ("random", ["--remove", "2"]),
        ("random", ["--remove", "2", "--method-seed", "3"]),
    ):
        found.append(str(folder / f"{len(found)}.json"))
        assert main(["prune", MODEL, "--method", name, *more, "-o", found[-1], *SMALL]) == 0
    return found


def test_it_prints_the_runs_the_units_and_the_overlap(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out.html"
    capsys.readouterr()
    assert main(["compare", *runs, "--at", "10%", "-o", str(page)]) == 0
    said = capsys.readouterr()
    assert said.err == f"inspector: written to {page}\n"
    one, other = (load(path) for path in runs[:2])
    assert isinstance(one, Trajectory) and isinstance(other, Trajectory)
    lines = said.out.splitlines()
    assert lines[0].endswith("perplexity on pydoc:search, 2 x 32 tokens")
    assert "At 10 % of all parameters removed" in said.out
    assert any(line.startswith("A  finercut, js") for line in lines)
    assert any(line.startswith("B  reverse, from-end") and " 3" in line for line in lines)
    assert "Units on which the runs agree" in said.out and "Overlap" in said.out
    assert "random, 2 seeds: perplexity " in said.out
    assert "WARNING" not in said.out and "--method random" not in said.out
    assert any("units off" in line and "KV left, B/token" in line for line in lines)
    html = page.read_text(encoding="utf-8")
    assert html.count('class="figure"') == 1 and "Plotly.newPlot(" in html


def test_without_a_file_it_prints_alone(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["compare", *runs[:2]]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "finercut, js" in said.out


def test_it_says_that_texts_differ_and_how_to_make_a_band(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that it prints makes runs which become the band."""
    cut, page = str(tmp_path / "cut.json"), tmp_path / "out.html"
    run = load(runs[0])
    assert isinstance(run, Trajectory)
    corpus = {**run.provenance.corpus, "windows": 64}
    save(replace(run, metric="kl", provenance=replace(run.provenance, corpus=corpus)), cut)
    capsys.readouterr()
    assert main(["compare", runs[0], cut, "-o", str(page)]) == 0
    said = capsys.readouterr().out
    assert "\n\nWARNING: These runs were searched on different texts" in said
    assert "searched on different texts" in page.read_text(encoding="utf-8")
    (line,) = [each for each in said.splitlines() if each.startswith("  inspector prune ")]
    words, made = shlex.split(line), []
    for seed in ("0", "1"):
        words[words.index("--method-seed") + 1] = seed
        made.append(str(tmp_path / f"{seed}.json"))
        assert main([*words[1:-1], made[-1]]) == 0
    capsys.readouterr()
    assert main(["compare", runs[0], cut, *made]) == 0
    said = capsys.readouterr().out
    assert "random, 2 seeds: perplexity " in said and "inspector prune" not in said
    assert main(["compare", runs[0], runs[1], made[0]]) == 0
    assert "(A, B; random runs do not count)" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_sentence(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load(runs[0])
    other, cut = str(tmp_path / "other.json"), str(tmp_path / "cut.json")
    save(replace(run, provenance=replace(run.provenance, dtype="bfloat16")), other)
    assert isinstance(run, Trajectory)
    save(replace(run, check_corpus={**run.check_corpus, "length": 64}), cut)
    sweep = str(tmp_path / "sweep.json")
    assert main(["sweep", MODEL, "-o", sweep, *SMALL]) == 0
    capsys.readouterr()
    for arguments, words in (
        ([runs[0]], "choose two pruning runs or more"),
        ([runs[0], other], "different models (dtype: float32 and bfloat16)"),
        ([runs[0], cut], "different texts (length: 32 and 64)"),
        ([runs[0], sweep], "is no pruning run and no check of a mask but a scores"),
        ([runs[0], "absent.json"], "cannot read absent.json"),
        ([*runs[:2], "--at", "99%"], "choose a smaller share"),
        ([*runs[:2], "--at", "some"], "--at takes a share such as 10% or 0.1"),
        ([*runs[:2], "-o", "no/such/x.html"], "there is no folder no/such"),
    ):
        assert main(["compare", *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
