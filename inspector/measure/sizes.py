"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re
from fractions import Fraction

from inspector.errors import InspectorError

_SIZE = re.compile(r"(?P<number>\d{1,18}(\.\d{1,6})?) ?(?P<prefix>[kKMGT]?)(?P<binary>i?)B")
_PREFIXES = ("", "K", "M", "G", "T")


def byte_size(text: str) -> int:
    """``4GB``, ``512 MiB`` or ``1000000B`` as a number of bytes: a GB is 10^9, a GiB 2^30 of them.

    Raises:
        InspectorError: it is no size, or none of a byte or more.
    """
    match = _SIZE.fullmatch(text.strip())
    power = _PREFIXES.index(match["prefix"].upper()) if match else 0
    if match is None or (match["binary"] and not power):
        raise InspectorError("--memory takes a size such as 4GB, 512MiB or 100000B.")
    found = int(Fraction(match["number"]) * (1024 if match["binary"] else 1000) ** power)
    if found < 1:
        raise InspectorError("--memory takes a size of a byte or more.")
    return found


def readable_bytes(count: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    power = min(len(_PREFIXES) - 1, max(0, count.bit_length() - 1) // 10)
    return f"{count / 1024**power:.4g} {_PREFIXES[power]}{'i' if power else ''}B"
