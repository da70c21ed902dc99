"""`inspector info`: what a model is, its units, and what is left of it under a mask."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from inspector.cli.inputs import hush, loaded_model
from inspector.cli.output import emit_plain, warn_if_bare
from inspector.cli.text import printable, table
from inspector.errors import MaskError
from inspector.units import Mask

if TYPE_CHECKING:
    from inspector.cli.progress import Meter
    from inspector.model.loaded import LoadedModel, UnitInfo


def info(args: argparse.Namespace, meter: Meter) -> None:
    """Print the size from the config alone, or load the model and list its units."""
    if not args.weights:
        size_only(args)
        return
    loaded, mask = loaded_model(args, meter)
    emit_plain(facts(loaded, mask), described(loaded, mask), args)
    warn_if_bare(mask)


def size_only(args: argparse.Namespace) -> None:
    """Print what the config says: layers, parameters, bytes, and whether they fit."""
    if args.mask:
        raise MaskError("a mask needs the weights: leave out --no-weights or --mask.")
    hush()
    from inspector.model.loading import size_of

    size = size_of(args.model, device=args.device, dtype=args.dtype)
    data = {"kind": "size", **dataclasses.asdict(size), "fits": size.fits}
    emit_plain(data, printable(f"{size.source} · {size}", lines=False), args)


def facts(loaded: LoadedModel, mask: Mask) -> dict[str, Any]:
    """The JSON of a model: its provenance, totals, what the mask leaves, and every unit."""
    made = loaded.provenance()
    return {
        "kind": "info",
        "source": made.source,
        "weights": made.weights,
        "model_type": made.model_type,
        "dtype": made.dtype,
        "device": made.device,
        "depth": made.depth,
        "max_length": loaded.max_length,
        "parameters": loaded.parameters,
        "bytes": weight_bytes(loaded),
        "kv_bytes_per_token": loaded.kv_bytes_left(loaded.empty()),
        "not_replayable": loaded.not_replayable,
        "mask": str(mask),
        "parameters_left": loaded.parameters_left(mask),
        "kv_bytes_per_token_left": loaded.kv_bytes_left(mask),
        "units": [unit_facts(each, mask) for each in loaded.units],
    }


def unit_facts(each: UnitInfo, mask: Mask) -> dict[str, Any]:
    """The JSON of one unit."""
    return {
        "unit": str(each.unit),
        "muted": each.unit in mask,
        "parameters": each.parameters,
        "kv_bytes_per_token": each.kv_bytes_per_token,
        "layer_type": each.layer_type,
        "problem": each.problem,
    }


def described(loaded: LoadedModel, mask: Mask) -> str:
    """The facts as text; units that agree in everything share a row."""
    from inspector.model.placing import gib

    made = loaded.provenance()
    lines = [
        f"{made.source} · {made.weights} · {made.model_type}, {made.dtype} on {made.device}",
        f"{loaded.depth} layers, {len(loaded.units)} units, {loaded.parameters:,} parameters "
        f"({gib(weight_bytes(loaded))})",
        f"KV cache: {loaded.kv_bytes_left(loaded.empty()):,} bytes per token of a sequence",
    ]
    if loaded.max_length:
        lines.append(f"windows of up to {loaded.max_length:,} tokens")
    if loaded.not_replayable:
        lines.append(f"no similarity, and slow sweeps: {loaded.not_replayable}")
    if len(mask):
        lines.append(
            f"muted: {mask}, which leaves {loaded.parameters_left(mask):,} parameters and "
            f"{loaded.kv_bytes_left(mask):,} bytes of KV cache per token"
        )
    lines = [printable(line, lines=False) for line in lines]
    return "\n".join([*lines, "", unit_table(loaded.units, mask)])


def unit_table(units: Iterable[UnitInfo], mask: Mask) -> str:
    """One row for all units that agree in kind, cost, layer type and state."""
    alike: dict[tuple[str, ...], list[UnitInfo]] = {}
    for each in units:
        state = f"cannot be muted: {each.problem}" if each.problem else "on"
        state = "muted" if each.unit in mask else state
        key = (
            each.unit.kind,
            f"{each.parameters:,}",
            f"{each.kv_bytes_per_token:,}",
            each.layer_type or "-",
            printable(state, lines=False),
        )
        alike.setdefault(key, []).append(each)
    rows = [
        [str(Mask.of(mask.depth, (each.unit for each in found))), str(len(found)), *key[1:]]
        for key, found in alike.items()
    ]
    header = ["units", "number", "parameters each", "KV bytes/token each", "layer type", "state"]
    return table(header, rows, align="<>>><<")


def weight_bytes(loaded: LoadedModel) -> int:
    """Bytes of the weights, tied ones once."""
    return loaded.parameters * loaded.dtype.itemsize
