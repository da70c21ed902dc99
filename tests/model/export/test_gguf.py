"""A GGUF file computes what the muted model computes, and a wrong one is found and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, quantize

from inspector.errors import ExportError, LoadError
from inspector.jobs import Cancelled
from inspector.model.export.forms import AUTO, choices, choose
from inspector.model.export.llamacpp import keys, reading, stock, tensors, writing
from inspector.model.export.llamacpp.reading import read_back
from inspector.model.export.llamacpp.writing import write_gguf
from inspector.model.export.making import export, key_values
from inspector.model.export.opening import GONE
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load, size_of
from tests import plain
from tests.model.export import blocks, words

pytestmark = pytest.mark.usefixtures("one_thread", "without_llama_cpp")

MASKS = ["0.attn,1.ffn", "1", "1-2", "0.attn", "0.ffn", "3.attn", "0-3.attn", "0-3.ffn",
         "0-1,2.attn", "0-3", "1.attn,3.ffn"]  # fmt: skip
SUBJECTS = ("llama", "mistral", "qwen2")


@pytest.fixture
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed: test_llama_cpp.py is for where it is."""
    monkeypatch.setattr(reading, "READER", "no_such_module")


def no_window(model: Any) -> None:
    model.config.sliding_window = None


def subject(model_type: str) -> LoadedModel:
    if model_type == "mistral":
        return plain.doctored(no_window, "mistral")
    return plain.tiny(model_type)


def written(loaded: LoadedModel, text: str, folder: Path, name: str = "gguf:f32") -> Path:
    mask = loaded.mask(text)
    choice = choose(loaded, mask, name)
    said = key_values(loaded, mask, choice)
    write_gguf(loaded, mask, folder, kind=choice.type, said=said)
    checks = read_back(loaded, mask, folder / writing.FILE, said)
    assert [check["what"] for check in checks if not check["passed"]] == []
    return folder / writing.FILE


@pytest.mark.parametrize("model_type", SUBJECTS)
def test_it_computes_what_the_muted_model_computes(model_type: str, tmp_path: Path) -> None:
    loaded = subject(model_type)
    ids = plain.random_ids(loaded, 1, 20)
    for text in MASKS:
        file = written(loaded, text, tmp_path)
        expected = plain.logits(loaded, ids, loaded.mask(text))[0].numpy()
        ours = blocks.logits(file, ids[0])
        assert np.abs(ours - expected).max() < 2e-5 * np.abs(expected).max(), text
        whole = "." not in text and text != "0-3"
        assert blocks.File(file).arch == ("llama" if whole else "deci")


def test_sizes_of_blocks_are_those_of_the_mask(tmp_path: Path) -> None:
    loaded = plain.tiny("llama")
    values = blocks.File(written(loaded, "0.attn,1.ffn,2", tmp_path)).values
    assert values["block_count"] == 3
    assert values["attention.head_count"] == [1, 4, 4]  # one head of zeros: its size is read there
    assert values["attention.head_count_kv"] == [1, 2, 2]
    assert values["feed_forward_length"] == [128, 32, 128]
    values = blocks.File(written(loaded, "1.attn,2", tmp_path)).values
    assert values["attention.head_count"] == [4, 0, 4]
    values = blocks.File(written(loaded, "0,2", tmp_path)).values
    assert (values["block_count"], values["attention.head_count"]) == (2, 4)


@pytest.mark.parametrize(
    "rope",
    [
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "linear", "factor": 4.0},
    ],
    ids=["llama3", "linear"],
)
def test_scaled_positions(rope: dict[str, Any], tmp_path: Path) -> None:
    parameters = {"rope_theta": 10000.0, **rope}
    loaded = words.model(tmp_path / "model", rope_parameters=parameters)
    file = written(loaded, "0.attn", tmp_path)
    factors = blocks.File(file).tensors["rope_freqs.weight"]
    assert factors.max() == pytest.approx(rope["factor"])
    ids = plain.random_ids(loaded, 1, 40)
    expected = plain.logits(loaded, ids, loaded.mask("0.attn"))[0].numpy()
    assert np.abs(blocks.logits(file, ids[0]) - expected).max() < 2e-5 * np.abs(expected).max()


