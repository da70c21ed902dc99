"""Saved runs: results as JSON files in one folder, and the runs recorded for a first visit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from inspector.assets import asset
from inspector.errors import InspectorError, ResultError
from inspector.results.base import Result
from inspector.results.files import cache_folder, load, save
from inspector.view.card import Card

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST = 120  # characters of a name
RECORDED = ("similarity", "sweep", "pruning")


def folder() -> Path:
    """Where runs are kept: INSPECTOR_RUNS, or a folder in the user's cache; made if missing.

    Raises:
        InspectorError: it cannot be made.
    """
    path = cache_folder("INSPECTOR_RUNS", "runs")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InspectorError(f"the run folder cannot be made ({error.strerror}).") from error
    return path


def keep(result: Result) -> str:
    """Save a result under a name made of its time, kind and model; the name."""
    made = result.provenance
    name = free_name(made.created, getattr(result, "method", result.kind), made.source)
    save(result, folder() / f"{name}.json")
    return name


def free_name(created: str, what: str, source: str, *, suffix: str = ".json") -> str:
    """A name in the run folder that no file with this suffix has: time (ISO), what, and model."""
    stamp = created.replace(":", "").replace("+0000", "").replace("-", "")
    first = _UNSAFE.sub("-", f"{stamp}-{what}-{source.rpartition('/')[2]}")[:LONGEST].strip("-.")
    name, number = first, 1
    while (folder() / f"{name}{suffix}").exists():
        number += 1
        name = f"{first}-{number}"
    return name


def forget(kept: Iterable[str]) -> None:
    """Delete runs by their names; those that are gone already are passed over."""
    for name in kept:
        (folder() / f"{name}.json").unlink(missing_ok=True)


def names(*kinds: str) -> list[str]:
    """The saved runs, the newest first; only those of some kinds of result, where any is given."""
    found = [path for path in folder().glob("*.json") if not kinds or _is_of(path, kinds)]
    return sorted((path.stem for path in found), reverse=True)


def _is_of(path: Path, kinds: tuple[str, ...]) -> bool:
    """Whether a saved result is of these kinds, by its first bytes: `Result.to_json` begins so."""
    try:
        with path.open("rb") as file:
            begins = file.read(100)
            return any(f'"kind": "{kind}"'.encode() in begins for kind in kinds)
    except OSError:
        return False


def open_run(name: str) -> Result:
    """A saved run by its name; never a path.

    Raises:
        ResultError: there is none of that name, or it is damaged.
    """
    if name not in names():
        raise ResultError(f"there is no saved run {name!r}: pick one from the list.")
    return load(folder() / f"{name}.json")


@lru_cache(maxsize=1)
def recorded() -> tuple[Card, dict[str, Result]]:
    """The run that fills the page before anything is loaded: the model's card and its results.

    Read once, and shared: copy the dictionary before changing it.

    Raises:
        ResultError: a file of it is missing or damaged.
    """
    try:
        text = asset("recorded/model.json").read_text(encoding="utf-8")
        card = Card.from_json(json.loads(text))
    except (OSError, ValueError) as error:
        raise ResultError(f"the recorded run cannot be read: {error}.") from error
    return card, {name: load(asset(f"recorded/{name}.json")) for name in RECORDED}
