"""Where a model's weights are to be: on one device, over several GPUs, or off the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from inspector.errors import LoadError
from inspector.model.offloading import MEMORY

if TYPE_CHECKING:
    from inspector.model.loading import ModelSize

ROOM = 1.1
"""A model must fit this many times over: the rest is for activations and the cache."""


def gib(size: float) -> str:
    """Bytes in GiB, or MiB below one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def gpus_free() -> dict[int, int]:
    """Free bytes of each GPU."""
    return {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())}


def placement(device: torch.device, needed: int) -> dict[str, Any]:
    """Where transformers is to put weights of `needed` bytes, as its arguments: on one device.

    Where no GPU was named, and the one in use is too small, over all GPUs, each filled up to where
    a tenth more would fit.
    """
    if device.type == "cuda" and device.index is None:
        free = gpus_free()
        if len(free) > 1 and needed * ROOM > free[torch.cuda.current_device()]:
            return {
                "device_map": "auto",
                "max_memory": {gpu: int(room / ROOM) for gpu, room in free.items()},
            }
    return {"device_map": {"": device}}


def check_room(size: ModelSize) -> None:
    """Refuse a model that does not fit its device.

    Raises:
        LoadError: says what it needs, what there is, and what can be done.
    """
    if not size.fits:
        raise _too_large(
            size,
            size.device,
            size.available,
            "choose a smaller model, bf16 or another device, or --offload to a folder.",
        )


def check_offload(size: ModelSize, offload: str, memory: int, *, piecewise: bool) -> None:
    """Refuse what cannot be offloaded.

    Args:
        size: the model.
        offload: the place, as for `load`.
        memory: free bytes of main memory.
        piecewise: its files can be read a weight at a time.

    Raises:
        LoadError: says why not, and what can be done.
    """
    if offload == MEMORY and not size.device.startswith("cuda"):
        raise LoadError(
            "--offload cpu keeps weights in main memory for a GPU, and this model runs on "
            f"{size.device}: name a folder instead."
        )
    if (offload == MEMORY or not piecewise) and size.bytes * ROOM > memory:
        raise _too_large(
            size,
            "main memory",
            memory,
            "choose a smaller model or bf16, or offload a model in safetensors to a folder.",
        )


def _too_large(size: ModelSize, place: str, free: int, instead: str) -> LoadError:
    return LoadError(
        f"{size.source} needs {gib(size.bytes * ROOM)} in {size.dtype} "
        f"({size.parameters / 1e9:.2f} B parameters and a tenth more), "
        f"{place} has {gib(free)} free: {instead}"
    )
