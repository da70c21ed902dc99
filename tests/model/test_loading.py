"""Loading: what it gives, what it will take, and a sentence for everything that can go wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from inspector.errors import LoadError
from inspector.jobs import Cancelled
from inspector.model import loading
from inspector.model.families import FAMILIES, TINY_ALIASES
from inspector.model.loading import free, load, memory_available, pick_device, pick_dtype, size_of
from inspector.model.sources import parse
from inspector.model.tiny import tiny_model
from inspector.units import Mask, all_units
from tests import plain

if TYPE_CHECKING:
    from tests.model.conftest import Hub

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


# A folder


def test_a_saved_model_is_the_same_model(master: Path) -> None:
    loaded = load(str(master), dtype="fp32")
    ids = plain.random_ids(loaded, 2, 16)
    with torch.no_grad():
        expected = tiny_model("llama", seed=3)(input_ids=ids).logits
    assert torch.equal(plain.logits(loaded, ids), expected)
    assert loaded.tokenizer("hello").input_ids == plain.tiny("llama").tokenizer("hello").input_ids
    assert (loaded.source, loaded.depth, loaded.model_type) == (str(master), 4, "llama")
    assert loaded.weights.startswith("sha256 ")
    assert (loaded.device.type, loaded.dtype) == ("cpu", torch.float32)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.max_length == 512
    about = loaded.provenance(corpus={"name": "x"}, seed=4)
    assert (about.source, about.weights, about.dtype) == (str(master), loaded.weights, "float32")
    assert (about.model_type, about.device, about.depth, about.seed) == ("llama", "cpu", 4, 4)


@pytest.mark.parametrize(("name", "dtype"), loading.DTYPES.items())
def test_dtypes(master: Path, name: str, dtype: torch.dtype) -> None:
    loaded = load(str(master), dtype=name)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    assert loaded.toggleable() == all_units(4)
    size = size_of(str(master), dtype=name)
    assert size.bytes == size.parameters * (4 if name == "fp32" else 2)
    assert loaded.units[0].kv_bytes_per_token == 2 * 2 * 16 * dtype.itemsize


def test_shards(master: Path, tmp_path: Path) -> None:
    model = tiny_model("llama", seed=3)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    for file in master.glob("token*"):
        shutil.copy(file, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load(str(tmp_path), dtype="fp32")
    ids = plain.random_ids(loaded, 1, 8)
    with torch.no_grad():
        assert torch.equal(plain.logits(loaded, ids), model(input_ids=ids).logits)
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(LoadError, match="cannot be read as a model"):
        load(str(tmp_path))


def test_progress_rises_and_can_cancel(master: Path) -> None:
    calls: list[float] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        calls.append(done / total)
        if len(calls) == limit:
            raise Cancelled

    limit = 0
    load(str(master), progress=progress)
    assert calls == sorted(calls)
    assert (calls[0], calls[-1]) == (0, 1)
    for place in range(1, len(calls) + 1):
        calls.clear()
        limit = place
        with pytest.raises(Cancelled):
            load(str(master), progress=progress)


def test_progress_rises_while_downloading(hub: Hub, master: Path) -> None:
    hub.files = {file.name: file.stat().st_size for file in master.iterdir()}
    hub.folder = master
    calls: list[float] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        calls.append(done / total)

    loaded = load("org/name", progress=progress)
    assert calls == sorted(calls)
    assert max(calls) <= 1
    assert loaded.source == "org/name"
    assert loaded.weights == "revision 0123456789abcdef0123456789abcdef01234567"


def test_a_cached_model_loads_without_a_network(
    hub: Hub, put_in_cache: Callable[..., Path], master: Path
) -> None:
    hub.lookup_error = httpx2.ConnectError("no route")
    put_in_cache("org/name", {file.name: file.read_bytes() for file in master.iterdir()})
    loaded = load("org/name", dtype="fp32")
    ids = plain.random_ids(loaded, 1, 8)
    assert torch.equal(
        plain.logits(loaded, ids), plain.logits(load(str(master), dtype="fp32"), ids)
    )
    assert size_of("org/name").layers == 4


def test_unknown_model_while_offline(hub_cache: Path) -> None:
    for call in (load, size_of):
        with pytest.raises(LoadError, match="no-such/model is not on this machine and the hub"):
            call("no-such/model")


# What it will take


@pytest.mark.parametrize("model_type", [*FAMILIES, "granite"])
def test_size_equals_the_loaded_model(model_type: str) -> None:
    loaded, size = plain.tiny(model_type), size_of(f"tiny:{model_type}", dtype="fp32")
    parameters = list(loaded.model.parameters())
    assert size.parameters == loaded.parameters == sum(p.numel() for p in parameters)
    assert size.bytes == sum(p.numel() * p.element_size() for p in parameters)
    assert (size.layers, size.units) == (loaded.depth, len(loaded.units)) == (4, 8)
    assert size.model_type == TINY_ALIASES.get(model_type, model_type)
    assert (size.dtype, size.device, size.fits) == ("float32", "cpu", True)


def test_tied_weights_count_once() -> None:
    loaded = plain.tiny("gemma2")
    assert loaded.model.config.tie_word_embeddings
    table = loaded.model.get_parameter("model.embed_tokens.weight")
    assert loaded.model.get_parameter("lm_head.weight") is table
    kept = loaded.parameters_left(Mask.of(4, all_units(4)))
    norms = sum(p.numel() for n, p in loaded.model.named_parameters() if "norm" in n)
    assert kept == table.numel() + norms


def test_what_a_mask_leaves() -> None:
    loaded = plain.tiny("llama")
    hidden, inner, keys = 64, 128, 32
    attn = 2 * hidden * hidden + 2 * hidden * keys
    ffn = 3 * hidden * inner
    mask = loaded.mask("0,2.attn,3.ffn")
    assert loaded.parameters_left(loaded.empty()) == loaded.parameters
    assert loaded.parameters_left(mask) == loaded.parameters - 2 * attn - 2 * ffn
    assert loaded.kv_bytes_left(loaded.empty()) == 4 * 2 * keys * 4
    assert loaded.kv_bytes_left(mask) == 2 * 2 * keys * 4


def test_the_size_needs_the_config_alone(folder: Path) -> None:
    size = size_of(str(folder))
    for file in folder.iterdir():
        if file.name != "config.json":
            file.unlink()
    assert size_of(str(folder)).parameters == size.parameters
    with pytest.raises(LoadError, match=r"has a config\.json but no weights"):
        load(str(folder))


def test_a_model_that_is_too_big(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(hidden_size=8192, intermediate_size=32768, num_hidden_layers=100)
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(loading, "memory_available", lambda *_: 3 * 2**30)
    monkeypatch.setattr(loading, "_model", lambda *_, **__: pytest.fail("it was loaded"))
    size = size_of(str(folder), dtype="bf16")
    assert not size.fits
    assert size.layers == 100
    assert "does not fit cpu (3.0 GiB free)" in str(size)
    with pytest.raises(LoadError) as raised:
        load(str(folder), dtype="bf16")
    needed = f"{size.bytes * 1.1 / 2**30:.1f} GiB"
    assert str(raised.value) == (
        f"{folder} needs {needed} in bfloat16 ({size.parameters / 1e9:.2f} B parameters and a "
        "tenth more), cpu has 3.0 GiB free: choose a smaller model, bf16 or another device, "
        "or --offload to a folder."
    )


def test_the_present_models_memory_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("tiny:llama", dtype="fp32")
    size = size_of("tiny:llama", dtype="fp32")

    class Memory:
        available = 1000

    monkeypatch.setattr(loading.psutil, "virtual_memory", Memory)
    assert memory_available(CPU) == 1000
    assert memory_available(CPU, loaded) == 1000 + size.bytes
    with pytest.raises(LoadError, match="cpu has 0 MiB free"):
        load("tiny:llama", dtype="fp32")
    Memory.available = size.bytes // 2
    load("tiny:llama", dtype="fp32", freed=loaded)


def test_freeing_gives_the_weights_back() -> None:
    loaded = load("tiny:gemma2", dtype="fp32")
    free(loaded)
    assert sum(p.numel() for p in loaded.model.parameters()) == 0
    assert memory_available(CPU, loaded) > 0


# Device and dtype


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    assert pick_device("cpu") == CPU
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(LoadError, match=f"^this machine has no {name.partition(':')[0]}: "):
            pick_device(name)
    for name in ("gpu", "", "cuda:x", "cpu cuda"):
        with pytest.raises(
            LoadError, match=r"unknown device .*: choose one of auto, cuda, mps, cp"
        ):
            pick_device(name)
    with pytest.raises(LoadError, match="unknown device 'gpu'"):
        load("tiny:llama", device="gpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cuda:1").index == 1
    with pytest.raises(LoadError, match=r"^this machine has 2 CUDA devices, not cuda:2"):
        pick_device("cuda:2")


def test_dtype_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match=r"^unknown dtype 'int4': choose auto, bf16, fp16, fp32"):
        load("tiny:llama", dtype="int4")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert pick_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("fp16", CPU) == torch.float16


def test_attention_implementations(master: Path) -> None:
    eager = load(str(master), dtype="fp32", attention="eager")
    assert eager.model.config._attn_implementation == "eager"
    with pytest.raises(LoadError):
        load(str(master), attention="no-such-attention")


# Bad files


def change_config(folder: Path, **changes: Any) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path) -> str:
    with pytest.raises(LoadError) as raised:
        load(str(folder))
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("kept", [0, 4, 1000, 0.5, 0.999])
def test_truncated_safetensors(folder: Path, kept: float) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    message = refused(folder)
    assert message.startswith(f"a file of {folder} is corrupt or cut short (")
    assert message.endswith("): download it again.")


def test_safetensors_that_are_something_else(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>" * 50)
    assert "is corrupt or cut short" in refused(folder)


def test_missing_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    for name in list(tensors):
        if "layers.2.mlp" in name:
            del tensors[name]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert refused(folder) == (
        f"{folder} lacks 3 weights of its architecture (model.layers.2.mlp.down_proj.weight, ...): "
        "the files are incomplete or made for other code."
    )


def test_weights_of_another_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=96)
    assert refused(folder) == (
        f"{folder} lacks 12 weights of its architecture "
        "(model.layers.0.mlp.down_proj.weight, ...): "
        "the files are incomplete or made for other code."
    )


def test_pickles_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert refused(folder) == (
        f"{folder} has its weights only as pickles, which can run code: "
        "convert them to safetensors (save_pretrained writes them)."
    )


def test_a_pickle_beside_the_safetensors_is_not_read(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"model": Evil()}, folder / "pytorch_model.bin")
    load(str(folder))
    assert not (tmp_path / "owned").exists()


def test_a_pickle_is_not_read_where_the_safetensors_are_of_something_else(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.rename(folder / "adapter_model.safetensors")
    assert "model.safetensors" in refused(folder)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        f"{tmp_path} has no config.json: give the folder that save_pretrained wrote."
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe\x00", b'{"model_type": 3}', b"{}"]
)
def test_a_broken_config(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    for call in (load, size_of):
        with pytest.raises(LoadError) as raised:
            call(str(folder))
        assert folder.name in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"hidden_size": -1},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": None},
        {"vocab_size": 2.5},
        {"hidden_act": "no-such-function"},
        {"rope_parameters": {"rope_type": "no-such-rope", "rope_theta": 1.0}},
    ],
    ids=str,
)
def test_a_config_with_wrong_values(folder: Path, changes: dict[str, Any]) -> None:
    change_config(folder, **changes)
    message = refused(folder)
    assert "choose another model" in message or "architecture" in message


def test_code_of_its_own(folder: Path) -> None:
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    change_config(folder, model_type="own", architectures=["Own"], auto_map=auto_map)
    (folder / "code.py").write_text("raise SystemExit('this ran')")
    expected = (
        f"{folder} needs code of its own, and code from a model's repository is never run here: "
        "choose another model."
    )
    assert refused(folder) == expected
    with pytest.raises(LoadError) as raised:
        size_of(str(folder))
    assert str(raised.value) == expected


def test_an_unknown_architecture(folder: Path) -> None:
    change_config(folder, model_type="own")
    start = f"{folder} has an architecture that transformers cannot load here: "
    assert refused(folder).startswith(start)


@pytest.mark.parametrize("model_type", ["t5", "vit", "clip"])
def test_architectures_that_are_no_causal_language_model(folder: Path, model_type: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert "architecture" in refused(folder)


def test_unknown_tiny_types() -> None:
    for call in (load, size_of):
        with pytest.raises(
            LoadError, match=r"^transformers knows no model type 'lama': try tiny:l"
        ):
            call("tiny:lama")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not JSON"])
def test_no_tokenizer(folder: Path, content: bytes | None) -> None:
    if content is None:
        for file in folder.glob("token*"):
            file.unlink()
    else:
        (folder / "tokenizer.json").write_bytes(content)
    message = refused(folder)
    assert "tokenizer" in message if content is None else "download it again" in message


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a GGUF file" * 20])
def test_a_broken_gguf_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    for call in (load, size_of):
        with pytest.raises(LoadError, match=r"model\.gguf"):
            call(str(file))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_while_loading(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    assert refused(folder) == (
        f"out of memory while loading {folder}: choose bf16 or a smaller model."
    )


def test_a_failed_load_leaves_the_present_model_alone(folder: Path) -> None:
    present = load("tiny:llama", dtype="fp32")
    ids = plain.random_ids(present, 1, 8)
    before = plain.logits(present, ids)
    threads, grad, dtype = (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:5000])
    refused(folder)
    assert torch.equal(plain.logits(present, ids), before)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
    assert torch.get_default_dtype() == dtype
    assert torch.empty(1).device.type == "cpu"
    weights.write_bytes(content)
    assert load(str(folder)).depth == 4


def test_every_form_of_source_is_documented_by_a_working_example(folder: Path) -> None:
    assert parse("tiny:llama").kind == "tiny"
    assert parse(str(folder)).kind == "folder"


def test_tiny_models_are_random_throughout() -> None:
    """Biases at zero and norms at one would hide a forgotten one."""
    for name, parameter in tiny_model("gpt2").named_parameters():
        assert parameter.std() > 0.01, name
    one, other = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    same = zip(one.parameters(), other.parameters(), strict=True)
    assert not any(torch.equal(mine, yours) for mine, yours in same)
    state = torch.get_rng_state()
    tiny_model("llama")
    assert torch.equal(torch.get_rng_state(), state)