def test_a_head_of_its_own_and_a_width_of_heads_of_their_own(tmp_path: Path) -> None:
    changes = {"tie_word_embeddings": False, "head_dim": 8, "attention_bias": True}
    loaded = words.model(tmp_path / "model", **changes, mlp_bias=True)
    ids = plain.random_ids(loaded, 1, 20)
    for text in ("0.attn,2.ffn", "2"):
        file = written(loaded, text, tmp_path)
        assert "output.weight" in blocks.File(file).tensors
        assert "blk.1.attn_output.bias" in blocks.File(file).tensors
        expected = plain.logits(loaded, ids, loaded.mask(text))[0].numpy()
        assert np.abs(blocks.logits(file, ids[0]) - expected).max() < 2e-5 * np.abs(expected).max()
    tied = words.model(tmp_path / "tied", tie_word_embeddings=True)
    assert "output.weight" not in blocks.File(written(tied, "2", tmp_path)).tensors


@pytest.mark.parametrize("kind", tensors.TYPES)
def test_types_and_sizes(kind: str, tmp_path: Path) -> None:
    loaded = plain.tiny("llama")
    name = "gguf" if kind == "f16" else f"gguf:{kind}"
    reader = GGUFReader(written(loaded, "0.attn,1.ffn", tmp_path, name))
    choice = choose(loaded, loaded.mask("0.attn,1.ffn"), name)
    assert choice.name == name
    assert sum(each.n_bytes for each in reader.tensors) == choice.bytes
    types = {each.name: each.tensor_type.name.lower() for each in reader.tensors}
    assert types["blk.0.ffn_norm.weight"] == "f32"
    assert types["blk.1.attn_q.weight"] == kind
    assert types["blk.1.ffn_down.weight"] == kind  # rows of 32
    assert types["blk.0.attn_output.weight"] == ("f16" if kind == "q8_0" else kind)  # rows of 16
    assert reader.fields["general.file_type"].contents() == keys.FILE_TYPES[kind]


def test_what_the_types_cost(tmp_path: Path) -> None:
    """The check tells by how much a type is off, and exactness where there is some."""
    loaded = plain.tiny("llama")
    off = {}
    for name in ("gguf:f32", "gguf", "gguf:bf16", "gguf:q8_0"):
        made = export(loaded, loaded.mask("1.ffn"), tmp_path / name, form=name)
        (check,) = [check for check in made.checks if check["name"] == "weights"]
        assert check["exact"] == (name == "gguf:f32")
        off[name] = check["difference"]
    assert 0 == off["gguf:f32"] < off["gguf"] < off["gguf:bf16"] < off["gguf:q8_0"] < 0.003


def test_q8_0_may_be_off_by_half_a_step_and_no_more() -> None:
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    from gguf import GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType.Q8_0
    ours = torch.from_numpy(dequantize(quantize(weights.numpy(), kind), kind))
    assert reading._as_rounded(ours, weights, "Q8_0")
    step = weights[0, :32].abs().max() / 127
    ours[0, 3] += step
    assert not reading._as_rounded(ours, weights, "Q8_0")
    assert not reading._as_rounded(weights, weights, "Q4_0")


