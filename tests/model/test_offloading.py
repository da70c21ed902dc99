"""Weights off the device: the same numbers, each weight brought in once a block, and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.errors import LoadError
from inspector.model import loading, offloading, placing
from inspector.model.loaded import LoadedModel
from inspector.model.loading import free, load, size_of
from inspector.model.placing import ROOM, check_offload, placement
from inspector.model.replay import head, record, run_layer
from inspector.model.surgery import muted
from inspector.units import Unit
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model in memory and the same on disk; GPT-2's embeddings are tied to its head."""
    place = str(tmp_path_factory.mktemp("weights"))
    return plain.tiny(request.param), load(f"tiny:{request.param}", dtype="fp32", offload=place)


def on_device(loaded: LoadedModel) -> list[str]:
    return [name for name, each in loaded.model.named_parameters() if each.device.type != "meta"]


def test_every_family_gives_the_same_logits(tmp_path: Path) -> None:
    for model_type in plain.TYPES:
        ours = load(f"tiny:{model_type}", dtype="fp32", offload=str(tmp_path))
        theirs = plain.tiny(model_type)
        assert on_device(ours) == [], model_type
        assert (ours.device, ours.dtype) == (theirs.device, theirs.dtype)
        for name in ("units", "returns", "not_replayable", "plain_head", "parameters"):
            assert getattr(ours, name) == getattr(theirs, name), (model_type, name)
        ids = plain.random_ids(theirs, 2, 12)
        for text in ("", "0.attn,1.ffn,2"):
            with torch.no_grad(), muted(ours, ours.mask(text)), muted(theirs, theirs.mask(text)):
                logits = [
                    each.model(input_ids=ids, use_cache=False).logits for each in (ours, theirs)
                ]
            assert torch.equal(*logits), (model_type, text)
        free(ours)


def test_a_block_brings_a_layer_in_once(both: tuple[LoadedModel, LoadedModel]) -> None:
    there, here = both
    offloaded = here.offloaded
    assert offloaded is not None
    layer = here.layers[1]
    size = sum(weight.nbytes for weight in layer.parameters())
    ids = plain.random_ids(here, 2, 12)
    stream, calls = record(here, ids)
    expected = run_layer(there, 1, *record(there, ids))
    before = offloaded.read
    for _ in range(3):
        assert torch.equal(run_layer(here, 1, stream, calls), expected)
    assert offloaded.read - before == 3 * size
    before = offloaded.read
    with here.held(layer.modules()):
        assert offloaded.read == before  # only what is called comes in
        for _ in range(3):
            assert torch.equal(run_layer(here, 1, stream, calls), expected)
        with here.held(layer.modules()):
            run_layer(here, 1, stream, calls)
        assert len(on_device(here)) == len(list(layer.parameters()))
        assert offloaded.read - before == size
    assert on_device(here) == []
    run_layer(here, 1, stream, calls)
    assert offloaded.read - before == 2 * size


def test_a_muted_unit_is_not_brought_in(both: tuple[LoadedModel, LoadedModel]) -> None:
    here = both[1]
    unit = Unit(1, "ffn")
    less = here.info(unit).parameters * 4
    stream, calls = record(here, plain.random_ids(here, 1, 12))
    read = []
    for text in ("", "1.ffn"):
        before = here.bytes_read
        with here.held(here.layers[1].modules()), muted(here, here.mask(text)):
            run_layer(here, 1, stream, calls)
        read.append(here.bytes_read - before)
    assert read[0] - read[1] == less > 0


def test_what_a_block_brought_in_goes_with_an_error(both: tuple[LoadedModel, LoadedModel]) -> None:
    here = both[1]
    with (
        pytest.raises(RuntimeError, match="broken off"),
        here.held(here.model.modules(), whole=True),
    ):
        assert len(on_device(here)) > 4
        raise RuntimeError("broken off")
    assert on_device(here) == []
    ids = plain.random_ids(here, 1, 12)
    logits = [each.model(input_ids=ids, use_cache=False).logits for each in both]
    assert torch.equal(*logits)


def test_all_weights_at_once_are_the_weights(both: tuple[LoadedModel, LoadedModel]) -> None:
    there, here = both
    assert here.offloaded is not None
    before = here.bytes_read
    with here.held(here.model.modules(), whole=True):
        named = dict(here.model.named_parameters())
        for name, weight in there.model.named_parameters():
            assert torch.equal(named[name], weight), name
        assert here.bytes_read - before == here.offloaded.bytes == there.parameters * 4
        here.model(input_ids=plain.random_ids(here, 1, 12), use_cache=False)
        assert here.bytes_read - before == here.offloaded.bytes
    with there.held(there.model.modules(), whole=True):
        assert there.bytes_read == 0


