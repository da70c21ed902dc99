"""Writes a GGUF file tensor by tensor: one of them in memory at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from inspector.errors import ExportError
from inspector.jobs import Progress, silent
from inspector.model.export.layout import Weight
from inspector.model.export.llamacpp import tensors
from inspector.model.export.llamacpp.vocabulary import KeyValue
from inspector.model.loaded import LoadedModel
from inspector.units import Mask

FILE = "model.gguf"


def write_gguf(
    loaded: LoadedModel,
    mask: Mask,
    folder: Path,
    *,
    kind: str,
    said: dict[str, KeyValue],
    progress: Progress = silent,
) -> None:
    """Write `model.gguf`.

    Args:
        loaded: the model that the weights are read from.
        mask: what is left out.
        folder: where to.
        kind: the type of the matrices, one of `tensors.TYPES`.
        said: every key-value but the architecture.
        progress: called after every tensor; may cancel.

    Raises:
        ExportError: a weight is beyond the range of the type.
    """
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    weights = tensors.layout(loaded, mask)
    writer = GGUFWriter(folder / FILE, tensors.architecture(mask))
    try:
        for name, value in said.items():
            items = GGUFValueType[value.items] if value.items else None
            writer.add_key_value(name, value.value, GGUFValueType[value.type], items)
        for weight in weights:
            name = tensors.type_of(weight, kind)
            size = int(math.prod(weight.shape) * tensors.BYTES[name])
            # The writer takes the shape of bytes where a type is none of numpy's.
            shape = (*weight.shape[:-1], size // math.prod(weight.shape[:-1]))
            plain = {"f16": np.float16, "f32": np.float32}.get(name)
            writer.add_tensor_info(
                weight.name,
                weight.shape if plain else shape,
                np.dtype(plain or np.uint8),
                size,
                raw_dtype=GGMLQuantizationType[name.upper()],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done, total = 0, tensors.total_bytes(weights, kind)
        for weight in weights:
            data = _as_type(tensors.values(loaded, weight), tensors.type_of(weight, kind), weight)
            writer.write_tensor_data(data)
            done += data.nbytes
            progress(done, total, "writing the weights")
    finally:
        writer.close()


def _as_type(values: np.ndarray, name: str, weight: Weight) -> np.ndarray:
    from gguf import GGMLQuantizationType, quantize

    with np.errstate(over="ignore"):  # it is looked for below
        data = quantize(values, GGMLQuantizationType[name.upper()])
    if name == "f16" and not np.isfinite(data).all():
        raise ExportError(
            f"{weight.name} has weights beyond the range of F16: export as gguf:bf16 or gguf:f32."
        )
    return data
