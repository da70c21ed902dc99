"""How alike the residual stream is at different depths, between units and between layers.

Each layer runs once as it is and once with its FFN muted, which gives the stream between attention
and FFN after any norm that follows the attention, in sequential and in parallel blocks alike.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from inspector.errors import ResultError
from inspector.jobs import Progress, silent
from inspector.measure.corpus import Windows
from inspector.measure.scoring import groups, memory_levers, through
from inspector.model.loaded import LoadedModel
from inspector.model.replay import record
from inspector.model.surgery import mute_units
from inspector.results.scores import Similarity
from inspector.units import Mask, Unit

NOTE = "comparing the residual stream between layers"

COMPARED_TOKENS = 128
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
        progress: called after every few windows.

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
        for first, ids in groups(windows.ids):
            progress(first, len(windows), NOTE)
            sums.add(_boundaries(loaded, ids, mask))
    progress(len(windows), len(windows), NOTE)
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


def _boundary(unit: Unit) -> int:
    """The boundary at which a unit takes the stream up; it leaves it at the next one."""
    return 2 * unit.layer + (unit.kind == "ffn")


def _split(loaded: LoadedModel, layer: int) -> bool:
    """Whether muting the layer's FFN gives the stream between its attention and its FFN."""
    toggleable = any(unit.layer == layer for unit in loaded.toggleable())
    return toggleable and Unit(layer, "ffn") in loaded.returns


@torch.no_grad()
def _boundaries(loaded: LoadedModel, ids: torch.Tensor, mask: Mask) -> torch.Tensor:
    """The stream at all 2L+1 unit boundaries, [2L+1, w, T, H] in fp32."""
    stream, calls = record(loaded, ids)
    points = [stream.float()]
    with mute_units(loaded, mask):
        for layer in range(loaded.depth):
            with loaded.held(loaded.layers[layer].modules()):
                if _split(loaded, layer):
                    with mute_units(loaded, [Unit(layer, "ffn")]):
                        points.append(through(loaded, layer, stream, calls).float())
                else:
                    points.append(torch.full_like(points[-1], torch.nan))
                stream = through(loaded, layer, stream, calls)
            points.append(stream.float())
    return torch.stack(points)


class _Sums:
    """Sums over tokens and windows, and their counts, in float64."""

    def __init__(self, depth: int) -> None:
        size = 2 * depth + 1
        self.tokens = self.windows = 0
        self.cosine = np.zeros((size, size))
        self.every = np.zeros((depth + 1, depth + 1))
        self.last = np.zeros((depth + 1, depth + 1))
        self.steps = np.zeros(size - 1)

    def add(self, points: torch.Tensor) -> None:
        """Add a few windows' boundaries, [2L+1, w, T, H]."""
        for some in points.flatten(1, 2).split(COMPARED_TOKENS, dim=1):
            some = _wide(some)
            change = (some[1:] - some[:-1]).norm(dim=-1) / some[:-1].norm(dim=-1)
            cosine = _cosine(some)
            self.cosine += _numpy(cosine.sum(0))
            self.every += _numpy(_angle(cosine).sum(0))
            self.steps += _numpy(change.sum(1))
        self.last += _numpy(_angle(_cosine(_wide(points[:, :, -1]))).sum(0))
        self.windows += points.shape[1]
        self.tokens += points.shape[1] * points.shape[2]

    def turn(self) -> np.ndarray:
        """1 - mean cosine across each unit, [2L]."""
        return 1 - np.diagonal(self.cosine, 1) / self.tokens

    def growth(self) -> np.ndarray:
        """Mean of |f| / |x| of each unit, [2L]."""
        return self.steps / self.tokens


def _wide(points: torch.Tensor) -> torch.Tensor:
    """In float64: the angle of nearly equal streams needs it, since cos is flat at 0."""
    return (points.cpu() if points.device.type == "mps" else points).double()


def _cosine(points: torch.Tensor) -> torch.Tensor:
    """The cosine between all boundaries of each token: [2L+1, n, H] to [n, 2L+1, 2L+1]."""
    unit = points / points.norm(dim=-1, keepdim=True)
    return torch.einsum("inh,jnh->nij", unit, unit)


def _angle(cosine: torch.Tensor) -> torch.Tensor:
    """The angular distance between layer boundaries in [0, 1], from all boundaries' cosine."""
    return cosine[:, ::2, ::2].clamp(-1, 1).arccos() / torch.pi


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _upper(values: np.ndarray) -> np.ndarray:
    """The part above the diagonal; NaN elsewhere."""
    return np.where(np.triu(np.ones_like(values), 1) > 0, values, np.nan)
