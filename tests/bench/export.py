"""Exports in numbers: size on disk against arithmetic, load time, prefill and decode times.

Each form is exported with its proof, loaded, and run in turns with the source in memory, untouched
and muted, so that a machine that slows down slows all. Prefill is one forward pass over `--length`
tokens without a cache; decode is `--tokens` greedy tokens after them, with one. A GGUF file is
loaded by this program, and run by llama.cpp, where that is installed, in turns with a file of the
whole source in the same type; decode is then `--tokens` fixed tokens, one at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from inspector.model.export import fresh, proof
from inspector.model.export.llamacpp import stock
from inspector.model.export.llamacpp.reading import READER
from inspector.model.export.llamacpp.writing import FILE, write_gguf
from inspector.model.export.making import Exported, export, key_values
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.surgery import muted
from inspector.units import Mask

SMOLLM2 = {
    "blocks": "17,21-23",
    "moe-stub": "5.ffn,13.ffn,20.ffn",
    "compact": "0.attn,5.ffn,9.attn,13.ffn,17,21-22.attn",
    "zeroed": "0.attn,5.ffn,9.attn,13.ffn,17,21-22.attn",
    "gguf": "0.attn,5.ffn,9.attn,13.ffn,17,21-22.attn",
}
TINY = {"blocks": "1", "moe-stub": "1.ffn", "compact": "0.attn,1.ffn,2", "zeroed": "0.attn"}
MB = 1e6


def main() -> None:
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    loaded = load(options.model, dtype=options.dtype)
    masks = TINY if options.model.startswith("tiny:") else SMOLLM2
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{loaded.dtype}, prefill {options.length} tokens, decode {options.tokens}, median of "
        f"{options.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_MODULES_CACHE"] = str(Path(folder) / "modules")
        for form, text in masks.items():
            of = _gguf if form == "gguf" else _form
            of(loaded, form, loaded.mask(text), Path(folder) / form, options)


def _form(
    loaded: LoadedModel, form: str, mask: Mask, folder: Path, options: argparse.Namespace
) -> None:
    seconds, made = _timed(lambda: export(loaded, mask, folder, form=form))
    exact = all(check["exact"] for check in made.checks if check["exact"] is not None)
    print(
        f"\n{form}, without {mask}: exported and proved in {seconds:.1f} s, "
        f"logits and tokens {'equal bit for bit' if exact else 'equal up to rounding'}"
    )
    _sizes(made, "*.safetensors")
    request = proof.request_of(loaded, own_code=made.choice.form.own_code)
    loads = [_timed(lambda: fresh.load(str(folder), request)) for _ in range(options.rounds)]
    print(f"  loaded in {statistics.median(seconds for seconds, _ in loads):.2f} s")
    model, _ = loads.pop()[1]
    loads.clear()
    _race(loaded, mask, model.eval(), options)


def _sizes(made: Exported, names: str) -> None:
    files = sum(file.stat().st_size for file in made.folder.glob(names))
    print(
        f"  weights {files / MB:.1f} MB on disk, {made.choice.bytes / MB:.1f} MB by arithmetic, "
        f"{files - made.choice.bytes:,} bytes of headers; the source "
        f"{made.choice.source_bytes / MB:.1f} MB",
        flush=True,
    )


def _gguf(
    loaded: LoadedModel, form: str, mask: Mask, folder: Path, options: argparse.Namespace
) -> None:
    seconds, made = _timed(lambda: export(loaded, mask, folder, form=form))
    print(f"\n{form}, without {mask}: exported and read back in {seconds:.1f} s")
    for check in made.checks:
        if check["name"].startswith("llama.cpp"):
            print(f"  {check['what']}: {proof.verdict(check)}")
    _sizes(made, "*.gguf")
    dtype = options.dtype
    loads = [_timed(lambda: load(str(folder), dtype=dtype))[0] for _ in range(options.rounds)]
    print(f"  loaded by this program in {statistics.median(loads):.2f} s", flush=True)
    if importlib.util.find_spec(READER) is None:
        return
    whole, none = folder.with_name("whole"), loaded.empty()
    whole.mkdir()
    said = key_values(loaded, none, made.choice)
    write_gguf(loaded, none, whole, kind=made.choice.type, said=said)
    threads, length = torch.get_num_threads(), options.length + options.tokens
    files = {"source": whole / FILE, "export": folder / FILE}
    models = {name: stock.opened(str(file), length, threads) for name, file in files.items()}
    ids = _ids(loaded, length)[0].numpy()
    first, rest = [options.length], [1] * options.tokens
    times: dict[str, dict[str, list[float]]] = {"prefill": {}, "decode": {}}
    for turn in range(options.rounds + 1):
        for name in list(models)[:: 1 if turn % 2 else -1]:
            before = ids[: options.length]
            prefill, _ = _timed(partial(stock.answers, models[name], before, first))
            both, _ = _timed(partial(stock.answers, models[name], ids, [*first, *rest]))
            if turn:  # the first warms up
                times["prefill"].setdefault(name, []).append(prefill)
                times["decode"].setdefault(name, []).append(both - prefill)
    for what, found in times.items():
        _told(f"{what} in llama.cpp", found)


def _ids(loaded: LoadedModel, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    vocabulary = loaded.model.config.get_text_config().vocab_size
    return torch.randint(3, vocabulary, (1, length), generator=generator)


def _told(what: str, times: dict[str, list[float]]) -> None:
    median = {name: statistics.median(found) for name, found in times.items()}
    told = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in median.items())
    ratio = median["source"] / median["export"]
    print(f"  {what}: {told}; source / export {ratio:.2f}", flush=True)


def _race(loaded: LoadedModel, mask: Mask, model: Any, options: argparse.Namespace) -> None:
    """Times of source, muted source and export, in turns; the order turns as well."""
    ids = _ids(loaded, options.length).to(loaded.device)

    def under_mask(work: Callable[..., None]) -> None:
        with muted(loaded, mask):
            work(loaded.model, ids, options.tokens)

    runners: dict[str, Callable[[Callable[..., None]], None]] = {
        "source": lambda work: work(loaded.model, ids, options.tokens),
        "muted": under_mask,
        "export": lambda work: work(model, ids, options.tokens),
    }
    for what, work in (("prefill", _prefill), ("decode", _decode)):
        times: dict[str, list[float]] = {name: [] for name in runners}
        for turn in range(options.rounds + 1):
            names = list(runners)
            for name in names[turn % 3 :] + names[: turn % 3]:
                seconds, _ = _timed(partial(runners[name], work))
                times[name] += [seconds] if turn else []  # the first warms up
        _told(what, times)


@torch.no_grad()
def _prefill(model: Any, ids: torch.Tensor, tokens: int) -> None:
    model(input_ids=ids, use_cache=False, logits_to_keep=1)
    _settle(ids)


@torch.no_grad()
def _decode(model: Any, ids: torch.Tensor, tokens: int) -> None:
    fresh.continued(model, ids, torch.ones_like(ids), tokens)
    _settle(ids)


def _settle(ids: torch.Tensor) -> None:
    """A GPU's time is not over before it has nothing left to do."""
    if ids.device.type == "cuda":
        torch.cuda.synchronize()


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
