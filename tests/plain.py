"""Short, obvious, slow references that the tests compare the package with.

Units are muted here by forward hooks that put zeros in the place of a module's output, which is not
how the package does it; a text is scored window by window with one plain forward pass a candidate,
in float64, by the formulas as they stand in the papers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from inspector.measure.corpus import Windows
from inspector.model.families import FAMILIES, TINY_ALIASES
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.offloading import offload_to_memory
from inspector.model.probe import probe
from inspector.model.tiny import tiny_config, tiny_tokenizer
from inspector.units import Mask, Unit, all_units

TYPES = [model_type for model_type in FAMILIES if model_type not in TINY_ALIASES]
"""Every model type with a tiny model of its own."""


@contextmanager
def one_thread() -> Iterator[None]:
    """On a tiny model more threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def tiny(model_type: str = "llama", attention: str | None = None) -> LoadedModel:
    """The tiny fp32 model of the type, loaded once: leave it as it was found."""
    return load(f"tiny:{model_type}", dtype="fp32", attention=attention)


def in_memory(model_type: str = "llama") -> LoadedModel:
    """The tiny model with its weights offloaded to main memory, in which it runs all the same."""
    loaded = load(f"tiny:{model_type}", dtype="fp32")
    offloaded = offload_to_memory(loaded.model, torch.device("cpu"))
    return dataclasses.replace(loaded, offloaded=offloaded)


def composite(folder: Path) -> LoadedModel:
    """A tiny Gemma 3 with its vision tower, as the hub has it: its layers lie deeper down."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config=tiny_config("gemma3_text").to_dict(),
        vision_config={"model_type": "siglip_vision_model", **vision},
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load(str(folder), dtype="fp32")


def random_ids(loaded: LoadedModel, count: int, length: int, *, seed: int = 1) -> torch.Tensor:
    """Token ids [count, length] without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    size = loaded.model.config.get_text_config().vocab_size
    return torch.randint(3, size, (count, length), generator=generator)


def text(
    loaded: LoadedModel, count: int, length: int, *, stride: int | None = None, seed: int = 1
) -> Windows:
    """Random windows of a random text."""
    stride = length if stride is None else stride
    tokens = random_ids(loaded, 1, length + stride * (count - 1), seed=seed)[0]
    about = {"name": f"random {seed}", "windows": count, "length": length}
    return Windows(tokens.unfold(0, length, stride).clone(), stride, about)


def some_masks(loaded: LoadedModel) -> list[Mask]:
    """The masks that a contract is held under: the corners, and two at random."""
    depth = loaded.depth
    generator = torch.Generator().manual_seed(depth)
    drawn = [
        [unit for unit in all_units(depth) if torch.rand((), generator=generator) < 0.5]
        for _ in range(2)
    ]
    texts = ["", "0.attn", f"0-{depth - 1}.attn", f"0-{depth - 1}.ffn", "1", f"0-{depth - 1}"]
    return [Mask.parse(each, depth) for each in texts] + [Mask.of(depth, each) for each in drawn]


