"""An export opened again: its source's depth, with the removed units in their places as gone.

Nothing of a folder's own code is run: `blocks`, `compact` and `gguf` are the native architecture
with parts left out, so it is built whole and the parts are taken out here, as are the zeros of
`zeroed` and the empty mixtures of `moe-stub`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from inspector.errors import MaskError
from inspector.model.export import stub
from inspector.model.export.configs import FIRST_MIXTURE, LAST_MIXTURE, NOT_PER_LAYER, field_name
from inspector.model.export.layout import kept_layers
from inspector.model.families import Family, family_of
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import mute_for_good
from inspector.units import Mask

FORMS = ("blocks", "moe-stub", "compact", "zeroed")
"""Those of safetensors."""
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MaskError,
           StrictDataclassError)  # fmt: skip
"""What the files of a folder may lead to that are not as an export has written them."""
GONE = "it was removed by the export"
"""The `problem` of a unit that an opened export lacks."""


@dataclass(frozen=True)
class Opened:
    """What a folder lacks of its source: the mask, and the source's architecture."""

    mask: Mask
    model_type: str
    data: dict[str, Any]
    in_full: bool = False
    """Whether the removed units have their places and weights yet, all zeros."""

    @property
    def family(self) -> Family:
        """The row of the family table."""
        return family_of(self.model_type)

    @property
    def config(self) -> Any:
        """The native config at the source's depth."""
        return type(AutoConfig.for_model(self.model_type)).from_dict(self.data)

    @property
    def key_mapping(self) -> dict[str, str]:
        """From the names of the folder's layers to the source's, as `from_pretrained` takes it.

        They are tried one after another, and a layer only ever moves up: the last one goes first.
        """
        if self.in_full:
            return {}
        prefix = self.family.layers
        moves = [(new, old) for new, old in enumerate(kept_layers(self.mask)) if new != old]
        return {rf"^{re.escape(prefix)}\.{new}\.": f"{prefix}.{old}." for new, old in moves[::-1]}

    def lacks(self, name: str) -> bool:
        """Whether the folder has no weight of this name because what it is of was removed."""
        prefix = self.family.layers + "."
        number, _, rest = name.removeprefix(prefix).partition(".")
        if self.in_full or not name.startswith(prefix) or not number.isdecimal():
            return False
        if int(number) not in kept_layers(self.mask):
            return True
        units = [unit for unit in self.mask if unit.layer == int(number)]
        names = [module for unit in units for module in self.family.modules(unit.kind)]
        return any(rest.startswith(module + ".") for module in names)


def opened(folder: Path, *, gguf: bool = False) -> Opened | None:
    """What a folder lacks of its source; None where it is no export.

    Args:
        folder: where the recipe is.
        gguf: whether the weights are in a GGUF file.
    """
    forms = ("gguf",) if gguf else FORMS
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        form, _, _ = recipe["export"].partition(":")
        if recipe["kind"] != "export" or recipe["format"] != 1 or form not in forms:
            return None
        mask, model_type = Mask.from_json(recipe["mask"]), str(recipe["model_type"])
        if form == "moe-stub":
            data = stub.source_data(model_type, data)
        return _whole(mask, model_type, data, in_full=form == "zeroed")
    except DAMAGED:
        return None


def _whole(mask: Mask, model_type: str, data: dict[str, Any], *, in_full: bool) -> Opened | None:
    """The source's config, whose layers have the entries that the export has kept of them.

    A layer that was cut out has no entry left; it gets that of the first, which nothing reads.
    """
    if data["model_type"] not in (model_type, f"pruned_{model_type}"):
        return None
    native = type(AutoConfig.for_model(model_type))
    depth = field_name(native, "num_hidden_layers")
    data = native.from_dict(data).to_dict()  # with what the file leaves out, as it is the default
    part = data.get("text_config", data)
    kept = list(range(mask.depth)) if in_full else kept_layers(mask)
    if part[depth] != len(kept):
        return None
    for name, value in part.items():
        if isinstance(value, list) and len(value) == len(kept) and name not in NOT_PER_LAYER:
            found = dict(zip(kept, value, strict=True))
            part[name] = [found.get(layer, value[0]) for layer in range(mask.depth)]
    if "mlp_only_layers" in part:
        part["mlp_only_layers"] = [kept[number] for number in part["mlp_only_layers"]]
    for name in FIRST_MIXTURE:
        if name in part:
            part[name] = [*kept, mask.depth][part[name]]
    if LAST_MIXTURE in part:
        part[LAST_MIXTURE] = kept[part[LAST_MIXTURE]]
    part[depth] = mask.depth
    part.pop("per_layer_config", None)
    data.pop("auto_map", None)
    data["architectures"] = [name.removeprefix("Pruned") for name in data["architectures"]]
    return Opened(mask, model_type, {**data, "model_type": model_type}, in_full)


def take_out(loaded: LoadedModel, mask: Mask) -> LoadedModel:
    """The model without the mask's units, for good: they compute nothing and have no weights.

    The model has been probed with whatever stands in their places, which tells what they return.
    """
    mute_for_good(loaded, mask)
    for unit in mask:
        for module in loaded.modules(unit):
            for parameter in module.parameters():
                parameter.data = parameter.data.new_empty(0)
    units = tuple(
        replace(info, parameters=0, kv_bytes_per_token=0, problem=GONE)
        if info.unit in mask
        else info
        for info in loaded.units
    )
    return replace(loaded, units=units)
