"""`compare`: several saved pruning runs of one model, as a figure and as tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from inspector.cli.output import note, write
from inspector.cli.text import number, printable, table
from inspector.errors import ResultError
from inspector.measure.budget import percent, share

if TYPE_CHECKING:
    from inspector.cli.progress import Meter
    from inspector.results.comparison import Agreement, Comparison
    from inspector.results.trajectory import Trajectory


def compare(args: argparse.Namespace, meter: Meter) -> None:
    """Print where the runs stand and agree, and write their figure where ``-o`` says."""
    at = share(args.at, "--at")
    from inspector.results.comparison import compare as numbers

    found = numbers([trajectory(path) for path in args.runs], at=at)
    if args.output:
        from inspector.cli.showing import page
        from inspector.view.figures.comparison import comparison

        write(args.output, page([comparison(found)]))
    print(printable(described(found)))
    if args.output:
        note(f"written to {args.output}")


def trajectory(path: str) -> Trajectory:
    """The pruning run in a file.

    Raises:
        ResultError: there is none.
    """
    from inspector.results.files import load
    from inspector.results.trajectory import Trajectory

    result = load(path)
    if not isinstance(result, Trajectory):
        raise ResultError(f"{path} is no pruning run but a {result.kind}: name files of `prune`.")
    return result


def described(found: Comparison) -> str:
    """The comparison as text: the runs at equal parameters, the units, the overlap."""
    from inspector.results.comparison import NO_BAND

    where = found.agreement
    text = found.text
    on = f" · perplexity on {text.get('name')}, {text.get('windows')} x {text.get('length')} tokens"
    parts = [found.about + (on if text else "")]
    if found.warning:
        parts.append(f"WARNING: {found.warning}")
    parts += [f"At {percent(where.at)} of {found.of} removed, or the first step above"]
    parts += [_runs(where), _units(where), _overlap(where)]
    for band in found.bands:
        low, middle, high = (number(side[-1]) for side in (band.low, band.median, band.high))
        parts.append(
            f"{band.label}: perplexity {low} to {high}, median {middle}, "
            f"at {band.removed[-1]:.1f} % removed"
        )
    if found.reference:
        parts.append(f"{NO_BAND}\n\n  {found.reference}")
    return "\n\n".join(parts)


def _runs(where: Agreement) -> str:
    from inspector.results.comparison import STANDING

    cells = zip(_names(where), where.labels, where.standing(number), strict=True)
    rows = [[letter, label, *row] for letter, label, row in cells]
    return table(["", "run", *STANDING], rows, align="<<>>>>><")


def _units(where: Agreement) -> str:
    runs = len(where.counted)
    rows = [[f"{count} of {runs}", str(units), mask] for count, units, mask in where.by_count]
    return f"{where.agreeing(_names(where))}\n\n" + table(
        ["off in", "units", "which"], rows, align="<><"
    )


def _overlap(where: Agreement) -> str:
    names = _names(where)
    rows = [
        [name, *(number(float(value)) for value in row)]
        for name, row in zip(names, where.overlap, strict=True)
    ]
    return "Overlap: units off in both over units off in either, 0 to 1\n\n" + table(
        ["", *names], rows
    )


def _names(where: Agreement) -> list[str]:
    """Short names for rows and columns: A, B, ... AA."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [
        (letters[place // 26 - 1] if place >= 26 else "") + letters[place % 26]
        for place in range(len(where.labels))
    ]
