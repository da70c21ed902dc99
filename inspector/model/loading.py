"""From a source to a model in memory: what it will take, whether it fits, and the load itself."""

from __future__ import annotations

import copy
import gc
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
)

from inspector.errors import LoadError
from inspector.jobs import Progress, part, silent
from inspector.model.export.llamacpp.opening import source_weights
from inspector.model.export.opening import Opened, opened, take_out
from inspector.model.families import family_of
from inspector.model.faults import guarded
from inspector.model.loaded import LoadedModel, count_parameters
from inspector.model.offloading import MEMORY, offload_to_disk, offload_to_memory, own_folder
from inspector.model.placing import (
    ROOM,
    check_offload,
    check_room,
    gib,
    gpus_free,
    placement,
)
from inspector.model.probe import probe
from inspector.model.sources import Source, check_folder, fetch, fingerprint, parse
from inspector.model.tiny import tiny_config, tiny_model, tiny_tokenizer
from inspector.model.unread import check_biases, with_scaled_positions
from inspector.units import KINDS

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DEVICES = ("auto", "cuda", "mps", "cpu")
# transformers sets torch's default dtype for the whole process while it builds a model, so no two
# threads (a page that asks for a size, the worker that loads) may build at once.
_BUILDING = threading.RLock()


@dataclass(frozen=True)
class ModelSize:
    """What a model is and takes, from its config alone.

    `parameters` counts tied weights once; `bytes` is parameters times the dtype's size; `available`
    is the free memory of the device in bytes, with what the present model would give back.
    """

    source: str
    model_type: str
    layers: int
    units: int
    parameters: int
    dtype: str
    device: str
    bytes: int
    available: int

    @property
    def fits(self) -> bool:
        """Whether the weights and a tenth more fit the device."""
        return self.bytes * ROOM <= self.available

    def __str__(self) -> str:
        """One line for people."""
        verdict = "fits" if self.fits else "does not fit"
        return (
            f"{self.model_type}: {self.layers} layers, {self.units} units, "
            f"{self.parameters / 1e6:,.1f} M parameters, {gib(self.bytes)} in {self.dtype}; "
            f"{verdict} {self.device} ({gib(self.available)} free)"
        )


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is CUDA, then MPS, then the CPU.

    Raises:
        LoadError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        name = "mps" if name == "cpu" and torch.backends.mps.is_available() else name
    kind = name.partition(":")[0]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LoadError(f"unknown device {name!r}: choose one of {', '.join(DEVICES)}.") from error
    if not there.get(kind, False):
        raise LoadError(f"this machine has no {kind}: choose auto or cpu.")
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LoadError(f"this machine has {torch.cuda.device_count()} CUDA devices, not {name}.")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; `auto` is bf16 where the hardware multiplies it natively, else fp32.

    Raises:
        LoadError: unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    if name not in DTYPES:
        raise LoadError(f"unknown dtype {name!r}: choose auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 matrix instructions, rather than emulating them."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return False


def memory_available(device: torch.device, freed: LoadedModel | None = None) -> int:
    """Free bytes on the device, with those of a model that would be freed first.

    Of `cuda` without a number, those of all GPUs.
    """
    if device.type == "cuda":
        free = sum(gpus_free().values()) if device.index is None else gpus_free()[device.index]
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        free = psutil.virtual_memory().available
    if freed is not None and freed.device.type == device.type and not freed.offloaded:
        free += sum(p.numel() * p.element_size() for p in freed.model.parameters())
    return free


def size_of(
    text: str, *, device: str = "auto", dtype: str = "auto", freed: LoadedModel | None = None
) -> ModelSize:
    """What a model is and takes, from its config alone: built on the meta device, no weights read.

    Raises:
        LoadError: as `load`, short of reading weights.
    """
    return _size(fetch(parse(text), config_only=True), device, dtype, freed)


def load(
    text: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attention: str | None = None,
    offload: str | None = None,
    freed: LoadedModel | None = None,
    progress: Progress = silent,
) -> LoadedModel:
    """Load a model and probe its units.

    Onto one device; a model too large for one GPU is spread over all of the machine where none was
    named; with `offload` its weights stay elsewhere, and come to the device layer by layer.

    Args:
        text: a source, see `sources.FORMS`.
        device: auto, cuda, cuda:1, mps or cpu.
        dtype: auto, bf16, fp16 or fp32.
        attention: transformers' attention implementation (sdpa, eager); its own choice if None.
        offload: where the weights stay: `cpu`, which is main memory, or a folder. There they are
            read from the model's own files where these are safetensors, or else written first.
        freed: a model whose memory the caller will give back before this one needs it.
        progress: called between the stages.

    Raises:
        LoadError: not found, gated, no network, too big, unsupported, or corrupt; says what to do.
    """
    source = parse(text)
    progress(0, 4, "looking up the model")
    source = fetch(source, progress=part(progress, 0, 1, 4))
    size = _size(source, device, dtype, freed)
    piecewise = source.kind in ("folder", "hub")  # can be read a weight at a time
    if offload:
        main = memory_available(torch.device("cpu"), freed)
        check_offload(size, offload, main, piecewise=piecewise)
    else:
        check_room(size)
    if piecewise:
        check_folder(source.files)
    if offload and _opened(source) is not None:
        raise LoadError(
            f"{source.text} is an export without the weights of some units, and cannot be "
            "offloaded: load its source, and mute the same units."
        )
    progress(1, 4, "reading the tokenizer")
    tokenizer = guarded(source, lambda: _tokenizer(source))
    progress(2, 4, "reading the weights")
    to = pick_device(device)
    kind = pick_dtype(dtype, to)

    def read(**where: Any) -> PreTrainedModel:
        return guarded(source, lambda: _model(source, kind, attention, **where))

    offloaded = None
    if offload == MEMORY:
        model = read(device_map={"": "cpu"})
        offloaded = offload_to_memory(model, to)
    elif offload:
        with own_folder(offload, 0 if piecewise else size.bytes) as folder:
            first = "disk" if piecewise else "cpu"
            model = read(device_map={"": first}, offload_folder=str(folder))
            offloaded = guarded(source, lambda: offload_to_disk(model, folder, to))
    else:
        model = read(**placement(to, size.bytes))
    progress(3, 4, "probing the units")
    loaded = LoadedModel(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        source=source.text,
        weights=fingerprint(source),
        family=family_of(model.config.model_type),
        layers=_layers(model),
        offloaded=offloaded,
    )
    loaded = guarded(source, lambda: probe(loaded))
    if not loaded.toggleable():
        raise LoadError(
            f"the architecture {loaded.model_type} is not supported: {loaded.units[0].problem}."
        )
    export = _opened(source)
    if export is not None:
        loaded = take_out(loaded, export.mask)
    progress(4, 4, "loaded")
    return loaded


def free(loaded: LoadedModel) -> None:
    """Give the memory of a model back; whoever still holds it holds an empty shell."""
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.new_empty(0)
    if loaded.offloaded:
        loaded.offloaded.close()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _size(source: Source, device: str, dtype: str, freed: LoadedModel | None) -> ModelSize:
    config = guarded(source, lambda: _config(source))
    with _BUILDING, torch.device("meta"):
        model = guarded(source, lambda: AutoModelForCausalLM.from_config(config))
    depth = len(_layers(model))
    to = pick_device(device)
    kind = pick_dtype(dtype, to)
    parameters = count_parameters(model)
    export = _opened(source)
    if export is not None:
        named = model.named_parameters()
        parameters -= sum(each.numel() for name, each in named if export.lacks(name))
    return ModelSize(
        source=source.text,
        model_type=config.model_type,
        layers=depth,
        units=depth * len(KINDS),
        parameters=parameters,
        dtype=str(kind).removeprefix("torch."),
        device=str(to),
        bytes=parameters * kind.itemsize,
        available=memory_available(to, freed),
    )


def _config(source: Source) -> Any:
    if source.kind == "tiny":
        return tiny_config(source.name)
    if source.kind != "gguf" and not (source.files / "config.json").is_file():
        check_folder(source.files)
    export = _opened(source)
    if export is not None:
        return export.config
    if source.kind == "gguf":
        file = Path(source.name)
        return copy.deepcopy(_gguf_config(file, file.stat().st_mtime_ns))
    return AutoConfig.from_pretrained(source.files, local_files_only=True, trust_remote_code=False)


def _opened(source: Source) -> Opened | None:
    """What a folder that this program has exported lacks of its source; None for all others."""
    if source.kind == "tiny":
        return None
    return opened(source.files, gguf=source.kind == "gguf")


@lru_cache(maxsize=8)
def _gguf_config(file: Path, changed: int) -> Any:
    """The config in a GGUF file; kept, since parsing the header takes seconds."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    return with_scaled_positions(config, file)


def _tokenizer(source: Source) -> Any:
    if source.kind == "tiny":
        return tiny_tokenizer()
    arguments: dict[str, Any] = dict(source.file_arguments)
    if _opened(source) is not None:  # its model type may be known to its own code alone
        arguments = {"config": _config(source)}
    return AutoTokenizer.from_pretrained(
        source.files, **arguments, local_files_only=True, trust_remote_code=False
    )


def _model(
    source: Source, dtype: torch.dtype, attention: str | None, **where: Any
) -> PreTrainedModel:
    if source.kind == "tiny":
        model: Any = tiny_model(source.name, attention=attention)
        for parameter in model.parameters():  # buffers keep their precision, as from a file
            parameter.data = parameter.data.to(dtype)
        return model.to(device=where["device_map"][""])
    export = _opened(source)
    kind, folder, arguments = _weights(source, export, dtype)
    with _BUILDING:
        loaded: Any = kind.from_pretrained(
            folder,
            **arguments,
            dtype=dtype,
            **where,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    model, report = loaded
    if "max_memory" in where and "disk" in model.hf_device_map.values():
        raise LoadError(
            f"the layers of {source.text} do not fit the memory of the GPUs one by one: "
            "keep the weights elsewhere (--offload)."
        )
    if source.kind == "gguf" and export is None:
        check_biases(model, Path(source.name))
    missing = (key for key in report["missing_keys"] if export is None or not export.lacks(key))
    lacking = sorted([*missing, *(key[0] for key in report["mismatched_keys"])])
    if lacking:
        raise LoadError(
            f"{source.text} lacks {len(lacking)} weights of its architecture ({lacking[0]}, ...): "
            "the files are incomplete or made for other code."
        )
    return model


def _weights(
    source: Source, export: Opened | None, dtype: torch.dtype
) -> tuple[Any, Path | None, dict[str, Any]]:
    """The class that reads the weights, where it finds them, and what it needs besides."""
    auto, folder = AutoModelForCausalLM, source.files
    if source.kind == "gguf" and export is not None:
        config = export.config  # without a folder, the auto class asks for one all the same
        weights = source_weights(Path(source.name), export, dtype)
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        return kind, None, {"config": config, "state_dict": weights}
    if source.kind == "gguf":
        # Plain tensors in the dtype asked for, even where kernels for packed blocks are installed.
        plain = {"config": _config(source), "quantization_config": GgufConfig(dequantize=True)}
        return auto, folder, {**source.file_arguments, **plain}
    if export is not None:
        return auto, folder, {"config": export.config, "key_mapping": export.key_mapping}
    return auto, folder, {}


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    path = family_of(model.config.model_type).layers
    try:
        layers = model.get_submodule(path)
    except AttributeError:
        layers = None
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise LoadError(
            f"the architecture {model.config.model_type} is not supported: "
            f"it has no layers at {path}."
        )
    return layers