@contextmanager
def hooked(loaded: LoadedModel, units: Iterable[Unit]) -> Iterator[None]:
    """Within the block the units' modules compute as ever, and zeros take their output's place."""

    def zeros(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    with ExitStack() as handles:
        for unit in units:
            name = loaded.family.modules(unit.kind)[-1]
            module = getattr(loaded.layers[unit.layer], name)
            handles.callback(module.register_forward_hook(zeros).remove)
        yield


@torch.no_grad()
def logits(loaded: LoadedModel, ids: torch.Tensor, units: Iterable[Unit] = ()) -> torch.Tensor:
    """The plain forward pass without a cache, with the units muted by hooks: [n, T, V]."""
    with hooked(loaded, units):
        return loaded.model(input_ids=ids, use_cache=False).logits


def divergence(metric: str, dense: torch.Tensor, pruned: torch.Tensor) -> float:
    """The metric's sum over one window's tokens, [T, V] each; the norm itself for `norm`."""
    dense, pruned = dense.double(), pruned.double()
    p, q = dense.softmax(-1), pruned.softmax(-1)
    m = (p + q) / 2
    total = {
        "kl": lambda: (p * (p / q).log()).sum(),
        "js": lambda: (p * (p / m).log() + q * (q / m).log()).sum() / 2,
        "js-reversed": lambda: (m * (m / p).log() + m * (m / q).log()).sum() / 2,
        "angular": lambda: torch.cosine_similarity(dense, pruned, -1).clamp(0, 1).arccos().sum(),
        "norm": lambda: (dense - pruned).norm(),
    }[metric]()
    return float(total)


def window_nll(logits: torch.Tensor, ids: torch.Tensor, *, skip: int = 0) -> tuple[float, int]:
    """The sum of -log p(next token) over a window's predictions but the first `skip`."""
    total, count = 0.0, 0
    for at in range(skip, len(ids) - 1):
        total -= float(logits[at].double().log_softmax(-1)[ids[at + 1]])
        count += 1
    return total, count


MEASURES = ("nll", "kl", "js", "js-reversed", "angular", "norm")


def costs(
    loaded: LoadedModel,
    ids: torch.Tensor,
    units: Iterable[Unit],
    *,
    rows: int = 1,
    measures: tuple[str, ...] = MEASURES,
) -> dict[str, float]:
    """Each metric's mean over windows [W, T] with the units muted, `rows` windows a pass."""
    units = list(units)
    totals = dict.fromkeys(measures, 0.0)
    for batch in ids.split(rows):
        pruned = logits(loaded, batch, units)
        dense = pruned if measures == ("nll",) else logits(loaded, batch)
        for row, window in enumerate(batch):
            for metric in measures:
                if metric == "nll":
                    totals[metric] += window_nll(pruned[row], window)[0] / (len(window) - 1)
                else:
                    size = 1 if metric == "norm" else len(window)
                    totals[metric] += divergence(metric, dense[row], pruned[row]) / size
    return {metric: total / len(ids) for metric, total in totals.items()}


def sweep(
    loaded: LoadedModel,
    ids: torch.Tensor,
    muted: Iterable[Unit],
    units: Iterable[Unit],
    *,
    rows: int = 1,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """By metric: the cost under `muted`, and each unit's score by one forward pass a candidate."""
    muted = list(muted)
    references = costs(loaded, ids, muted, rows=rows)
    scores: dict[str, dict[str, float]] = {metric: {} for metric in references}
    for unit in units:
        for metric, value in costs(loaded, ids, [*muted, unit], rows=rows).items():
            less = references[metric] if metric == "nll" else 0.0
            scores[metric][str(unit)] = value - less
    return references, scores


def greedy(
    loaded: LoadedModel,
    ids: torch.Tensor,
    units: Iterable[Unit],
    metric: str,
    *,
    remove: int,
    muted: Iterable[Unit] = (),
    rows: int = 1,
) -> list[tuple[str, dict[str, float]]]:
    """What goes at each step, and every candidate's score; ties to the first of `units`."""
    units, gone = list(units), list(muted)
    steps: list[tuple[str, dict[str, float]]] = []
    for _ in range(remove):
        name = "nll" if metric == "perplexity" else metric

        def cost(some: list[Unit], name: str = name) -> float:
            return costs(loaded, ids, some, rows=rows, measures=(name,))[name]

        scores = {str(u): cost([*gone, u]) for u in units}
        if metric == "perplexity":
            scores = {unit: math.exp(value) for unit, value in scores.items()}
        elif metric == "nll":
            now = cost(gone)
            scores = {unit: value - now for unit, value in scores.items()}
        best = min(units, key=lambda u: scores[str(u)])
        steps.append((str(best), scores))
        gone.append(best)
        units.remove(best)
    return steps


def perplexity(
    loaded: LoadedModel, ids: torch.Tensor, stride: int, units: Iterable[Unit] = ()
) -> tuple[float, int]:
    """Total NLL and predicted tokens; a window passes over what the window before it predicted."""
    units, total, count, predicted_to = list(units), 0.0, 0, 0
    for index, window in enumerate(ids):
        start = index * stride
        skip = max(0, predicted_to - start)
        here, tokens = window_nll(logits(loaded, window[None], units)[0], window, skip=skip)
        total, count = total + here, count + tokens
        predicted_to = start + len(window) - 1
    return total, count


def close(ours: float, theirs: float, *, relative: float = 1e-4, floor: float = 1e-6) -> bool:
    """Equal up to a relative difference, or an absolute one near zero; two NaN are equal."""
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    return abs(ours - theirs) <= max(relative * abs(theirs), floor)


def differences(ours: dict[str, float], theirs: dict[str, float], **tolerance: float) -> list[str]:
    """What is not `close`, in words; a missing key is a difference."""
    found = [f"only one has {key}" for key in ours.keys() ^ theirs.keys()]
    for key in ours.keys() & theirs.keys():
        if not close(ours[key], theirs[key], **tolerance):
            found.append(f"{key}: {ours[key]!r} against {theirs[key]!r}")
    return found


# Models that are not what their names say.


def doctored(
    change: Callable[[Any], None], model_type: str = "llama", *, dtype: str = "fp32"
) -> LoadedModel:
    """A fresh tiny model, changed and probed anew."""
    loaded = load(f"tiny:{model_type}", dtype=dtype)
    change(loaded.model)
    fresh = dataclasses.replace(loaded, units=(), returns={}, not_replayable="")
    return probe(fresh)


def wrap(module: nn.Module, after: Callable[..., Any]) -> None:
    """Give the instance a forward that hands its own result on to `after`."""
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return after(inner(*args, **kwargs), *args, **kwargs)

    module.forward = forward


def scaled_by_data(cos_sin: Any, x: torch.Tensor, *_: Any, **__: Any) -> Any:
    """Rotations that depend on the row's own text, so one row's do not serve another."""
    factor = 1 + 200 * x.mean((1, 2), keepdim=True)
    return cos_sin[0] * factor, cos_sin[1] * factor
