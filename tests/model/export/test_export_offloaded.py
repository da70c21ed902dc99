"""Models with weights that accelerate has offloaded: the same files as of the model in memory."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import AutoModelForCausalLM

from inspector.model.export import shards
from inspector.model.export.layout import all_weights, total_bytes
from inspector.model.export.llamacpp import reading
from inspector.model.export.making import export
from inspector.model.export.shards import read, write_weights
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def to_memory(model: Any, _: Path) -> None:
    accelerate.cpu_offload(model, CPU)


def to_disk(model: Any, folder: Path) -> None:
    accelerate.disk_offload(model, folder, CPU)


def in_part(model: Any, folder: Path) -> None:
    """The first two layers stay; the others, and all that is outside of them, go to disk."""
    places: dict[str, Any] = {}
    for name, module in model.named_modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            layer = re.search(r"\.(?:layers|h)\.(\d+)\.", name)
            places[name] = "cpu" if layer and int(layer[1]) < 2 else "disk"
    assert set(places.values()) == {"cpu", "disk"}
    accelerate.dispatch_model(model, places, main_device=CPU, offload_dir=folder)


WAYS = (to_memory, to_disk, in_part)
Way = Callable[[Any, Path], None]


def offloaded(
    model_type: str, way: Way, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> LoadedModel:
    loaded = load(f"tiny:{model_type}", dtype="fp32", device="cpu")
    # What the weights cannot tell any more is known from the load: where it runs, and tied ones.
    monkeypatch.setattr(LoadedModel, "device", CPU)
    monkeypatch.setattr(LoadedModel, "parameters", loaded.parameters)
    folder.mkdir()
    way(loaded.model, folder)
    assert any(each.device.type == "meta" for each in loaded.model.parameters())
    return loaded


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


FORMS = {"blocks": "2", "moe-stub": "1.ffn", "compact": "0.attn,1", "zeroed": "3", "gguf": "1.attn"}


@pytest.mark.usefixtures("no_proof")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same(
    form: str, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READER", "no_such_module")
    subject = offloaded("llama", way, tmp_path / "weights", monkeypatch)
    there = plain.tiny("llama")
    for loaded, name in ((there, "there"), (subject, "subject")):
        mask = loaded.mask(FORMS[form])
        export(loaded, mask, tmp_path / name, form=form, shard_bytes=100_000)
    assert files(tmp_path / "subject") == files(tmp_path / "there")
    assert any(each.device.type == "meta" for each in subject.model.parameters())


@pytest.mark.usefixtures("no_proof")
@pytest.mark.parametrize("model_type", ["gpt2", "qwen3_moe", "gemma3_text", "opt"])
def test_tied_weights_experts_and_buffers(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = plain.tiny(model_type)
    export(there, there.mask("1"), tmp_path / "there", shard_bytes=50_000)
    for number, way in enumerate(WAYS):
        folder = tmp_path / f"weights-{number}"
        subject = offloaded(model_type, way, folder, monkeypatch)
        export(subject, subject.mask("1"), tmp_path / str(number), shard_bytes=50_000)
        found, expected = files(tmp_path / str(number)), files(tmp_path / "there")
        assert [name for name in expected if found.get(name) != expected[name]] == []
        assert set(found) == set(expected)


def test_the_proof_of_an_offloaded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = offloaded("llama", to_disk, tmp_path / "weights", monkeypatch)
    made = export(subject, subject.mask("0.attn,2"), tmp_path / "out")
    assert all(check["passed"] for check in made.checks)
    assert {"logits", "cached", "padded", "greedy"} <= {check["name"] for check in made.checks}


def test_a_model_loaded_with_offload(folder: Path, tmp_path: Path) -> None:
    """The checking process brings the export's weights in layer by layer, too."""
    there = load(str(folder), dtype="fp32", device="cpu")
    subject = load(str(folder), dtype="fp32", device="cpu", offload=str(tmp_path))
    mask = there.mask("0.attn,2")
    expected = export(there, mask, tmp_path / "there")
    made = export(subject, mask, tmp_path / "subject")
    assert all(check["passed"] for check in made.checks)
    assert [check["name"] for check in made.checks] == [check["name"] for check in expected.checks]
    assert files(tmp_path / "subject") == files(tmp_path / "there")
    # Of the model itself nothing has stayed in memory.
    assert all(each.device.type == "meta" for each in subject.model.parameters())


def test_files_in_another_dtype(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers leaves offloaded weights in the model's own files, as they are there."""
    there = load(str(folder), dtype="bf16", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": "disk"}, offload_folder=folder / "offload"
    )
    state = there.model.state_dict()
    there.model = model
    found = all_weights(there)
    assert {weight.name for weight in found} <= set(state)
    for weight in found:
        assert read(weight).equal(state[weight.name]), weight.name
        assert read(weight).dtype == torch.bfloat16


def test_one_hook_among_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = offloaded("llama", to_memory, tmp_path / "weights", monkeypatch)
    norm = subject.layers[0].get_submodule("input_layernorm")
    add_hook_to_module(norm, AlignDevicesHook(io_same_device=True), append=True)
    (weight,) = [each for each in all_weights(subject) if each.module is norm]
    assert read(weight).equal(plain.tiny("llama").model.state_dict()[weight.name])


def test_weights_that_are_nowhere_are_a_bug() -> None:
    loaded = load("tiny:llama", dtype="fp32", device="cpu")
    model: Any = loaded.model
    model.to("meta")
    with pytest.raises(LookupError, match="no hook brings weight of Embedding"):
        read(all_weights(loaded)[0])


def test_no_more_than_a_shard_and_a_layer_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = offloaded("llama", to_disk, tmp_path / "weights", monkeypatch)
    live, most = 0, 0

    def counted(weight: Any) -> torch.Tensor:
        nonlocal live, most
        tensor = read(weight)
        size = tensor.nbytes
        live += size
        most = max(most, live)

        def gone() -> None:
            nonlocal live
            live -= size

        weakref.finalize(tensor, gone)
        return tensor

    weights = all_weights(subject)
    layers = [[each for each in weights if each.layer == layer] for layer in (None, 0)]
    monkeypatch.setattr(shards, "read", counted)
    shard = 100_000
    (tmp_path / "out").mkdir()
    write_weights(subject, weights, tmp_path / "out", native=True, shard_bytes=shard)
    assert 0 < most <= shard + max(map(total_bytes, layers)) < total_bytes(weights) / 1.5
    assert live == 0
