"""The scorer of benchmarks against lm-eval's own, in one run: times, their ratio, the choices.

`python tests/bench/benchmark.py --data DIR`, where DIR holds arc_easy.jsonl and piqa.jsonl (objects
of `query`, `choices`, `gold`, one a line); without it, the set that comes with the program is
asked. Both answer the same items through lm-eval's evaluator; stock HFLM does so at the batch size
that was fastest on a fifth of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from inspector.assets import asset
from inspector.jobs import silent
from inspector.measure.harness import Meter, harness, quiet
from inspector.measure.tasks import Found, find
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.surgery import muted

BATCHES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    options = _options()
    loaded = load(options.model, dtype=options.dtype)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{options.dtype}, {options.items} items each, mask {options.mask or 'empty'}"
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        for name in options.tasks if options.data else ["benchmark"]:
            data = options.data / f"{name}.jsonl" if options.data else asset("benchmark.jsonl")
            lines = data.read_text(encoding="utf-8").splitlines()
            few = Path(folder, f"{name}_few.jsonl")
            all_ = Path(folder, f"{name}.jsonl")
            few.write_text("\n".join(lines[: options.items : 5]) + "\n", encoding="utf-8")
            all_.write_text("\n".join(lines[: options.items]) + "\n", encoding="utf-8")
            with muted(loaded, loaded.mask(options.mask)):
                _compare(loaded, name, find([str(few)]), find([str(all_)]), options.rounds)


def _compare(loaded: LoadedModel, name: str, few: Found, items: Found, rounds: int) -> None:
    _asked(_ours(loaded), few)  # warm up
    _asked(_stock(loaded, 8), few)
    tried = {batch: _asked(_stock(loaded, batch), few)[0] for batch in BATCHES}
    best = min(tried, key=lambda batch: tried[batch])
    pairs, our_samples, their_samples = [], [], []
    for _ in range(rounds):
        theirs, their_samples = _asked(_stock(loaded, best), items)
        ours, our_samples = _asked(_ours(loaded), items)
        pairs.append((theirs, ours))
        _require_equal(name, our_samples, their_samples)
    theirs, ours = (sorted(each)[rounds // 2] for each in zip(*pairs, strict=True))
    worst = max(
        abs(a - b) for a, b in zip(_numbers(our_samples), _numbers(their_samples), strict=True)
    )
    print(
        f"{name}: {len(our_samples)} items, the same choices; HFLM at batch {best} "
        f"(of {', '.join(f'{b}: {s:.1f} s' for b, s in tried.items())} on a fifth) {theirs:.1f} s, "
        f"this scorer {ours:.1f} s, ratio {theirs / ours:.2f} "
        f"(rounds {', '.join(f'{a / b:.2f}' for a, b in pairs)}); largest difference of a "
        f"log-probability {worst:.1e} nats",
        flush=True,
    )


def _ours(loaded: LoadedModel) -> Any:
    return harness(loaded, 8, Meter(silent, "", 0, 1), lambda: 1)


def _stock(loaded: LoadedModel, batch: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    kind: Any = HFLM
    tokenizer = copy.deepcopy(loaded.tokenizer)
    return kind(pretrained=loaded.model, tokenizer=tokenizer, batch_size=batch)


def _asked(model: Any, found: Found) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the evaluation, and what was answered to each item."""
    from lm_eval.evaluator import evaluate

    tasks: Any = {"tasks": found.tasks, "groups": found.groups}
    begun = time.perf_counter()
    results: Any = evaluate(lm=model, task_dict=tasks, bootstrap_iters=0, log_samples=True)
    seconds = time.perf_counter() - begun
    (samples,) = results["samples"].values()
    return seconds, sorted(samples, key=lambda sample: sample["doc_id"])


def _numbers(samples: list[dict[str, Any]]) -> list[float]:
    """Every choice's log-probability, item by item."""
    return [float(answer[0]) for each in samples for answer in each["filtered_resps"]]


def _require_equal(name: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        if (one["acc"], one["acc_norm"]) != (other["acc"], other["acc_norm"]):
            sys.exit(f"{name}: item {one['doc_id']} is answered otherwise: {json.dumps(one)[:400]}")
        if not all(math.isfinite(float(answer[0])) for answer in one["filtered_resps"]):
            sys.exit(f"{name}: item {one['doc_id']} has a log-probability that is no number")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tasks", nargs="*", default=["arc_easy", "piqa"])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--mask", default="")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
