"""What a method may remove: its candidates under a mask, and how far it can get with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from inspector.errors import MaskError
from inspector.measure.methods import Method
from inspector.units import KINDS, Mask, Unit

Group = tuple[Unit, ...]
"""What goes in one removal: a unit, or what is still on of a whole layer."""


def choices(
    row: Method,
    mutable: Sequence[Unit],
    mask: Mask,
    *,
    only: str | None = None,
    protect: Mask | None = None,
) -> list[Group]:
    """The candidates of a method at the start, in the order of the forward pass.

    Args:
        row: the method.
        mutable: the units that the model can do without, in the order of the forward pass.
        mask: what is muted already.
        only: `attn` or `ffn`, for units of one kind alone.
        protect: units that stay; of a method of whole layers, every layer with one of them.

    Raises:
        MaskError: `only` makes no sense here, or nothing is left.
    """
    if only is not None and only not in KINDS:
        raise MaskError(f"--only takes {' or '.join(KINDS)}, not {only!r}.")
    if only is not None and row.grain == "layer":
        raise MaskError(f"{row.name} removes whole layers: leave out --only.")
    staying = set(protect or ())
    kept = _kept(row, mask)
    found = []
    for group in _whole(mutable) if row.grain == "layer" else [(unit,) for unit in mutable]:
        on = tuple(unit for unit in group if unit not in mask)
        kinds = {unit.kind for unit in group}
        if not on or group[0].layer in kept or staying & set(group):
            continue
        if row.grain == "layer" or (kinds <= set(row.kinds) and only in (None, *kinds)):
            found.append(on)
    if not found:
        raise MaskError(_nothing(row, mutable, mask, only, protect))
    return found


def _whole(mutable: Sequence[Unit]) -> list[Group]:
    """The layers of which every unit can be muted."""
    layers = [tuple(units) for _, units in groupby(mutable, key=lambda unit: unit.layer)]
    return [units for units in layers if len(units) == len(KINDS)]


def _kept(row: Method, mask: Mask) -> set[int]:
    first, last = row.keep
    on = alive(mask)
    return {*on[:first], *on[len(on) - last :]}


def alive(mask: Mask) -> list[int]:
    """The layers that are not muted whole."""
    gone = [unit.layer for unit in mask]
    return [layer for layer in range(mask.depth) if gone.count(layer) < len(KINDS)]


def _nothing(
    row: Method, mutable: Sequence[Unit], mask: Mask, only: str | None, protect: Mask | None
) -> str:
    if all(unit in mask for unit in mutable):
        return "no unit is left to score: everything that can be muted is muted."
    reasons = [
        f"it removes {row.kinds[0]} units" if len(row.kinds) == 1 else "",
        f"it keeps {row.kept}" if row.kept else "",
        f"only {only} units are wanted" if only else "",
        f"{protect} is protected" if protect else "",
        f"{mask} is muted already" if mask else "",
    ]
    why = ", ".join(filter(None, reasons)) or "this model cannot do without one"
    return f"nothing is left that {row.name} may remove: {why}."


def stretches(groups: Iterable[Group], mask: Mask) -> list[list[Group]]:
    """Runs of candidate layers, with nothing but muted layers between them."""
    found: list[list[Group]] = []
    by_layer = {group[0].layer: group for group in groups}
    broken = True
    for layer in alive(mask):
        if layer in by_layer:
            if broken:
                found.append([])
            found[-1].append(by_layer[layer])
        broken = layer not in by_layer
    return found


def reach(row: Method, groups: list[Group], mask: Mask) -> list[Group]:
    """What a run could have removed in the end: all candidates, or the longest window."""
    return max(stretches(groups, mask), key=len) if row.way == "window" else groups
