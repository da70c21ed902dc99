"""The peak of memory that a piece of work takes, as the accelerator or the kernel counts it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Bytes above what was in use before; NaN where that cannot be measured."""

    bytes: float = math.nan


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak within the block; the `Peak` is filled in at its end.

    On CUDA it is that of the tensors, by torch's own count. On the CPU it is that of the whole
    process's resident memory, which Linux keeps; what the process has freed is given back first,
    or the work would seem to take none where it only reuses. Anything else is not measured.
    """
    found = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.bytes = float(torch.cuda.max_memory_allocated(device) - before)
        return
    resident = _reset_resident() if device.type == "cpu" else None
    yield found
    if resident is not None:
        found.bytes = float(max(0, _resident_peak() - resident))


def _reset_resident() -> int | None:
    """Begin a new peak: the resident bytes now; None where the system keeps no peak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc's
        _RESET.write_text("5")  # proc(5): resets the peak resident set size
        return _resident_peak()
    except (OSError, AttributeError, TypeError, LookupError, ValueError):
        return None


def _resident_peak() -> int:
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    line = next((each for each in lines if each.startswith("VmHWM:")), "")
    return int(line.split()[1]) << 10  # in kB
