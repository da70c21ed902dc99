"""`compare`: several saved pruning runs of one model, as a figure and as tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from inspector.cli.output import note, write
from inspector.cli.text import number, printable, table
from inspector.measure.budget import percent, share

if TYPE_CHECKING:
    from inspector.cli.progress import Meter
    from inspector.results.comparison import Agreement, Comparison


def compare(args: argparse.Namespace, meter: Meter) -> None:
    """Print where the runs stand and agree, and write their figure where ``-o`` says."""
    at = share(args.at, "--at")
    from inspector.results.comparison import comparable
    from inspector.results.comparison import compare as numbers
    from inspector.results.files import load

    results = [comparable(load(path), path) for path in args.runs]
    found = numbers(results, at=at, by=args.by)
    if args.output:
        from inspector.cli.showing import page
        from inspector.view.figures.comparison import comparison

        write(args.output, page([comparison(found)]))
    print(printable(described(found)))
    if args.output:
        note(f"written to {args.output}")


def described(found: Comparison) -> str:
    """The comparison as text: the runs at equal parameters, the units, the overlap."""
    from inspector.results.comparison import NO_BAND

    where = found.agreement
    text = found.text
    on = f" · perplexity on {text.get('name')}, {text.get('windows')} x {text.get('length')} tokens"
    parts = [found.about + (on if text else "")]
    if found.warning:
        parts.append(f"WARNING: {found.warning}")
    if len(found.choices) > 1:
        others = "; ".join(name for name in found.choices if name != found.by)
        parts.append(f"By {found.by}; --by takes {others}, too")
    parts += [f"At {percent(where.at)} of {found.of} removed, or the first step above"]
    parts += [_runs(found), _units(where), _overlap(where)]
    for band in found.bands:
        low, middle, high = (number(side[-1]) for side in (band.low, band.median, band.high))
        parts.append(
            f"{band.label}: {found.by} {low} to {high}, median {middle}, "
            f"at {band.removed[-1]:.1f} % removed"
        )
    if found.reference:
        parts.append(f"{NO_BAND}\n\n  {found.reference}")
    return "\n\n".join(parts)


def _runs(found: Comparison) -> str:
    where = found.agreement
    cells = zip(_names(where), where.labels, where.standing(number, found.own), strict=True)
    rows = [[letter, label, *row] for letter, label, row in cells]
    align = "<<" + ">" * (len(found.standing) - 1) + "<"
    return table(["", "run", *found.standing], rows, align=align)


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
