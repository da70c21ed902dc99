"""How alike the residual stream is at different depths, between units and between layers.

Each layer runs once as it is and once with its FFN muted, which gives the stream between attention
and FFN after any norm that follows the attention, in sequential and in parallel blocks alike; what
comes before the FFN is computed the first time alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn

from inspector.errors import ResultError
from inspector.jobs import Progress, silent
from inspector.measure.corpus import Windows
from inspector.measure.scoring import Tick, groups, idle, layer_tokens, memory_levers, ticker
from inspector.model.loaded import LoadedModel
from inspector.model.replay import Calls, record, run_layer
from inspector.model.surgery import mute_units, replaced
from inspector.results.scores import Similarity
from inspector.units import Mask, Unit

NOTE = "comparing the residual stream between layers"

POINTS_BYTES = 1 << 28
"""Bound on the streams at all boundaries that are held at a time, but for a single window's."""

COMPARED_TOKENS = 64
"""Tokens whose streams are compared at a time: bounds what the comparison itself takes."""


def similarity(
    loaded: LoadedModel, windows: Windows, mask: Mask, *, progress: Progress = silent
) -> Similarity:
    """All of `results.Similarity` under the mask, from one pass over the windows.

    Muted units leave the stream as it is and have no entry in `turn` and `growth`. Where a layer
    has no FFN that can be muted, the stream between its attention and its FFN is unknown: NaN in
    `stream`, and no entry either.

    Args:
        loaded: the model.
        windows: the text, [W, T] token ids.
        mask: what is muted.
        progress: called after every layer.

    Raises:
        MaskError: the mask does not fit the model.
        ResultError: the model cannot be run layer by layer.
        OutOfMemory: names the levers.
    """
    started = time.perf_counter()
    loaded.check(mask)
    if loaded.not_replayable:
        raise ResultError(
            f"similarity needs a model that runs layer by layer, and here {loaded.not_replayable}: "
            "use a sweep instead."
        )
    sums = _Sums(loaded.depth)
    with memory_levers(windows.ids.shape[1]):
        tick = ticker(progress, len(windows) * loaded.depth, NOTE)
        for _, ids in groups(windows.ids, tokens=_tokens(loaded)):
            sums.add(_boundaries(loaded, ids, mask, tick))
    known = [info.unit for info in loaded.units if _split(loaded, info.unit.layer)]
    on = [unit for unit in known if unit in loaded.returns and unit not in mask]
    turn, growth = sums.turn(), sums.growth()
    return Similarity(
        provenance=loaded.provenance(corpus=windows.about, started=started),
        mask=str(mask),
        angular_last=_upper(sums.last / sums.windows),
        angular_all=_upper(sums.every / sums.tokens),
        stream=sums.cosine / sums.tokens,
        turn={str(unit): float(turn[_boundary(unit)]) for unit in on},
        growth={str(unit): float(growth[_boundary(unit)]) for unit in on},
    )


def _tokens(loaded: LoadedModel) -> int:
    """How many tokens go through the layers at a time."""
    fit = POINTS_BYTES // (loaded.stream_bytes * (2 * loaded.depth + 1))
    return max(256, min(fit, layer_tokens(loaded.dtype)))


def _boundary(unit: Unit) -> int:
    """The boundary at which a unit takes the stream up; it leaves it at the next one."""
    return 2 * unit.layer + (unit.kind == "ffn")


def _split(loaded: LoadedModel, layer: int) -> bool:
    """Whether muting the layer's FFN gives the stream between its attention and its FFN."""
    toggleable = any(unit.layer == layer for unit in loaded.toggleable())
    return toggleable and Unit(layer, "ffn") in loaded.returns


@torch.no_grad()
def _boundaries(
    loaded: LoadedModel, ids: torch.Tensor, mask: Mask, tick: Tick = idle
) -> list[torch.Tensor]:
    """The stream at all unit boundaries, 2L+1 of [w, T, H]."""
    stream, calls = record(loaded, ids)
    points = [stream]
    with mute_units(loaded, mask):
        for layer in range(loaded.depth):
            with loaded.held(loaded.layers[layer].modules()):
                if _split(loaded, layer):
                    points += _both_halves(loaded, layer, stream, calls)
                else:
                    points.append(torch.full_like(stream, torch.nan))
                    points.append(run_layer(loaded, layer, stream, calls))
            stream = points[-1]
            tick(len(ids))
    return points


