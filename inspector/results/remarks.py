"""What has to be said beside a comparison: texts that differ, and the random runs that it lacks."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

from inspector.results.base import DTYPES, pinned
from inspector.results.trajectory import Trajectory
from inspector.units import KINDS, Mask

RANDOM = "random"
"""The method whose runs are a reference and no choice."""

TEXTLESS = (RANDOM, "from-end", "l1", "l2")
"""Metrics that look at no text: on which one such a run was started makes no difference."""

CUT = ("name", "windows", "length", "seed", "stride", "sha256")
"""What tells one search text from another, the words for people first."""

_SHARE = re.compile(r"[0-9.]{1,20}%?")


def checked(run: Trajectory) -> bool:
    """Whether any perplexity was recorded; a run out of another tool's file has none."""
    return any(math.isfinite(step.perplexity) for step in run.steps)


def seed_of(run: Trajectory) -> Any:
    """The seed of a method that draws; one of 0 is not written down."""
    return run.options.get("seed", 0)


def different_texts(runs: Sequence[Trajectory], labels: Sequence[str]) -> str:
    """One sentence that names the texts that the runs searched on; empty where it is one text.

    Runs that look at no text are left out. What perplexities are measured on is one text in every
    comparison; where it is that of some of the searches, the sentence says whom that favours.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for run, label in zip(runs, labels, strict=True):
        if run.metric not in TEXTLESS:
            groups.setdefault(_cut(run.provenance.corpus), []).append(label)
    if len(groups) < 2:
        return ""
    words = {key: _words(key, list(groups)) for key in groups}
    parts = [f"{'; '.join(names)} on {words[key]}" for key, names in groups.items()]
    measured = {_cut(run.check_corpus) for run in runs if checked(run)}
    own = [words[key] for key in groups if key in measured]
    favoured = f"; the perplexities are on {own[0]}, which favours those of it" if own else ""
    return (
        "These runs were searched on different texts, so that what sets them apart is not the "
        f"method alone: {' | '.join(parts)}{favoured}."
    )


def random_command(runs: Sequence[Trajectory], furthest: float) -> str:
    """The command that makes a random run for these; empty where no run has a perplexity.

    It measures perplexity on the runs' own text, and goes as far as the `furthest` of them, in % of
    the parameters, or to the share that they were asked for, where that is one. The seed is the
    first that no run has. From a mask, a run removes as many layers as the longest of them does.
    """
    known = [run for run in runs if checked(run)]
    if not known or not furthest > 0:
        return ""
    made, text = known[0].provenance, known[0].check_corpus
    seeds = {seed_of(run) for run in runs if run.method == RANDOM}
    seed = next(n for n in range(len(seeds) + 1) if n not in seeds)
    words = ["inspector", "prune", pinned(made.source, made.weights)]
    words += ["--method", RANDOM, "--method-seed", str(seed), *_budget(known, furthest)]
    words += ["--dtype", DTYPES.get(made.dtype, made.dtype)]
    for option, name in (
        ("--corpus", "name"),
        ("--samples", "windows"),
        ("--length", "length"),
        ("--seed", "seed"),
    ):
        if text.get(name) is not None:
            words += [option, str(text[name])]
    return shlex.join([*words, "-o", f"random-{seed}.json"])


def _budget(runs: Sequence[Trajectory], furthest: float) -> list[str]:
    mask = runs[0].mask
    if mask and all(run.mask == mask for run in runs):
        gone = max(_units(run.steps[-1].mask, run.depth) - _units(mask, run.depth) for run in runs)
        return ["--remove", str(max(1, gone // len(KINDS))), "--mask", mask]
    asked = {_asked(run.provenance.command) for run in runs if run.method != RANDOM}
    share = asked.pop() if len(asked) == 1 else ""
    # Rounded down: what the furthest run removes, the layers hold.
    return ["--remove-params", share or f"{max(math.floor(100 * furthest) / 100, 0.01):g}%"]


def _asked(command: str) -> str:
    """The share of ``--remove-params`` in a command line; empty where there is none."""
    try:
        words = shlex.split(command.replace("--remove-params=", "--remove-params "))
    except ValueError:
        return ""
    place = words.index("--remove-params") + 1 if "--remove-params" in words else len(words)
    share = words[place] if place < len(words) else ""
    return share if _SHARE.fullmatch(share) else ""


def _units(mask: str, depth: int) -> int:
    return len(Mask.parse(mask, depth))


def _cut(text: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(text.get(name) for name in CUT)


def _words(key: tuple[Any, ...], others: Sequence[tuple[Any, ...]]) -> str:
    """A text's name and size, and of what else it differs in from another of that name and size."""
    name, windows, length, *_ = key
    if name is None:
        return "a text that is not recorded"
    said = str(name) if windows is None else f"{name}, {windows} x {length} tokens"
    alike = [other for other in others if other[:3] == key[:3]]
    for place, field in enumerate(CUT):
        if len({other[place] for other in alike}) > 1:
            said += f", {field} {'none' if key[place] is None else key[place]}"
    return said
