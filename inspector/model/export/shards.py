"""Weights into safetensors files, one shard in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from inspector.jobs import Progress, silent
from inspector.model.export.layout import Weight, total_bytes
from inspector.model.loaded import LoadedModel

SHARD_BYTES = 2 * 10**9
"""The most bytes in one file, unless a single weight is larger."""

Named = tuple[str, torch.Tensor]


def write_weights(
    loaded: LoadedModel,
    weights: list[Weight],
    folder: Path,
    *,
    native: bool,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> int:
    """Write the weights as `model.safetensors`, or as shards with their index; the tensors' bytes.

    Args:
        loaded: the model that they are read from.
        weights: which, under which names.
        folder: where to.
        native: name and cut them as the model type's files on the hub are, where transformers
            fuses them in memory (the experts of a mixture).
        shard_bytes: the most bytes of tensors in one file.
        progress: called after every weight.
    """
    total = total_bytes(weights)
    files: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    done = 0

    def flush() -> None:
        # Numbered by how many there are in the end, so their last names come last.
        file = folder / f"{len(files) + 1}.part"
        file.touch()
        mode = file.stat().st_mode  # what the user's other files get; safetensors sets its own
        save_file(held, file, metadata={"format": "pt"})
        file.chmod(mode)
        files.append(list(held))
        held.clear()

    for name, tensor in _tensors(loaded, weights, native):
        size = tensor.numel() * tensor.element_size()
        if held and sum(t.numel() * t.element_size() for t in held.values()) + size > shard_bytes:
            flush()
        held[name] = tensor
        done += size
        progress(done, total, "writing the weights")
    flush()
    _finish(folder, files, total)
    return done


def _tensors(loaded: LoadedModel, weights: list[Weight], native: bool) -> Iterator[Named]:
    """The tensors one by one, on the CPU."""
    for _, group in groupby(weights, key=lambda weight: weight.layer):
        if native:
            yield from _as_on_the_hub(loaded, {each.name: read(each) for each in group}).items()
        else:
            for each in group:
                yield each.name, read(each)


def read(weight: Weight) -> torch.Tensor:
    """The tensor of a weight on the CPU, wherever it is kept."""
    if weight.module is None:
        return torch.zeros(weight.shape, dtype=weight.dtype)
    tensor = getattr(weight.module, weight.key).detach()
    if tensor.device.type == "meta":
        # What it was offloaded from may have another dtype than the model in use.
        tensor = _offloaded(weight.module, weight.key).to(tensor.dtype)
    return tensor.to("cpu").contiguous()


def _offloaded(module: nn.Module, key: str) -> torch.Tensor:
    """One tensor that accelerate has offloaded to memory or disk, where its hook takes it from.

    The hook itself would bring all that the module has, and to the device that the model runs on.
    """
    hook: Any = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        weights = getattr(each, "weights_map", None)
        if weights is not None:
            return weights[key]
    raise LookupError(f"no hook brings {key} of {type(module).__name__} to its device")


def _as_on_the_hub(
    loaded: LoadedModel, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors of one layer under the names, and in the pieces, of the model type's files."""
    from transformers.core_model_loading import revert_weight_conversion

    model: Any = loaded.model
    pieces = revert_weight_conversion(model, tensors)
    return {name: tensor.contiguous() for name, tensor in pieces.items()}


def _finish(folder: Path, files: list[list[str]], total: int) -> None:
    """Give the files their last names, and write the index where there is more than one."""
    if len(files) == 1:
        (folder / "1.part").rename(folder / "model.safetensors")
        return
    where = {}
    for number, names in enumerate(files, 1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        (folder / f"{number}.part").rename(folder / file)
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    text = json.dumps(index, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
