"""Which tensors a GGUF file has of a model under a mask, and what is in each."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from inspector.model.export.layout import Weight, all_weights, kept_layers
from inspector.model.export.llamacpp import vocabulary
from inspector.model.export.shards import read
from inspector.model.loaded import LoadedModel
from inspector.units import KINDS, Mask, Unit

MODEL_TYPES = ("llama", "mistral", "qwen2")
"""Those that compute what llama.cpp's `llama` computes; Qwen2 has biases, which that may have."""
ROPE_TYPES = ("default", "linear", "llama3")
"""Fixed frequencies, and nothing else: one factor for each says it all."""
ROPE_FREQS = "rope_freqs.weight"
STUB_WIDTH = 32
"""Of the FFN of zeros where one was removed: the block of Q8_0. Width 0 would end the layer early
in llama.cpp, and lose its attention (`deci.cpp`, `n_ff == 0`)."""
BYTES = {"f16": 2.0, "bf16": 2.0, "f32": 4.0, "q8_0": 34 / 32}
"""The types of matrices, to bytes a weight: Q8_0 is 32 int8 and their scale in half precision."""
TYPES = tuple(BYTES)
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""From the modules of a model to what llama.cpp calls them, outside and inside the layers."""
MODULES = {name: module for module, name in (INSIDE | OUTSIDE).items()}
_BLOCK = re.compile(r"blk\.(\d+)\.(.*)")


def problem(loaded: LoadedModel, mask: Mask) -> str:
    """Why the mask cannot be had so; empty where it can."""
    if loaded.model_type not in MODEL_TYPES:
        return (
            f"llama.cpp takes layers of different sizes in Llama's computation alone "
            f"({', '.join(MODEL_TYPES)}), so use blocks or compact"
        )
    config: Any = loaded.model.config
    if config.hidden_act != "silu":
        return f"its FFN computes {config.hidden_act}, not silu, so use compact"
    window = getattr(config, "sliding_window", None)
    if window:
        return f"its attention has a window of {window} tokens, which llama has not: use compact"
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_TYPES or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return f"its positions ({kind}) are none that one factor a frequency says, so use compact"
    strange = [weight.name for weight in all_weights(loaded) if not _known(loaded, weight)]
    if strange:
        return f"llama.cpp's llama has no place for its {strange[0]}, so use compact"
    return vocabulary.problem(loaded)


def _known(loaded: LoadedModel, weight: Weight) -> bool:
    module, _, key = _inner(loaded, weight).rpartition(".")
    names = OUTSIDE if weight.layer is None else INSIDE
    return module in names and key in ("weight", "bias")


def _inner(loaded: LoadedModel, weight: Weight) -> str:
    """The name inside the layer; the whole name of what lies outside."""
    return weight.name.removeprefix(f"{loaded.family.layers}.{weight.layer}.")


def architecture(mask: Mask) -> str:
    """`llama` where whole layers alone are off, else `deci`, whose layers have their own sizes."""
    whole = all(Unit(n, kind) not in mask for n in kept_layers(mask) for kind in KINDS)
    return "llama" if whole else "deci"


def place_of(name: str) -> tuple[int | None, str, str]:
    """Of a tensor in a file: its block, None outside of all; its module's path; weight or bias.

    Raises:
        KeyError: no module is called so.
    """
    found = _BLOCK.fullmatch(name)
    stem, _, key = (found[2] if found else name).rpartition(".")
    return (int(found[1]) if found else None), MODULES[stem], key


def head_size(config: Any) -> int:
    """The width of one head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def layout(loaded: LoadedModel, mask: Mask) -> list[Weight]:
    """The tensors of the file under llama.cpp's names; those of no module are stubs of zeros.

    A removed attention goes with its norm. In the first block it becomes one head of zeros, since
    llama.cpp takes the size of heads from there. A removed FFN becomes a narrow one of zeros.
    """
    numbers = {layer: number for number, layer in enumerate(kept_layers(mask))}
    found = []
    for weight in all_weights(loaded):
        module, _, key = _inner(loaded, weight).rpartition(".")
        if weight.layer is None:
            found.append(replace(weight, name=f"{OUTSIDE[module]}.{key}"))
        elif weight.layer in numbers and weight.unit not in mask.muted:
            number, name = numbers[weight.layer], INSIDE[module]
            if name == "attn_norm" and number and Unit(weight.layer, "attn") in mask:
                continue
            found.append(replace(weight, name=f"blk.{number}.{name}.{key}"))
    for layer, number in numbers.items():
        for kind in KINDS:
            if Unit(layer, kind) in mask and (kind == "ffn" or number == 0):
                found += _stub(loaded, Unit(layer, kind), number)
    factors = rope_factors(loaded)
    if factors is not None:
        found.append(Weight(ROPE_FREQS, tuple(factors.shape), torch.float32))
    return found


def _stub(loaded: LoadedModel, unit: Unit, number: int) -> list[Weight]:
    hidden, head = loaded.model.config.hidden_size, head_size(loaded.model.config)
    shapes = {
        "attn": {
            "attn_q": (head, hidden),
            "attn_k": (head, hidden),
            "attn_v": (head, hidden),
            "attn_output": (hidden, head),
        },
        "ffn": {
            "ffn_gate": (STUB_WIDTH, hidden),
            "ffn_up": (STUB_WIDTH, hidden),
            "ffn_down": (hidden, STUB_WIDTH),
        },
    }
    return [
        Weight(f"blk.{number}.{name}.weight", shape, loaded.dtype, layer=unit.layer, unit=unit)
        for name, shape in shapes[unit.kind].items()
    ]


def type_of(weight: Weight, kind: str) -> str:
    """The type that a tensor is written in: vectors in full, and rows that fill no block in F16."""
    if len(weight.shape) == 1:
        return "f32"
    return "f16" if kind == "q8_0" and weight.shape[-1] % 32 else kind


def total_bytes(weights: list[Weight], kind: str) -> int:
    """What the tensors take in the file, without its header and without padding."""
    sizes = (math.prod(each.shape) * BYTES[type_of(each, kind)] for each in weights)
    return int(sum(sizes))


def values(loaded: LoadedModel, weight: Weight) -> np.ndarray:
    """A tensor of the file in float32, on the CPU, in the order of rows that llama.cpp expects."""
    factors = rope_factors(loaded) if weight.name == ROPE_FREQS else None
    if factors is not None:
        return factors
    found = read(weight).float().numpy()
    if ".attn_q." in weight.name or ".attn_k." in weight.name:
        return permuted(found, head_size(loaded.model.config))
    return found


def permuted(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows of each head with the two halves of its rotation side by side.

    transformers turns row i of a head with row i + size / 2, llama.cpp's `llama` row 2i with
    row 2i + 1.
    """
    halves = rows.reshape(-1, 2, size // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def unpermuted(rows: np.ndarray, size: int) -> np.ndarray:
    """What `permuted` was made of."""
    pairs = rows.reshape(-1, size // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def rope_factors(loaded: LoadedModel) -> np.ndarray | None:
    """What llama.cpp must divide its frequencies by, [head size / 2]; None where that is one.

    Its own are theta^(-2i / head size). The model's are asked for, not computed once more.
    """
    config, model = loaded.model.config, loaded.model
    size, theta = head_size(config), float(config.rope_parameters["rope_theta"])
    own: Any = model.get_submodule("model.rotary_emb")
    plain = theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    factors = plain / own.inv_freq.detach().cpu().double().numpy()
    return None if np.allclose(factors, 1, rtol=1e-6, atol=0) else factors.astype(np.float32)
