"""The README agrees with the code: its tables, its pins, its commands and its Python."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from write_readme import MARKED, PARTS, README, pinned, regenerated
from write_requirements import ROOT

from inspector.cli.parser import build_parser
from inspector.results.files import load
from inspector.results.trajectory import Trajectory

TEXT = README.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def lines_of(command: str) -> list[str]:
    """The shell lines that begin with the command, without their comments."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.partition("  #")[0] for line in lines if line.startswith(command)]


def test_the_parts_made_from_the_code_are_up_to_date() -> None:
    assert regenerated(TEXT) == TEXT, "out of date: run `make readme`"


def test_every_part_stands_there_once() -> None:
    assert sorted(name for _, name, _ in MARKED.findall(TEXT)) == sorted(PARTS)
    assert TEXT.count("<!-- end -->") == len(PARTS)


def test_a_part_that_is_out_of_date_is_found() -> None:
    assert regenerated(TEXT.replace("| `gemma2` |", "| `gemma9` |")) == TEXT
    assert "| `gemma2` |" in TEXT


def test_a_space_can_read_it() -> None:
    head = re.match(r"---\n(.*?)\n---\n", TEXT, re.DOTALL)
    assert head is not None
    fields = dict(line.split(": ", 1) for line in head[1].splitlines())
    assert fields["sdk"] == "gradio"
    assert fields["sdk_version"] == pinned("gradio")
    assert fields["python_version"] == '"3.11"'
    assert fields["app_file"] == "app.py"
    assert fields["license"] == "apache-2.0"
    assert {"title", "emoji", "colorFrom", "colorTo"} <= set(fields)


def test_the_two_commands_are_there() -> None:
    assert lines_of("pip install uv") == [
        "pip install uv && uv run app.py  ",
        "pip install uv && uv run pytest  ",
    ]


def test_files_that_it_names_exist() -> None:
    named = re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT)
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_command_line_is_understood() -> None:
    lines = lines_of("uv run inspector")
    assert len(lines) >= 8
    for line in lines:
        build_parser().parse_args(shlex.split(line)[3:])


def test_every_make_target_is_there() -> None:
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
    named = [line.split()[1] for line in lines_of("make ")]
    assert {"check", "readme", "bench"} <= set(named) <= set(targets)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, on a tiny model and less text."""
    (code,) = blocks("python")
    for old, new in (('"smollm2"', '"tiny:llama"'), ("length=256", "length=32")):
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    ranking, ratio = out.getvalue().splitlines()
    assert re.fullmatch(r"\['\d\.\w+', '\d\.\w+', '\d\.\w+'\]", ranking)
    assert float(ratio) > 0
    run = load("run.json")
    assert isinstance(run, Trajectory)
    assert len(run.removed) == 2
    assert "Plotly.newPlot" in Path("run.html").read_text(encoding="utf-8")
