"""Which part of the model is meant: units, masks, and their text and JSON forms.

A unit is one attention or one FFN of a decoder layer, written ``5.attn`` or ``3.ffn``. A mask is
the set of muted units of a model of a known depth. Layers count from 0 and ranges are inclusive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from inspector.errors import MaskError

KINDS = ("attn", "ffn")
"""The kinds of unit in the order in which a layer applies them."""

_PART = re.compile(
    r"(?P<first>\d{1,99})(?:\s*-\s*(?P<last>\d{1,99}))?(?:\.(?P<kind>[A-Za-z_]\w*))?"
)
_HELP = "write units as 5.attn, 3.ffn, 17 (both) or 21-28.attn, separated by commas"


@dataclass(frozen=True, order=True)
class Unit:
    """One attention or FFN: `layer` is 0-based, `kind` is an open name, `attn` or `ffn` today."""

    layer: int
    kind: str

    def __str__(self) -> str:
        """The text form, such as ``5.attn``."""
        return f"{self.layer}.{self.kind}"


@dataclass(frozen=True)
class Mask:
    """The set of muted units of a model with `depth` layers. Every operation returns a new mask."""

    depth: int
    muted: frozenset[Unit] = frozenset()

    def __post_init__(self) -> None:
        """Refuse units beyond the depth."""
        for unit in sorted(self.muted):
            if not 0 <= unit.layer < self.depth:
                raise MaskError(
                    f"layer {unit.layer} is out of range: this model has {self.depth} layers, "
                    f"numbered 0 to {self.depth - 1}."
                )

    def __contains__(self, unit: Unit) -> bool:
        """Whether the unit is muted."""
        return unit in self.muted

    def __iter__(self) -> Iterator[Unit]:
        """The muted units in the order of the forward pass."""
        return iter(sorted(self.muted, key=_forward_order))

    def __len__(self) -> int:
        """How many units are muted."""
        return len(self.muted)

    def __str__(self) -> str:
        """The canonical text: equal masks give equal text, ``""`` for the empty one."""
        by_layer: dict[int, list[str]] = {}
        for unit in self:
            by_layer.setdefault(unit.layer, []).append(unit.kind)
        parts: list[tuple[int, str]] = []
        for layer, kinds in by_layer.items():
            whole = kinds == list(KINDS)
            parts += [(layer, "")] if whole else [(layer, f".{kind}") for kind in kinds]
        return ",".join(_ranges(parts))

    @classmethod
    def parse(cls, text: str, depth: int) -> Mask:
        """Read the text form; the empty text is the empty mask.

        Raises:
            MaskError: the text is malformed, names an unknown kind or a layer out of range.
        """
        return cls(depth, frozenset(unit for part in _split(text) for unit in _units(part, depth)))

    @classmethod
    def of(cls, depth: int, units: Iterable[Unit | str]) -> Mask:
        """The mask of these units, given as units or as text."""
        texts = ",".join(str(unit) for unit in units)
        return cls.parse(texts, depth)

    def to_json(self) -> dict[str, Any]:
        """``{"depth": 30, "muted": ["5.attn"]}``: the canonical text, one list entry a part."""
        return {"depth": self.depth, "muted": list(_split(str(self)))}

    @classmethod
    def from_json(cls, data: Any, depth: int | None = None) -> Mask:
        """Read the JSON form; with `depth`, refuse a mask that is for another depth.

        Raises:
            MaskError: not the JSON of a mask, or a mask for a model of another depth.
        """
        if not isinstance(data, dict) or not isinstance(data.get("depth"), int):
            raise MaskError('a mask in JSON looks like {"depth": 30, "muted": ["5.attn"]}.')
        muted = data.get("muted")
        if not isinstance(muted, list) or not all(isinstance(part, str) for part in muted):
            raise MaskError('"muted" must be a list of unit texts such as ["5.attn", "17"].')
        mask = cls.parse(",".join(muted), data["depth"])
        return mask if depth is None else mask.require_depth(depth)

    def require_depth(self, depth: int) -> Mask:
        """This mask, if it is for a model of `depth` layers; else MaskError."""
        if self.depth != depth:
            raise MaskError(
                f"this mask is for a model of {self.depth} layers, the loaded model has {depth}: "
                "load the model that it was made for, or pick units anew."
            )
        return self

    def mute(self, units: Iterable[Unit]) -> Mask:
        """This mask with these units muted as well."""
        return Mask(self.depth, self.muted | frozenset(units))

    def unmute(self, units: Iterable[Unit]) -> Mask:
        """This mask with these units on again."""
        return Mask(self.depth, self.muted - frozenset(units))

    def toggle(self, unit: Unit) -> Mask:
        """This mask with the unit switched the other way."""
        return self.unmute([unit]) if unit in self else self.mute([unit])


def layers(first: int, last: int) -> list[Unit]:
    """Both units of each layer from `first` to `last`, inclusive."""
    return [Unit(layer, kind) for layer in range(first, last + 1) for kind in KINDS]


def all_units(depth: int) -> list[Unit]:
    """Every unit of a model of `depth` layers, in the order of the forward pass."""
    return layers(0, depth - 1)


def unit(text: str, depth: int) -> Unit:
    """The one unit that the text names.

    Raises:
        MaskError: the text does not name exactly one unit of a model of `depth` layers.
    """
    found = list(Mask.parse(text, depth))
    if len(found) != 1:
        raise MaskError(f"{text!r} names {len(found)} units where one is needed, such as 5.attn.")
    return found[0]


def _forward_order(unit: Unit) -> tuple[int, int, str]:
    known = KINDS.index(unit.kind) if unit.kind in KINDS else len(KINDS)
    return unit.layer, known, unit.kind


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _units(part: str, depth: int) -> list[Unit]:
    match = _PART.fullmatch(part)
    if match is None:
        raise MaskError(f"{part!r} is not a unit: {_HELP}.")
    first = int(match["first"])
    last = int(match["last"] or first)
    if last < first:
        raise MaskError(f"the range {part!r} runs backwards: {_HELP}.")
    if last >= depth:
        raise MaskError(
            f"layer {last} is out of range: this model has {depth} layers, "
            f"numbered 0 to {depth - 1}."
        )
    kind = match["kind"]
    if kind is not None and kind not in KINDS:
        raise MaskError(f"{part!r} names no kind of unit ({' or '.join(KINDS)}): {_HELP}.")
    kinds = KINDS if kind is None else (kind,)
    return [Unit(layer, name) for layer in range(first, last + 1) for name in kinds]


def _ranges(parts: list[tuple[int, str]]) -> list[str]:
    """Join runs of consecutive layers with the same suffix: (3,".ffn"), (4,".ffn") -> 3-4.ffn."""
    runs = groupby(enumerate(parts), key=lambda at: (at[1][0] - at[0], at[1][1]))
    texts = []
    for (_, suffix), run in runs:
        numbers = [layer for _, (layer, _) in run]
        span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        texts.append(span + suffix)
    return texts
