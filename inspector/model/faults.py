"""What can go wrong while a model's files are read, each in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from inspector.errors import LoadError
from inspector.model.loaded import out_of_memory
from inspector.model.sources import CODE_OFF, Source

T = TypeVar("T")


def guarded(source: Source, step: Callable[[], T]) -> T:
    """Run one step of a load; what can go wrong with files becomes one sentence."""
    try:
        return step()
    except LoadError:
        raise
    except Exception as error:  # what the libraries raise at files and configs has no common base
        raise LoadError(_said(source, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the tokenizers library, which is in Rust
            raise
        raise LoadError(
            f"{source.text} has a tokenizer that cannot be read here ({error}): "
            "choose another model."
        ) from error


def _said(source: Source, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "No space left on device" in text:
        return f"the disk is full while {source.text} is loaded: offload to a folder on another."
    if isinstance(error, SafetensorError | json.JSONDecodeError | EOFError):
        return f"a file of {source.text} is corrupt or cut short ({error}): download it again."
    if out_of_memory(error):
        return f"out of memory while loading {source.text}: choose bf16 or a smaller model."
    if "trust_remote_code" in text or "custom code" in text:
        return f"{source.text} needs code of its own, and {CODE_OFF}: choose another model."
    if source.kind == "gguf" and "deci" in text:
        return (
            f"{source.text} has layers of different sizes (deci), which only llama.cpp loads: "
            "load the whole folder of its export, or what it was made of."
        )
    if "model type" in text or "Unrecognized" in text or "architecture" in text.lower():
        return f"{source.text} has an architecture that transformers cannot load here: {text[:200]}"
    if "okenizer" in text:
        return f"{source.text} has no tokenizer that can be read: {text[:200]}"
    where = Path(source.name).name
    return (
        f"{where} cannot be read as a model ({type(error).__name__}: {text[:200]}): "
        "download it again, or choose another model."
    )
