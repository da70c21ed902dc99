"""Numbers to and from strict JSON: NaN and infinity stand as null there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Plain lists, dictionaries, numbers and strings; what is not finite becomes None."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def number(value: Any) -> float:
    """The float; None becomes NaN."""
    return math.nan if value is None else float(value)


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """The floats by name; None becomes NaN."""
    return {name: number(value) for name, value in values.items()}


def array(value: Any) -> np.ndarray:
    """The float32 array of nested lists; None becomes NaN."""
    return np.array(value, dtype=np.float32)
