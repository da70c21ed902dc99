"""Where the layers, attentions and FFNs of each model family are, as data.

A family is chosen from `config.model_type`, never from a name on the hub. Names are not trusted:
the probe in `loading` checks numerically that muting what a row names does what it should. A model
type without a row of its own is tried with the names that most share, and the probe decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One row: attribute paths from the causal LM to its parts, and a tiny config for tests.

    `attn` and `ffn` name the modules of a unit on a decoder layer, in the order of the computation;
    where there is more than one (OPT's inline FFN), all but the last pass their input through when
    the unit is muted. `tiny` overrides the small config that `tiny:<model_type>` builds.
    """

    model_type: str
    layers: str = "model.layers"
    attn: tuple[str, ...] = ("self_attn",)
    ffn: tuple[str, ...] = ("mlp",)
    tiny: dict[str, Any] = field(default_factory=dict)

    def modules(self, kind: str) -> tuple[str, ...]:
        """The module names of one kind of unit."""
        return {"attn": self.attn, "ffn": self.ffn}[kind]


TINY_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What the tiny configs share; names that a config class does not know are dropped."""

_SLIDING = {
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama"),
        Family("mistral", tiny={"sliding_window": 16}),
        Family("qwen2"),
        Family("qwen3"),
        Family("phi3"),
        Family("gemma2", tiny={**_SLIDING, "query_pre_attn_scalar": 16}),
        Family("gemma3_text", tiny={**_SLIDING, "query_pre_attn_scalar": 16}),
        Family("gemma3", layers="model.language_model.layers"),
        Family("olmo2"),
        Family(
            "gpt2",
            layers="transformer.h",
            attn=("attn",),
            tiny={"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512},
        ),
        Family("gpt_neox", layers="gpt_neox.layers", attn=("attention",)),
        Family("phi"),
        Family(
            "opt",
            layers="model.decoder.layers",
            ffn=("fc1", "fc2"),
            tiny={"ffn_dim": 128, "word_embed_proj_dim": 64},
        ),
        Family("mixtral", tiny={"num_local_experts": 4, "num_experts_per_tok": 2}),
        Family(
            "qwen3_moe",
            tiny={"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
        ),
    )
}

TINY_ALIASES = {"gemma3": "gemma3_text"}
"""Tiny models are text-only: `tiny:gemma3` is the text model of that family."""


def family_of(model_type: str) -> Family:
    """The family's row, or one with the most common names for a type without a row."""
    return FAMILIES.get(model_type) or Family(model_type)
