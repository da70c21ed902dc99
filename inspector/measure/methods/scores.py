"""What candidates are scored by: one function a score, from a search and a mask to numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import torch

from inspector.jobs import Progress
from inspector.measure.methods.choices import Group
from inspector.measure.methods.goals import SWEPT
from inspector.measure.methods.search import Measured, Search, need_layers
from inspector.measure.methods.taylor import layer_parameters, taylor
from inspector.measure.metrics import METRICS
from inspector.measure.perplexity import of_loss
from inspector.measure.racing import race
from inspector.measure.scoring import groups as window_groups
from inspector.measure.scoring import memory_levers, through
from inspector.measure.similarity import similarity
from inspector.measure.sweep import sweep
from inspector.model.replay import record
from inspector.model.surgery import mute_units
from inspector.units import Mask

Scores = dict[Group, float]

NOTE = "measuring how much each layer does"


def scored(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Measured:
    """Every candidate's score under the mask by the search's metric; lower goes first.

    `METHODS` says for each method what the score is; NaN where it is not defined. By a divergence,
    a method that scores anew every time needs the lowest alone: the others may be lower bounds.
    Several processes share the windows of a sweep; what takes a pass or two, the first of them does
    alone.

    Raises:
        ResultError: the score needs a model that runs layer by layer.
        OutOfMemory: names the levers.
    """

    def without_partial(done: float, total: float, note: str = "", partial: object = None) -> None:
        progress(done, total)  # what is under way is not the kind of result that a run has

    if search.metric in SCORERS:
        scorer = SCORERS[search.metric]
        scores = search.ranks.of_first(
            lambda: list(scorer(search, mask, groups, without_partial).values())
        )
        return Measured(dict(zip(groups, scores, strict=True)))
    if search.races:
        return _raced(search, mask, groups, without_partial)
    return _swept(search, mask, groups, without_partial)


def _raced(
    search: Search,
    mask: Mask,
    groups: Sequence[Group],
    progress: Progress,
) -> Measured:
    """The divergence without each candidate; in full for the lowest one at least."""
    found = race(
        search.loaded,
        search.windows,
        mask,
        groups,
        metric=METRICS[search.metric],
        early_exit=search.early_exit,
        progress=progress,
        memory=search.memory,
        kept=search.kept,
        ranks=search.ranks,
    )
    return Measured(
        found.scores,
        found.bounds,
        layers=found.layers,
        heads=found.heads,
        stream_bytes=found.stream_bytes,
    )


def _swept(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Measured:
    """The cost of muting each candidate; `perplexity` is that of the text without it."""
    found = sweep(
        search.loaded,
        search.windows,
        mask,
        metric=SWEPT.get(search.metric, search.metric),
        units=[unit for group in groups for unit in group],
        grain=search.row.grain,
        progress=progress,
        memory=search.memory,
        kept=search.kept,
        ranks=search.ranks,
    )
    scores = {group: found.scores[str(group[0])] for group in groups}
    if search.metric == "perplexity":
        scores = {group: of_loss(found.reference + score) for group, score in scores.items()}
    count = float(len(groups))
    return Measured(scores, layers=count, heads=count, stream_bytes=found.stream_bytes)


def _turn(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Scores:
    """1 - mean over tokens of cos(x, x + f) of each unit (LLM-Drop, arXiv 2406.15786)."""
    need_layers(search.loaded, search.row.name)
    turn = similarity(search.loaded, search.windows, mask, progress=progress).turn
    return {group: turn.get(str(group[0]), math.nan) for group in groups}


def _influence(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Scores:
    """1 - mean over tokens of cos(x_i, x_i+1) (ShortGPT, arXiv 2403.03853)."""
    cosines = [0.0] * search.loaded.depth

    def add(layer: int, x: torch.Tensor, y: torch.Tensor) -> None:
        cosines[layer] += float(torch.cosine_similarity(x, y, dim=-1, eps=0.0).sum())

    _over_layers(search, mask, progress, add)
    tokens = search.windows.ids.numel()
    return {group: 1 - cosines[group[0].layer] / tokens for group in groups}


def _flat(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Scores:
    """1 - cos(X_i, X_i+1), all tokens' streams laid end to end (code of arXiv 2411.15558)."""
    products = torch.zeros(search.loaded.depth, 3, dtype=torch.float64)

    def add(layer: int, x: torch.Tensor, y: torch.Tensor) -> None:
        products[layer] += torch.stack([(x * y).sum(), x.square().sum(), y.square().sum()]).cpu()

    _over_layers(search, mask, progress, add)
    cosines = products[:, 0] / (products[:, 1] * products[:, 2]).sqrt()
    return {group: float(1 - cosines[group[0].layer]) for group in groups}


