"""Greedy search against the plain loop, in one run: times, orders, evaluations, and the share.

The plain loop is one forward pass a candidate and step, all windows in one batch:
`model(ids).logits` with `use_cache=False`, then the log-softmax in fp32; the lowest score goes.
Both remove the same number of units from the same model on the same text, by js (finercut, with
early exit) and by perplexity (blockpruner). Then both search lazily, and what they remove is
compared.

The share of the processor's own speed is that of one full sweep of js without early exit: the
multiply-adds that the shared beginning leaves to do (of the linear modules, without copies that
fill up a pass), over its time, against `torch.nn.functional.linear` alone on the very shapes that
the sweep multiplied: with one weight all the time, which small ones spend in the cache, and with
another weight each time, as a model's layers have. Where the rest goes is said by what torch's
operations take in another such sweep.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from inspector.measure.corpus import Windows, windows
from inspector.measure.metrics import METRICS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import prune
from inspector.measure.racing import race
from inspector.measure.sweep import together
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load, multiplies_bf16
from inspector.model.surgery import muted
from inspector.results.trajectory import Trajectory
from inspector.units import KINDS, Mask, Unit

METHODS = ("finercut", "blockpruner")
UNITS = {"bf16": 15, "fp32": 4}

CACHES = 128 << 20
"""Bytes of weights that no core's own cache holds."""

OPERATIONS = 12
"""So many that take most time are named."""

Shape = tuple[int, int, int]
"""Rows, inputs and outputs of a matrix product."""


def main() -> None:
    options = _options()
    kinds = options.dtypes or [*(["bf16"] if multiplies_bf16(torch.device("cpu")) else []), "fp32"]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{options.corpus}, {options.samples} x {options.length} tokens"
    )
    for kind in kinds:
        loaded = load(options.model, dtype=kind)
        text, check = (
            windows(loaded.tokenizer, name, length=options.length, samples=options.samples)
            for name in (options.corpus, options.check)
        )
        remove = options.remove or UNITS[kind]
        for method in options.methods:
            _compare(loaded, text, check, method, remove, kind)
        _share(loaded, text, kind)


def _compare(
    loaded: LoadedModel, text: Windows, check: Windows, method: str, remove: int, kind: str
) -> None:
    candidates = len(loaded.toggleable())
    whole = remove * candidates - remove * (remove - 1) // 2
    # Warm up both.
    prune(loaded, text, loaded.empty(), method=method, remove=1, only="attn")
    _plain(loaded, text.ids, method, 1, most=1)
    theirs, order = _timed(lambda: _plain(loaded, text.ids, method, remove))
    ours, run = _timed(lambda: prune(loaded, text, loaded.empty(), method=method, remove=remove))
    layers, heads = _effort(run)
    print(
        f"{kind} {method}, {remove} units: plain {theirs:.1f} s, exact {ours:.1f} s, ratio "
        f"{theirs / ours:.2f}; {_order(run.removed, order)} as the plain loop; evaluations: "
        f"{layers:.1f} through the layers, {heads:.1f} through the head, of {whole}",
        flush=True,
    )
    lazily, lazy = _timed(
        lambda: prune(loaded, text, loaded.empty(), method=method, remove=remove, lazy=True)
    )
    layers, heads = _effort(lazy)
    ends = [
        perplexity(loaded, on, Mask.parse(each.steps[-1].mask, loaded.depth)).perplexity
        for on in (text, check)
        for each in (run, lazy)
    ]
    print(
        f"{kind} {method}, lazy: {lazily:.1f} s, ratio to plain {theirs / lazily:.2f}, to exact "
        f"{ours / lazily:.2f}; {_order(lazy.removed, run.removed)} as exact; evaluations: "
        f"{layers:.1f} through the layers, {heads:.1f} through the head, of {whole}; perplexity at "
        f"the end, exact and lazy: {ends[0]:.2f} and {ends[1]:.2f} on the search text, "
        f"{ends[2]:.2f} and {ends[3]:.2f} on {check.about['name']}",
        flush=True,
    )


def _effort(run: Trajectory) -> tuple[float, float]:
    return sum(step.layers for step in run.steps), sum(step.heads for step in run.steps)


def _order(ours: list[str], theirs: list[str]) -> str:
    """Whether two orders are the same, and at which steps they are not."""
    apart = [
        f"step {step}: {one} and not {other}"
        for step, (one, other) in enumerate(zip(ours, theirs, strict=True), start=1)
        if one != other
    ]
    same = "the same units" if set(ours) == set(theirs) else "other units"
    return f"another order ({'; '.join(apart)}; in all {same})" if apart else "the same order"