def test_a_finished_export(tmp_path: Path) -> None:
    loaded = words.model(tmp_path / "model", "smollm")
    mask = loaded.mask("0.attn,2")
    made = export(loaded, mask, tmp_path / "out", form="gguf:q8_0")
    names = {file.name for file in made.folder.iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "layers.svg",
        "model.gguf",
        "proof.json",
        "recipe.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    verdicts = {check["name"]: check["passed"] for check in made.checks}
    assert verdicts == {
        "key-values": True,
        "layers": True,
        "tensors": True,
        "weights": True,
        "stubs": True,
        "tokenizer": True,
        "llama.cpp": None,
    }
    recipe = json.loads((made.folder / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["export"] == "gguf:q8_0"
    assert recipe["checks"] == made.checks
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "| not done | - |" in card
    assert "llama-cli -m PATH/model.gguf" in card
    assert "library_name" not in card
    assert "- Its matrices are in Q8_0." in card
    export(loaded, mask, tmp_path / "again", form="gguf:q8_0")
    assert {f.name: f.read_bytes() for f in made.folder.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()
    }


def test_auto_never_takes_it() -> None:
    loaded = plain.tiny("llama")
    for text in MASKS:
        assert choose(loaded, loaded.mask(text), AUTO).form.name != "gguf"


def broken_rows(rows: np.ndarray, size: int) -> np.ndarray:
    return rows


def one_head_more(*given: Any) -> Any:
    heads, kv_heads, widths = keys_per_layer(*given)
    return [*heads[:-1], heads[-1] + 1], kv_heads, widths


def without_a_norm(*given: Any) -> Any:
    return [weight for weight in layout(*given) if weight.name != "blk.2.ffn_norm.weight"]


def a_little_more(*given: Any) -> Any:
    found = values(*given)
    return found + 0.01 if given[1].module is None else found


keys_per_layer, layout, values = keys.per_layer, tensors.layout, tensors.values


@pytest.mark.parametrize(
    ("module", "name", "wrong", "check"),
    [
        (tensors, "permuted", broken_rows, "weights"),
        (tensors, "layout", without_a_norm, "tensors"),
        (tensors, "values", a_little_more, "stubs"),
        (keys, "per_layer", one_head_more, "layers"),
        (keys, "FILE_TYPES", {"f16": 7.5}, "key-values"),
    ],
    ids=["weights", "tensors", "stubs", "layers", "key-values"],
)
def test_a_wrong_file_is_found(
    module: Any,
    name: str,
    wrong: Any,
    check: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if check == "key-values":
        pack = writing.write_gguf

        def other(*given: Any, said: Any, **more: Any) -> None:
            changed = keys.KeyValue(9999, "UINT32")
            pack(*given, said={**said, "deci.context_length": changed}, **more)

        monkeypatch.setattr("inspector.model.export.making.write_gguf", other)
    else:
        monkeypatch.setattr(module, name, wrong)
    loaded = plain.tiny("llama")
    with pytest.raises(ExportError, match=rf"failed its check '{check}' .* was deleted"):
        export(loaded, loaded.mask("0.attn,1.ffn"), tmp_path / "out", form="gguf")
    assert list(tmp_path.iterdir()) == []


def test_another_token_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = words.model(tmp_path / "model")
    mask = loaded.mask("1")
    said = key_values(loaded, mask, choose(loaded, mask, "gguf"))
    tokens = said["tokenizer.ggml.tokens"].value
    tokens[300], tokens[301] = tokens[301], tokens[300]
    write_gguf(loaded, mask, tmp_path, kind="f16", said=said)
    checks = read_back(loaded, mask, tmp_path / writing.FILE, said)
    assert [check["name"] for check in checks if not check["passed"]] == ["tokenizer"]


class Until:
    """A progress that counts its calls, and cancels after some of them."""

    def __init__(self, last: float = float("inf")) -> None:
        self.calls, self.last = 0, last

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        self.calls += 1
        if self.calls > self.last:
            raise Cancelled


def test_a_cancel_leaves_nothing(tmp_path: Path) -> None:
    loaded = plain.tiny("llama")
    whole = Until()
    export(loaded, loaded.mask("1"), tmp_path / "whole", form="gguf", progress=whole)
    assert whole.calls > 60  # every tensor twice
    for last in (0, 5, whole.calls // 2, whole.calls - 4):
        with pytest.raises(Cancelled):
            export(loaded, loaded.mask("1"), tmp_path / "out", form="gguf", progress=Until(last))
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_what_half_precision_cannot_hold_is_said(tmp_path: Path) -> None:
    def large(model: Any) -> None:
        model.model.layers[2].mlp.up_proj.weight.data[0, 0] = 1e6

    loaded = plain.doctored(large)
    with pytest.raises(ExportError, match=r"blk.1.ffn_up.weight has .* range of F16: .*gguf:bf16"):
        export(loaded, loaded.mask("0"), tmp_path / "out", form="gguf")
    assert list(tmp_path.iterdir()) == []
    export(loaded, loaded.mask("0"), tmp_path / "out", form="gguf:bf16")


def refusal(loaded: LoadedModel) -> str:
    (found,) = [c for c in choices(loaded, loaded.mask("1.ffn")) if c.form.name == "gguf"]
    return found.problem


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("hidden_act", "gelu", "its FFN computes gelu, not silu, so use compact"),
        ("sliding_window", 8, "has a window of 8 tokens"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}, r"positions (yarn) are none"),
        (
            "rope_parameters",
            {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            "are none that one factor",
        ),
        ("vocab_size", 100, "its tokenizer has more tokens than the model has embeddings"),
    ],
)
def test_what_llama_cpp_has_no_place_for(field: str, value: Any, reason: str) -> None:
    def change(model: Any) -> None:
        setattr(model.config, field, value)

    assert reason in refusal(plain.doctored(change))


def test_other_families_are_sent_elsewhere() -> None:
    for model_type in ("qwen3", "gpt2", "gemma2", "mixtral"):
        assert refusal(plain.tiny(model_type)).endswith("so use blocks or compact")
    with pytest.raises(ExportError, match=r"gguf:q8_0 is not possible here: llama\.cpp takes"):
        choose(plain.tiny("qwen3"), plain.tiny("qwen3").mask("1"), "gguf:q8_0")
    with pytest.raises(ExportError, match="there is no format 'gguf:q2_k'"):
        choose(plain.tiny(), plain.tiny().mask("1"), "gguf:q2_k")

    def more(model: Any) -> None:
        model.model.layers[0].self_attn.q_norm = torch.nn.LayerNorm(16)

    assert "has no place for its model.layers.0.self_attn.q_norm" in refusal(plain.doctored(more))


@pytest.mark.parametrize("model_type", SUBJECTS)
def test_it_is_opened_again_at_the_source_s_depth(model_type: str, tmp_path: Path) -> None:
    source = subject(model_type)
    ids = plain.random_ids(source, 2, 24)
    for number, text in enumerate(MASKS):
        mask = source.mask(text)
        made = export(source, mask, tmp_path / str(number), form="gguf:f32")
        again = load(str(made.folder), dtype="fp32", device="cpu")
        assert (again.depth, again.model_type) == (source.depth, model_type)
        assert [info.unit for info in again.units if info.problem == GONE] == list(mask)
        assert torch.equal(plain.logits(again, ids), plain.logits(source, ids, mask)), text
        assert again.kv_bytes_left(again.empty()) == source.kv_bytes_left(mask)


def test_the_file_in_its_folder_is_the_folder(tmp_path: Path) -> None:
    source = plain.tiny("llama")
    made = export(source, source.mask("0.attn,2"), tmp_path / "out", form="gguf:f32")
    folder = load(str(made.folder), dtype="fp32", device="cpu")
    file = load(str(made.folder / "model.gguf"), dtype="fp32", device="cpu")
    assert file.depth == folder.depth == source.depth
    assert file.weights == folder.weights
    size = size_of(str(made.folder), dtype="fp32", device="cpu")
    assert size.layers == source.depth


@pytest.mark.parametrize("name", tensors.TYPES)
def test_packed_weights_are_unpacked(name: str, tmp_path: Path) -> None:
    changes = {"tie_word_embeddings": False, "head_dim": 8, "attention_bias": True}
    rope = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}
    source = words.model(tmp_path / "model", **changes, mlp_bias=True, rope_parameters=rope)
    mask = source.mask("0.attn,1.ffn,3")
    form = "gguf" if name == "f16" else f"gguf:{name}"
    made = export(source, mask, tmp_path / "out", form=form)
    again = load(str(made.folder), dtype="fp32", device="cpu")
    ids = plain.random_ids(source, 2, 40)
    expected = plain.logits(source, ids, mask)
    apart = float((plain.logits(again, ids) - expected).abs().max() / expected.abs().max())
    assert apart <= {"f32": 0, "f16": 2e-3, "bf16": 2e-2, "q8_0": 5e-2}[name]
    assert (apart == 0) == (name == "f32")
    assert again.tokenizer(words.TEXT)["input_ids"] == source.tokenizer(words.TEXT)["input_ids"]
    assert again.tokenizer.chat_template == source.tokenizer.chat_template


def test_a_file_without_its_folder_is_opened_as_it_is(tmp_path: Path) -> None:
    loaded = words.model(tmp_path / "model")
    made = export(loaded, loaded.mask("1,3"), tmp_path / "out", form="gguf:f32")
    file = words.alone(made.folder)
    with pytest.raises(LoadError, match=r"no config\.json, but a GGUF file: give .*other\.gguf"):
        load(str(file.parent))
    again = load(str(file), dtype="fp32", device="cpu")
    assert again.depth == 2
    ids = plain.random_ids(loaded, 2, 24)
    expected = plain.logits(loaded, ids, loaded.mask("1,3"))
    assert torch.allclose(plain.logits(again, ids), expected, rtol=1e-4, atol=1e-5)
    text = "The cat sat on the mat"
    assert again.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    # What came from a GGUF file takes its tokenizer along as it stands there.
    twice = export(again, again.mask("0.ffn"), tmp_path / "twice", form="gguf")
    old, new = (blocks.File(each).values for each in (file, twice.folder / "model.gguf"))
    assert {k: v for k, v in old.items() if k.startswith("tokenizer.")} == {
        k: v for k, v in new.items() if k.startswith("tokenizer.")
    }
    file.unlink()
    with pytest.raises(LoadError, match="there is no file or folder"):
        export(again, again.mask("0.ffn"), tmp_path / "thrice", form="gguf")
    with pytest.raises(LoadError, match=r"\(deci\), which only llama\.cpp loads: load the whole"):
        load(str(words.alone(twice.folder)))


def test_a_recipe_of_another_file_is_found(tmp_path: Path) -> None:
    loaded = plain.tiny("llama")
    folder = export(loaded, loaded.mask("1.ffn"), tmp_path / "out", form="gguf").folder
    other = export(loaded, loaded.mask("2.ffn"), tmp_path / "other", form="gguf").folder
    (other / "model.gguf").replace(folder / "model.gguf")
    with pytest.raises(LoadError, match="lacks 3 weights of its architecture"):
        load(str(folder), dtype="fp32", device="cpu")
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(LoadError, match=r"model\.gguf cannot be read as a model"):
        load(str(folder), dtype="fp32", device="cpu")
    (folder / "model.gguf").unlink()
    with pytest.raises(LoadError, match=r"has a config\.json but no weights"):
        load(str(folder), dtype="fp32", device="cpu")


def test_a_tokenizer_that_breaks_its_library_is_a_sentence(tmp_path: Path) -> None:
    """One without merges, for which a pair stands in the file that makes no token."""
    loaded = plain.tiny("llama")
    made = export(loaded, loaded.mask("1"), tmp_path / "out", form="gguf")
    with pytest.raises(LoadError, match=r"has a tokenizer that cannot be read here"):
        load(str(words.alone(made.folder)))


def test_without_its_library_llama_cpp_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert [check["passed"] for check in stock.main({})] == [None]


def test_divergence_is_that_of_the_textbook() -> None:
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2
    assert stock.divergence(np.log(p) + 3, np.log(q) - 1) == pytest.approx(expected)
