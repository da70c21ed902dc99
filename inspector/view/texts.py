"""Reading the form fields that say which text is used and how it is cut."""

from __future__ import annotations

from typing import Any

from inspector.errors import CorpusError
from inspector.view.workbench import Workbench


def cut(
    bench: Workbench,
    corpus: str | None,
    samples: float | None,
    length: float | None,
    seed: float | None = None,
    stride: float | None = None,
) -> dict[str, Any]:
    """Arguments of `Workbench.windows` from the fields of a form.

    Raises:
        CorpusError: a field is empty or not a whole number in range.
    """
    options: dict[str, Any] = {
        "spec": bench.text((corpus or "").strip()),
        "samples": whole(samples, "how many windows", 1),
        "length": whole(length, "how many tokens a window has", 2),
    }
    if seed is not None:
        options["seed"] = whole(seed, "the seed", 0)
    if stride is not None:
        options["stride"] = whole(stride, "the stride", 1)
    return options


def whole(value: float | None, what: str, least: int) -> int:
    """A whole number of at least `least`, or CorpusError naming the field."""
    if value is None or value != int(value) or value < least:
        raise CorpusError(f"say {what}: a whole number of at least {least}.")
    return int(value)
