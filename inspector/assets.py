"""Where the files that come with the program lie: in a checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

from inspector.errors import InspectorError

_PACKAGE = Path(__file__).resolve().parent

FOLDERS = (_PACKAGE / "assets", _PACKAGE.parent / "assets")
"""A wheel carries the folder inside the package, a checkout beside it. The package's own comes
first: beside an installed package, a folder of that name would be somebody else's."""


def asset(name: str) -> Path:
    """The path of one of the program's own files, such as ``benchmark.jsonl``.

    Raises:
        InspectorError: this installation does not have the file.
    """
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise InspectorError(
        f"the file assets/{name} is missing from this installation: install the package again, or "
        "run from a complete checkout."
    )
