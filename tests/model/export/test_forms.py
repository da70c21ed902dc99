"""Which forms a mask allows, what they save, and why one is not possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inspector.errors import ExportError, MaskError
from inspector.model.export import configs, fresh, modelling, proof
from inspector.model.export.forms import FORMS, choices, choose
from inspector.model.export.making import write_model
from inspector.model.loaded import LoadedModel
from inspector.units import Mask
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")


def possible(loaded: LoadedModel, text: str) -> set[str]:
    return {c.form.name for c in choices(loaded, loaded.mask(text)) if not c.problem}


def problem(loaded: LoadedModel, text: str, form: str) -> str:
    (found,) = [c for c in choices(loaded, loaded.mask(text)) if c.form.name == form]
    return found.problem


def test_the_ladder() -> None:
    loaded = plain.tiny("qwen3")
    assert choose(loaded, loaded.mask("1,3")).form.name == "blocks"
    assert choose(loaded, loaded.mask("1,3.attn")).form.name == "compact"
    assert choose(loaded, loaded.mask("0-3")).form.name == "compact"
    assert {"blocks", "compact", "zeroed"} <= possible(loaded, "1,3")
    assert "blocks" not in possible(loaded, "0.attn")
    assert problem(loaded, "2,3.attn", "blocks").startswith("layer 3 is off only in part")
    assert problem(loaded, "0-3", "blocks") == "no layer would be left"


def test_ffns_alone_of_plain_families_need_no_code() -> None:
    for model_type in ("llama", "qwen2"):
        loaded = plain.tiny(model_type)
        assert choose(loaded, loaded.mask("1.ffn,3")).form.name in ("moe-stub", "compact")
        assert "moe-stub" in possible(loaded, "1.ffn,3")
        assert problem(loaded, "1.ffn,2.attn", "moe-stub").startswith("2.attn is off and the FFN")
        assert problem(loaded, "3", "moe-stub") == "no FFN is off in a layer that stays"
    assert "llama, mistral, qwen2 alone" in problem(plain.tiny("qwen3"), "1.ffn", "moe-stub")
    assert "sliding window" in problem(plain.tiny("mistral"), "1.ffn", "moe-stub")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("hidden_act", "gelu", "its FFN computes gelu, not silu"),
        ("attention_bias", True, "has no place for"),
        ("mlp_bias", True, "has no place for"),
    ],
)
def test_a_stub_is_refused_where_the_maths_differs(field: str, value: Any, reason: str) -> None:
    def change(model: Any) -> None:
        setattr(model.config, field, value)

    assert reason in problem(plain.doctored(change), "1.ffn", "moe-stub")


def test_a_stub_is_as_large_as_it_says() -> None:
    """A gate and a shared gate of H, and two experts of three matrices of H x 64."""
    loaded = plain.tiny("llama")
    sizes = {c.form.name: c.bytes for c in choices(loaded, loaded.mask("1.ffn,2.ffn"))}
    hidden = loaded.model.config.hidden_size
    assert sizes["moe-stub"] - sizes["compact"] == 2 * 4 * (2 * hidden + 6 * 64 * hidden)


def test_auto_never_takes_what_saves_nothing() -> None:
    for text in ("0.attn", "2", "0-3", "1.ffn"):
        loaded = plain.tiny("gemma2")
        choice = choose(loaded, loaded.mask(text))
        assert choice.bytes < choice.source_bytes
        assert 0 < choice.saved < 1
        assert choice.form.name != "zeroed"
    zeroed = choose(loaded, loaded.mask("1"), "zeroed")
    assert zeroed.bytes == zeroed.source_bytes
    assert zeroed.saved == 0


def test_nothing_off_is_nothing_to_export() -> None:
    loaded = plain.tiny()
    for name in ("auto", *FORMS):
        with pytest.raises(ExportError, match="no unit is off"):
            choose(loaded, loaded.empty(), name)


def test_what_is_not_possible_says_why() -> None:
    loaded = plain.tiny()
    with pytest.raises(ExportError, match=r"blocks is not possible here: layer 1 is off only"):
        choose(loaded, loaded.mask("1.ffn"), "blocks")
    with pytest.raises(ExportError, match=r"there is no format 'gold': choose auto, blocks, "):
        choose(loaded, loaded.mask("1"), "gold")
    with pytest.raises(MaskError, match="a model of 9 layers"):
        choose(loaded, Mask.parse("1", 9))


def test_layers_that_know_their_number_are_not_numbered_anew() -> None:
    def by_number(model: Any) -> None:
        model.config.scale_attn_by_inverse_layer_idx = True

    loaded = plain.doctored(by_number, "gpt2")
    for form in ("blocks", "compact"):
        assert problem(loaded, "1", form) == "its attention is scaled by the number of its layer"
    assert possible(loaded, "1") == {"zeroed"}


def test_sizes_are_those_on_disk(tmp_path: Path) -> None:
    """A safetensors file is its tensors' bytes and a header of names and shapes."""
    loaded = plain.tiny("phi3")
    for number, text in enumerate(("1", "0.attn,2.ffn", "0-3")):
        mask = loaded.mask(text)
        for choice in choices(loaded, mask):
            if choice.problem:
                continue
            folder = tmp_path / f"{number}-{choice.form.name}"
            folder.mkdir()
            write_model(loaded, mask, choice, folder)
            data = (folder / "model.safetensors").read_bytes()
            assert len(data) - 8 - int.from_bytes(data[:8], "little") == choice.bytes


