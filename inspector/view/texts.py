"""Reading the form fields that say which text is used and how it is cut."""

from __future__ import annotations

import math
from typing import Any

from inspector.errors import CorpusError, InspectorError
from inspector.view.workbench import Workbench


def cut(
    bench: Workbench,
    corpus: str | None,
    samples: float | None,
    length: float | None,
    seed: str | None = None,
    *,
    stride: str | None = None,
) -> dict[str, Any]:
    """Arguments of `Workbench.windows` from the fields of a form; empty ones are left out.

    Raises:
        InspectorError: a field is no whole number in range.
    """
    options: dict[str, Any] = {
        "spec": bench.text((corpus or "").strip()),
        "samples": whole(samples, "how many windows", 1),
        "length": whole(length, "how many tokens a window has", 2),
        "seed": number(seed, "the seed"),
        "stride": number(stride, "the stride"),
    }
    for name, least in (("seed", 0), ("stride", 1)):
        if options[name] is None:
            del options[name]
        else:
            options[name] = whole(options[name], f"the {name}", least)
    return options


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    """What `cut` gave, as options of the command line."""
    return {"corpus" if name == "spec" else name: value for name, value in options.items()}


def customdata(event: Any) -> Any:
    """What the point that was clicked carries, as the browser says; None where it says nothing."""
    data = getattr(event, "_data", None)
    return data.get("customdata") if isinstance(data, dict) else None


def text_of(event: Any) -> str:
    """The text that a clicked point carries.

    Raises:
        InspectorError: it carries something else.
    """
    data = customdata(event)
    if not isinstance(data, str) or not data:
        raise InspectorError("the click on the figure could not be read: reload the page.")
    return data


def whole(value: float | None, what: str, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        CorpusError: it is not; names the field.
    """
    if value is None or not math.isfinite(value) or value != int(value) or value < least:
        raise CorpusError(f"say {what}: a whole number of at least {least}.")
    return int(value)


def number(text: str | None, what: str) -> float | None:
    """The number in a field that may be left empty.

    Raises:
        InspectorError: something else is written there.
    """
    if not (text or "").strip():
        return None
    try:
        return float(text or "")
    except ValueError as error:
        raise InspectorError(f"{what} must be a number, or empty.") from error
