"""The forms of an export: what each is, which the mask allows, what it saves, who can load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inspector.errors import ExportError
from inspector.model.export import configs, layout, modelling, stub
from inspector.model.export.layout import all_weights, kept_layers, total_bytes
from inspector.model.export.llamacpp import tensors
from inspector.model.export.opening import GONE
from inspector.model.loaded import LoadedModel
from inspector.units import KINDS, Mask, Unit

AUTO = "auto"


@dataclass(frozen=True)
class Form:
    """One row: a format of export.

    `loads` says who can load it, reader to answer; what is read in a reader's code and was not
    tried says so. `own_code` tells that the folder brings a modelling file; `notes` go into the
    model card. A form with `types` is one GGUF file: its matrices have one of them, the first where
    none is named, while the other forms keep the dtype in memory.
    """

    name: str
    label: str
    what: str
    loads: dict[str, str]
    problem: Callable[[LoadedModel, Mask], str]
    weights: layout.Layout
    config: Callable[[LoadedModel, Mask], dict[str, Any]]
    own_code: bool = False
    notes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What it is asked for by: its name, and with each type but the first."""
        return [self.name, *(f"{self.name}:{kind}" for kind in self.types[1:])]


def _blocks_problem(loaded: LoadedModel, mask: Mask) -> str:
    partly = [layer for layer in range(mask.depth) if _muted_kinds(mask, layer) == 1]
    if partly:
        return f"layer {partly[0]} is off only in part, and whole layers alone can be cut out so"
    if len(mask) == mask.depth * len(KINDS):
        return "no layer would be left"
    return configs.numbered_by_hand(loaded)


def _muted_kinds(mask: Mask, layer: int) -> int:
    return sum(Unit(layer, kind) in mask for kind in KINDS)


def _cut_config(loaded: LoadedModel, mask: Mask) -> dict[str, Any]:
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
            _cut_config,
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
        Form(
            "gguf",
            "One file for llama.cpp",
            "a GGUF file: llama where whole layers alone are off, else deci, whose layers have "
            "sizes of their own; matrices in F16, or by name in another type (gguf:q8_0)",
            {
                "transformers": "where whole layers alone are off and nothing has biases; scaled "
                "positions are not read",
                "vLLM": "not tried",
                "llama.cpp": "yes, as it is",
            },
            tensors.problem,
            tensors.layout,
            _cut_config,
            types=tensors.TYPES,
        ),
    )
}
"""The formats, the lowest rung first: `auto` takes the first that is possible and smaller."""


@dataclass(frozen=True)
class Choice:
    """A form for one model and mask: bytes of its weights and of the source's, or its problem.

    `type` is that of its matrices, where the form has several; else empty.
    """

    form: Form
    bytes: int
    source_bytes: int
    problem: str = ""
    type: str = ""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return self.form.names[self.form.types.index(self.type)] if self.type else self.form.name

    @property
    def saved(self) -> float:
        """The share of the source's bytes that it saves, 0 to 1."""
        return 1 - self.bytes / self.source_bytes if self.source_bytes else 0.0


NAMES: dict[str, tuple[Form, str]] = {
    name: (form, kind)
    for form in FORMS.values()
    for name, kind in zip(form.names, form.types or ("",), strict=True)
}
"""Everything that can be asked for by name, to its form and type."""


def choices(loaded: LoadedModel, mask: Mask) -> list[Choice]:
    """Every form, with what it costs under this mask or why it is not possible.

    Bytes are those of the weights by arithmetic, in the dtype of the model in memory or the form's
    own type: parameters times the size of one, tied weights once, without the headers of the files.

    Raises:
        MaskError: the mask does not fit the model.
    """
    return [_choice(loaded, mask, name) for name in FORMS]


def _choice(loaded: LoadedModel, mask: Mask, name: str) -> Choice:
    loaded.check(mask)
    form, kind = NAMES[name]
    source = total_bytes(all_weights(loaded))
    problem = _general_problem(loaded, mask) or form.problem(loaded, mask)
    if problem:
        return Choice(form, 0, source, problem, kind)
    weights = form.weights(loaded, mask)
    size = tensors.total_bytes(weights, kind) if kind else total_bytes(weights)
    return Choice(form, size, source, type=kind)


def choose(loaded: LoadedModel, mask: Mask, name: str = AUTO) -> Choice:
    """The choice of this name; `auto` is the lowest rung that is possible and really smaller.

    `auto` keeps to what transformers loads: a file in another precision is smaller in any case.

    Raises:
        ExportError: no such form, or it is not possible here; says why.
        MaskError: the mask does not fit the model.
    """
    if name != AUTO:
        if name not in NAMES:
            raise ExportError(f"there is no format {name!r}: choose {AUTO}, {', '.join(NAMES)}.")
        choice = _choice(loaded, mask, name)
        if choice.problem:
            raise ExportError(f"{name} is not possible here: {choice.problem}.")
        return choice
    problem = _general_problem(loaded, loaded.check(mask))
    if problem:
        raise ExportError(f"an export is not possible here: {problem}.")
    found = [choice for choice in choices(loaded, mask) if not choice.type]
    for choice in found:
        if not choice.problem and choice.bytes < choice.source_bytes:
            return choice
    reasons = "; ".join(f"{c.form.name}: {c.problem}" for c in found if c.problem)
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
