"""Pruning runs of the page that have not ended: what was asked, beside the journal of its steps.

Both files are in the run folder from a run's start until its result is saved. A server that dies
leaves them there, and so does a result that cannot be saved: the run can be started again as it was
and go on from its journal (`results.journal`).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError, ResultError
from inspector.results.journal import SUFFIX, steps_in
from inspector.view import runs
from inspector.view.card import Card

ASKED = ".asked"
_under_way: set[str] = set()  # the runs of this process that are going on


@dataclass(frozen=True)
class Asked:
    """What a run was asked: the model, the mask, and the fields of the page as they were filled in.

    `form` has the fields of the pruning form by name, `text` those of the text to search on.
    """

    source: str
    dtype: str
    mask: str
    form: dict[str, Any]
    text: list[Any]

    def require(self, card: Card) -> None:
        """Refuse another model than the run's, before anything else of it is read.

        Raises:
            ResultError: it is another one; names the one to load.
        """
        if (self.source, self.dtype) != (card.source, card.dtype):
            raise ResultError(
                f"this run is of {self.source} in {self.dtype}, and the page shows {card.source} "
                f"in {card.dtype}: load that model first."
            )


@dataclass
class Files:
    """The files of a run that is to be started, or gone on with.

    `name` is that of an unfinished run to go on from; without one, it begins once it is `kept`.
    """

    what: Asked
    name: str = ""

    @contextmanager
    def kept(self) -> Iterator[dict[str, Any]]:
        """Keep the run's journal while it goes on; gives the arguments of `prune` that do it.

        A run that begins goes without a journal where the folder cannot be written. Both files go
        where the run ends early, and there is no removal to go on from.

        Raises:
            ResultError: the run to go on from is gone.
        """
        if self.name and self.name not in names():
            raise ResultError(f"the run {self.name} has ended or was deleted meanwhile.")
        self.name = self.name or _begun(self.what)
        if not self.name:
            yield {}
            return
        _under_way.add(self.name)
        try:
            yield {
                "journal": _file(self.name, SUFFIX),
                "resume": _steps(self.name) > 0,
            }
        finally:
            if not removals(self.name):
                self.discard()
            _under_way.discard(self.name)

    def discard(self) -> None:
        """The run's result is on the disk, or there is none to keep: both files go."""
        if self.name:
            forget(self.name)


def names() -> list[str]:
    """The runs that were cut off, the newest first."""
    found = (path.stem for path in runs.folder().glob(f"*{ASKED}"))
    return sorted((name for name in found if name not in _under_way), reverse=True)


def removals(name: str) -> int:
    """How many steps of an unfinished run are in its journal."""
    return max(0, _steps(name) - 1)


def asked(name: str | None) -> Asked:
    """What an unfinished run was asked.

    Raises:
        ResultError: there is none of that name, or it is damaged.
    """
    try:
        return Asked(**json.loads(_file(_known(name), ASKED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(f"the run {name} cannot be read ({error}): delete it.") from error


def delete(name: str | None) -> None:
    """Delete an unfinished run.

    Raises:
        ResultError: there is none of that name.
    """
    forget(_known(name))


def forget(name: str) -> None:
    """Delete both files of a run, where they are still there."""
    for suffix in (ASKED, SUFFIX):
        _file(name, suffix).unlink(missing_ok=True)


def _known(name: str | None) -> str:
    """The name itself; never a path.

    Raises:
        ResultError: no unfinished run is called so.
    """
    if name is None or name not in names():
        raise ResultError(
            "choose a run that was cut off, and has not gone on since, from the list."
        )
    return name


def _begun(what: Asked) -> str:
    """Write down what a new run is asked, whole or not at all; its name, or nothing."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        name = runs.free_name(now, str(what.form["method"]), what.source, suffix=ASKED)
        path = _file(name, ASKED)
        temporary = path.with_name(path.name + ".partial")
        temporary.write_text(json.dumps(asdict(what)), encoding="utf-8")
        temporary.replace(path)
    except (OSError, InspectorError):
        return ""
    return name


def _file(name: str, suffix: str) -> Path:
    return runs.folder() / f"{name}{suffix}"


def _steps(name: str) -> int:
    """Finished steps in the journal; none where it cannot be read."""
    try:
        return steps_in(_file(name, SUFFIX))
    except ResultError:
        return 0
