"""A run that was cut short and resumed from its journal is the run that was not."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inspector.errors import ResultError
from inspector.jobs import Cancelled
from inspector.measure.methods.evolution import Evolution
from inspector.measure.pruning import prune
from inspector.results.files import load
from inspector.results.journal import SUFFIX, Journal, discard, steps_in
from inspector.results.trajectory import Trajectory
from tests import plain
from tests import plain_methods as slow

pytestmark = pytest.mark.usefixtures("one_thread")

RUNS: list[dict[str, Any]] = [
    {"method": "finercut"},
    {"method": "finercut", "metric": "nll", "lazy": True, "verify": True},
    {"method": "finercut", "lazy": True},
    {"method": "finercut", "as_published": True, "protect_first_until": 0.3},
    {"method": "blockpruner", "only": "attn"},
    {"method": "sleb", "remove": 2},
    {"method": "shortgpt"},
    {"method": "angular"},
    {"method": "random", "seed": 3},
    {"method": "llm-drop-joint-iterative"},
    {"method": "ours"},
]
SEARCHES: list[dict[str, Any]] = [{"method": "evopress"}, {"method": "evopress-layer", "seed": 3}]
SHORT = Evolution(generations=9, offspring=3, starts=2, search_tokens=(16, 48))


def bare(run: Trajectory) -> Trajectory:
    """Without times, and without what was held: less is kept of steps before the interruption."""
    steps = [dataclasses.replace(step, seconds=0.0, stream_bytes=0) for step in run.steps]
    return dataclasses.replace(run, steps=steps, provenance=dataclasses.replace(
        run.provenance, seconds=0.0, created=""))  # fmt: skip


def cut_after(steps: int) -> Any:
    """A progress that cancels as soon as so many steps are there."""

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        if isinstance(partial, Trajectory) and len(partial.steps) > steps:
            raise Cancelled

    return progress


@pytest.mark.parametrize("asked", RUNS, ids=lambda asked: "-".join(map(str, asked.values())))
def test_it_goes_on_as_if_nothing_had_been(asked: dict[str, Any], tmp_path: Path) -> None:
    loaded = plain.tiny("llama")
    asked = {"remove": 3, **asked}
    windows, path = plain.text(loaded, 3, 24), tmp_path / "run.journal"
    mask = loaded.mask("1.ffn" if asked["method"] in ("finercut", "blockpruner") else "")
    whole = prune(loaded, windows, mask, **asked)
    for steps in range(asked["remove"]):
        with pytest.raises(Cancelled):
            prune(loaded, windows, mask, **asked, journal=path, progress=cut_after(steps))
        assert len(path.read_text().splitlines()) == steps + 2
        found = prune(loaded, windows, mask, **asked, journal=path, resume=True)
        assert repr(bare(found)) == repr(bare(whole))  # NaN equals NaN
        assert not math.isnan(found.provenance.seconds)
        assert len(path.read_text().splitlines()) == asked["remove"] + 2
        found = prune(loaded, windows, mask, **asked, journal=path, resume=True)
        assert repr(bare(found)) == repr(bare(whole)), "there was nothing left to do"
        discard(path)


class Killed(Exception):
    """Stands for a kill -9: nothing is tidied up."""


@pytest.mark.parametrize("asked", SEARCHES, ids=lambda asked: asked["method"])
def test_an_evolutionary_search_goes_on_after_any_generation(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very same draws, whether the last generation had bettered the elite or not."""
    loaded, path = slow.deep("llama"), tmp_path / "run.journal"
    windows, add = plain.text(loaded, 9, 16), Journal.add
    asked = {**asked, "remove": 4, "evolution": SHORT}

    def run(**more: Any) -> str:
        found = bare(prune(loaded, windows, loaded.mask("1.ffn"), **asked, **more))
        # What is kept of the untouched model for later draws is not there again after a kill.
        steps = [dataclasses.replace(step, stream_bytes=0) for step in found.steps]
        return repr(dataclasses.replace(found, steps=steps))

    def dying_after(lines: int) -> Any:
        def dying(self: Journal, *row: Any) -> None:
            add(self, *row)
            if path.read_bytes().count(b"\n") > lines:
                raise Killed

        return dying

    whole = run(journal=path)
    written = path.read_text().splitlines()
    steps = steps_in(path)
    assert len(written) == 1 + 2 + 9  # the head, the steps before and after the start, generations
    assert 2 < steps < len(written) - 1, "some generations are to better the elite, not all"
    assert run(journal=path, resume=True) == whole, "there was nothing left to do"
    for lines in range(1, len(written)):
        discard(path)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", dying_after(lines))
            with pytest.raises(Killed):
                run(journal=path)
        assert run(journal=path, resume=True) == whole
        assert len(path.read_text().splitlines()) == len(written), "no generation went twice"


