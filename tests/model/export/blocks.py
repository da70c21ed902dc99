"""What llama.cpp computes with a GGUF file of `llama` or `deci`, in plain steps of numpy.

Short, obvious and slow. What a block of no heads or of no width does is read in llama.cpp's
`src/models/deci.cpp`: without heads there is no attention, without a width the block ends early and
what it computed is lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize


class File:
    """A GGUF file: its key-values without the architecture's name, and its tensors in float64."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        self.arch = fields["general.architecture"]
        self.values: dict[str, Any] = {
            name.removeprefix(f"{self.arch}."): value for name, value in fields.items()
        }
        self.tensors = {
            each.name: dequantize(each.data, each.tensor_type).astype(np.float64)
            for each in reader.tensors
        }
        self.asked: set[str] = set()

    def of(self, name: str, block: int) -> int:
        """A size of a block."""
        found = self.values[name]
        return found[block] if isinstance(found, list) else found

    def tensor(self, name: str) -> np.ndarray | None:
        """A tensor, if it is there; it is noted that it was asked for."""
        self.asked.add(name)
        return self.tensors.get(name)

    def times(self, name: str, x: np.ndarray) -> np.ndarray:
        """A matrix and its bias applied to each row."""
        bias = self.tensor(f"{name}.bias")
        return x @ self.need(f"{name}.weight").T + (0 if bias is None else bias)

    def normed(self, name: str, x: np.ndarray) -> np.ndarray:
        size = np.sqrt((x**2).mean(-1, keepdims=True) + self.values[EPS])
        return x / size * self.need(f"{name}.weight")

    def need(self, name: str) -> np.ndarray:
        found = self.tensor(name)
        assert found is not None, name
        return found


EPS = "attention.layer_norm_rms_epsilon"


def logits(path: Path, ids: Any) -> np.ndarray:
    """The logits [T, V] of one row of ids; every tensor of the file must have been of use."""
    file = File(path)
    x = file.need("token_embd.weight")[np.asarray(ids)]
    for block in range(file.values["block_count"]):
        heads, width = file.of("attention.head_count", block), file.of("feed_forward_length", block)
        attended = x
        if heads:
            attended = x + _attention(file, block, file.normed(f"blk.{block}.attn_norm", x))
        if width == 0:
            continue
        hidden = file.normed(f"blk.{block}.ffn_norm", attended)
        gate, up = (file.times(f"blk.{block}.ffn_{name}", hidden) for name in ("gate", "up"))
        assert gate.shape[-1] == width
        x = attended + file.times(f"blk.{block}.ffn_down", gate / (1 + np.exp(-gate)) * up)
    x = file.normed("output_norm", x)
    head = file.tensor("output.weight")
    file.tensor("rope_freqs.weight")
    assert file.asked >= set(file.tensors)
    return x @ (file.need("token_embd.weight") if head is None else head).T


def _attention(file: File, block: int, x: np.ndarray) -> np.ndarray:
    heads = file.of("attention.head_count", block)
    kv_heads = file.of("attention.head_count_kv", block)
    size, name = file.values["attention.key_length"], f"blk.{block}.attn"
    q = _turned(file, file.times(f"{name}_q", x).reshape(len(x), heads, size))
    k = _turned(file, file.times(f"{name}_k", x).reshape(len(x), kv_heads, size))
    v = file.times(f"{name}_v", x).reshape(len(x), kv_heads, size)
    group = heads // kv_heads
    late = np.triu(np.ones((len(x), len(x)), dtype=bool), 1)
    found = []
    for head in range(heads):
        scores = q[:, head] @ k[:, head // group].T / np.sqrt(size)
        weights = np.exp(np.where(late, -np.inf, scores - scores.max()))
        found.append(weights / weights.sum(-1, keepdims=True) @ v[:, head // group])
    return file.times(f"{name}_output", np.concatenate(found, axis=-1))


def _turned(file: File, x: np.ndarray) -> np.ndarray:
    """Rotated by position: numbers 2i and 2i + 1 of a head are a pair."""
    size = x.shape[-1]
    factors = file.tensor("rope_freqs.weight")
    slow = file.values["rope.freq_base"] ** -(np.arange(0, size, 2) / size)
    angles = np.arange(len(x))[:, None, None] * (slow if factors is None else slow / factors)
    one, two = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = one * np.cos(angles) - two * np.sin(angles)
    out[..., 1::2] = one * np.sin(angles) + two * np.cos(angles)
    return out
