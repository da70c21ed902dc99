"""`import` and `masks`: masks and orders from and into other tools' files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from inspector.cli.inputs import loaded_model, read_json
from inspector.cli.output import emit, emit_plain, note, warn_if_bare, write
from inspector.cli.text import printable
from inspector.errors import MaskError
from inspector.units import KINDS, Mask

if TYPE_CHECKING:
    from inspector.cli.progress import Meter
    from inspector.measure.foreign import Found
    from inspector.measure.foreign.distances import Distances


def import_file(args: argparse.Namespace, meter: Meter) -> None:
    """Read another tool's file: a run where it has an order and the model is named, else a mask."""
    from inspector.measure.foreign import read, text_of
    from inspector.measure.foreign.runs import as_run

    text = text_of(args.file)
    if args.model is None:
        found = read(text, depth=args.depth)
        emit_plain(found.mask.to_json(), described(found), args)
        warn_if_bare(found.mask)
        return
    if args.depth is not None:
        raise MaskError("the model says how many layers it has: leave out --depth or --model.")
    args.mask = ""  # the file is the mask
    loaded, _ = loaded_model(args, meter)
    found = read(text, depth=loaded.depth)
    loaded.check(found.mask)
    run = as_run(
        found,
        loaded.provenance(),
        lambda mask: (loaded.parameters_left(mask), loaded.kv_bytes_left(mask)),
    )
    if run is not None:
        emit(run, args)
        return
    emit_plain(found.mask.to_json(), described(found), args)
    warn_if_bare(found.mask)


def described(found: Found) -> str:
    """The form, the mask, and the order where there is one."""
    mask = found.mask
    lines = [
        f"{found.form.label}: {len(mask)} of {mask.depth * len(KINDS)} units muted, "
        f"{mask.depth} layers",
        f"mask: {mask or '(nothing muted)'}",
    ]
    if found.order:
        before = [Mask(mask.depth), *found.order]
        gone = [
            ",".join(str(unit) for unit in after if unit not in here)
            for here, after in zip(before, found.order, strict=False)
        ]
        lines += [f"order: {', '.join(gone)}", "with --model this is a run that `plot` can draw"]
    return "\n".join(lines)


def masks(args: argparse.Namespace, meter: Meter) -> None:
    """Write a mask, the order of a run, or distances of windows, as another tool's file."""
    from inspector.measure.foreign import write as in_form

    found = across(args)
    if found is None:
        mask, order = wanted(args.mask, args.depth)
    else:
        mask, order = Mask(found.depth), ()
    text = in_form(args.to, mask, order=order, model=args.model or "", distances=found)
    if not args.output:
        print(printable(text), end="" if text.endswith("\n") else "\n")
        return
    write(args.output, text)
    note(f"written to {args.output}")


def across(args: argparse.Namespace) -> Distances | None:
    """The distances to be written; None for a form that holds a mask.

    Raises:
        MaskError: a size of windows for such a form, none where one is needed, or another depth.
        ResultError: the file is no result that has distances.
    """
    if args.to != "pruneme":
        if args.window is not None:
            raise MaskError(f"--window is for pruneme, and {args.to} holds a mask: leave it out.")
        return None
    from inspector.measure.foreign.distances import distances
    from inspector.results.files import from_json

    data = read_json(args.mask)
    if not isinstance(data, dict) or "kind" not in data:
        return None  # a mask, of which the form says what it lacks
    found = distances(from_json(data), args.window)
    if args.depth not in (None, found.depth):
        raise MaskError(f"this result is of a model with {found.depth} layers, not {args.depth}.")
    return found


def wanted(text: str, depth: int | None) -> tuple[Mask, tuple[Mask, ...]]:
    """The mask of ``--mask`` and the masks after each step: units, a mask's JSON or a saved run.

    A run has an order where it starts with nothing muted.

    Raises:
        MaskError: it cannot be read, is for another depth, or the depth is not known.
        ResultError: a JSON file that is neither a mask nor a run.
    """
    from inspector.results.files import from_json
    from inspector.results.trajectory import Trajectory

    data = read_json(text)
    if data is None:
        if depth is None:
            raise MaskError("say how many layers the model has: --depth N.")
        return Mask.parse(text, depth), ()
    if not isinstance(data, dict) or "kind" not in data:
        return Mask.from_json(data, depth), ()
    run = from_json(data)
    if not isinstance(run, Trajectory) or not run.steps:
        raise MaskError(f"{text} is no pruning run but a {run.kind}: name a run or a mask.")
    if depth not in (None, run.depth):
        raise MaskError(f"this run is of a model with {run.depth} layers, not {depth}.")
    order = [Mask.parse(step.mask, run.depth) for step in run.steps]
    return order[-1], () if order[0] else tuple(order[1:])
