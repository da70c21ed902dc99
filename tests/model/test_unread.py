"""Scaled positions and biases of GGUF files: read where transformers can, else refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from inspector.errors import LoadError
from inspector.model import loading
from inspector.model.export import making
from inspector.model.export.making import export
from inspector.model.loading import load, size_of
from inspector.model.unread import FREQS, LLAMA3, read_header
from tests import plain
from tests.model.export import words

pytestmark = pytest.mark.usefixtures("one_thread")

LLAMA31 = {"rope_type": "llama3", "factor": 8.0, **LLAMA3}
PLAIN = {"rope_theta": 500000.0, "rope_type": "default"}
LONG = 600
"""Tokens, at which the frequencies that are slowed down tell."""


def written(folder: Path, **rope: Any) -> tuple[Any, Path]:
    """A model with such positions, and a GGUF file of it without its layer 2."""
    parameters = {"rope_theta": 500000.0, **rope}
    changes = {"max_position_embeddings": 1024, "rope_parameters": parameters}
    loaded = words.model(folder / "model", head_dim=64, **changes)
    export(loaded, loaded.mask("2"), folder / "out", form="gguf:f32")
    return loaded, words.alone(folder / "out")


@pytest.mark.parametrize(
    "rope",
    [LLAMA31, {**LLAMA31, "factor": 32.0}, {"rope_type": "linear", "factor": 4.0}],
    ids=["3.1", "3.2", "linear"],
)
def test_a_file_with_scaled_positions_computes_as_its_source(
    rope: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = written(tmp_path, **rope)
    ids = plain.random_ids(source, 1, LONG)
    expected = plain.logits(source, ids, source.mask("2"))

    def apart() -> float:
        loaded = load(str(file), dtype="fp32", device="cpu")
        return float((plain.logits(loaded, ids) - expected).abs().max() / expected.abs().max())

    assert apart() < 1e-4
    config = loading._gguf_config(file, file.stat().st_mtime_ns)
    assert config.rope_parameters == {"rope_theta": 500000.0, **rope}
    # And so it would be without: it is ignored.
    monkeypatch.setattr(loading, "with_scaled_positions", lambda config, _: config)
    loading._gguf_config.cache_clear()
    assert apart() > 1e-2
    loading._gguf_config.cache_clear()


def test_biases_that_would_be_left_out_are_refused(tmp_path: Path) -> None:
    source = words.model(tmp_path / "model", attention_bias=True, rope_parameters=PLAIN)
    export(source, source.mask("2"), tmp_path / "out", form="gguf:f32")
    file = words.alone(tmp_path / "out")
    assert any(name.endswith("attn_q.bias") for name in read_header(file).tensors)
    with pytest.raises(LoadError, match=r"has 12 biases .*LlamaForCausalLM.* load its safetensors"):
        load(str(file), dtype="fp32", device="cpu")


def test_what_is_exported_of_such_a_file_has_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "prove", lambda *_, **__: [])
    source, file = written(tmp_path, **LLAMA31)
    loaded = load(str(file), dtype="fp32", device="cpu")
    export(loaded, loaded.mask("1"), tmp_path / "folder", form="blocks")
    again = load(str(tmp_path / "folder"), dtype="fp32", device="cpu")
    assert again.model.config.rope_parameters["rope_type"] == "llama3"
    ids = plain.random_ids(source, 1, LONG)
    expected = plain.logits(source, ids, source.mask("1,2"))
    assert float((plain.logits(again, ids) - expected).abs().max()) < 1e-4 * expected.abs().max()


def changed(file: Path, out: Path, *, endian: str = "<", **changes: Any) -> Path:
    """The header of a file once more, with other values or factors; it is not to be loaded."""
    from gguf import GGUFEndian, GGUFReader

    order = GGUFEndian.BIG if endian == ">" else GGUFEndian.LITTLE
    writer = GGUFWriter(out, "llama", endianess=order)
    for name, field in GGUFReader(file).fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kinds = [*field.types, None]
            writer.add_key_value(name, field.contents(), kinds[0], kinds[1])
    names = {"kind": "llama.rope.scaling.type", "alignment": "general.alignment"}
    for name, value in changes.items():
        if name == "kind":
            writer.add_string(names[name], value)
        elif name == "alignment":
            writer.add_custom_alignment(value)
        elif name == "factor":
            writer.add_float32("llama.rope.scaling.factor", value)
        elif name == "old":
            writer.add_float32("llama.rope.scale_linear", value)
        else:
            writer.add_tensor(f"{name}.weight", value)
    for writing in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{writing}_to_file")()
    writer.close()
    return out


@pytest.fixture(scope="module")
def unscaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("unscaled"), rope_type="default")[1]


HALF = np.ones(32, dtype=np.float32)


def test_values_of_the_header(unscaled: Path, tmp_path: Path) -> None:
    def rope(**changes: Any) -> dict[str, Any]:
        file = changed(unscaled, tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf", **changes)
        found = loading._gguf_config(file, 0).rope_parameters
        return {name: value for name, value in found.items() if name != "rope_theta"}

    none = {"rope_type": "default"}
    assert rope() == rope(kind="none", factor=8.0) == rope(kind="linear") == none
    assert rope(factor=1.0) == rope(rope_freqs=HALF) == none
    linear = {"rope_type": "linear", "factor": 4.0}
    assert rope(kind="linear", factor=4.0) == rope(factor=4.0) == rope(old=4.0) == linear
    assert rope(rope_freqs=4 * HALF) == rope(rope_freqs=4 * HALF, alignment=64) == linear


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "yarn", "factor": 4.0}, "(yarn)"),
        ({"rope_factors_long": HALF, "rope_factors_short": HALF}, "(longrope)"),
        ({"rope_freqs": np.linspace(1, 8, 32, dtype=np.float32)}, "(by factors of its own"),
        ({"rope_freqs": 4 * HALF[:9]}, "(by factors of its own"),
        ({"rope_freqs": 4 * HALF.astype(np.float16)}, "(by factors of its own"),
        ({"rope_freqs": 4 * HALF, "kind": "linear", "factor": 2.0}, "(linear)"),
    ],
    ids=["yarn", "longrope", "others", "another length", "another type", "two ways"],
)
def test_what_cannot_be_put_right_is_refused(
    changes: dict[str, Any], said: str, unscaled: Path, tmp_path: Path
) -> None:
    file = changed(unscaled, tmp_path / "other.gguf", **changes)
    for call in (load, size_of):
        with pytest.raises(LoadError, match="load its safetensors") as caught:
            call(str(file))
        assert f"other.gguf scales its positions {said}" in str(caught.value)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_the_header_is_read_as_the_gguf_package_reads_it(
    endian: str, unscaled: Path, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    factors = np.arange(32, dtype=np.float32)
    file = changed(unscaled, tmp_path / "x.gguf", endian=endian, rope_freqs=factors, other=HALF)
    found, theirs = read_header(file), GGUFReader(file)
    assert found.tensors == {each.name for each in theirs.tensors} == {FREQS, "other.weight"}
    assert found.factors is not None
    assert np.array_equal(found.factors, factors)
    values = {name: field.contents() for name, field in theirs.fields.items()}
    for name, value in found.values.items():
        assert value is None if isinstance(values[name], list) else value == values[name], name
    assert len(found.values) == len([name for name in values if not name.startswith("GGUF.")])
    whole = file.read_bytes()
    for size in (5, 30, 200, len(whole) // 2):
        file.write_bytes(whole[:size])
        with pytest.raises((struct.error, ValueError, KeyError)):
            read_header(file)


def test_the_bundled_file_has_none() -> None:
    from inspector.model.sources import bundled_file

    file = bundled_file()
    if file is None:
        pytest.skip("the package with the bundled model is not installed")
    header = read_header(file)
    assert FREQS not in header.tensors
    assert header.values["general.architecture"] == "llama"
    assert torch.tensor(header.values["llama.rope.freq_base"]) == 100000
