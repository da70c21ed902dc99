"""The modelling file of a compact export: the native classes without the removed units.

It is made of names of classes and modules alone, so that nothing a user wrote gets into code.
"""

from __future__ import annotations

from typing import Any

from inspector.model.export import configs
from inspector.model.export.layout import kept_layers
from inspector.model.loaded import LoadedModel
from inspector.units import KINDS, Mask, Unit

SKIP_NAMES = {"attn": "attention", "ffn": "mlp"}
"""What `per_layer_config` calls the kinds of unit (transformers, `skip` of a layer)."""

TEMPLATE = '''\
"""A {model_type} model without some of its attentions and FFNs.

Which are gone stands in the config, for each layer that lacks one:
`"per_layer_config": {{"3": {{"skip": ["attention"]}}}}`. They have no weights and compute nothing.
This file needs torch and transformers alone.
"""

import torch
from torch import nn
from transformers import {imports}
from transformers.cache_utils import Cache

LAYERS = "{layers}"
ATTENTION = {attn}
FFN = {ffn}
RETURNS = {returns}


class Removed(nn.Module):
    """In the place of a removed unit: zeros in the shape that the unit would return.

    `slot` is a slot of the KV cache that no attention fills. It gets one zero a token, since the
    first slot of each kind tells how many tokens have been seen.
    """

    def __init__(self, returns, slot=None):
        super().__init__()
        self.returns = returns
        self.slot = slot

    def forward(self, *args, **kwargs):
        stream = args[0] if args else kwargs["hidden_states"]
        if self.slot is not None:
            for value in (*args, *kwargs.values()):
                if isinstance(value, Cache):
                    self.count(value, stream)
        zeros = stream.new_zeros(()).expand(stream.shape)
        return (zeros, *[None] * (self.returns - 1)) if self.returns else zeros

    def count(self, cache, stream):
        heads, size = 1, 1
        here = cache.layers[self.slot] if self.slot < len(cache.layers) else None
        filled = getattr(here, "keys", None)
        if isinstance(filled, torch.Tensor) and filled.dim() == 4:
            heads, size = filled.shape[1], filled.shape[3]
        token = stream.new_zeros((stream.shape[0], heads, stream.shape[1], size))
        cache.update(token, token, self.slot)


class Unchanged(nn.Module):
    """In the place of what comes before the last module of a removed unit."""

    def forward(self, hidden_states):
        return hidden_states


def remove_units(model):
    """Take the units out that the config says, and give the attentions that are left their slots.

    For each type of layer, the attentions of that type that are left take the first of its slots.
    """
    config = model.config.get_text_config()
    layers = model.get_submodule(LAYERS)
    skipped = [set(config.per_layer_config[index].skip) for index in range(len(layers))]
    types = getattr(config, "layer_types", None) or [""] * len(layers)
    counting = {{}}
    for each in sorted(set(types)):
        slots = [index for index, found in enumerate(types) if found == each]
        live = [index for index in slots if "attention" not in skipped[index]]
        for slot, index in zip(slots, live):
            getattr(layers[index], ATTENTION[-1]).layer_idx = slot
        if not live:
            counting[slots[0]] = slots[0]
    for index, layer in enumerate(layers):
        for kind, names in (("attention", ATTENTION), ("mlp", FFN)):
            if kind in skipped[index]:
                slot = counting.get(index) if kind == "attention" else None
                for name in names[:-1]:
                    setattr(layer, name, Unchanged())
                setattr(layer, names[-1], Removed(RETURNS[kind], slot))


class {new_config}({config}):
    model_type = "{new_type}"


class {new_base}({base}):
    config_class = {new_config}

    def __init__(self, config):
        super().__init__(config)
        remove_units(self)


class {new_causal}({causal}):
    config_class = {new_config}

    def __init__(self, config):
        super().__init__(config)
        remove_units(self.base_model)
'''


def problem(loaded: LoadedModel, mask: Mask) -> str:
    """Why no modelling file can be made for this model; empty where one can."""
    import transformers

    reason = configs.numbered_by_hand(loaded)
    if reason:
        return reason
    model: Any = loaded.model
    if not loaded.family.layers.startswith(model.base_model_prefix + "."):
        return "its layers do not lie in its base model"
    for each in (type(model), type(model.base_model), type(model.config)):
        if getattr(transformers, each.__name__, None) is not each:
            return f"transformers does not offer {each.__name__} by its name"
    for kind in KINDS:
        if len(_returns(loaded, mask, kind)) > 1:
            return f"its {kind} units do not all return the same shape"
    return ""


def _returns(loaded: LoadedModel, mask: Mask, kind: str) -> set[int]:
    return {loaded.returns[unit] for unit in mask if unit.kind == kind}


def names(loaded: LoadedModel) -> dict[str, str]:
    """The new model type, the names of the classes, and of the module that has them."""
    model: Any = loaded.model
    new_type = f"pruned_{loaded.model_type}"
    return {
        "new_type": new_type,
        "module": f"modeling_{new_type}",
        "new_config": f"Pruned{type(model.config).__name__}",
        "new_base": f"Pruned{type(model.base_model).__name__}",
        "new_causal": f"Pruned{type(model).__name__}",
    }


def source_code(loaded: LoadedModel, mask: Mask) -> str:
    """The text of the modelling file."""
    model: Any = loaded.model
    classes = [type(each).__name__ for each in (model.config, model.base_model, model)]
    returns = {SKIP_NAMES[kind]: next(iter(_returns(loaded, mask, kind)), 0) for kind in KINDS}
    return TEMPLATE.format(
        model_type=loaded.model_type,
        imports=", ".join(sorted(classes)),
        layers=loaded.family.layers.removeprefix(model.base_model_prefix + "."),
        attn=repr(loaded.family.attn),
        ffn=repr(loaded.family.ffn),
        returns=repr(returns),
        config=classes[0],
        base=classes[1],
        causal=classes[2],
        **names(loaded),
    )


def config(loaded: LoadedModel, mask: Mask) -> dict[str, Any]:
    """`config.json` of a compact export: its own model type and classes, and what layers lack."""
    kept = kept_layers(mask)
    native = configs.cut(loaded, kept)
    data, called = configs.dumped(native), names(loaded)
    part = configs.text_part(native, data)
    part["per_layer_config"] = {
        str(number): {"skip": skipped}
        for number, layer in enumerate(kept)
        if (skipped := [SKIP_NAMES[kind] for kind in KINDS if Unit(layer, kind) in mask])
    }
    data["model_type"] = called["new_type"]
    data["architectures"] = [called["new_causal"]]
    data["auto_map"] = {
        "AutoConfig": f"{called['module']}.{called['new_config']}",
        "AutoModel": f"{called['module']}.{called['new_base']}",
        "AutoModelForCausalLM": f"{called['module']}.{called['new_causal']}",
    }
    return data
