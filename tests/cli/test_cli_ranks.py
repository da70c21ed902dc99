"""`prune` in several real processes, as torchrun starts them and as a plain loop would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from inspector.cli import main
from inspector.errors import InspectorError
from inspector.results.files import load
from inspector.results.journal import SUFFIX
from inspector.results.trajectory import Trajectory
from tests import plain

MODEL = ["tiny:llama", "--device", "cpu", "--dtype", "fp32"]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
WAIT = 240


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


class Launched:
    """A command in two processes under torchrun, in a group of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [*LAUNCHER, "--master-port", free_port(), "-m", "inspector", *arguments]
        self.out, self.said = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as out, self.said.open("wb") as said:
            self.process = subprocess.Popen(
                command, env=environment(), stdout=out, stderr=said, start_new_session=True
            )

    def until(self, there: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT
        while not there():
            assert self.process.poll() is None and time.monotonic() < end, self.said.read_text()
            time.sleep(0.02)

    def rank(self, rank: int) -> psutil.Process:
        """The process of that rank."""
        children = psutil.Process(self.process.pid).children()
        return next(each for each in children if each.environ().get("RANK") == str(rank))

    def end(self) -> list[str]:
        """What the program itself has said on stderr, once all have ended."""
        try:
            self.process.wait(WAIT)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        lines = self.said.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.startswith("inspector: ")]


def steps(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


def test_killed_interrupted_and_resumed(tmp_path: Path) -> None:
    text, out = tmp_path / "long.txt", tmp_path / "run.json"
    text.write_text("a long text, " * 3000, encoding="utf-8")
    prune = ["prune", *MODEL, "--method", "blockpruner", "--remove", "6", "--corpus"]
    prune += [f"file:{text}", "--samples", "160", "--length", "64"]
    journal = tmp_path / ("run.json" + SUFFIX)

    running = Launched(tmp_path, *prune, "-o", str(out))
    running.until(lambda: steps(journal) >= 2)
    running.rank(1).kill()
    begun = time.monotonic()
    (said,) = running.end()
    assert time.monotonic() - begun < 60 and running.process.returncode
    assert said.startswith("inspector: error: rank 1 has died: ") and f"is in {out}." in said
    assert running.out.read_text() == ""
    kept = steps(journal)
    assert kept >= 2 and journal.read_bytes().endswith(b"\n")
    assert kept - len(_run(out).steps) in (0, 1)  # on disk before it is handed on

    running = Launched(tmp_path, *prune, "-o", str(out), "--resume")
    running.until(lambda: steps(journal) > kept)
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
    (said,) = running.end()
    assert said == f"inspector: interrupted. What was measured so far is in {out}."
    assert steps(journal) > kept

    running = Launched(tmp_path, *prune, "-o", str(out), "--resume")
    assert running.end() == [f"inspector: written to {out}"]
    assert running.process.returncode == 0 and not journal.exists()
    assert running.out.read_text().count("mask: ") == 1
    whole = tmp_path / "whole.json"
    with plain.one_thread():
        assert main([*prune, "-o", str(whole)]) == 0
    for found, expected in zip(_run(out).steps, _run(whole).steps, strict=True):
        assert found.removed == expected.removed
        assert (found.scores, found.perplexity) == (expected.scores, expected.perplexity)


def _run(path: Path) -> Trajectory:
    found = load(path)
    assert isinstance(found, Trajectory)
    return found


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (["--samples", "4"], ["--samples", "3"], "rank 1 is about to do something else than rank"),
        (["--remove", "0"], ["--remove", "0"], "remove 1 or more"),
        ([], ["--corpus", "file:nowhere.txt"], "rank 1: there is no file nowhere.txt"),
    ],
    ids=["they differ", "both", "the other"],
)
def test_a_mistake_is_said_once(
    tmp_path: Path, one: list[str], other: list[str], words: str
) -> None:
    out, port = tmp_path / "run.json", free_port()
    running = []
    for rank, more in enumerate((one, other)):
        command = [sys.executable, "-m", "inspector", "prune", *MODEL, "--remove", "1"]
        ranks = environment(
            RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        running.append(
            subprocess.Popen(
                [*command, "--length", "32", "-o", str(out), *more],
                env=ranks, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    said = [each.communicate(timeout=WAIT) for each in running]
    assert [each.returncode for each in running] == [2, 2]
    (first, told), (second, silent) = said
    assert first == second == "" and "inspector: " not in silent
    (line,) = (line for line in told.splitlines() if line.startswith("inspector: "))
    assert line.startswith(f"inspector: error: {words}")
    assert not out.exists()


def test_other_commands_run_in_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._C._distributed_c10d import HashStore

    from inspector import cli
    from inspector.measure.company import Company
    from inspector.measure.ranks import Ranks

    monkeypatch.setattr(cli, "join", lambda: Company(Ranks(0, 2, store=HashStore())))
    assert main(["sweep", "tiny:llama"]) == 2
    assert "prune alone runs in several processes" in capsys.readouterr().err


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from inspector.cli import inputs
    from inspector.cli.parser import build_parser
    from inspector.cli.progress import Meter
    from inspector.measure.ranks import ALONE, Ranks

    asked: list[str] = []

    def load(*_: object, device: str, **__: object) -> None:
        asked.append(device)
        raise InspectorError("far enough")

    monkeypatch.setattr("inspector.model.loading.load", load)
    ranks = Ranks(11, 16, 3)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for those, device in ((ranks, "auto"), (ranks, "cuda:1"), (ALONE, "auto")):
            args = build_parser().parse_args(["prune", "tiny:llama", "--device", device])
            args.ranks = those
            with pytest.raises(InspectorError, match="far enough"):
                inputs.loaded_model(args, Meter(sys.stderr))
    assert asked == ["cuda:3", "cuda:1", "auto", "auto", "cuda:1", "auto"]
