"""A model in memory and what is known of its units."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from inspector import __version__
from inspector.errors import MaskError
from inspector.model.families import Family
from inspector.results.base import Provenance
from inspector.units import Mask, Unit

if TYPE_CHECKING:
    from inspector.model.offloading import Offloaded


@dataclass(frozen=True)
class UnitInfo:
    """What one unit is and costs.

    `parameters` are those of its modules, without the norms around them; `kv_bytes_per_token` is
    what one token of one sequence takes in its KV cache; `layer_type` is the config's name for the
    layer's attention, such as `sliding_attention`, or empty; `problem` says why the unit cannot be
    muted, and is empty where it can.
    """

    unit: Unit
    parameters: int
    kv_bytes_per_token: int
    layer_type: str = ""
    problem: str = ""


@dataclass
class LoadedModel:
    """A causal LM on its device, its tokenizer, and its units.

    `source` is what the user asked for, `weights` the revision or file hash that it resolved to.
    `returns` has, for each unit, the length of the tuple that its module returns (0: a bare
    tensor). `not_replayable` says why the model cannot be run layer by layer (see `replay`), else
    empty. `plain_head` tells that its logits are the output matrix times the normed stream, no
    more; `takes_branches` that it can run several continuations of one text in a row (see
    `branches`). `offloaded` has the weights of a model that are not on its device.
    """

    model: PreTrainedModel
    tokenizer: Any
    source: str
    weights: str
    family: Family
    layers: nn.ModuleList
    units: tuple[UnitInfo, ...] = ()
    returns: dict[Unit, int] = field(default_factory=dict)
    not_replayable: str = ""
    plain_head: bool = False
    takes_branches: bool = False
    offloaded: Offloaded | None = None

    @property
    def depth(self) -> int:
        """The number of decoder layers."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model runs: where its weights are, or are brought to."""
        return self.model.device if self.offloaded is None else self.offloaded.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.model.dtype

    @property
    def model_type(self) -> str:
        """The architecture's name in its config."""
        return self.model.config.model_type

    @property
    def max_length(self) -> int | None:
        """The longest window the model was made for, where its config says so."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return self.offloaded.parameters if self.offloaded else count_parameters(self.model)

    @property
    def bytes_read(self) -> int:
        """Bytes of weights brought to the device since the load; 0 where they are there."""
        return self.offloaded.read if self.offloaded else 0

    @property
    def stream_bytes(self) -> int:
        """Bytes that the residual stream of one token takes."""
        return self.model.config.get_text_config().hidden_size * self.dtype.itemsize

    @property
    def brought_by_layer(self) -> bool:
        """Whether layers run one by one and their weights have to be brought in for that."""
        return bool(self.offloaded) and not self.not_replayable

    def held(
        self, modules: Iterable[nn.Module], *, whole: bool = False
    ) -> AbstractContextManager[object]:
        """A block in which the modules' weights come in once at the most: see `Offloaded.hold`.

        For a model whose weights are on its device it does nothing.
        """
        return self.offloaded.hold(modules, whole=whole) if self.offloaded else nullcontext()

    def outside(self) -> Iterator[nn.Module]:
        """The modules that are in no layer."""
        inside = {id(module) for module in self.layers.modules()}
        yield from (module for module in self.model.modules() if id(module) not in inside)

    def empty(self) -> Mask:
        """The mask that mutes nothing."""
        return Mask(self.depth)

    def mask(self, text: str) -> Mask:
        """The mask that the text names, checked against this model."""
        return self.check(Mask.parse(text, self.depth))

    def modules(self, unit: Unit) -> list[nn.Module]:
        """The modules that make up a unit, in the order of the computation."""
        names = self.family.modules(unit.kind)
        return [getattr(self.layers[unit.layer], name) for name in names]

    def info(self, unit: Unit) -> UnitInfo:
        """What is known of a unit."""
        for info in self.units:
            if info.unit == unit:
                return info
        raise MaskError(f"this model has no unit {unit}.")

    def toggleable(self) -> list[Unit]:
        """The units that can be muted, in the order of the forward pass."""
        return [info.unit for info in self.units if not info.problem]

    def check(self, mask: Mask) -> Mask:
        """The mask, if this model can be run under it.

        Raises:
            MaskError: it is for another depth, or names a unit that cannot be muted here.
        """
        mask.require_depth(self.depth)
        for info in self.units:
            if info.unit in mask and info.problem:
                raise MaskError(f"{info.unit} cannot be muted: {info.problem}.")
        return mask

    def parameters_left(self, mask: Mask) -> int:
        """All parameters less those of the muted units; tied ones once."""
        return self.parameters - sum(i.parameters for i in self.units if i.unit in mask)

    def kv_bytes_left(self, mask: Mask) -> int:
        """Bytes that one token of one sequence takes in the KV cache of the units that are on."""
        return sum(i.kv_bytes_per_token for i in self.units if i.unit not in mask)

    def provenance(
        self,
        *,
        corpus: dict[str, Any] | None = None,
        seed: int | None = None,
        started: float | None = None,
    ) -> Provenance:
        """What goes on every result; `started` is the time.perf_counter() of the beginning.

        The seed is that of the choice of windows where no other is given.
        """
        import transformers

        return Provenance(
            source=self.source,
            weights=self.weights,
            model_type=self.model_type,
            dtype=str(self.dtype).removeprefix("torch."),
            device=device_name(self.device),
            depth=self.depth,
            corpus=corpus or {},
            seed=(corpus or {}).get("seed") if seed is None else seed,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=time.perf_counter() - started if started is not None else float("nan"),
            versions={
                "inspector": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        )


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, tied ones once."""
    return sum(p.numel() for p in module.parameters())


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out; on the CPU torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)


def device_name(device: torch.device) -> str:
    """`cpu`, or the accelerator with its product name."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
