"""What the angular heatmap costs: all (n, l) over all tokens, against one plain forward pass.

`similarity` measures more than the heatmap: the cosine between all boundaries of units, what every
unit turns and adds. The forward pass is `model(ids).logits` with `use_cache=False` on the same
windows, as many at a time as is quickest. Both take turns, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from inspector.measure.corpus import windows
from inspector.measure.similarity import similarity
from inspector.model.loading import load


def main() -> None:
    options = _options()
    loaded = load(options.model, dtype=options.dtype)
    text = windows(loaded.tokenizer, "pydoc:search", length=options.length, samples=options.samples)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{options.dtype}, {options.samples} x {options.length} tokens"
    )

    @torch.no_grad()
    def forward(size: int) -> None:
        for ids in text.ids.split(size):
            loaded.model(input_ids=ids.to(loaded.device), use_cache=False)

    def heatmap() -> None:
        similarity(loaded, text, loaded.empty())

    heatmap()
    sizes = {size for size in (1, 2, 4, 8) if size <= options.samples}
    best = min(sizes, key=lambda size: min(_seconds(lambda: forward(size)) for _ in range(2)))
    ours, theirs = [], []
    for _ in range(options.rounds):
        theirs.append(_seconds(lambda: forward(best)))
        ours.append(_seconds(heatmap))
    plain, all_of_it = statistics.median(theirs), statistics.median(ours)
    print(
        f"plain forward with head, {best} windows at a time: {plain:.2f} s; heatmap and all else "
        f"of similarity: {all_of_it:.2f} s; ratio {all_of_it / plain:.2f}"
    )


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
