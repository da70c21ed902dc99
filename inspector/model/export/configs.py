"""The config of an export: the source's, with all that counts layers cut to the kept ones."""

from __future__ import annotations

import json
from typing import Any

from inspector.model.loaded import LoadedModel

NOT_PER_LAYER = ("architectures", "eos_token_id", "bos_token_id", "pad_token_id", "mlp_only_layers")
"""Lists of a config that may be as long as the model is deep by chance."""


FIRST_MIXTURE = ("first_k_dense_replace", "moe_layer_start_index")
"""Fields that say from which layer on there are mixtures (DeepSeek's and GLM's; Ernie's)."""
LAST_MIXTURE = "moe_layer_end_index"


def text_part(config: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The part of a config's `data` that describes the language model."""
    text = config.get_text_config()
    if text is config:
        return data
    return next(data[name] for name in data if getattr(config, name, None) is text)


def field_name(config: Any, name: str) -> str:
    """What the config calls a field: GPT-2's `num_hidden_layers` is `n_layer`."""
    return config.attribute_map.get(name, name)


def source_data(loaded: LoadedModel) -> dict[str, Any]:
    """The model's config as plain data, in the dtype of the weights in memory.

    A model read from a GGUF file carries the settings of its quantisation, which its weights in
    memory no longer have.
    """
    data = loaded.model.config.to_dict()
    data.pop("quantization_config", None)
    data.pop("_name_or_path", None)
    data["dtype"] = str(loaded.dtype).removeprefix("torch.")
    data["architectures"] = [type(loaded.model).__name__]
    return data


def cut(loaded: LoadedModel, kept: list[int]) -> Any:
    """The config for the kept layers alone, numbered anew.

    Lists with one entry a layer are cut; layers named by their number (`mlp_only_layers`), or by
    counting (`decoder_sparse_step`), are named by their new number.
    """
    config, data = loaded.model.config, source_data(loaded)
    if len(kept) == loaded.depth:
        return type(config).from_dict(data)
    text, part = config.get_text_config(), text_part(config, data)
    for name, value in part.items():
        if isinstance(value, list) and len(value) == loaded.depth and name not in NOT_PER_LAYER:
            part[name] = [value[layer] for layer in kept]
    part[field_name(text, "num_hidden_layers")] = len(kept)
    if "mlp_only_layers" in part and "decoder_sparse_step" in part:
        dense, step = set(part["mlp_only_layers"] or ()), part["decoder_sparse_step"]
        part["mlp_only_layers"] = [
            number for number, layer in enumerate(kept) if layer in dense or (layer + 1) % step
        ]
        part["decoder_sparse_step"] = 1
    for name in FIRST_MIXTURE:
        if name in part:
            part[name] = sum(layer < part[name] for layer in kept)
    if LAST_MIXTURE in part:
        part[LAST_MIXTURE] = sum(layer <= part[LAST_MIXTURE] for layer in kept) - 1
    return type(config).from_dict(data)


def numbered_by_hand(loaded: LoadedModel) -> str:
    """Why this model's layers cannot be numbered anew; empty where they can."""
    config = loaded.model.config.get_text_config()
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        return "its attention is scaled by the number of its layer"
    if getattr(config, "kv_sharing_modes", None) or getattr(config, "num_kv_shared_layers", 0):
        return "its layers share keys and values"
    if getattr(config, "moe_layer_interval", 1) != 1:
        return "its mixtures are counted in steps"
    return ""


def dumped(config: Any) -> dict[str, Any]:
    """The config as `config.json` has it, without what is the default everywhere."""
    return json.loads(config.to_json_string(use_diff=True))
