"""The forms of an export: what each is, which the mask allows, what it saves, who can load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inspector.errors import ExportError
from inspector.model.export import configs, layout, modelling, stub
from inspector.model.export.layout import all_weights, kept_layers, total_bytes
from inspector.model.export.opening import GONE
from inspector.model.loaded import LoadedModel
from inspector.units import KINDS, Mask, Unit

AUTO = "auto"


@dataclass(frozen=True)
class Form:
    """One row: a format of export.

    `loads` says who can load it, reader to answer; what is read in a reader's code and was not
    tried says so. `native` tells that the folder is of a model type that transformers knows,
    `own_code` that it brings a modelling file; `notes` go into the model card.
    """

    name: str
    label: str
    what: str
    loads: dict[str, str]
    problem: Callable[[LoadedModel, Mask], str]
    weights: layout.Layout
    config: Callable[[LoadedModel, Mask], dict[str, Any]]
    native: bool = True
    own_code: bool = False
    notes: tuple[str, ...] = ()


def _blocks_problem(loaded: LoadedModel, mask: Mask) -> str:
    partly = [layer for layer in range(mask.depth) if _muted_kinds(mask, layer) == 1]
    if partly:
        return f"layer {partly[0]} is off only in part, and whole layers alone can be cut out so"
    if len(mask) == mask.depth * len(KINDS):
        return "no layer would be left"
    return configs.numbered_by_hand(loaded)


def _muted_kinds(mask: Mask, layer: int) -> int:
    return sum(Unit(layer, kind) in mask for kind in KINDS)


def _blocks_config(loaded: LoadedModel, mask: Mask) -> dict[str, Any]:
    return configs.dumped(configs.cut(loaded, kept_layers(mask)))


def _zeroed_config(loaded: LoadedModel, mask: Mask) -> dict[str, Any]:
    return configs.dumped(configs.cut(loaded, list(range(mask.depth))))


AS_SOURCE = "as the source"
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(
            "blocks",
            "Whole layers cut out",
            "the source's own architecture with fewer layers, numbered anew",
            {
                "transformers": "yes, without remote code",
                "vLLM": f"{AS_SOURCE} (not tried)",
                "llama.cpp": f"{AS_SOURCE}, after conversion (not tried)",
            },
            _blocks_problem,
            layout.blocks,
            _blocks_config,
        ),
        Form(
            "moe-stub",
            "Removed FFNs as a mixture of nothing",
            "qwen2_moe, in which a removed FFN is one narrow expert of zeros",
            {
                "transformers": "yes, without remote code",
                "vLLM": "as qwen2_moe (not tried)",
                "llama.cpp": "as qwen2_moe, after conversion (not tried)",
            },
            stub.problem,
            stub.weights,
            stub.config,
            notes=("Tools, quantisers among them, will take it for a mixture of experts.",),
        ),
        Form(
            "compact",
            "Compact, with its own code",
            "an own model type and a small modelling file; removed units have no weights",
            {
                "transformers": "with trust_remote_code=True; refused without",
                "vLLM": "through its transformers backend, with remote code (not tried)",
                "llama.cpp": "no",
            },
            modelling.problem,
            layout.compact,
            modelling.config,
            native=False,
            own_code=True,
        ),
        Form(
            "zeroed",
            "Zeroed, saves nothing",
            "the source's own architecture at its own size; the weights of removed units are zero",
            {
                "transformers": "yes, without remote code",
                "vLLM": f"{AS_SOURCE} (not tried)",
                "llama.cpp": f"{AS_SOURCE}, after conversion (not tried)",
            },
            lambda loaded, mask: "",
            layout.zeroed,
            _zeroed_config,
        ),
    )
}
"""The formats, the lowest rung first: `auto` takes the first that is possible and smaller."""


@dataclass(frozen=True)
class Choice:
    """A form for one model and mask: bytes of its weights and of the source's, or its problem."""

    form: Form
    bytes: int
    source_bytes: int
    problem: str = ""

    @property
    def saved(self) -> float:
        """The share of the source's bytes that it saves, 0 to 1."""
        return 1 - self.bytes / self.source_bytes if self.source_bytes else 0.0


def choices(loaded: LoadedModel, mask: Mask) -> list[Choice]:
    """Every form, with what it costs under this mask or why it is not possible.

    Bytes are those of the weights by arithmetic, in the dtype of the model in memory: parameters
    times the size of one, tied weights once, without the headers of the files.

    Raises:
        MaskError: the mask does not fit the model.
    """
    loaded.check(mask)
    source = total_bytes(all_weights(loaded))
    general = _general_problem(loaded, mask)
    found = []
    for form in FORMS.values():
        problem = general or form.problem(loaded, mask)
        size = 0 if problem else total_bytes(form.weights(loaded, mask))
        found.append(Choice(form, size, source, problem))
    return found


def choose(loaded: LoadedModel, mask: Mask, name: str = AUTO) -> Choice:
    """The choice of this name; `auto` is the lowest rung that is possible and really smaller.

    Raises:
        ExportError: no such form, or it is not possible here; says why.
        MaskError: the mask does not fit the model.
    """
    if name != AUTO and name not in FORMS:
        raise ExportError(f"there is no format {name!r}: choose {AUTO}, {', '.join(FORMS)}.")
    found = {choice.form.name: choice for choice in choices(loaded, mask)}
    if name != AUTO:
        if found[name].problem:
            raise ExportError(f"{name} is not possible here: {found[name].problem}.")
        return found[name]
    for choice in found.values():
        if not choice.problem and choice.bytes < choice.source_bytes:
            return choice
    reasons = "; ".join(f"{c.form.name}: {c.problem}" for c in found.values() if c.problem)
    raise ExportError(f"no format makes this smaller ({reasons}): choose other units, or zeroed.")


def _general_problem(loaded: LoadedModel, mask: Mask) -> str:
    if not len(mask):
        return "no unit is off"
    if any(info.problem == GONE for info in loaded.units):
        return "units of it are gone already; export its source, with all units that are to go"
    quantizer = getattr(loaded.model, "hf_quantizer", None)
    method = getattr(getattr(quantizer, "quantization_config", None), "quant_method", None)
    if quantizer is not None and str(getattr(method, "value", method)) != "gguf":
        return "its weights in memory are quantised; load the unquantised model"
    return ""
