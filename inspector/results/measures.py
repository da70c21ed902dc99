"""What saved checks say of masks: the quantities that runs can be compared by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from inspector.errors import ResultError
from inspector.results.base import Result
from inspector.results.checks import Benchmark, Perplexity, Speed

OWN = "perplexity"
"""The quantity that runs bring along, step by step."""

CHECKS = (Benchmark.kind, Perplexity.kind, Speed.kind)
"""Kinds of results that say something of one mask."""

LOSSES = ("perplexity", "byte_perplexity", "bits_per_byte", "word_perplexity", "brier_score")
"""Metrics of tasks that are better the lower they are."""


@dataclass(frozen=True)
class Measure:
    """A quantity and its values by mask text, "" being the untouched model.

    `higher` says whether more is better. Checks of one name are alike in what they measure on: the
    name has the number of items, the text, or the size of the prompt.
    """

    name: str
    higher: bool
    values: dict[str, float] = field(default_factory=dict)


def measures(checks: Sequence[Result]) -> dict[str, Measure]:
    """The quantities of these checks by name, in the order in which they first come.

    Where two checks measure one quantity of one mask, the later one counts.

    Raises:
        ResultError: a result is no check, or two are on texts of one name that are not the same.
    """
    found: dict[str, Measure] = {}
    texts: dict[str, str] = {}
    for check in checks:
        for name, higher, here, untouched in _quantities(check):
            here_on = str(check.provenance.corpus.get("sha256", ""))
            if texts.setdefault(name, here_on) != here_on:
                raise ResultError(
                    f"{name} was measured on two texts that are called so (sha256 {texts[name]} "
                    f"and {here_on}): leave the checks on one of them out."
                )
            values = found.setdefault(name, Measure(name, higher)).values
            for mask, value in (("", untouched), (check.mask, here)):
                if math.isfinite(value):
                    values[mask] = value
    return found


def chosen(known: dict[str, Measure], by: str) -> Measure | None:
    """The measure that `by` names, whole or by its beginning; None for the runs' own perplexity.

    Empty means the first that there is, and the runs' own where there is none.

    Raises:
        ResultError: none is called so, or several are.
    """
    if by == OWN or not (by or known):
        return None
    whole = [name for name in known if by in (name, name.partition(",")[0])]
    fits = whole if len(whole) == 1 else [name for name in known if name.startswith(by)]
    if not by or len(fits) == 1:
        return known[fits[0]]
    names = "; ".join([OWN, *(fits or known)])
    what = f"{by!r} may be several things" if fits else f"nothing measured is called {by!r}"
    more = "" if known else " (a saved result of bench, perplexity or speed would bring more)"
    raise ResultError(f"{what}: choose one of {names}{more}.")


def _quantities(check: Result) -> list[tuple[str, bool, float, float]]:
    """Name, whether more is better, the value under the mask, the untouched model's."""
    if isinstance(check, Benchmark):
        return [
            (
                f"{row.task} {row.metric}, {row.items} items",
                row.metric.split(",")[0] not in LOSSES,
                row.value,
                row.baseline,
            )
            for row in check.tasks
        ]
    if isinstance(check, Perplexity):
        text = check.provenance.corpus
        name = f"perplexity on {text.get('name')}, {text.get('windows')} x {check.length} tokens"
        for field, usual in (("stride", check.length), ("seed", None)):
            if text.get(field) not in (usual, None):
                name += f", {field} {text.get(field)}"
        return [(name, False, check.perplexity, check.baseline.get("perplexity", math.nan))]
    if isinstance(check, Speed):
        size = f"{check.batch} x {check.prompt_length} tokens"
        return [
            (f"{words} {size}", more, check.here(name).median, check.untouched(name).median)
            for words, more, name in (
                ("tokens/s of a prompt of", True, "prefill"),
                ("ms a step after", False, "decode"),
            )
        ]
    raise ResultError(f"a {check.kind} says nothing of one mask: leave it out.")
