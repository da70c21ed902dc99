"""The key-values of a GGUF file that say what the model computes."""

from __future__ import annotations

from typing import Any

from inspector.model.export.layout import kept_layers
from inspector.model.export.llamacpp.tensors import STUB_WIDTH, architecture, head_size
from inspector.model.export.llamacpp.vocabulary import KeyValue
from inspector.model.loaded import LoadedModel
from inspector.units import Mask, Unit

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""`general.file_type`, which llama.cpp shows (`llama_ftype` in `llama.h`)."""
QUANTIZATION_VERSION = 2


def keys(loaded: LoadedModel, mask: Mask, kind: str, title: str) -> dict[str, KeyValue]:
    """All but the tokenizer's; sizes are one number for all layers where they are the same."""
    config: Any = loaded.model.config
    heads, kv_heads, widths = per_layer(loaded, mask)
    size = head_size(config)
    numbers = {
        "block_count": len(heads),
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
    }
    reals = {
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    lists = {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "feed_forward_length": widths,
    }
    arch = architecture(mask)
    of_arch = {name: KeyValue(value, "UINT32") for name, value in numbers.items()}
    of_arch |= {name: KeyValue(value, "FLOAT32") for name, value in reals.items()}
    for name, value in lists.items():
        one = arch == "llama"
        of_arch[name] = KeyValue(value[0], "UINT32") if one else KeyValue(value, "ARRAY", "INT32")
    return {
        "general.type": KeyValue("model", "STRING"),
        "general.name": KeyValue(title, "STRING"),
        "general.file_type": KeyValue(FILE_TYPES[kind], "UINT32"),
        "general.quantization_version": KeyValue(QUANTIZATION_VERSION, "UINT32"),
        **{f"{arch}.{name}": value for name, value in of_arch.items()},
    }


def per_layer(loaded: LoadedModel, mask: Mask) -> tuple[list[int], list[int], list[int]]:
    """Heads, heads of keys and values, and the FFN's width, of each block of the file."""
    config: Any = loaded.model.config
    heads, kv_heads, widths = [], [], []
    for number, layer in enumerate(kept_layers(mask)):
        attends = Unit(layer, "attn") not in mask
        stub = 0 if number else 1
        heads.append(config.num_attention_heads if attends else stub)
        kv_heads.append(config.num_key_value_heads if attends else stub)
        widths.append(STUB_WIDTH if Unit(layer, "ffn") in mask else config.intermediate_size)
    return heads, kv_heads, widths
