"""Weights on disk: whatever the shards, what is read back is what was in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from inspector.model.export.layout import all_weights, total_bytes
from inspector.model.export.shards import write_weights
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("shard_bytes", [1, 50_000, 200_000, 10**9])
def test_shards_hold_every_weight_once(tmp_path: Path, shard_bytes: int) -> None:
    loaded = plain.tiny("llama")
    weights = all_weights(loaded)
    done = write_weights(loaded, weights, tmp_path, native=True, shard_bytes=shard_bytes)
    assert done == total_bytes(weights)
    files = sorted(tmp_path.glob("*.safetensors"))
    state = loaded.model.state_dict()
    read = [load_file(file) for file in files]
    assert sorted(name for part in read for name in part) == sorted(state)
    assert all(torch.equal(part[name], state[name]) for part in read for name in part)
    for part in read:
        size = sum(tensor.numel() * 4 for tensor in part.values())
        assert size <= shard_bytes or len(part) == 1
    index = tmp_path / "model.safetensors.index.json"
    if len(files) == 1:
        assert files[0].name == "model.safetensors"
        assert not index.exists()
    else:
        assert [f.name for f in files] == [
            f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
        ]
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        assert where == {name: f.name for f, part in zip(files, read, strict=True) for name in part}
    assert not list(tmp_path.glob("*.part"))


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    loaded = plain.tiny("llama")
    write_weights(loaded, all_weights(loaded), tmp_path, native=True)
    other = tmp_path / "other"
    other.touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == other.stat().st_mode


def test_experts_are_named_as_on_the_hub(tmp_path: Path) -> None:
    loaded = plain.tiny("qwen3_moe")
    write_weights(loaded, all_weights(loaded), tmp_path, native=True)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "model.layers.0.mlp.experts.3.gate_proj.weight" in set(file.keys())
        fused = loaded.model.state_dict()["model.layers.0.mlp.experts.down_proj"]
        one = file.get_tensor("model.layers.0.mlp.experts.2.down_proj.weight")
    assert torch.equal(one, fused[2])
