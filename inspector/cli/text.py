"""Plain text for a terminal: aligned tables, numbers, and texts that nobody can hide codes in."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "<") -> str:
    """Columns two spaces apart, aligned left (``<``) or right (``>``); right beyond `align`."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    sides = align.ljust(len(header), ">")
    return "\n".join(_line(line, widths, sides) for line in lines)


def _line(cells: list[str], widths: list[int], sides: str) -> str:
    placed = zip(cells, sides, widths, strict=True)
    return "  ".join(f"{cell:{side}{width}}" for cell, side, width in placed).rstrip()


def number(value: float) -> str:
    """Four significant digits; ``-`` for what was not measured."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"


def printable(text: str, *, lines: bool = True) -> str:
    """The text without control characters, which could steer a terminal; `lines` keeps line ends.

    What a model writes, and names of files and models, are not ours.
    """
    keep = "\n\t" if lines else ""
    return "".join(
        "�" if unicodedata.category(each) == "Cc" and each not in keep else each for each in text
    )
