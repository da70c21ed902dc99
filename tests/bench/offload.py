"""A sweep of a model on disk against one plain pass a candidate: times, their ratio, bytes read.

The plain way is one forward pass a candidate through accelerate's own hooks, which read a module's
weights at every call: `model(ids).logits` with `use_cache=False`, then the log-softmax in fp32.
Both run on the same model, whose weights are in a file in `--folder`, and score the same candidates
with NLL. The file has just been written, and the system may keep it in memory all along; with
`--cold` it is asked to forget it before every plain pass, and before the sweep, as it would have to
if the file were larger than memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from inspector.measure.corpus import windows
from inspector.measure.sweep import sweep
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load, multiplies_bf16
from inspector.model.surgery import muted
from inspector.units import Unit

RELATIVE, FLOOR = 1e-4, 1e-6
"""How far a score may be from the plain way's in fp32: relative, and in nats."""


def main() -> None:
    options = _options()
    kinds = options.dtypes or ["fp32", *(["bf16"] if multiplies_bf16(torch.device("cpu")) else [])]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{options.samples} x {options.length} tokens, NLL, weights on disk"
        + (", out of the system's memory" if options.cold else "")
    )
    for kind in kinds:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            _compare(options, kind, Path(folder))


def _compare(options: argparse.Namespace, kind: str, folder: Path) -> None:
    loaded = load(options.model, dtype=kind, offload=str(folder))
    text = windows(loaded.tokenizer, options.corpus, length=options.length, samples=options.samples)
    units = loaded.toggleable()
    some = units
    if options.units:
        step = max(1, len(units) // options.units)
        some = units[step // 2 :: step][: options.units]
    _plain(loaded, text.ids, some[0])  # warm up both
    sweep(loaded, text, loaded.empty(), units=some[:1])
    before, losses, theirs = loaded.bytes_read, {}, 0.0
    for unit in some:
        if options.cold:
            _forget(folder)
        begun = time.perf_counter()
        losses[str(unit)] = _plain(loaded, text.ids, unit)
        theirs += time.perf_counter() - begun
    read = loaded.bytes_read - before
    if options.cold:
        _forget(folder)
    begun = time.perf_counter()
    found = sweep(loaded, text, loaded.empty())
    ours = time.perf_counter() - begun
    if len(some) < len(units):
        theirs *= len(units) / len(some)
        read = read * len(units) // len(some)
        print(f"{kind}: the plain way by {len(some)} of {len(units)} candidates, scaled up")
    base = _plain(loaded, text.ids, None)
    off = [
        abs(found.scores[unit] - (loss - base)) > max(FLOOR, RELATIVE * abs(loss - base))
        for unit, loss in losses.items()
    ]
    worst = max(abs(found.scores[unit] - (loss - base)) for unit, loss in losses.items())
    weights = loaded.parameters * loaded.dtype.itemsize
    print(
        f"{kind}: {len(units)} candidates: plain {theirs:.1f} s, sweep {ours:.1f} s, ratio "
        f"{theirs / ours:.2f}; bytes of the weights {weights:,}; read by the sweep "
        f"{found.weight_bytes:,} ({found.weight_bytes / weights:.3f} times), by the plain way "
        f"{read:,} ({read / weights:.1f} times); scores further apart than {RELATIVE:.0e} of "
        f"themselves and {FLOOR:.0e} nats: {sum(off)} of {len(off)} (largest difference "
        f"{worst:.1e} nats)",
        flush=True,
    )


@torch.no_grad()
def _plain(loaded: LoadedModel, ids: torch.Tensor, unit: Unit | None) -> float:
    """The NLL without a candidate, the plain way; None is the untouched model."""
    with muted(loaded, loaded.empty().mute([unit] if unit else [])):
        logits = loaded.model(input_ids=ids, use_cache=False).logits
    log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    return -log_p.gather(-1, ids[:, 1:, None]).mean().item()


def _forget(folder: Path) -> None:
    """Ask the system to take the files in a folder out of its memory (Linux)."""
    for file in folder.rglob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--corpus", default="pydoc:search")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--units", type=int, default=0, help="plain passes; 0: one a candidate")
    parser.add_argument("--folder", help="where the weights are put; default: that of temp files")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--dtypes", nargs="*", choices=["fp32", "bf16"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
