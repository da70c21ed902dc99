"""Pruning runs as lines by the share of parameters removed; random ones together as a band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inspector.results.remarks import RANDOM, seed_of
from inspector.results.trajectory import Trajectory


@dataclass(frozen=True)
class Line:
    """A run as it is drawn, one entry a step.

    `removed` is the share of parameters that are off, in %; `off` the number of units that are,
    `kv_bytes` what is left of the KV cache in bytes per token; `perplexity` is NaN where it was not
    measured, and so are the `values` of what the runs are compared by, which may be the perplexity;
    `units` are the texts of what the step removed, joined by commas.
    """

    label: str
    steps: list[int]
    removed: list[float]
    off: list[int]
    kv_bytes: list[int]
    perplexity: list[float]
    values: list[float]
    units: list[str]
    masks: list[str]


@dataclass(frozen=True)
class Band:
    """Random runs as one: their least, median and greatest value, by parameters removed in %.

    Where the runs' steps do not fall together, a run's value between two of its steps is
    interpolated, a perplexity in its logarithm. The band ends where the first of the runs does.
    """

    label: str
    removed: list[float]
    low: list[float]
    median: list[float]
    high: list[float]


def bands(
    runs: Sequence[Trajectory], lines: Sequence[Line], higher: bool
) -> tuple[list[Band], list[int]]:
    """The bands, and the places of the runs that are in none.

    Runs belong together that differ in nothing but the seed.
    """
    groups: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        if run.method == RANDOM and len(_measured(lines[place], higher)[0]):
            rest = {name: value for name, value in run.options.items() if name != "seed"}
            groups.setdefault(f"{run.mask} {sorted(rest.items())}", []).append(place)
    drawn: list[Band] = []
    inside: set[int] = set()
    for places in groups.values():
        if len({seed_of(runs[place]) for place in places}) > 1:
            found = _band([lines[place] for place in places], higher)
            if found is not None:
                drawn.append(found)
                inside |= set(places)
    return drawn, [place for place in range(len(runs)) if place not in inside]


def _band(lines: Sequence[Line], higher: bool) -> Band | None:
    """The band of these lines; None where they share no stretch.

    What is better the lower it is, such as a perplexity, grows by factors: between two steps it is
    interpolated in its logarithm.
    """
    curves = [_measured(line, higher) for line in lines]
    low = max(shares[0] for shares, _ in curves)
    high = min(shares[-1] for shares, _ in curves)
    at = np.unique(np.concatenate([shares for shares, _ in curves]))
    at = at[(at >= low) & (at <= high)]
    if not at.size:
        return None
    into, out = (np.asarray, np.asarray) if higher else (np.log, np.exp)
    values = out([np.interp(at, shares, into(known)) for shares, known in curves])
    return Band(
        label=f"{RANDOM}, {len(lines)} seeds",
        removed=at.tolist(),
        low=values.min(axis=0).tolist(),
        median=np.median(values, axis=0).tolist(),
        high=values.max(axis=0).tolist(),
    )


def _measured(line: Line, higher: bool) -> tuple[np.ndarray, np.ndarray]:
    """Shares in rising order and the values there, where known and, for a logarithm, above 0."""
    known = sorted(
        (share, value)
        for share, value in zip(line.removed, line.values, strict=True)
        if math.isfinite(value) and (higher or value > 0)
    )
    shares, values = zip(*known, strict=True) if known else ((), ())
    return np.array(shares), np.array(values)
