"""An export opened again shows its source's depth, and computes what the muted source computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.errors import ExportError, LoadError, MaskError
from inspector.model import tiny
from inspector.model.export.forms import choices, choose
from inspector.model.export.making import export
from inspector.model.export.opening import GONE, opened
from inspector.model.loading import load, size_of
from inspector.model.surgery import muted
from inspector.units import Mask
from tests import plain
from tests.model.test_families import in_pieces, near

pytestmark = pytest.mark.usefixtures("one_thread", "no_proof")

MASKS = ["0.attn,1.ffn", "0,2", "0.attn,1,3.ffn", "0-3.attn", "0-3"]


@pytest.mark.parametrize("model_type", plain.TYPES)
def test_it_computes_what_the_muted_source_computes(model_type: str, tmp_path: Path) -> None:
    source = plain.tiny(model_type)
    ids = plain.random_ids(source, 2, 24)
    for number, text in enumerate(MASKS):
        mask = source.mask(text)
        made = export(source, mask, tmp_path / str(number))
        again = load(str(made.folder), dtype="fp32", device="cpu")
        assert again.depth == source.depth
        assert again.model_type == source.model_type
        gone = [info.unit for info in again.units if info.problem == GONE]
        assert gone == list(mask)
        assert again.toggleable() == [info.unit for info in source.units if info.unit not in mask]
        assert again.kv_bytes_left(again.empty()) == source.kv_bytes_left(mask)
        left = sum(info.parameters for info in again.units)
        assert left == sum(i.parameters for i in source.units if i.unit not in mask)
        expected = plain.logits(source, ids, mask)
        with torch.no_grad():
            assert torch.equal(again.model(input_ids=ids, use_cache=False).logits, expected), text
        assert near(in_pieces(again, ids, [7, 13, 4]), expected), text
        for unit in again.toggleable()[:2]:
            with muted(again, again.empty().mute([unit])), torch.no_grad():
                ours = again.model(input_ids=ids, use_cache=False).logits
            assert torch.equal(ours, plain.logits(source, ids, [*mask, unit])), (text, unit)


def test_a_vision_model_and_its_layers(tmp_path: Path) -> None:
    source = plain.composite(tmp_path / "source")
    mask = source.mask("0.attn,2")
    again = load(str(export(source, mask, tmp_path / "out").folder), dtype="fp32")
    assert [info.unit for info in again.units if info.problem] == list(mask)
    ids = plain.random_ids(source, 2, 24).clamp(min=10)
    with torch.no_grad():
        ours = again.model(input_ids=ids, use_cache=False).logits
    assert torch.equal(ours, plain.logits(source, ids, mask))


def test_its_size_is_its_own(tmp_path: Path) -> None:
    source = plain.tiny("llama")
    made = export(source, source.mask("0.attn,2"), tmp_path / "out")
    size = size_of(str(made.folder), dtype="fp32", device="cpu")
    assert size.layers == 4
    assert size.bytes == made.choice.bytes


def test_gone_is_gone(tmp_path: Path) -> None:
    source = plain.tiny("llama")
    made = export(source, source.mask("0.attn,2"), tmp_path / "out")
    again = load(str(made.folder), dtype="fp32", device="cpu")
    with pytest.raises(MaskError, match=r"2\.ffn cannot be muted: it was removed by the export"):
        again.mask("2.ffn")
    mask = again.mask("1.ffn")
    assert all("gone already" in choice.problem for choice in choices(again, mask))
    with pytest.raises(ExportError, match="export its source"):
        choose(again, mask)


def test_no_code_of_the_folder_is_run(tmp_path: Path) -> None:
    source = plain.tiny("llama")
    made = export(source, source.mask("0.attn"), tmp_path / "out")
    code = made.folder / "modeling_pruned_llama.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n", encoding="utf-8")
    assert load(str(made.folder), dtype="fp32", device="cpu").depth == 4
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "gpt2", "qwen2_moe"])
@pytest.mark.parametrize("form", ["zeroed", "moe-stub"])
def test_what_stands_in_for_removed_units_is_gone_too(
    model_type: str, form: str, tmp_path: Path
) -> None:
    source = plain.doctored(no_window, model_type) if model_type == "mistral" else None
    source = source or plain.tiny(model_type)
    ids = plain.random_ids(source, 2, 24)
    for number, text in enumerate(["1.ffn", "1.ffn,3", "0-3.ffn", "0,2"]):
        mask = source.mask(text)
        if any(each.form.name == form and each.problem for each in choices(source, mask)):
            continue
        made = export(source, mask, tmp_path / str(number), form=form)
        again = load(str(made.folder), dtype="fp32", device="cpu")
        assert (again.depth, again.model_type) == (source.depth, model_type)
        assert [info.unit for info in again.units if info.problem == GONE] == list(mask)
        assert torch.equal(plain.logits(again, ids), plain.logits(source, ids, mask)), text


def no_window(model: Any) -> None:
    model.config.sliding_window = None


@pytest.mark.parametrize("form", ["zeroed", "moe-stub"])
def test_a_stand_in_that_does_not_fit_its_recipe_is_opened_as_it_is(
    form: str, tmp_path: Path
) -> None:
    source = plain.tiny("llama")
    folder = export(source, source.mask("1.ffn"), tmp_path / "out", form=form).folder
    recipe, config = folder / "recipe.json", folder / "config.json"
    right, whole = (json.loads(file.read_text(encoding="utf-8")) for file in (recipe, config))
    for changes in (
        {"mask": {"depth": 9, "muted": ["1.ffn"]}},
        {"model_type": "no-such-type"},
        {"export": 3},
        {"export": "zeroed:f16", "mask": None},
    ):
        recipe.write_text(json.dumps({**right, **changes}), encoding="utf-8")
        assert opened(folder) is None
        assert load(str(folder), dtype="fp32", device="cpu").depth == 4
    recipe.write_text(json.dumps(right), encoding="utf-8")
    for changes in ({"hidden_size": "wide"}, {"num_hidden_layers": None}, {"model_type": "gpt2"}):
        config.write_text(json.dumps({**whole, **changes}), encoding="utf-8")
        assert opened(folder) is None


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("glm4_moe", {"first_k_dense_replace": 2}),
        ("ernie4_5_moe", {"moe_layer_start_index": 2, "moe_layer_end_index": 2}),
    ],
)
def test_mixtures_that_begin_at_a_layer(
    model_type: str, changes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setitem(tiny.TINY_COMMON, name, value)
    source = load(f"tiny:{model_type}", dtype="fp32", device="cpu")
    ids = plain.random_ids(source, 2, 24)
    for number, text in enumerate(["0", "1,3", "0.attn,2", "2-3", "0-1"]):
        mask = source.mask(text)
        made = export(source, mask, tmp_path / str(number))
        again = load(str(made.folder), dtype="fp32", device="cpu")
        assert again.depth == source.depth
        assert torch.equal(plain.logits(again, ids), plain.logits(source, ids, mask)), text


def test_a_recipe_that_does_not_fit_is_not_believed(tmp_path: Path) -> None:
    source = plain.tiny("llama")
    folder = export(source, source.mask("0.attn,2"), tmp_path / "out").folder
    recipe = folder / "recipe.json"
    right = json.loads(recipe.read_text(encoding="utf-8"))
    for changes in (
        {"kind": "scores"},
        {"export": "gold"},
        {"mask": {"depth": 9, "muted": ["2"]}},
        {"mask": "2"},
        {"model_type": "gpt2"},
        {"model_type": "../x"},
    ):
        recipe.write_text(json.dumps({**right, **changes}), encoding="utf-8")
        assert opened(folder) is None
        with pytest.raises(LoadError, match="needs code of its own"):
            load(str(folder), dtype="fp32", device="cpu")
    for text in ("{", "[]", "3"):
        recipe.write_text(text, encoding="utf-8")
        assert opened(folder) is None
    wrong = {"mask": Mask.parse("1.ffn,2", 4).to_json()}  # as deep, but other units
    recipe.write_text(json.dumps({**right, **wrong}), encoding="utf-8")
    with pytest.raises(LoadError, match="lacks 4 weights of its architecture"):
        load(str(folder), dtype="fp32", device="cpu")
