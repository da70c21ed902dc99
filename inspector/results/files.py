"""Results as JSON files: every kind by its name, read strictly and written whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from inspector.errors import ResultError
from inspector.results.base import FORMAT, Result
from inspector.results.checks import Benchmark, Generation, Perplexity, Speed
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Trajectory

KINDS: dict[str, type[Result]] = {
    cls.kind: cls
    for cls in (Similarity, Scores, Trajectory, Perplexity, Benchmark, Speed, Generation)
}


def cache_folder(variable: str, name: str) -> Path:
    """Where something is kept: what the environment's `variable` says, or in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(variable) or Path(cache) / "layer-inspector" / name)


def from_json(data: Any) -> Result:
    """The result that `to_json` wrote.

    Raises:
        ResultError: not a saved result, of a newer format, or damaged.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ResultError(f"not a saved result: its kind is none of {', '.join(KINDS)}.")
    if data.get("format") != FORMAT:
        raise ResultError(
            f"this result has format {data.get('format')}, this version reads {FORMAT}: "
            "open it with the version that wrote it."
        )
    fields = {name: value for name, value in data.items() if name not in ("kind", "format")}
    try:
        return KINDS[kind]._from_json(fields)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ResultError(f"this {kind} result is damaged: {error}.") from error


def load(path: str | Path) -> Result:
    """Read a result from a JSON file.

    Raises:
        ResultError: the file cannot be read, is not JSON, or holds no result.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not a JSON result: {error}.") from error
    try:
        return from_json(data)
    except ResultError as error:  # of several files, which
        raise ResultError(f"{path}: {error}") from error


def save(result: Result, path: str | Path) -> None:
    """Write a result as JSON, whole or not at all (a temporary sibling is renamed)."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(result.dumps(), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}.") from error
