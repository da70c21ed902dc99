"""A removed FFN as a mixture of one expert that adds zero: a native form without code of its own.

`qwen2_moe` computes what Llama, Mistral and Qwen2 compute where a layer is dense, and may have
mixtures in some layers. Removed FFNs become mixtures of one expert, narrow and all zeros.
"""

from __future__ import annotations

from typing import Any

from inspector.model.export import configs, layout
from inspector.model.export.layout import Weight, kept_layers
from inspector.model.loaded import LoadedModel
from inspector.units import Mask, Unit

MODEL_TYPES = ("llama", "mistral", "qwen2")
WIDTH = 64
"""Of the expert: kernels for grouped products want a multiple of 16 bytes, and crash at 1."""
SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "dtype",
)
"""The fields that the source's config and the stub's share by name and meaning."""


def problem(loaded: LoadedModel, mask: Mask) -> str:
    """Why the mask cannot be had so; empty where it can."""
    if loaded.model_type not in MODEL_TYPES:
        return f"it is for {', '.join(MODEL_TYPES)} alone"
    attentions = [unit for unit in stay_without(mask) if unit.kind == "attn"]
    if attentions:
        return f"{attentions[0]} is off and the FFN of its layer is not"
    if not stay_without(mask):
        return "no FFN is off in a layer that stays"
    config = loaded.model.config
    if config.hidden_act != "silu":
        return f"its FFN computes {config.hidden_act}, not silu"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "its projections have biases that the stub has no place for"
    if getattr(config, "sliding_window", None):
        return "its attention has a sliding window, which not every kernel of the stub gets"
    return ""


def stay_without(mask: Mask) -> list[Unit]:
    """The units that are off in layers that stay."""
    kept = set(kept_layers(mask))
    return [unit for unit in mask if unit.layer in kept]


def weights(loaded: LoadedModel, mask: Mask) -> list[Weight]:
    """Those of a compact export, and zeros for the expert of each removed FFN."""
    kept = kept_layers(mask)
    numbers = {layer: number for number, layer in enumerate(kept)}
    hidden = loaded.model.config.hidden_size
    up, down = (WIDTH, hidden), (hidden, WIDTH)
    shapes = {
        "gate.weight": (1, hidden),
        "shared_expert_gate.weight": (1, hidden),
        **{
            f"{expert}.{name}_proj.weight": shape
            for expert in ("experts.0", "shared_expert")
            for name, shape in (("gate", up), ("up", up), ("down", down))
        },
    }
    stubs = [
        Weight(
            f"{loaded.family.layers}.{numbers[unit.layer]}.mlp.{name}",
            shape,
            loaded.dtype,
            layer=unit.layer,
        )
        for unit in stay_without(mask)
        for name, shape in shapes.items()
    ]
    return layout.compact(loaded, mask) + stubs


def config(loaded: LoadedModel, mask: Mask) -> dict[str, Any]:
    """The config of a `qwen2_moe` whose kept FFNs are dense."""
    from transformers import Qwen2MoeConfig

    kept = kept_layers(mask)
    source = configs.cut(loaded, kept).to_dict()
    fields = {name: source[name] for name in SHARED if name in source}
    size = source["hidden_size"] // source["num_attention_heads"]
    if source.get("head_dim", size) != size:
        fields["head_dim"] = source["head_dim"]
    native = Qwen2MoeConfig(
        **fields,
        architectures=["Qwen2MoeForCausalLM"],
        qkv_bias=loaded.model_type == "qwen2",
        num_experts=1,
        num_experts_per_tok=1,
        moe_intermediate_size=WIDTH,
        shared_expert_intermediate_size=WIDTH,
        router_aux_loss_coef=0.0,
        decoder_sparse_step=1,
        mlp_only_layers=[
            number for number, layer in enumerate(kept) if Unit(layer, "ffn") not in mask
        ],
    )
    return configs.dumped(native)


def source_data(model_type: str, data: dict[str, Any]) -> dict[str, Any]:
    """The config of a `model_type` from that of a stub, which was made of it.

    Raises:
        ValueError: it is the config of something else.
    """
    from transformers import AutoConfig, Qwen2MoeConfig

    if data["model_type"] != Qwen2MoeConfig.model_type or model_type not in MODEL_TYPES:
        raise ValueError(f"a {data['model_type']} is no stub of a {model_type}")
    whole = Qwen2MoeConfig.from_dict(data).to_dict()  # the file leaves out what is its default
    fields = {name: whole[name] for name in SHARED if name in whole}
    if "head_dim" in data:
        fields["head_dim"] = data["head_dim"]
    # Of those that have one, the stub takes none with a window.
    native = AutoConfig.for_model(model_type, **fields, sliding_window=None)
    return {**native.to_dict(), "architectures": data["architectures"]}
