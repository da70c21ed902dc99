"""`import` and `masks`: what they print and write, and that the one reads what the other writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inspector.cli import main
from inspector.measure.foreign import FORMATS
from inspector.measure.foreign.blocks import pruneme_rows
from inspector.model.loading import load as load_model
from inspector.results.files import load
from inspector.results.scores import Similarity
from inspector.results.trajectory import Trajectory
from inspector.units import Mask, layers

MODEL = "tiny:llama"
SMALL = ["--samples", "2", "--length", "32", "--dtype", "fp32"]
ORDER = '{"1": [["mlp", 2]], "2": [["mha", 1], ["mlp", 2]]}'


def ok(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_a_file_is_printed_as_a_mask_and_an_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "order.json", tmp_path / "mask.json"
    file.write_text(ORDER)
    said = ok(capsys, "import", str(file), "--depth", "30", "-o", str(out))
    assert "BlockPruner's order, JSON: 2 of 60 units muted, 30 layers" in said
    assert "mask: 1.attn,2.ffn\norder: 2.ffn, 1.attn\n" in said
    assert json.loads(out.read_text()) == {"depth": 30, "muted": ["1.attn", "2.ffn"]}
    assert json.loads(ok(capsys, "import", str(out), "--json"))["depth"] == 30


def test_with_the_model_an_order_is_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "order.json", tmp_path / "run.json"
    file.write_text(ORDER)
    said = ok(capsys, "import", str(file), "--model", MODEL, "--dtype", "fp32", "-o", str(out))
    assert "blockpruner by perplexity; no perplexity measured" in said
    run, tiny = load(out), load_model(MODEL, dtype="fp32")
    assert isinstance(run, Trajectory) and run.removed == ["2.ffn", "1.attn"]
    assert run.provenance.command.startswith("inspector import ")
    assert [step.parameters for step in run.steps] == [
        tiny.parameters_left(tiny.mask(text)) for text in ("", "2.ffn", "1.attn,2.ffn")
    ]
    assert main(["plot", str(out), "-o", str(tmp_path / "run.html")]) == 0
    other = str(tmp_path / "other.json")
    ok(capsys, "prune", MODEL, "--remove", "2", "-o", other, *SMALL)
    assert "blockpruner, perplexity" in ok(capsys, "compare", str(out), other, "--at", "1%")


def test_with_the_model_a_mask_is_checked_against_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("1,2\n")
    assert "mask: 1-2" in ok(capsys, "import", str(file), "--model", MODEL)


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"pruneme"}))
def test_import_reads_what_masks_writes(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out"
    named = ["--mask", "3,5-6", "--depth", "8", "--to", form, "--model", "org/base"]
    printed = ok(capsys, "masks", *named)
    assert ok(capsys, "masks", *named, "-o", str(file)) == ""
    assert file.read_text().strip() == printed.strip()
    assert "mask: 3,5-6" in ok(capsys, "import", str(file), "--depth", "8")


def test_a_runs_order_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, late, mask = (str(tmp_path / name) for name in ("run.json", "late.json", "mask.json"))
    ok(capsys, "prune", MODEL, "--remove", "3", "-o", run, *SMALL)
    ok(capsys, "prune", MODEL, "--remove", "1", "--mask", "0", "-o", late, *SMALL)
    saved = load(run)
    assert isinstance(saved, Trajectory)
    sets = json.loads(ok(capsys, "masks", "--mask", run, "--to", "blockpruner"))
    assert list(sets) == ["1", "2", "3"]
    (tmp_path / "x.json").write_text(json.dumps(sets))
    said = ok(capsys, "import", str(tmp_path / "x.json"), "--depth", "4")
    assert f"order: {', '.join(saved.removed)}" in said
    # What was muted before it began has no order.
    assert list(json.loads(ok(capsys, "masks", "--mask", late, "--to", "blockpruner"))) == ["3"]
    ok(capsys, "masks", "--mask", run, "--to", "mask", "-o", mask)
    assert ok(capsys, "masks", "--mask", mask, "--to", "evopress").count("\n") == 4


def test_distances_are_written_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one similarity, and of the run that goes by it: the same numbers, and the same window."""
    alike, run, out = (str(tmp_path / name) for name in ("alike.json", "run.json", "out.csv"))
    ok(capsys, "similarity", MODEL, "-o", alike, *SMALL)
    ok(capsys, "prune", MODEL, "--method", "angular", "--remove", "2", "-o", run, *SMALL)
    result = load(alike)
    assert isinstance(result, Similarity)
    for size in (1, 2):
        named = ["masks", "--to", "pruneme", "--window", str(size)]
        text = ok(capsys, *named, "--mask", alike)
        assert ok(capsys, *named, "--mask", run) == text
        ok(capsys, *named, "--mask", alike, "-o", out)
        rows = pruneme_rows(Path(out).read_text())
        values = {start: result.angular_last[start, start + size] for start in range(1, 5 - size)}
        assert rows == [(start, start + size, value) for start, value in values.items()]
        best = min(values, key=lambda start: values[start])
        window = str(Mask.of(4, map(str, layers(best, best + size - 1))))
        assert f"mask: {window}\n" in ok(capsys, "import", out)
    assert ok(capsys, "masks", "--to", "pruneme", "--mask", run) == text  # its last step's


