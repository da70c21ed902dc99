"""What the page knows of a model: enough to draw the map, with or without the weights in memory."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

from inspector import __version__
from inspector.errors import MaskError, ResultError
from inspector.results.base import Provenance, brief
from inspector.units import Mask, all_units


@dataclass(frozen=True)
class Card:
    """A model's identity and what its units cost.

    `units` maps unit text to (parameters, KV bytes per token), `problems` the units that cannot be
    muted to the reason, `types` has each layer's attention type. `recorded` marks a card from a
    file shipped with the page: there are no weights behind it.
    """

    source: str
    weights: str
    model_type: str
    dtype: str
    device: str
    depth: int
    parameters: int
    bytes_per_parameter: int
    units: dict[str, tuple[int, int]]
    problems: dict[str, str]
    types: list[str]
    recorded: bool = False

    @classmethod
    def of(cls, loaded: Any) -> Card:
        """The card of a `LoadedModel`."""
        made = loaded.provenance()
        return cls(
            source=loaded.source,
            weights=loaded.weights,
            model_type=loaded.model_type,
            dtype=made.dtype,
            device=made.device,
            depth=loaded.depth,
            parameters=loaded.parameters,
            bytes_per_parameter=loaded.dtype.itemsize,
            units={str(i.unit): (i.parameters, i.kv_bytes_per_token) for i in loaded.units},
            problems={str(i.unit): i.problem for i in loaded.units if i.problem},
            types=[i.layer_type for i in loaded.units if i.unit.kind == "attn"],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `recorded` is not part of it."""
        return {name: value for name, value in asdict(self).items() if name != "recorded"}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Card:
        """A recorded card.

        Raises:
            ResultError: damaged.
        """
        try:
            units = {name: (int(a), int(b)) for name, (a, b) in data["units"].items()}
            return cls(**{**data, "units": units}, recorded=True)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ResultError(f"the recorded model card is damaged: {error}.") from error

    @property
    def kv_bytes(self) -> int:
        """KV bytes per token of all units."""
        return sum(kv for _, kv in self.units.values())

    @property
    def name(self) -> str:
        """The model, its weights and dtype in one line."""
        return " · ".join(part for part in (self.source, brief(self.weights), self.dtype) if part)

    def same_model(self, other: Card | None) -> bool:
        """Whether both are the same weights in the same dtype."""
        key = ("source", "weights", "dtype", "depth")
        return other is not None and all(getattr(self, k) == getattr(other, k) for k in key)

    def check(self, mask: Mask) -> Mask:
        """The mask, if this model can be run under it.

        Raises:
            MaskError: it is for another depth, or names a unit that cannot be muted here.
        """
        mask.require_depth(self.depth)
        for unit in mask:
            if str(unit) in self.problems:
                raise MaskError(f"{unit} cannot be muted: {self.problems[str(unit)]}.")
        return mask

    def left(self, mask: Mask) -> tuple[int, int]:
        """Parameters and KV bytes per token that a mask leaves."""
        gone = [self.units[str(unit)] for unit in mask]
        parameters, kv = (sum(costs) for costs in zip(*gone, strict=True)) if gone else (0, 0)
        return self.parameters - parameters, self.kv_bytes - kv

    def provenance(self) -> Provenance:
        """What goes on a result that nobody measured, such as a run out of another tool's file."""
        return Provenance(
            source=self.source,
            weights=self.weights,
            model_type=self.model_type,
            dtype=self.dtype,
            device=self.device,
            depth=self.depth,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={"inspector": __version__},
        )

    def takes(self, mask: Mask) -> bool:
        """Whether this model can be run under the mask; see `check`."""
        return mask.depth == self.depth and not any(str(unit) in self.problems for unit in mask)

    def toggleable(self) -> Mask:
        """The mask of every unit that can be muted."""
        return Mask.of(
            self.depth, [u for u in all_units(self.depth) if str(u) not in self.problems]
        )
