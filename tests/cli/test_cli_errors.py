"""A user's mistake is one line on stderr and exit code 2; an interrupt is 130 and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inspector.cli import main
from inspector.jobs import Cancelled
from inspector.model.tiny import tiny_tokenizer
from inspector.results.files import load
from inspector.results.scores import Scores
from inspector.results.trajectory import Trajectory

MODEL = "tiny:llama"
SMALL = ["--samples", "2", "--length", "32"]

MISTAKES: list[tuple[list[str], str]] = [
    (["explain", MODEL], "invalid choice: 'explain'"),
    (["sweep"], "the following arguments are required: MODEL"),
    (["sweep", MODEL, "--sampels", "2"], "unrecognized arguments: --sampels 2"),
    (["sweep", MODEL, "--samples", "two"], "argument --samples: invalid int value: 'two'"),
    (["sweep", MODEL, "--sample", "2"], "unrecognized arguments"),
    (["similarity", MODEL, "--kind", "cosine"], "invalid choice: 'cosine'"),
    (["sweep", "tiny:nothing"], "transformers knows no model type 'nothing'"),
    (["info", "./no/such/folder"], "there is no file or folder ./no/such/folder"),
    (["info", "no such model"], "is no source of a model"),
    (["info", "organisation/absent"], "is not on this machine and the hub cannot be reached"),
    (["info", MODEL, "--no-weights", "--mask", "1"], "a mask needs the weights"),
    (["info", MODEL, "--dtype", "int3"], "unknown dtype 'int3'"),
    (["info", MODEL, "--device", "toaster"], "unknown device 'toaster'"),
    (["info", MODEL, "--mask", "9.attn"], "layer 9 is out of range: this model has 4 layers"),
    (["info", MODEL, "--mask", "attn.1"], "'attn.1' is not a unit"),
    (["info", MODEL, "--mask", "3-1"], "runs backwards"),
    (["info", MODEL, "--mask", "@absent"], "cannot read the mask absent"),
    (["sweep", MODEL, "--metric", "mse"], "unknown metric 'mse'"),
    (["sweep", MODEL, "--mask", "0-3"], "no unit is left to score"),
    (["prune", MODEL], "say when to stop: --remove"),
    (["prune", MODEL, "--method", "magic", "--remove", "1"], "unknown method 'magic'"),
    (["prune", MODEL, "--metric", "mse", "--remove", "1"], "finercut goes by js, js-reversed, kl"),
    (["prune", MODEL, "--remove", "9", *SMALL], "cannot remove 9 units: 8 are left"),
    (["prune", MODEL, "--remove", "0", *SMALL], "remove 1 or more"),
    (["prune", MODEL, "--remove", "5", "--only", "ffn", *SMALL], "cannot remove 5 units: 4"),
    (["prune", MODEL, "--until-perplexity", "-1", *SMALL], "must be above 0"),
    (["prune", MODEL, "--until-perplexity", "2", *SMALL], "is above --until-perplexity 2 already"),
    (["prune", MODEL, "--remove", "1", "--resume"], "--resume needs the -o FILE of the run"),
    (
        ["prune", MODEL, "--remove", "1", "-o", "absent.json", "--resume"],
        "there is no absent.json.journal to resume: leave out --resume",
    ),
    (["prune", MODEL, "--remove-params", "10 percent"], "--remove-params takes a share such as"),
    (["prune", MODEL, "--remove-params", "0%"], "--remove-params takes a share such as"),
    (["prune", MODEL, "--remove-kv", "x" * 999], "--remove-kv takes a share such as 10% or 0.1"),
    (["prune", MODEL, "--remove-params", "95%", *SMALL], "cannot remove 95 % of the parameters"),
    (["prune", MODEL, "--remove", "1", "--protect", "0-3", *SMALL], "0-3 is protected"),
    (["prune", MODEL, "--remove", "1", "--protect", "9", *SMALL], "layer 9 is out of range"),
    (["prune", MODEL, "--remove", "1", "--protect-first-until", "2", *SMALL], "between 0 and 1"),
    (["prune", MODEL, "--method", "sleb", "--remove", "3", *SMALL], "cannot remove 3 layers: 2"),
    (["prune", MODEL, "--method", "evopress", "--remove", "3", *SMALL], "as many attentions as"),
    (["prune", MODEL, "--method", "evopress", "--until-perplexity", "9", *SMALL], "of one size"),
    (["prune", MODEL, "--remove", "2", "--starts", "3"], "finercut has no generations: leave out"),
    (
        ["prune", MODEL, "--method", "evopress", "--remove", "2", "--search-tokens", "5"],
        "--search-tokens takes two numbers",
    ),
    (["prune", MODEL, "--method", "sleb", "--metric", "js", "--remove", "1"], "sleb goes by nll"),
    (["perplexity", MODEL, "--corpus", "pydocs"], "no corpus is called 'pydocs'"),
    (["perplexity", MODEL, "--corpus", "wikitext2"], "wikitext2 needs a split"),
    (["perplexity", MODEL, "--corpus", "file:absent.txt"], "there is no file absent.txt"),
    (["perplexity", MODEL, "--length", "513"], "longer than the 512 that this model takes"),
    (["perplexity", MODEL, "--stride", "0"], "a stride of 0 is out of range"),
    (["perplexity", MODEL, "--samples", "0"], "cannot measure on 0 windows"),
    (["bench", MODEL, "--tasks", ","], "no task is named"),
    (["bench", MODEL, "--limit", "0"], "cannot ask 0 items"),
    (["bench", MODEL, "--limit", "0", "--mask", "1", "--until-decided"], "cannot ask 0 items"),
    (["bench", MODEL, "--tasks", "absent.jsonl"], "there is no file absent.jsonl"),
    (["speed", MODEL, "--tokens", "0"], "with 0 new tokens: ask for 1 or more"),
    (["speed", MODEL, "--rounds", "0"], "with 0 rounds: ask for 1 or more"),
    (["speed", MODEL, "--prompt-tokens", "500"], "a prompt of 500 tokens and 32 new ones make 532"),
    (["generate", MODEL], "the following arguments are required: --prompt"),
    (["generate", MODEL, "--prompt", "x", "--temperature", "0"], "a temperature of 0 is out of"),
    (["generate", MODEL, "--prompt", "x", "--top-p", "0.5"], "top-p needs a temperature"),
    (["generate", MODEL, "--prompt", "x" * 500], "a prompt of 500 tokens and 64 new ones make 564"),
    (["plot", "absent.json", "-o", "out.html"], "cannot read absent.json"),
    (["plot", "absent.json"], "the following arguments are required: -o"),
    (["plot", "absent.json", "-o", "no/such/folder.html"], "there is no folder no/such"),
    (["sweep", MODEL, "-o", "no/such/folder.json"], "there is no folder no/such"),
    (["sweep", MODEL, "-o", "."], "it is no name of a file"),
    (["sweep", MODEL, "-o", ""], "it is no name of a file"),
]


def mistake(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command says before it gives up."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("inspector: error: ")
    return err


@pytest.mark.parametrize(
    ("argv", "said"), MISTAKES, ids=lambda value: "_".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_line(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in mistake(capsys, *argv)
    assert not list(tmp_path.iterdir())


FILES: list[tuple[str, bytes, str]] = [
    ("short.txt", b"too short", "short.txt has 9 tokens and one window needs 32"),
    ("empty.txt", b" \n", "holds no text"),
    ("latin.txt", "é".encode("latin-1") * 99, "is not UTF-8 (byte 0)"),
    ("rows.jsonl", b'{"text": "a"}\n{"text": \n', "rows.jsonl, line 2 is not JSON"),
    ("rows.jsonl", b'{"text": "a"}\n\n{"words": "b"}\n', "rows.jsonl, line 3 has no string"),
    ("rows.csv", b"a,b\n", "must end in .txt or .jsonl"),
]


@pytest.mark.parametrize(("name", "data", "said"), FILES)
def test_a_bad_text_file_is_one_line(
    name: str, data: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    assert said in mistake(capsys, "sweep", MODEL, "--corpus", f"file:{tmp_path / name}", *SMALL)


MASKS: list[tuple[bytes, str]] = [
    (b'{"depth": 30, "muted": ["5.attn"]}', "for a model of 30 layers, the loaded model has 4"),
    (b'{"muted": ["5.attn"]}', "a mask in JSON looks like"),
    (b'{"depth": 4, "muted": "1"}', '"muted" must be a list'),
    (b'{"depth": 4, "muted": ["1.mlp"]}', "names no kind of unit"),
    (b"{", "is not JSON"),
    (b"\xff\xfe", "is not JSON"),
]


@pytest.mark.parametrize(("data", "said"), MASKS)
def test_a_bad_mask_file_is_one_line(
    data: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mask.json").write_bytes(data)
    assert said in mistake(capsys, "info", MODEL, "--mask", str(tmp_path / "mask.json"))


MODELS: list[tuple[dict[str, bytes], str]] = [
    ({}, "has no config.json"),
    ({"config.json": b'{"model_type": "llama"}'}, "no weights"),
    ({"config.json": b'{"model_type": "llama"}', "pytorch_model.bin": b"x"}, "only as pickles"),
    ({"config.json": b"{", "model.safetensors": b""}, "is not a valid JSON file"),
]


@pytest.mark.parametrize(("files", "said"), MODELS)
def test_a_bad_model_folder_is_one_line(
    files: dict[str, bytes], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if files:
        tiny_tokenizer().save_pretrained(tmp_path)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert said in mistake(capsys, "info", str(tmp_path))


RESULTS: list[tuple[str, str]] = [
    ("{}", "not a saved result"),
    ("[", "is not a JSON result"),
    ('{"kind": "scores", "format": 99}', "has format 99"),
    ('{"kind": "scores", "format": 1}', "this scores result is damaged"),
]


@pytest.mark.parametrize(("text", "said"), RESULTS)
def test_a_bad_result_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    file.write_text(text, encoding="utf-8")
    assert said in mistake(capsys, "plot", str(file), "-o", str(tmp_path / "out.html"))
    assert not (tmp_path / "out.html").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    assert "is read-only" in mistake(capsys, "sweep", MODEL, "-o", str(tmp_path / "x.json"))


def test_a_port_that_is_taken_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import ModuleType

    def refuse(**_: Any) -> None:
        raise OSError("address in use")

    page = ModuleType("inspector.view.page")
    page.__dict__["serve"] = refuse
    monkeypatch.setitem(sys.modules, "inspector.view.page", page)
    assert "cannot serve on 127.0.0.1:80 (address in use)" in mistake(
        capsys, "serve", "--port", "80"
    )


def test_a_bug_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspector.measure.sweep as module

    def wrong(*_: Any, **__: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(module, "sweep", wrong)
    with pytest.raises(KeyError, match="a bug"):
        main(["sweep", MODEL, *SMALL])


# Interrupts


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException]) -> None:
    """Let the race of that step of a run break off."""
    import inspector.measure.methods.scores as module

    real, calls = module.race, iter(range(1, 100))

    def race(*args: Any, **options: Any) -> Any:
        if next(calls) == step:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(module, "race", race)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled])
def test_an_interrupted_run_keeps_what_it_has(
    error: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt_at(monkeypatch, 3, error)
    file = tmp_path / "run.json"
    argv = ["prune", MODEL, "--remove", "4", "-o", str(file), *SMALL]
    assert main(argv) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"inspector: interrupted. What was measured so far is in {file}.\n"
    run = load(file)
    assert isinstance(run, Trajectory)
    assert not run.finished
    assert [step.step for step in run.steps] == [0, 1, 2]
    assert run.provenance.command.startswith("inspector prune")
    assert main(["plot", str(file), "-o", str(tmp_path / "run.html")]) == 0


def test_a_run_whose_file_cannot_be_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from inspector.results import files

    file, journal = tmp_path / "run.json", tmp_path / "run.json.journal"
    argv = ["prune", MODEL, "--remove", "3", "-o", str(file), *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(files, "save", lambda *_: files.load(file))  # fails as a full disk does
        mistake(capsys, *argv)
    assert not file.exists() and journal.read_bytes().count(b"\n") == 1 + 4
    assert "holds 4 finished steps of a run whose result was not saved" in mistake(capsys, *argv)
    interrupt_at(monkeypatch, 1, AssertionError)  # nothing is searched any more
    assert main([*argv, "--resume"]) == 0
    run = load(file)
    assert isinstance(run, Trajectory) and run.finished and len(run.steps) == 4
    assert not journal.exists()
    before = file.read_bytes()
    capsys.readouterr()
    assert "run.json holds a finished run, so there is nothing to" in mistake(
        capsys, *argv, "--resume"
    )
    assert file.read_bytes() == before


def test_a_perplexity_that_is_passed_at_the_start_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    argv = ["prune", MODEL, "--until-perplexity", "2.5", "-o", str(file), *SMALL]
    for _ in range(2):
        said = mistake(capsys, *argv)
        assert "nothing is to be removed: the perplexity at the start, " in said
        assert "is above --until-perplexity 2.5 already; give a higher one." in said
    assert not list(tmp_path.iterdir())


def test_running_out_of_memory_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from inspector.errors import OutOfMemory

    class Full(OutOfMemory):
        def __init__(self) -> None:
            super().__init__("out of memory: use a shorter --length.")

    interrupt_at(monkeypatch, 2, Full)
    file = tmp_path / "run.json"
    said = mistake(capsys, "prune", MODEL, "--remove", "4", "-o", str(file), *SMALL)
    assert "use a shorter --length. What was measured so far is in" in said
    run = load(file)
    assert isinstance(run, Trajectory)
    assert len(run.steps) == 2


def test_an_interrupt_without_a_file_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at(monkeypatch, 1, KeyboardInterrupt)
    assert main(["prune", MODEL, "--remove", "1", "--json", *SMALL]) == 130
    assert capsys.readouterr() == ("", "inspector: interrupted.\n")


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_stops_a_running_process(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    command = [sys.executable, "-m", "inspector", "sweep", MODEL, "--samples", "40000"]
    command += ["--corpus", f"file:{tmp_path / 'long.txt'}", "--length", "8", "-o", str(file)]
    (tmp_path / "long.txt").write_text("a long text, " * 30_000, encoding="utf-8")
    ours, theirs = os.openpty()  # on a terminal progress shows at once
    # A shell's background job, CI for one, hands down that interrupts are to be ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    seen = b""
    while b"worth" not in seen or b"left" not in seen[seen.index(b"worth") :]:
        seen += os.read(ours, 4096)  # ends with an error should the process end before
    sent = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert time.monotonic() - sent < 30
    said = os.read(ours, 65536).decode().splitlines()[-1]
    os.close(ours)
    assert (running.returncode, out) == (130, b"")
    assert "inspector: interrupted. What was measured so far is in" in said
    scores = load(file)
    assert isinstance(scores, Scores)
    assert not scores.complete
    assert json.loads(file.read_text(encoding="utf-8"))["windows_done"] < scores.windows
