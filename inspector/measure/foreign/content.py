"""What other tools' files say, before it is a mask: sets of units, and what such files are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inspector.errors import MaskError
from inspector.units import KINDS, Mask, Unit, layers

if TYPE_CHECKING:
    from inspector.measure.foreign.distances import Distances

DEEPEST = 10_000
"""No model has so many layers; a damaged file can say any number."""

NO_DEPTH = "this file does not say how many layers the model has: name the model or the number."


@dataclass(frozen=True)
class Text:
    """A file's text, and what it is as JSON; None where it is none."""

    text: str
    json: Any


@dataclass(frozen=True)
class Content:
    """The units that are off; where the file has an order, those off after each step.

    `depth` is the number of layers, None where the file does not say it.
    """

    sets: tuple[frozenset[Unit], ...]
    depth: int | None = None
    ordered: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is to be written: a mask, the masks after each step where there is an order, a model.

    `distances` are those of windows of layers, for a form that holds them; None where a mask alone
    is known.
    """

    mask: Mask
    order: tuple[Mask, ...] = ()
    model: str = ""
    distances: Distances | None = None


def one_set(units: Iterable[Unit], depth: int | None = None) -> Content:
    """The content of a file without an order."""
    return Content((frozenset(units),), depth)


def whole_number(value: Any, what: str) -> int:
    """A number of the file.

    Raises:
        MaskError: it is something else, such as true or 2.5.
    """
    if type(value) is not int:
        raise MaskError(f"{what} is no whole number in this file: it is damaged.")
    return value


def stated_depth(data: dict[str, Any]) -> int | None:
    """The number of layers that a config.json says, None where it does not."""
    found = data.get("num_hidden_layers")
    if found is None:
        return None
    if not 1 <= whole_number(found, "num_hidden_layers") <= DEEPEST:
        raise MaskError(f"num_hidden_layers is {found} in this file: it is damaged.")
    return found


def whole_layers(mask: Mask, tool: str) -> list[int]:
    """The layers that are off; for files that know nothing smaller.

    Raises:
        MaskError: a layer has one unit off and one on.
    """
    found = sorted({unit.layer for unit in mask})
    for layer in found:
        off = [kind for kind in KINDS if Unit(layer, kind) in mask]
        if len(off) < len(KINDS):
            raise MaskError(
                f"{tool} removes whole layers only, and of layer {layer} this mask mutes "
                f"{off[0]} alone: mute both units, or choose a form that knows units."
            )
    return found


def both_units(numbers: Sequence[int]) -> frozenset[Unit]:
    """Both units of each layer."""
    return frozenset(unit for number in numbers for unit in layers(number, number))
