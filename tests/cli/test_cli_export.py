"""`inspector export`: the plan, the folder, the recipe, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inspector.cli import exporting, main
from inspector.cli.commands import COMMANDS
from inspector.model.export import making
from inspector.model.export.forms import FORMS, NAMES
from inspector.model.export.llamacpp import reading

FP32 = ("--dtype", "fp32")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fresh process, which test_proof.py has."""
    check = {"name": "logits", "what": "all", "passed": True, "exact": True, "difference": 0.0}
    monkeypatch.setattr(making, "prove", lambda *_, **__: [check])


def ok(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["export", *argv]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["export", *argv]) == 2
    return capsys.readouterr().err


def files(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def test_without_a_folder_it_says_what_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("tiny:llama", "--mask", "0.attn,2", *FP32)
    data = json.loads(ok(capsys, *argv, "--json"))
    assert [each["format"] for each in data["formats"]] == list(FORMS)
    by_name = {each["format"]: each for each in data["formats"]}
    assert by_name["blocks"]["problem"].startswith("layer 0 is off only in part")
    assert by_name["compact"]["bytes"] < by_name["compact"]["source_bytes"]
    assert by_name["zeroed"]["bytes"] == by_name["zeroed"]["source_bytes"]
    text = ok(capsys, *argv)
    assert "not possible: layer 0 is off only in part" in text
    assert f"{by_name['compact']['bytes']:,}" in text
    assert "trust_remote_code=True" in text
    assert "not possible: no unit is off" in ok(capsys, "tiny:llama")


@pytest.mark.usefixtures("quick")
def test_a_folder_and_its_recipe_once_more(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    text = ok(capsys, "tiny:llama", "--mask", "0.attn,2", "-o", str(one), "--dtype", "bf16")
    assert "compact" in text
    assert "passed, bit for bit" in text
    recipe = str(one / "recipe.json")
    data = json.loads(ok(capsys, "--recipe", recipe, "-o", str(two), "--json"))
    assert data["folder"] == str(two)
    assert data["format"] == "compact"
    assert data["folder_bytes"] == sum(file.stat().st_size for file in two.iterdir())
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {
        f.name: f.read_bytes() for f in two.iterdir()
    }
    assert "is there already" in refused(capsys, "--recipe", recipe, "-o", str(two))
    ok(capsys, "--recipe", recipe, "-o", str(two), "--force")


@pytest.mark.usefixtures("quick")
def test_what_was_measured_goes_along_and_into_the_recipe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = ("tiny:llama", "--mask", "1.ffn", *FP32)
    perplexity, bench = str(tmp_path / "perplexity.json"), str(tmp_path / "bench.json")
    text = ("--corpus", "pydoc:check", "--samples", "3", "--length", "32")
    assert main(["perplexity", *place, *text, "-o", perplexity]) == 0
    tasks = ("--tasks", "own", "--limit", "2", "--fresh-baseline")
    assert main(["bench", *place, *tasks, "-o", bench]) == 0
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    ok(capsys, *place, "--checks", perplexity, "-o", one)
    recipe = json.loads(Path(one, "recipe.json").read_text(encoding="utf-8"))
    assert recipe["measured"] == [json.loads(Path(perplexity).read_text(encoding="utf-8"))]
    card = Path(one, "README.md").read_text(encoding="utf-8")
    assert "times the source's, 95 %, 3 windows)" in card
    # The recipe has them, so it alone makes the same folder.
    again = ("--recipe", f"{one}/recipe.json", "-o", two)
    ok(capsys, *again)
    assert files(one) == files(two)
    ok(capsys, *again, "--force", "--checks", perplexity)  # what is there already
    assert files(one) == files(two)
    ok(capsys, "--recipe", f"{one}/recipe.json", "-o", three, "--checks", bench)
    recipe = json.loads(Path(three, "recipe.json").read_text(encoding="utf-8"))
    assert [each["kind"] for each in recipe["measured"]] == ["perplexity", "benchmark"]


@pytest.mark.usefixtures("quick")
def test_what_is_no_check_of_this_export_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = tmp_path / "found.json"
    text = ("--corpus", "pydoc:check", "--samples", "1", "--length", "16")
    argv = ["perplexity", "tiny:llama", "--mask", "1.ffn", *FP32, *text, "-o", str(found)]
    assert main(argv) == 0
    checks, out = ("--checks", str(found)), ("-o", str(tmp_path / "out"))

    def no(*argv: str) -> str:
        said = refused(capsys, *argv, *checks, *FP32)
        assert not (tmp_path / "out").exists()
        return said

    said = no("tiny:llama", "--mask", "1.ffn")
    assert "name a folder with -o as well, or leave out --checks" in said
    said = no("tiny:llama", "--mask", "2", *out)
    assert f"{found} is no check of this export: it was measured without 1.ffn" in said
    said = no("tiny:mistral", "--mask", "1.ffn", *out)
    assert "it is of tiny:llama (llama, random, seed 0), and this model is tiny:mistral" in said
    data = json.loads(found.read_text(encoding="utf-8"))
    place = ("tiny:llama", "--mask", "1.ffn", *out)
    for changes, reason in (
        ({"kind": "speed"}, "this speed result is damaged"),
        ({"kind": "mask"}, f"{found}: not a saved result"),
        ({"format": 2}, "this version reads 1"),
        ({"mask": "\x1b[2J"}, "measured without \ufffd[2J, and"),
        ({"baseline": []}, "this perplexity result is damaged"),
    ):
        found.write_text(json.dumps({**data, **changes}), encoding="utf-8")
        assert reason in no(*place)
    for text in ("{", "[" * 100_000, "\udcff", ""):
        found.write_text(text, encoding="utf-8", errors="surrogateescape")
        assert f"{found} is not a JSON result" in no(*place)
    found.unlink()
    assert f"cannot read {found}: No such file" in no(*place)
    found.mkdir()
    assert "Is a directory" in no(*place)


@pytest.mark.usefixtures("quick")
def test_a_format_that_was_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    ok(capsys, "tiny:llama", "--mask", "2", "-o", out, "--format", "zeroed", *FP32)
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["export"] == "zeroed"


def test_a_gguf_file_and_its_recipe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READER", "no_such_module")
    one, two = tmp_path / "one", tmp_path / "two"
    argv = ("tiny:llama", "--mask", "0.attn,2", "--format", "gguf:q8_0", *FP32)
    text = ok(capsys, *argv, "-o", str(one))
    assert "gguf:q8_0" in text
    assert "not done" in text
    assert "llama.cpp: yes, as it is" in text
    data = json.loads(ok(capsys, "--recipe", str(one / "recipe.json"), "-o", str(two), "--json"))
    assert data["format"] == "gguf:q8_0"
    assert (one / "model.gguf").read_bytes() == (two / "model.gguf").read_bytes()
    assert "not possible: llama.cpp takes" in ok(capsys, "tiny:qwen3", "--mask", "2", *FP32)


def test_what_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ("-o", str(tmp_path / "out"))
    assert "name a model, or give --recipe" in refused(capsys)
    assert "an export is not possible here: no unit is off." in refused(capsys, "tiny:llama", *out)
    argv = ("tiny:llama", "--mask", "2")
    assert "there is no format 'gold'" in refused(capsys, *argv, "--format", "gold", *out)
    assert "there is no folder" in refused(capsys, *argv, "-o", str(tmp_path / "a" / "b"))
    assert "leave out --force" in refused(capsys, *argv, "--force")
    assert "--public is for a repository" in refused(capsys, *argv, "--public")
    for name in ("", "/", ".", "..", "a/.."):
        assert "is no name of a folder" in refused(capsys, *argv, "-o", name)
    assert "is in nobody's home" in refused(capsys, *argv, "-o", "~no-such-user-here/out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused_before_the_load(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "loaded_model", lambda *_: pytest.fail("it was loaded"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    argv = ("tiny:llama", "--mask", "2", "-o", str(tmp_path / "full"))
    assert "is there already" in refused(capsys, *argv)
    assert "is no export of this program" in refused(capsys, *argv, "--force")


def test_recipes_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole: dict[str, Any] = {
        "kind": "export",
        "format": 1,
        "source": "tiny:llama",
        "weights": "random, seed 0",
        "model_type": "llama",
        "dtype": "float32",
        "mask": {"depth": 4, "muted": ["2"]},
        "export": "blocks",
    }
    recipe = tmp_path / "recipe.json"

    def with_(**changes: Any) -> tuple[str, str]:
        recipe.write_text(json.dumps({**whole, **changes}), encoding="utf-8")
        return ("--recipe", str(recipe))

    assert "cannot read the recipe" in refused(capsys, "--recipe", str(tmp_path / "no"))
    recipe.write_text("{", encoding="utf-8")
    assert "is not JSON" in refused(capsys, "--recipe", str(recipe))
    for changes in ({"kind": "scores"}, {"format": 2}, {"mask": "2"}, {"source": None}):
        assert "is no recipe" in refused(capsys, *with_(**changes))
    assert "leave out --mask" in refused(capsys, *with_(), "--mask", "1")
    assert "is no recipe" in refused(capsys, *with_(measured={}))
    for damaged in ("x", {}, {"kind": "perplexity", "format": 1}):
        said = refused(capsys, *with_(measured=[damaged]))
        assert f"what the recipe {recipe} has measured: " in said
    assert "other weights (sha256 0123)" in refused(capsys, *with_(weights="sha256 0123"))
    assert "is for a gpt2, and tiny:llama is a llama" in refused(capsys, *with_(model_type="gpt2"))
    assert "weights (\ufffd[2J)" in refused(capsys, *with_(weights="\x1b[2J"))
    depth = {"depth": 5, "muted": ["2"]}
    assert "a model of 5 layers" in refused(capsys, *with_(mask=depth))
    assert "blocks" in ok(capsys, *with_())


def test_a_recipe_names_the_commit_of_its_source() -> None:
    """What a hub id stands for may have moved since."""
    for source, weights, found in (
        ("a/b", "revision 0123", "a/b@0123"),
        ("a/b@v1", "revision 0123", "a/b@v1"),
        ("tiny:llama", "random, seed 0", "tiny:llama"),
        ("folder", "sha256 0123", "folder"),
    ):
        assert exporting._source({"source": source, "weights": weights}) == found


def test_the_help_names_every_format() -> None:
    (row,) = [row for row in COMMANDS if row.name == "export"]
    (argument,) = [each for each in row.arguments if "--format" in each.names]
    assert all(name in argument.help for name in NAMES)
    assert row.usage.startswith("export [MODEL] [-o DIR]")
