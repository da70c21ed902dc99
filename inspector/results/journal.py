"""A pruning run on disk while it goes on: one line a step, so that a killed run can be taken up.

The first line says what the run is, each further one is a step. A search that its steps alone do
not put back in its place adds that place to them, and has lines of its own for what it went through
without a step. Every line carries a digest of all lines up to it. A line counts once it ends; what
a kill has torn off is dropped. The journal stays until `discard`: whoever has asked for the run
calls that once its result is on the disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspector.errors import ResultError
from inspector.results.files import load
from inspector.results.jsonable import plain
from inspector.results.trajectory import Step, Trajectory

SUFFIX = ".journal"
FORMAT = 1
PLACE = "place"
"""The entry of a line that is no field of a step."""


class Journal:
    """An open journal: `steps` are those that were in it when it was opened.

    `place` is where the search was after its last line, empty where the steps say it all.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any], *, resume: bool = False) -> None:
        """Begin a journal of the run that `about` describes, or take one up.

        Raises:
            ResultError: without `resume`, it holds steps already; with it, it is missing, damaged,
                or of another run, and says what differs. Or it cannot be written.
        """
        self.path = Path(path)
        self.steps: list[Step] = []
        self.place: dict[str, Any] = {}
        self._digest = ""
        head = {"format": FORMAT, **plain(dict(about))}
        lines = _lines(self.path)
        if resume:
            self._take_up(lines, head)
        else:
            refuse_unfinished(self.path)
            self._put("w", head)

    def _take_up(self, lines: Sequence[str], head: dict[str, Any]) -> None:
        if not lines:
            raise ResultError(_missing(self.path))
        there, *rows = (self._read(number, line) for number, line in enumerate(lines, 1))
        what = differences(there, head, "{} was {} and is {}")
        if what:
            raise ResultError(f"{self.path} is of another run and cannot be resumed: {what}.")
        try:
            for row in rows:
                self.place = row.pop(PLACE, {})
                self.steps += [Step(**row)] if row else []
        except TypeError as error:
            raise ResultError(f"{self.path} is damaged: {error}.") from error
        whole = "".join(line + "\n" for line in lines).encode()
        with _writing(self.path, "r+b") as file:
            file.truncate(len(whole))

    def _read(self, number: int, line: str) -> dict[str, Any]:
        digest, _, text = line.partition(" ")
        self._digest = _digest(self._digest, text)
        if digest != self._digest:
            raise ResultError(
                f"line {number} of {self.path} is damaged or was changed, so the run cannot be "
                "resumed: delete the file to start anew."
            )
        return json.loads(text)

    def add(self, step: Step | None, place: Mapping[str, Any] | None = None) -> None:
        """Write a step, or only the `place` to go on from, and return once it is on the disk."""
        row = plain(dataclasses.asdict(step)) if step else {}
        self._put("a", {**row, PLACE: plain(dict(place))} if place else row)

    def _put(self, mode: str, row: dict[str, Any]) -> None:
        text = json.dumps(row, allow_nan=False)
        self._digest = _digest(self._digest, text)
        with _writing(self.path, mode + "b") as file:
            file.write(f"{self._digest} {text}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def discard(path: str | Path) -> None:
    """The run's result is on the disk, or there is none to keep: its journal goes."""
    Path(path).unlink(missing_ok=True)


def steps_in(path: str | Path) -> int:
    """How many finished steps a journal holds, the one before the first removal included."""
    rows = (line.partition(" ")[2] for line in _lines(Path(path))[1:])
    return sum(not row.startswith(f'{{"{PLACE}"') for row in rows)


def refuse_unfinished(path: str | Path) -> None:
    """Find out before a long load whether a journal is in the way.

    Raises:
        ResultError: it is.
    """
    if steps := steps_in(path):
        raise ResultError(
            f"{path} holds {steps} finished steps of a run whose result was not saved: add "
            "--resume to go on from there, or delete it to start anew."
        )


def require_unfinished(path: str | Path, result: str | Path) -> None:
    """Find out before a long load whether there is a journal to go on from.

    Raises:
        ResultError: there is none; says so if the file of the `result` holds the finished run.
    """
    if _lines(Path(path)):
        return
    try:
        found = load(result)
    except ResultError:  # no file, or one of something else
        found = None
    if isinstance(found, Trajectory) and found.finished:
        raise ResultError(
            f"{result} holds a finished run, so there is nothing to resume: choose another -o for "
            "a new one."
        )
    raise ResultError(_missing(path))


def _missing(path: str | Path) -> str:
    return f"there is no {path} to resume: leave out --resume."


def _lines(path: Path) -> list[str]:
    """The lines that were finished; none where there is no such file."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror}.") from error
    return text.split("\n")[:-1]


def _writing(path: Path, mode: str) -> Any:
    try:
        return path.open(mode)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}.") from error


def _digest(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()[:16]


def differences(one: Mapping[str, Any], other: Mapping[str, Any], words: str) -> str:
    """In what two descriptions differ, down to the entries of their parts; empty where in nothing.

    `words` takes the name of what differs and its two values.
    """
    return "; ".join(
        words.format(name, _word(here), _word(there))
        for name, here, there in _differing(one, other)
    )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in {**one, **other}:
        here, there = one.get(name), other.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            for part, *values in _differing(here, there):
                yield f"{name} {part}", *values
        elif here != there:
            yield name, here, there


def _word(value: Any) -> str:
    return "nothing" if value in (None, "", {}, []) else str(value)