def test_what_is_another_run_is_refused(tmp_path: Path) -> None:
    loaded, path = plain.tiny("llama"), tmp_path / "run.journal"
    windows, mask = plain.text(loaded, 3, 24), loaded.empty()
    with pytest.raises(Cancelled):
        prune(loaded, windows, mask, method="sleb", remove=2, journal=path, progress=cut_after(1))
    before = path.read_bytes()
    again = {"method": "sleb", "remove": 2, "journal": path, "resume": True}
    for change, words in (
        ({"remove": 1}, "bounds remove was 2 and is 1"),
        ({"method": "shortgpt"}, "method was sleb and is shortgpt"),
        ({"protect": loaded.mask("3")}, "options protect was nothing and is 3"),
        ({"check": plain.text(loaded, 2, 24)}, "check windows was 3 and is 2"),
    ):
        with pytest.raises(ResultError, match=words):
            prune(loaded, windows, mask, **{**again, **change})
    other = dataclasses.replace(windows, ids=windows.ids.flip(0))
    with pytest.raises(ResultError, match="text tokens was "):
        prune(loaded, other, mask, **again)
    with pytest.raises(ResultError, match=r"mask was nothing and is 2\.ffn"):
        prune(loaded, windows, loaded.mask("2.ffn"), **again)
    with pytest.raises(ResultError, match=r"model was .* and is "):
        prune(dataclasses.replace(loaded, source="other"), windows, mask, **again)
    with pytest.raises(ResultError, match="holds 2 finished steps"):
        prune(loaded, windows, mask, **{**again, "resume": False})
    with pytest.raises(ResultError, match="method was sleb and is evopress-layer"):
        prune(loaded, windows, mask, **{**again, "method": "evopress-layer"})
    assert path.read_bytes() == before


def test_a_killed_command_loses_one_step_at_most(tmp_path: Path) -> None:
    text, out = tmp_path / "long.txt", tmp_path / "run.json"
    text.write_text("a long text, " * 3000, encoding="utf-8")
    command = [sys.executable, "-m", "inspector", "prune", "tiny:llama", "--method", "blockpruner"]
    command += ["--remove", "6", "--corpus", f"file:{text}", "--samples", "120", "--length", "64"]
    command += ["--device", "cpu", "--dtype", "fp32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    journal = tmp_path / ("run.json" + SUFFIX)
    running = subprocess.Popen([*command, "-o", str(out)], env=environment)
    until = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert running.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = journal.read_bytes().count(b"\n") - 1
    assert not out.exists() and kept >= 2

    def said(*more: str) -> str:
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert f"holds {kept} finished steps" in said("-o", str(out))
    assert "--resume needs the -o FILE" in said("--resume")
    other = said("-o", str(out), "--resume", "--remove", "5")
    assert "bounds remove was 6 and is 5" in other
    subprocess.run([*command, "-o", str(out), "--resume"], env=environment, check=True)
    whole = tmp_path / "whole.json"
    subprocess.run([*command, "-o", str(whole)], env=environment, check=True)
    found, expected = load(out), load(whole)
    assert isinstance(found, Trajectory) and isinstance(expected, Trajectory)
    assert found.removed == expected.removed and found.finished
    assert not journal.exists()
    before = out.read_bytes()
    assert "holds a finished run, so there is nothing to resume" in said("-o", str(out), "--resume")
    assert out.read_bytes() == before
