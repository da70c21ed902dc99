"""The sweep against the plain way, in one run: times, their ratio, and the peak memory of both.

The plain way is one forward pass a candidate, all windows in one batch: `model(ids).logits` with
`use_cache=False`, then the log-softmax in fp32. Both score the same candidates on the same text
with NLL, in turns, so that a machine that slows down slows both. With `--units` fewer candidates
are scored, spread evenly over the depth: a quick look, whose ratio is near that of all.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from inspector.measure.corpus import Windows, windows
from inspector.measure.sweep import sweep
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load, multiplies_bf16
from inspector.model.surgery import muted
from inspector.units import Unit

RELATIVE, FLOOR = 1e-4, 1e-6
"""How far a score may be from the plain way's in fp32: relative, and in nats."""


def main() -> None:
    options = _options()
    if options.peak:
        _peak(options)
        return
    kinds = options.dtypes or ["fp32", *(["bf16"] if multiplies_bf16(torch.device("cpu")) else [])]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{options.samples} x {options.length} tokens, NLL"
    )
    for kind in kinds:
        _compare(options, kind)


def _compare(options: argparse.Namespace, kind: str) -> None:
    loaded, text, units = _subject(options, kind)
    ids = text.ids.to(loaded.device)
    _plain(loaded, ids, units[:1])  # warm up both
    _sweep(loaded, text, units[:1])
    ours, theirs, plain, swept = [], [], [], []
    for _ in range(options.rounds):
        seconds, plain = _timed(lambda: _plain(loaded, ids, units))
        theirs.append(seconds)
        seconds, swept = _timed(lambda: _sweep(loaded, text, units))
        ours.append(seconds)
    worst = max(abs(a - b) for a, b in zip(swept, plain, strict=True))
    (base,) = _plain(loaded, ids, [None])
    off = [
        abs(a - b) > max(FLOOR, RELATIVE * abs(b - base)) for a, b in zip(swept, plain, strict=True)
    ]
    peaks = {way: _peak_of(options, kind, way) for way in ("sweep", "plain")}
    a, b = statistics.median(ours), statistics.median(theirs)
    print(
        f"{kind}: {len(units)} candidates, median of {options.rounds}: "
        f"plain {b:.1f} s, sweep {a:.1f} s, ratio {b / a:.2f}; "
        f"rounds {', '.join(f'{y / x:.2f}' for x, y in zip(ours, theirs, strict=True))}; "
        f"scores further apart than {RELATIVE:.0e} of themselves and {FLOOR:.0e} nats: {sum(off)} "
        f"(largest difference {worst:.1e} nats); "
        f"peak memory over the loaded model: plain {peaks['plain']:.0f} MiB, "
        f"sweep {peaks['sweep']:.0f} MiB",
        flush=True,
    )


def _subject(options: argparse.Namespace, kind: str) -> tuple[LoadedModel, Windows, list[Unit]]:
    loaded = load(options.model, dtype=kind)
    text = windows(loaded.tokenizer, options.corpus, length=options.length, samples=options.samples)
    units = loaded.toggleable()
    if options.units:
        step = max(1, len(units) // options.units)
        units = units[step // 2 :: step][: options.units]
    return loaded, text, units


def _sweep(loaded: LoadedModel, text: Windows, units: list[Unit]) -> list[float]:
    """NLL of each candidate, the project's way."""
    found = sweep(loaded, text, loaded.empty(), metric="nll", units=units)
    return [found.reference + found.scores[str(unit)] for unit in units]


@torch.no_grad()
def _plain(loaded: LoadedModel, ids: torch.Tensor, units: Sequence[Unit | None]) -> list[float]:
    """NLL of each candidate, the plain way; None is the untouched model."""
    losses = []
    for unit in units:
        with muted(loaded, loaded.empty().mute([unit] if unit else [])):
            logits = loaded.model(input_ids=ids, use_cache=False).logits
        log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        losses.append(-log_p.gather(-1, ids[:, 1:, None]).mean().item())
    return losses


def _timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def _peak_of(options: argparse.Namespace, kind: str, way: str) -> float:
    """MiB above the loaded model, in a process of its own."""
    command = [sys.executable, __file__, "--peak", way, "--dtypes", kind]
    command += ["--units", str(options.units if way == "sweep" else 2)]  # plain: each alike
    for name in ("model", "corpus", "samples", "length"):
        command += [f"--{name}", str(getattr(options, name))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.split()[-1])


def _peak(options: argparse.Namespace) -> None:
    loaded, text, units = _subject(options, options.dtypes[0])
    ids = text.ids.to(loaded.device)
    # The highest mark so far belongs to loading: start it anew (Linux only).
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    if options.peak == "sweep":
        _sweep(loaded, text, units)
    else:
        _plain(loaded, ids, units)
    print(_status("VmHWM") - before)


def _status(field: str) -> float:
    """A field of this process's status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} here: peak memory is read from Linux's /proc")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--corpus", default="pydoc:search")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--units", type=int, default=0, help="how many candidates; 0 takes all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="*", choices=["fp32", "bf16"])
    parser.add_argument("--peak", choices=["sweep", "plain"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
