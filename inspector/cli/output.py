"""Where a result goes: to the file of ``-o``, and to stdout as JSON or as a summary."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.errors import ResultError
from inspector.units import KINDS, Mask

if TYPE_CHECKING:
    from inspector.results.base import Result


def emit(
    result: Result, args: argparse.Namespace, *, journal: Path | None = None, **options: Any
) -> None:
    """Write a result to ``-o`` where it is given, and to stdout; `options` are the summary's.

    The run's `journal`, if it kept one, goes as soon as the file is there.

    Raises:
        ResultError: the file cannot be written.
    """
    from inspector.cli.summaries import summary
    from inspector.results.files import save
    from inspector.results.journal import discard

    result = stamped(result, args)
    if args.output:
        save(result, args.output)
        if journal:
            discard(journal)
    print(result.dumps() if args.json else summary(result, **options))
    warn_if_bare(Mask.parse(result.mask, result.depth))
    _written(args)


def emit_plain(data: dict[str, Any], text: str, args: argparse.Namespace) -> None:
    """`emit` for what is no measurement: its JSON and its summary."""
    dumped = json.dumps(data, indent=1, allow_nan=False)
    if args.output:
        write(args.output, dumped)
    print(dumped if args.json else text)
    _written(args)


def stamped(result: Result, args: argparse.Namespace) -> Result:
    """The result with the command line that made it, and its seed."""
    seed = getattr(args, "seed", None)
    return replace(result, provenance=replace(result.provenance, command=args.line, seed=seed))


def save_partial(partial: Any, args: argparse.Namespace) -> str | None:
    """Keep what had been measured when a command stopped early; where it is, if it is anywhere."""
    path = getattr(args, "output", None)
    if partial is None or not path:
        return None
    from inspector.results.base import Result
    from inspector.results.files import save

    if not isinstance(partial, Result):
        return None
    try:
        save(stamped(partial, args), path)
    except ResultError:  # the command is stopping already, for a reason that matters more
        return None
    return path


def check_output(path: str | None) -> None:
    """Find out before the work whether its result can be written.

    Raises:
        ResultError: it cannot.
    """
    if path is None:
        return
    folder = os.path.dirname(path) or "."  # noqa: PTH120 - Path raises for names that are too long
    reason = ""
    if not path or os.path.isdir(path):  # noqa: PTH112
        reason = "it is no name of a file"
    elif not os.path.isdir(folder):  # noqa: PTH112
        reason = f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK):
        reason = f"the folder {folder} is read-only"
    if reason:
        raise ResultError(f"cannot write {path!r}: {reason}; choose another -o.")


def write(path: str, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ResultError: it cannot be written.
    """
    temporary = Path(path + ".partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}.") from error


def warn_if_bare(mask: Mask) -> None:
    """Say that a mask leaves no unit on: that is allowed, and seldom meant."""
    if len(mask) == mask.depth * len(KINDS):
        note("warning: every unit is muted, which leaves the head on the embedding.")


def note(sentence: str) -> None:
    """Say something beside the output, on stderr."""
    print(f"inspector: {sentence}", file=sys.stderr)


def _written(args: argparse.Namespace) -> None:
    if args.output and not args.json:
        note(f"written to {args.output}")
