"""What transformers leaves unread in a GGUF file: scaled positions, and biases.

transformers 5.23 takes the base of the frequencies from a GGUF file and nothing else: it maps
neither the tensor `rope_freqs.weight` (Llama 3.1 and later) nor the keys `ARCH.rope.scaling.*`
(`modeling_gguf_pytorch_utils.py`; of gpt-oss alone it reads the keys). A model opened so is wrong,
the more the longer the text. Here the file is asked, and its config is put right, or refused.

It also passes over every tensor that the architecture, as it builds it, has no parameter for:
llama.cpp's `llama` may have biases, transformers' Llama then has none.
"""

from __future__ import annotations

import copy
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from inspector.errors import LoadError

FREQS = "rope_freqs.weight"
"""What each frequency is divided by, [head size / 2]."""
LONG = "rope_factors_"
"""The beginning of the names of such tensors for short and for long texts (LongRoPE)."""
LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""In config.json of every Llama 3.1, 3.2 and 3.3; only their `factor` differs (8 or 32)."""
PUT_RIGHT = ("linear", "llama3")
CLOSE = 1e-4
"""Relative; the factors in the file are float32."""

SCALARS: dict[int, str] = dict(
    zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
)
STRING, ARRAY = 8, 9
"""Types of values by their numbers, here and above to struct's letters (ggml's docs/gguf.md)."""
FLOAT32 = 0
"""The type of a tensor."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its data.

    Its values but for arrays, the names of its tensors, and the factors of its frequencies, where
    it has them as float32.
    """

    values: dict[str, Any]
    tensors: set[str]
    factors: np.ndarray | None


def with_scaled_positions(config: Any, file: Path) -> Any:
    """The config that transformers has read from a GGUF file, with the file's scaled positions.

    Raises:
        LoadError: it scales them in a way that cannot be put into this config.
    """
    header, text = read_header(file), config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        return config
    said = _said(header)
    if header.factors is not None and not np.allclose(header.factors, 1, rtol=CLOSE):
        said.append(_parameters(text, header.factors) if "rope_theta" in rope else {})
    elif header.factors is None and FREQS in header.tensors:
        said.append({})
    if not said:
        return config
    if len(said) > 1 or said[0].get("rope_type") not in PUT_RIGHT or "rope_theta" not in rope:
        kind = said[0].get("rope_type", f"by factors of its own, {FREQS}")
        raise LoadError(
            f"{file.name} scales its positions ({kind}), which transformers does not read from a "
            "GGUF file of this kind, so that the model would be wrong: load its safetensors."
        )
    text.rope_parameters = {**rope, **said[0]}
    return config


def check_biases(model: nn.Module, file: Path) -> None:
    """Refuse a model that was opened without the biases which its GGUF file has.

    Raises:
        LoadError: says so, and what to do.
    """
    biases = sorted(name for name in read_header(file).tensors if name.endswith(".bias"))
    if biases and not any(name.endswith("bias") for name, _ in model.named_parameters()):
        raise LoadError(
            f"{file.name} has {len(biases)} biases ({biases[0]}, ...), which transformers leaves "
            f"out of a {type(model).__name__}, so that the model would be wrong: load its "
            "safetensors."
        )


def _said(header: Header) -> list[dict[str, Any]]:
    """What the values and the names of the tensors say of scaling; empty for none."""
    arch = header.values.get("general.architecture")
    factor = header.values.get(f"{arch}.rope.scale_linear", 1.0)  # of files of 2023
    factor = header.values.get(f"{arch}.rope.scaling.factor", factor)
    kind = header.values.get(f"{arch}.rope.scaling.type", "linear")
    found = []
    if kind != "none" and (kind != "linear" or factor != 1):
        found.append({"rope_type": str(kind), "factor": factor})
    if any(name.startswith(LONG) for name in header.tensors):
        found.append({"rope_type": "longrope"})
    return found


def _parameters(text: Any, factors: np.ndarray) -> dict[str, Any]:
    """The parameters from which transformers computes these factors; empty where there are none."""
    # Six digits, since the factors may have been computed in float32.
    largest, size = float(f"{factors.max():.6g}"), 2 * len(factors)
    plain = text.rope_parameters["rope_theta"] ** -(np.arange(0, size, 2) / size)
    for more in ({"rope_type": "linear"}, {"rope_type": "llama3", **LLAMA3}):
        parameters = {**more, "factor": largest}
        trial = copy.deepcopy(text)
        trial.rope_parameters = {**text.rope_parameters, **parameters}
        own, _ = ROPE_INIT_FUNCTIONS[more["rope_type"]](trial, torch.device("cpu"))
        if len(own) == len(plain) and np.allclose(plain / own.numpy(), factors, rtol=CLOSE):
            return parameters
    return {}


def read_header(file: Path) -> Header:
    """The header of a GGUF file of version 2 or 3, in tenths of a second.

    The gguf package takes seconds, since it makes an object of every token.

    Raises:
        struct.error, KeyError, ValueError: the file is damaged.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data).header()


class _Reader:
    """Takes one value after another from the bytes of a file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.order = data, 4, "<"  # after the letters GGUF
        if self.number("I") >= 2**16:  # the version, from the other end
            self.order = ">"

    def header(self) -> Header:
        tensors, values = self.number("Q"), self.number("Q")
        found = {self.text(): self.value(self.number("I")) for _ in range(values)}
        places = {self.text(): self.place() for _ in range(tensors)}
        step = found.get("general.alignment", 32)
        start = math.ceil(self.at / step) * step
        factors = None
        if FREQS in places and places[FREQS][1] == FLOAT32:
            count, _, offset = places[FREQS]
            kind = np.dtype(f"{self.order}f4")
            factors = np.frombuffer(self.data, kind, count, start + offset).astype(np.float64)
        return Header(found, set(places), factors)

    def place(self) -> tuple[int, int, int]:
        """How many numbers a tensor has, their type, and where they begin after the header."""
        count = math.prod(self.number("Q") for _ in range(self.number("I")))
        return count, self.number("I"), self.number("Q")

    def number(self, letter: str) -> Any:
        (found,) = struct.unpack_from(self.order + letter, self.data, self.at)
        self.at += struct.calcsize(self.order + letter)
        return found

    def text(self) -> str:
        size = self.number("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.number(SCALARS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS:
            self.at += count * struct.calcsize(self.order + SCALARS[kind])
        for _ in range(0 if kind in SCALARS else count):
            if kind == STRING:
                size = self.number("Q")
                self.at += size
            else:
                self.value(kind)
        return None