def test_a_run_of_our_own_is_named_as_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, sweep = str(tmp_path / "run.json"), str(tmp_path / "sweep.json")
    ok(capsys, "prune", MODEL, "--method", "reverse", "--remove", "1", "-o", run, *SMALL)
    ok(capsys, "sweep", MODEL, "-o", sweep, *SMALL)
    capsys.readouterr()
    for path, words in (
        (run, ("a pruning run of this program", "inspector plot", "inspector compare")),
        (sweep, ("a scores result of this program", "`inspector plot` draws it")),
    ):
        assert main(["import", path]) == 2
        said = capsys.readouterr().err
        assert all(word in said for word in words) and said.count("\n") == 1


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed, strange = str(tmp_path / "list.txt"), str(tmp_path / "strange.json")
    (tmp_path / "list.txt").write_text("1,9")
    (tmp_path / "strange.json").write_text('{"kind": "scores"}')
    alike, muted, run = (str(tmp_path / f"{name}.json") for name in ("alike", "muted", "run"))
    for path, mask in ((alike, ""), (muted, "1")):
        ok(capsys, "similarity", MODEL, "--mask", mask, "-o", path, *SMALL)
    ok(capsys, "prune", MODEL, "--method", "reverse", "--remove", "1", "-o", run, *SMALL)
    capsys.readouterr()
    masks = ["masks", "--mask"]
    for arguments, words in (
        (["import", listed], "does not say how many layers the model has"),
        (["import", listed, "--depth", "4"], "layer 9 is out of range: this model has 4 layers"),
        (["import", listed, "--model", MODEL], "layer 9 is out of range"),
        (["import", listed, "--depth", "0"], "a model of 0 layers there is none"),
        (["import", listed, "--depth", "4", "--model", MODEL], "leave out --depth or --model"),
        (["import", strange, "--depth", "4"], "a scores result of this program"),
        ([*masks, "1", "--depth", "4", "--to", "pruneme"], "holds distances, and a mask has none"),
        ([*masks, alike, "--to", "pruneme"], "how many layers a window has, 1 to 4: --window N"),
        ([*masks, alike, "--to", "pruneme", "--window", "5"], "1 to 4: --window N"),
        ([*masks, alike, "--to", "pruneme", "--window", "4"], "choose a smaller --window"),
        ([*masks, alike, "--to", "mask"], "is no pruning run but a similarity"),
        ([*masks, alike, "--to", "mask", "--window", "2"], "--window is for pruneme"),
        (
            [*masks, alike, "--to", "pruneme", "--window", "2", "--depth", "5"],
            "of a model with 4 layers, not 5",
        ),
        ([*masks, muted, "--to", "pruneme", "--window", "2"], "measured with 1 muted"),
        ([*masks, run, "--to", "pruneme"], "in a result of reverse: `inspector similarity"),
        (["import", "absent.txt"], "cannot read absent.txt"),
        ([*masks, "1", "--to", "mask"], "say how many layers the model has: --depth N"),
        ([*masks, "1", "--depth", "4", "--to", "x"], "'x' is no form that can be written"),
        ([*masks, "1", "--depth", "4", "--to", "mergekit"], "say which with --model"),
        ([*masks, "1.attn", "--depth", "4", "--to", "llama.cpp"], "whole layers only"),
        ([*masks, "9", "--depth", "4", "--to", "mask"], "layer 9 is out of range"),
        ([*masks, strange, "--to", "mask"], "has format None"),
        ([*masks, "absent.json", "--to", "mask"], "cannot read the mask absent.json"),
    ):
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said