def _both_halves(
    loaded: LoadedModel, layer: int, stream: torch.Tensor, calls: Calls
) -> list[torch.Tensor]:
    """The stream between a layer's attention and FFN, and that behind the layer, [w, T, H].

    Without its FFN the layer need not compute again what its parts gave before the FFN's turn.
    """
    ffn, parts = Unit(layer, "ffn"), list(loaded.layers[layer].children())
    given: list[Any] = []
    outputs: list[Any] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(output)

    def turn_of_ffn(*_: Any) -> None:
        given.extend(outputs)

    with ExitStack() as hooks:
        for part in parts:
            hooks.callback(part.register_forward_hook(note).remove)
        hooks.callback(loaded.modules(ffn)[0].register_forward_pre_hook(turn_of_ffn).remove)
        behind = run_layer(loaded, layer, stream, calls)
    again = iter(given)
    with ExitStack() as restore:
        for part in parts:
            restore.enter_context(replaced(part, _first_of(again, part.forward)))
        with mute_units(loaded, [ffn]):
            between = run_layer(loaded, layer, stream, calls)
    return [between, behind]


def _first_of(given: Iterator[Any], compute: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that gives what is left of `given`, then computes."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        for output in given:
            return output
        return compute(*args, **kwargs)

    return forward


class _Sums:
    """Sums over tokens and windows, and their counts, in float64."""

    def __init__(self, depth: int) -> None:
        size = 2 * depth + 1
        self.tokens = self.windows = 0
        self.cosine = np.zeros((size, size))
        self.every = np.zeros((depth + 1, depth + 1))
        self.last = np.zeros((depth + 1, depth + 1))
        self.steps = np.zeros(size - 1)

    def add(self, points: list[torch.Tensor]) -> None:
        """Add a few windows' streams at the boundaries, 2L+1 of [w, T, H]."""
        pieces = zip(*(each.flatten(0, 1).split(COMPARED_TOKENS) for each in points), strict=True)
        for some in pieces:
            cosine, change = _compared(torch.stack(some, dim=1))
            self.cosine += _numpy(cosine.sum(0))
            self.every += _numpy(_angle(cosine).sum(0))
            self.steps += _numpy(change.sum(0))
        last, _ = _compared(torch.stack([each[:, -1] for each in points], dim=1))
        self.last += _numpy(_angle(last).sum(0))
        self.windows += len(points[0])
        self.tokens += points[0].shape[0] * points[0].shape[1]

    def turn(self) -> np.ndarray:
        """1 - mean cosine across each unit, [2L]."""
        return 1 - np.diagonal(self.cosine, 1) / self.tokens

    def growth(self) -> np.ndarray:
        """Mean of |f| / |x| of each unit, [2L]."""
        return self.steps / self.tokens


def _compared(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of tokens' streams at all boundaries, [n, 2L+1, H], in float64.

    The cosine between any two, [n, 2L+1, 2L+1], and |x_i+1 - x_i| / |x_i|, [n, 2L]. The angle of
    nearly equal streams needs float64, since cos is flat at 0.
    """
    points = (points.cpu() if points.device.type == "mps" else points).double()
    products = points @ points.mT
    square = products.diagonal(dim1=1, dim2=2)
    beside = products.diagonal(1, dim1=1, dim2=2)
    change = (square[:, 1:] + square[:, :-1] - 2 * beside).clamp(min=0) / square[:, :-1]
    norm = square.sqrt()
    return products / (norm[:, :, None] * norm[:, None]), change.sqrt()


def _angle(cosine: torch.Tensor) -> torch.Tensor:
    """The angular distance between layer boundaries in [0, 1], from all boundaries' cosine."""
    return cosine[:, ::2, ::2].clamp(-1, 1).arccos() / torch.pi


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _upper(values: np.ndarray) -> np.ndarray:
    """The part above the diagonal; NaN elsewhere."""
    return np.where(np.triu(np.ones_like(values), 1) > 0, values, np.nan)
