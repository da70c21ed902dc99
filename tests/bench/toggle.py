"""Perplexity after toggling one unit, from kept streams, against a full one, in one run.

A unit is switched off in layer l and on again; from kept streams only layers l on and the head are
computed. What that should cost is told from the same run: a full perplexity, and one whose mask has
not changed, which is the head alone. Printed is the measured time over that expectation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from inspector.measure.corpus import windows
from inspector.measure.perplexity import losses
from inspector.measure.warm import Warm
from inspector.model.loading import load
from inspector.units import Mask, Unit


def main() -> None:
    options = _options()
    loaded = load(options.model, dtype=options.dtype)
    text = windows(loaded.tokenizer, options.corpus, length=options.length, samples=options.samples)
    warm = Warm(loaded, text, bound=options.memory << 20)
    empty = loaded.empty()

    def cold(mask: Mask = empty) -> list[tuple[float, int]]:
        return losses(loaded, text, mask)

    def kept(mask: Mask = empty) -> list[tuple[float, int]]:
        return losses(loaded, text, mask, warm=warm)

    cold()  # warm up
    kept()  # fill
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{loaded.dtype}, {len(text)} x {options.length} tokens, every "
        f"{warm.every}. layer's streams kept: {warm.bytes / 2**20:.0f} of at most "
        f"{options.memory} MiB"
    )
    full = _seconds(cold, options.rounds)
    head = _seconds(kept, options.rounds)
    print(f"a full perplexity {full:.2f} s, with nothing changed {head:.2f} s (the head)")
    worst = 0.0
    for layer in options.layers or range(0, loaded.depth, max(1, loaded.depth // 6)):
        mask = empty.mute([Unit(layer, options.kind)])
        times = []
        for _ in range(options.rounds):
            for state in (mask, empty):  # off, and on again
                times.append(_seconds(lambda state=state: kept(state), 1))
        if kept(mask) != cold(mask):
            raise SystemExit(f"layer {layer}: the two perplexities differ")
        kept(empty)
        share = (loaded.depth - layer) / loaded.depth
        expected = head + share * (full - head)
        here = statistics.median(times)
        worst = max(worst, here / expected)
        print(
            f"{layer}.{options.kind}: {here:.2f} s, expected {expected:.2f} s, "
            f"ratio {here / expected:.2f}; {full / here:.1f} times as fast as a full one",
            flush=True,
        )
    print(f"largest ratio to what is expected: {worst:.2f}")


def _seconds(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--corpus", default="pydoc:check")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--memory", type=int, default=1024, help="MiB of kept streams")
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--kind", choices=["attn", "ffn"], default="attn")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
