"""The weights of a GGUF export under the names and in the places that its source has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from inspector.model.export.layout import kept_layers
from inspector.model.export.llamacpp.tensors import ROPE_FREQS, head_size, place_of, unpermuted
from inspector.model.export.opening import Opened


def source_weights(file: Path, export: Opened, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every weight that the file has of the source; what stands for removed units is left out.

    Transformers reads no layers of different sizes from a GGUF file, and no biases. The norm before
    a removed attention, which the file lacks and nothing uses, is all ones.

    Args:
        file: the export's file.
        export: what it lacks.
        dtype: that of the weights; packed ones are unpacked.

    Raises:
        ValueError, KeyError: the file is damaged, or is not what the recipe says.
    """
    from gguf import GGUFReader, dequantize

    config, layers, kept = export.config, export.family.layers, kept_layers(export.mask)
    found: dict[str, torch.Tensor] = {
        f"{layers}.{unit.layer}.input_layernorm.weight": torch.ones(config.hidden_size, dtype=dtype)
        for unit in export.mask
        if unit.kind == "attn" and unit.layer in kept
    }
    for each in GGUFReader(file).tensors:
        if each.name == ROPE_FREQS:  # the config has what it was made from
            continue
        block, path, key = place_of(each.name)
        name = f"{path}.{key}" if block is None else f"{layers}.{kept[block]}.{path}.{key}"
        if export.lacks(name):
            continue
        values = np.array(dequantize(each.data, each.tensor_type))
        if path in ("self_attn.q_proj", "self_attn.k_proj"):
            values = unpermuted(values, head_size(config))
        found[name] = torch.from_numpy(values).to(dtype)
    return found