@torch.no_grad()
def _plain(
    loaded: LoadedModel, ids: torch.Tensor, method: str, remove: int, *, most: int = 0
) -> list[str]:
    """What goes, in order; `most` scores so many candidates alone, to warm up."""
    ids = ids.to(loaded.device)
    left = loaded.toggleable()
    if method == "blockpruner":
        left = sorted(left, key=lambda unit: (KINDS.index(unit.kind), unit.layer))
    dense = loaded.model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    gone: list[Unit] = []
    for _ in range(remove):
        scores = {}
        for unit in left[:most] if most else left:
            with muted(loaded, loaded.empty().mute([*gone, unit])):
                logits = loaded.model(input_ids=ids, use_cache=False).logits
            scores[unit] = _score(method, logits, dense, ids)
        best = min(scores, key=scores.__getitem__)
        gone.append(best)
        left.remove(best)
    return [str(unit) for unit in gone]


def _score(method: str, logits: torch.Tensor, dense: torch.Tensor, ids: torch.Tensor) -> float:
    """The js per token, or the NLL; a window at a time, which is quicker than all at once."""
    total = 0.0
    for here, log_p, window in zip(logits, dense, ids, strict=True):
        log_q = here.float().log_softmax(-1)
        if method == "blockpruner":
            total -= log_q[:-1].gather(-1, window[1:, None]).double().sum().item()
        else:
            log_m = torch.logaddexp(log_p, log_q) - math.log(2)
            halves = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
            total += halves.sum(-1).double().sum().item() / 2
    return total


def _share(loaded: LoadedModel, text: Windows, kind: str) -> None:
    """The share of the processor's own speed in a full sweep, see above."""
    chosen = together(loaded.toggleable(), "unit")

    def swept() -> object:
        return race(loaded, text, loaded.empty(), chosen, metric=METRICS["js"], early_exit=False)

    with _Recorded() as recorded:
        swept()
    shapes = recorded.shapes
    seconds, _ = _timed(swept)
    products, in_turn = (
        sum(_product_seconds(loaded, shape, least) * n for shape, n in shapes.items())
        for least in (1, CACHES)
    )
    multiplied = sum(math.prod(shape) * n for shape, n in shapes.items())
    useful = _multiply_adds(loaded, chosen) * text.ids.numel()
    print(
        f"{kind} js sweep of {len(chosen)} units without early exit: {seconds:.1f} s, "
        f"{2e-9 * useful / seconds:.0f} GFLOP/s; matrix products alone, of the same shapes: "
        f"{2e-9 * multiplied / products:.0f} GFLOP/s, with weights in turn "
        f"{2e-9 * multiplied / in_turn:.0f}; a share of "
        f"{(useful / seconds) / (multiplied / products):.2f} of the one and "
        f"{(useful / seconds) / (multiplied / in_turn):.2f} of the other; of all that is "
        f"multiplied {100 * (1 - useful / multiplied):.1f} % fills up passes",
        flush=True,
    )
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        swept()
    operations = {each.key: each.self_cpu_time_total for each in profiled.key_averages()}
    most = sorted(operations, key=lambda name: -operations[name])[:OPERATIONS]
    whole = sum(operations.values())
    print(
        "where its time goes: "
        + ", ".join(f"{name} {100 * operations[name] / whole:.0f} %" for name in most),
        flush=True,
    )


class _Recorded(TorchDispatchMode):
    """Within the block, counts the shapes of all products of two matrices in `shapes`."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.shapes[(*left.shape, right.shape[1])] += 1
        return func(*args, **(kwargs or {}))


def _product_seconds(loaded: LoadedModel, shape: Shape, least: int) -> float:
    """Of one product of that shape, with weights of so many bytes in turn: the mean over a fifth of
    a second, after one of each to warm up."""
    rows, width, outputs = shape
    x = torch.randn(rows, width).to(loaded.device, loaded.dtype)
    weight = torch.randn(outputs, width).to(x)
    weights = [weight.clone() for _ in range(math.ceil(least / weight.nbytes))]
    for each in weights:
        functional.linear(x, each)
    count, begun = 0, time.perf_counter()
    while not count or time.perf_counter() - begun < 0.2:
        functional.linear(x, weights[count % len(weights)])
        count += 1
    return (time.perf_counter() - begun) / count


def _multiply_adds(loaded: LoadedModel, chosen: list[tuple[Unit, ...]]) -> int:
    """Of the shared-prefix sweep, a token of text: those of the linear modules."""

    def weights(module: nn.Module) -> int:
        found = (each for each in module.modules() if isinstance(each, nn.Linear))
        return sum(each.get_parameter("weight").numel() for each in found)

    layers = [weights(layer) for layer in loaded.layers]
    head: Any = loaded.model.get_output_embeddings()
    # The untouched model, and the present one up to the layer of the last candidate.
    total = sum(layers) + sum(layers[: chosen[-1][0].layer]) + weights(head)
    for (unit,) in chosen:
        own = layers[unit.layer] - sum(map(weights, loaded.modules(unit)))
        total += own + sum(layers[unit.layer + 1 :]) + weights(head)
    return total


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--corpus", default="pydoc:search")
    parser.add_argument("--check", default="pydoc:check")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--remove", type=int, help="how many units; default: 15 in bf16, 4 in fp32")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--dtypes", nargs="*", choices=["fp32", "bf16"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