def test_the_head_reads_no_embeddings() -> None:
    loaded = plain.in_memory("llama")
    assert loaded.offloaded is not None
    stream, _ = record(loaded, plain.random_ids(loaded, 2, 12))
    before = loaded.bytes_read
    logits = head(loaded, stream)
    embeddings = dict(loaded.model.named_parameters())["model.embed_tokens.weight"].nbytes
    inside = sum(weight.nbytes for weight in loaded.layers.parameters())
    assert loaded.bytes_read - before == loaded.offloaded.bytes - inside - embeddings
    assert torch.equal(logits, head(plain.tiny("llama"), stream))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_safetensors_are_read_where_they_are(folder: Path, tmp_path: Path, dtype: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    ours = load(str(folder), dtype=dtype, offload=str(place))
    assert not list(place.rglob("*.safetensors"))
    theirs = load(str(folder), dtype=dtype)
    assert (ours.weights, ours.parameters) == (theirs.weights, theirs.parameters)
    ids = plain.random_ids(ours, 2, 12)
    with torch.no_grad():
        logits = [each.model(input_ids=ids, use_cache=False).logits for each in (ours, theirs)]
    assert torch.equal(*logits)
    assert ours.offloaded is not None
    assert ours.offloaded.bytes == theirs.parameters * theirs.dtype.itemsize


def test_what_was_written_goes_with_the_model(tmp_path: Path) -> None:
    loaded = load("tiny:llama", dtype="fp32", offload=str(tmp_path))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) > 4 * 1000
    free(loaded)
    assert list(tmp_path.iterdir()) == []


def test_a_load_that_fails_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(LoadError, match="corrupt or cut short"):
        load(str(folder), offload=str(place))
    assert list(place.iterdir()) == []


def test_places_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in (tmp_path / "missing", file):
        with pytest.raises(LoadError, match=r"nothing can be offloaded to .*: name a folder that"):
            load("tiny:llama", offload=str(place))
    with pytest.raises(LoadError, match="runs on cpu: name a folder instead"):
        load("tiny:llama", device="cpu", offload="cpu")

    def refused(**_: Any) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(offloading.tempfile, "mkdtemp", refused)
        with pytest.raises(LoadError, match=r"offloaded to .* \(Permission denied\)"):
            load("tiny:llama", offload=str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(offloading.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LoadError, match=r"has 0\.0 GiB free, and the weights take .* another disk"):
        load("tiny:llama", offload=str(tmp_path))
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_while_loading(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offloading, "save_file", full)
    with pytest.raises(LoadError, match="the disk is full while tiny:llama is loaded"):
        load("tiny:llama", offload=str(tmp_path))


def test_room_for_what_is_built_in_main_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of safetensors needs none; in main memory all of any other is built first."""
    monkeypatch.setattr(loading, "memory_available", lambda *_: 1000)
    with pytest.raises(LoadError, match=r"cpu has 0 MiB free: .* or --offload to a folder"):
        load("tiny:llama", dtype="fp32", device="cpu")
    with pytest.raises(
        LoadError, match=r"main memory has 0 MiB free: .* in safetensors to a folder"
    ):
        load("tiny:llama", dtype="fp32", device="cpu", offload=str(tmp_path))
    assert load(str(folder), dtype="fp32", device="cpu", offload=str(tmp_path)).offloaded
    size = size_of("tiny:llama", dtype="fp32", device="cpu")
    on_gpu = type(size)(**{**vars(size), "device": "cuda"})
    with pytest.raises(LoadError, match="main memory has 0 MiB free"):
        check_offload(on_gpu, "cpu", 1000, piecewise=True)
    check_offload(on_gpu, "cpu", 1 << 30, piecewise=True)


def test_one_device_or_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {0: 1000, 1: 3000}
    monkeypatch.setattr(placing, "gpus_free", lambda: rooms)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    any_gpu = torch.device("cuda")
    assert placement(CPU, 10**9) == {"device_map": {"": CPU}}
    assert placement(any_gpu, 900) == {"device_map": {"": any_gpu}}
    spread = {0: int(1000 / ROOM), 1: int(3000 / ROOM)}
    assert placement(any_gpu, 950) == {"device_map": "auto", "max_memory": spread}
    named = torch.device("cuda:1")
    assert placement(named, 10**9) == {"device_map": {"": named}}
    del rooms[1]
    assert placement(any_gpu, 950) == {"device_map": {"": any_gpu}}


def test_room_on_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "gpus_free", lambda: {0: 1000, 1: 3000})
    assert loading.memory_available(torch.device("cuda")) == 4000
    assert loading.memory_available(torch.device("cuda:1")) == 3000
