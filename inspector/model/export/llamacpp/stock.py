"""What llama.cpp computes with a GGUF file, against the muted model; run as a script.

The checking process runs this file by its path and cannot import this project.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

NOT_DONE = "what llama.cpp computes: llama_cpp is not installed here, so nothing has run the file"


def check(
    name: str,
    what: str,
    *,
    passed: bool | None,
    difference: float | None = None,
    exact: bool | None = None,
) -> dict[str, Any]:
    """A row of the report; see `proof.Check`."""
    apart = difference if difference is not None and np.isfinite(difference) else None
    return {"name": name, "what": what, "passed": passed, "exact": exact, "difference": apart}


def main(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The checks that the request asks for."""
    try:
        importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError):  # installed, and its library does not load
        return [check("llama.cpp", NOT_DONE, passed=None)]
    from safetensors.numpy import load_file

    reference = load_file(request["reference"])
    ids, theirs = reference["ids"], reference["logits"].astype(np.float64)
    llama = opened(request["file"], max(64, ids.shape[1]), request["threads"])
    whole = answers(llama, ids[0], [ids.shape[1]])
    pieces = answers(llama, ids[1], [ids.shape[1] - 4, 1, 1, 1, 1])
    checks = [
        _near("llama.cpp", "llama.cpp's logits in one pass", whole, theirs[0], request["far"]),
        _near("llama.cpp-cached", "its logits token by token", pieces, theirs[1], request["far"]),
    ]
    if request["tokens"] is not None:
        tokens = llama.tokenize(request["text"].encode(), add_bos=True, special=False)
        said = "llama.cpp cuts a text into the same tokens"
        checks.append(check("llama.cpp-tokenizer", said, passed=tokens == request["tokens"]))
    return checks


def opened(file: str, length: int, threads: int) -> Any:
    """The file in llama.cpp, on the CPU, with plain kernels.

    Weights that are packed anew for others (AMX) would end the process where the CPU has those and
    the system does not allow them.
    """
    llama_cpp: Any = importlib.import_module("llama_cpp")
    low: Any = importlib.import_module("llama_cpp.llama_cpp")
    defaults = low.llama_model_default_params

    def plain() -> Any:
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    low.llama_model_default_params = plain
    try:
        return llama_cpp.Llama(
            file,
            n_ctx=length,
            n_gpu_layers=0,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            verbose=False,
        )
    finally:
        low.llama_model_default_params = defaults


def answers(llama: Any, ids: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The logits [T, V] of ids fed in pieces of these sizes; nothing is put before them."""
    llama.reset()
    at = 0
    for size in sizes:
        llama.eval([int(each) for each in ids[at : at + size]])
        at += size
    return np.array(llama.scores[:at], dtype=np.float64)


def divergence(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Mean KL(theirs || ours) of logits [T, V], in nats a token."""
    p, q = (_log_softmax(each) for each in (theirs, ours))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _near(name: str, said: str, ours: np.ndarray, theirs: np.ndarray, far: float) -> dict[str, Any]:
    if ours.shape != theirs.shape:
        return check(name, f"{said}: {ours.shape} for {theirs.shape}", passed=False)
    apart = divergence(theirs, ours)
    same = int((ours.argmax(axis=-1) == theirs.argmax(axis=-1)).sum())
    what = (
        f"{said} are the muted model's up to rounding: KL divergence {apart:.2g} nats a token, "
        f"{same} of {len(ours)} likeliest tokens the same"
    )
    return check(name, what, passed=apart <= far, difference=float(np.abs(ours - theirs).max()))


if __name__ == "__main__":
    sys.modules["inspector"] = None  # pyright: ignore[reportArgumentType] - cannot be imported
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = main(asked)
    Path(asked["report"]).write_text(json.dumps(found), encoding="utf-8")
