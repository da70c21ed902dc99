"""A folder that is there whole or not at all: a temporary sibling, written through, renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors import SafetensorError

from inspector.errors import ExportError
from inspector.model.placing import gib

RECIPE = "recipe.json"
"""Every export has it; a folder without it is none of ours and is never replaced."""
BEFORE = "before"
"""Where the earlier export is, in the workplace, while the new one takes its name."""
WORK = ".{name}.exporting-{number}"


def path_of(target: str | Path) -> Path:
    """The absolute path of a folder to be.

    Raises:
        ExportError: there can be none of that name.
    """
    try:
        path = Path(target).expanduser()
    except RuntimeError as error:  # of ~somebody who is not known here
        raise ExportError(f"{str(target)!r} is in nobody's home: write the whole path.") from error
    if path.name in ("", "..") or "\0" in str(path):
        raise ExportError(f"{str(target)!r} is no name of a folder: choose another.")
    return path.absolute()


def check_target(target: Path, *, force: bool, need: int = 0) -> None:
    """Find out before the work whether a folder can be written there.

    Args:
        target: the folder to be, as from `path_of`; its parent exists.
        force: whether an earlier export may be replaced.
        need: bytes that it takes on the way.

    Raises:
        ExportError: it cannot; says why and what to do.
    """
    parent = target.parent
    if not parent.is_dir():
        raise ExportError(f"there is no folder {parent}: make it, or choose another.")
    if is_export(parent):
        raise ExportError(f"{parent} is an export itself: choose a folder outside of it.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ExportError(f"the folder {parent} cannot be written to: choose another.")
    if os.path.lexists(target):
        _check_replaceable(target, force)
    free = shutil.disk_usage(parent).free
    if free < need:
        raise ExportError(
            f"the export needs {gib(need)} on the way (once for the folder, once for its check), "
            f"{parent} has {gib(free)} free: choose another disk."
        )


def is_export(folder: Path) -> bool:
    """Whether a folder has the recipe of an export."""
    try:
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        return recipe["kind"] == "export"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _check_replaceable(target: Path, force: bool) -> None:
    if not force:
        raise ExportError(f"{target} is there already: choose another folder, or use --force.")
    ours = target.is_dir() and not target.is_symlink()
    if not ours or (any(target.iterdir()) and not is_export(target)):
        raise ExportError(
            f"{target} is no export of this program, and is not replaced: choose another folder."
        )


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Within the block, a new folder beside the target, which is gone afterwards.

    What a killed export to the same target has left behind goes as well.

    Raises:
        ExportError: the disk is full, or cannot be written to.
    """
    _sweep(target)
    work = target.parent / WORK.format(name=target.name, number=os.getpid())
    try:
        work.mkdir()
        yield work
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"cannot write beside {target} ({getattr(error, 'strerror', None) or error}): "
            "free some space, or choose another folder; nothing was kept."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove the workplaces of processes that are no longer there, and an earlier one of ours.

    One that was killed while it replaced an earlier export gives that back first.
    """
    beginning = WORK.format(name=target.name, number="")
    for left in target.parent.iterdir():
        number = left.name.removeprefix(beginning)
        if not left.name.startswith(beginning) or not number.isdecimal():
            continue
        if int(number) == os.getpid() or not psutil.pid_exists(int(number)):
            if (left / BEFORE).is_dir() and not os.path.lexists(target):
                (left / BEFORE).rename(target)
            shutil.rmtree(left, ignore_errors=True)


def put_in_place(made: Path, target: Path, *, force: bool) -> None:
    """Write the folder through to the disk and give it its name; an earlier export goes with force.

    At every moment the target is whole or absent: the earlier one, none, or the new one.
    """
    for file in sorted(made.rglob("*")):
        write_through(file)
    write_through(made)
    if os.path.lexists(target):
        _check_replaceable(target, force)
        before = made.parent / BEFORE
        target.rename(before)
        try:
            made.rename(target)
        except OSError:
            before.rename(target)
            raise
    else:
        made.rename(target)
    write_through(target.parent)


def write_through(path: Path) -> None:
    """Have a file or folder reach the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
