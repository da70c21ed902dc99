"""Which weights an export has, under which names: data about tensors, which stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from inspector.model.loaded import LoadedModel
from inspector.units import KINDS, Mask, Unit


@dataclass(frozen=True)
class Weight:
    """One tensor of an export.

    `name` is its name in the export, `shape` and `dtype` what is written. It is read from attribute
    `key` of `module` in the model in memory; without a module it is all zeros. `layer` is the layer
    of the source, and `unit` the unit that it is part of.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    module: nn.Module | None = None
    key: str = ""
    layer: int | None = None
    unit: Unit | None = None

    @property
    def bytes(self) -> int:
        """What it takes in a file, without the file's header."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def all_weights(loaded: LoadedModel) -> list[Weight]:
    """Every weight of the model in memory, tied ones once, the layers' together and in order."""
    tied = getattr(loaded.model, "all_tied_weights_keys", None) or {}
    seen: set[int] = set()
    found = []
    for path, module in loaded.model.named_modules():
        for key, tensor in _own_tensors(module):
            name = f"{path}.{key}" if path else key
            if name in tied or (tensor.device.type != "meta" and id(tensor) in seen):
                continue
            seen.add(id(tensor))
            layer, unit = _place(loaded, name)
            found.append(
                Weight(name, tuple(tensor.shape), tensor.dtype, module, key, layer=layer, unit=unit)
            )
    return found


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False)
    for key, tensor in module.named_buffers(recurse=False):
        if key not in module._non_persistent_buffers_set:
            yield key, tensor


def _place(loaded: LoadedModel, name: str) -> tuple[int | None, Unit | None]:
    """The layer and the unit that a weight of this name is part of."""
    prefix = loaded.family.layers + "."
    if not name.startswith(prefix):
        return None, None
    number, _, rest = name.removeprefix(prefix).partition(".")
    layer = int(number)
    for kind in KINDS:
        if any(rest.startswith(module + ".") for module in loaded.family.modules(kind)):
            return layer, Unit(layer, kind)
    return layer, None


def kept_layers(mask: Mask) -> list[int]:
    """The layers that have a unit left; the first one where none has, since a model needs one."""
    kept = [
        layer for layer in range(mask.depth) if any(Unit(layer, kind) not in mask for kind in KINDS)
    ]
    return kept or [0]


def without_layers(loaded: LoadedModel, weights: list[Weight], kept: list[int]) -> list[Weight]:
    """The weights outside the layers and those of the kept layers, which are numbered anew."""
    numbers = {layer: number for number, layer in enumerate(kept)}
    prefix = loaded.family.layers + "."
    found = []
    for weight in weights:
        if weight.layer is None:
            found.append(weight)
        elif weight.layer in numbers:
            rest = weight.name.removeprefix(f"{prefix}{weight.layer}.")
            found.append(replace(weight, name=f"{prefix}{numbers[weight.layer]}.{rest}"))
    return found


def blocks(loaded: LoadedModel, mask: Mask) -> list[Weight]:
    """Whole layers cut out, the others numbered anew."""
    return without_layers(loaded, all_weights(loaded), kept_layers(mask))


def compact(loaded: LoadedModel, mask: Mask) -> list[Weight]:
    """Whole layers cut out, and the weights of the other removed units left out."""
    return [weight for weight in blocks(loaded, mask) if weight.unit not in mask.muted]


def zeroed(loaded: LoadedModel, mask: Mask) -> list[Weight]:
    """Every weight, those of removed units all zeros, which makes them add zero."""
    return [
        replace(weight, module=None) if weight.unit in mask.muted else weight
        for weight in all_weights(loaded)
    ]


Layout = Callable[[LoadedModel, Mask], list[Weight]]


def total_bytes(weights: list[Weight]) -> int:
    """What the weights take on disk, without the headers of the files."""
    return sum(weight.bytes for weight in weights)