def _over_layers(
    search: Search,
    mask: Mask,
    progress: Progress,
    add: Callable[[int, torch.Tensor, torch.Tensor], None],
) -> None:
    """For a few windows at a time, call `add` with each layer, what enters and what leaves it.

    Both are [n, H] in float64. As published, what leaves the last layer has gone through the final
    norm: the authors take the model's hidden states, the last of which has.
    """
    loaded, windows = search.loaded, search.windows
    if not search.as_published:
        need_layers(loaded, search.row.name)
    streams = _hidden_states if search.as_published else _true_streams
    with memory_levers(windows.ids.shape[1]):
        for first, ids in window_groups(windows.ids):
            progress(first, len(windows), NOTE)
            with mute_units(loaded, mask), torch.no_grad():
                before = None
                for number, stream in enumerate(streams(search, ids)):
                    after = _wide(stream).flatten(0, 1)
                    if before is not None:
                        add(number - 1, before, after)
                    before = after
    progress(len(windows), len(windows), NOTE)


def _true_streams(search: Search, ids: torch.Tensor) -> Iterator[torch.Tensor]:
    stream, calls = record(search.loaded, ids)
    yield stream
    for layer in range(search.loaded.depth):
        stream = through(search.loaded, layer, stream, calls)
        yield stream


def _hidden_states(search: Search, ids: torch.Tensor) -> Sequence[torch.Tensor]:
    loaded = search.loaded
    ids = ids.to(loaded.device)
    return loaded.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In float64: 1 - cos of nearly equal streams needs it."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _magnitude(order: int) -> Callable[..., Scores]:
    def norms(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Scores:
        """The sum over the layer's tensors of their l1 or l2 norm (arXiv 2411.15558)."""
        loaded, found = search.loaded, {}
        for group in groups:
            layer = group[0].layer
            with loaded.held(loaded.layers[layer].modules(), whole=True):
                found[group] = sum(
                    float(torch.linalg.vector_norm(tensor, order, dtype=torch.float32))
                    for tensor in layer_parameters(loaded, layer, mask)
                )
        return found

    return norms


def _random(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Scores:
    """A number a layer, so that protecting one leaves the order of the others as it was."""
    drawn = random.Random(search.seed)
    numbers = [drawn.random() for _ in range(search.loaded.depth)]
    return {group: numbers[group[0].layer] for group in groups}


def _from_end(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Scores:
    """How many layers stand behind the layer."""
    return {group: float(search.loaded.depth - 1 - group[0].layer) for group in groups}


def _taylor(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Scores:
    need_layers(search.loaded, search.row.name)
    layers = taylor(search.loaded, search.windows, mask, progress=progress)
    return {group: layers[group[0].layer] for group in groups}


SCORERS: dict[str, Callable[..., Scores]] = {
    "turn": _turn,
    "influence": _influence,
    "influence-flat": _flat,
    "l1": _magnitude(1),
    "l2": _magnitude(2),
    "taylor": _taylor,
    "random": _random,
    "from-end": _from_end,
}
"""By the name of the score; all others are metrics of a sweep. `distance` is in `window`."""