def test_lists_with_an_entry_a_layer_are_cut() -> None:
    loaded = plain.tiny("gemma3_text")
    types = loaded.model.config.layer_types
    config = configs.cut(loaded, [0, 3])
    assert config.num_hidden_layers == 2
    assert config.layer_types == [types[0], types[3]]
    assert loaded.model.config.num_hidden_layers == 4
    assert configs.cut(plain.tiny("gpt2"), [1]).n_layer == 1


def test_dense_layers_of_a_mixture_keep_their_place() -> None:
    def every_other(model: Any) -> None:
        model.config.decoder_sparse_step = 2

    loaded = plain.doctored(every_other, "qwen3_moe")
    config = configs.cut(loaded, [1, 2, 3])  # of 0 dense, 1 sparse, 2 dense, 3 sparse
    assert config.mlp_only_layers == [1]
    assert config.decoder_sparse_step == 1


def test_a_list_as_long_by_chance_is_left_alone() -> None:
    def four_ends(model: Any) -> None:
        model.config.eos_token_id = [2, 3, 4, 5]

    loaded = plain.doctored(four_ends)
    assert configs.cut(loaded, [0, 1]).eos_token_id == [2, 3, 4, 5]


def test_the_code_has_names_of_classes_alone() -> None:
    loaded = plain.tiny("opt")
    code = modelling.source_code(loaded, loaded.mask("0.attn,1.ffn"))
    compile(code, "modeling.py", "exec")
    lines = [line for line in code.splitlines() if line.startswith(("import", "from"))]
    assert all(line.split()[1].partition(".")[0] in ("torch", "transformers") for line in lines)
    assert len(lines) == 4
    assert loaded.source not in code


def test_every_form_says_who_can_load_it() -> None:
    for form in FORMS.values():
        assert set(form.loads) == {"transformers", "vLLM", "llama.cpp"}


def test_the_stub_of_a_mistral_with_full_attention(tmp_path: Path) -> None:
    """The tiny one of the contract has a sliding window, for which there is no stub."""

    def full(model: Any) -> None:
        model.config.sliding_window = None

    loaded = plain.doctored(full, "mistral")
    mask = loaded.mask("0.ffn,2")
    write_model(loaded, mask, choose(loaded, mask, "moe-stub"), tmp_path)
    expected = proof.reference(loaded, mask)
    model, _ = fresh.load(str(tmp_path), proof.request_of(loaded, own_code=False))
    checks = fresh.compared(model.eval(), expected.pop("ids"), expected)
    assert all(check["passed"] for check in checks)
    assert sum(bool(check["exact"]) for check in checks) == 5
