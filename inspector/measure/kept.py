"""Streams that a search comes back to, again and again over the same text.

From step to step only what follows the change differs: what enters the layers before it stays the
same, and the untouched model's streams do so for the whole search.
"""

from __future__ import annotations

import torch

from inspector.measure.scoring import through, untouched
from inspector.model.loaded import LoadedModel
from inspector.model.replay import record
from inspector.units import Mask

KEPT_BYTES = 1 << 28
"""Bound on what is kept by default: 57 windows of 128 tokens of a bf16 model of 30 x 576."""


class Trunk:
    """What enters each layer under a mask for a few windows [w, T], computed layer by layer.

    With `keep` each stream stays, else the last one alone. Whoever asks for streams has muted the
    mask's units.
    """

    def __init__(self, loaded: LoadedModel, ids: torch.Tensor, *, keep: bool = False) -> None:
        stream, self.calls = record(loaded, ids)
        self.loaded, self.keep, self._streams = loaded, keep, {0: stream}

    def before(self, layer: int) -> torch.Tensor:
        """What enters the layer, or leaves the last one, [w, T, H]; not to be written over."""
        last = max(self._streams)
        while last < layer:
            stream = through(self.loaded, last, self._streams[last], self.calls)
            if not self.keep:
                self._streams.clear()
            last += 1
            self._streams[last] = stream
        return self._streams[layer]

    def end(self) -> torch.Tensor:
        """What leaves the last layer, [w, T, H], for whoever asks to use up."""
        stream = self.before(self.loaded.depth)
        return stream.clone() if self.keep else stream

    def forget_behind(self, layer: int) -> None:
        """Forget what has gone through the layer, which is about to change."""
        self._streams = {at: stream for at, stream in self._streams.items() if at <= layer}


class Kept:
    """The trunks and the untouched streams of one text's groups of windows, within a bound.

    `bytes` is what they take, once all of a trunk has been asked for.
    """

    def __init__(self, bound: int = KEPT_BYTES) -> None:
        """`bound` in bytes; with 0 nothing is kept."""
        self.bound, self.bytes = bound, 0
        self._mask: Mask | None = None
        self._trunks: dict[tuple[int, int], Trunk] = {}
        self._untouched: dict[tuple[int, int], torch.Tensor] = {}

    def trunk(self, loaded: LoadedModel, first: int, ids: torch.Tensor, mask: Mask) -> Trunk:
        """The trunk of windows [w, T] under a mask; `first` is the number of the first window."""
        self._turn_to(mask)
        key = first, len(ids)
        if key not in self._trunks:
            trunk = Trunk(loaded, ids, keep=self._room(trunk_bytes(loaded, ids)))
            if not trunk.keep:
                return trunk
            self._trunks[key] = trunk
        return self._trunks[key]

    def untouched(self, loaded: LoadedModel, first: int, ids: torch.Tensor) -> torch.Tensor:
        """`scoring.untouched` of windows [w, T]; not to be written over."""
        key = first, len(ids)
        if key in self._untouched:
            return self._untouched[key]
        found = untouched(loaded, ids)
        if not loaded.not_replayable and self._room(found.nbytes):
            self._untouched[key] = found
        return found

    def _turn_to(self, mask: Mask) -> None:
        if self._mask is not None and mask != self._mask:
            first = min(unit.layer for unit in mask.muted ^ self._mask.muted)
            for trunk in self._trunks.values():
                trunk.forget_behind(first)
        self._mask = mask

    def _room(self, size: int) -> bool:
        """Whether so many bytes more fit, which are then taken."""
        fits = self.bytes + size <= self.bound
        self.bytes += size if fits else 0
        return fits


def trunk_bytes(loaded: LoadedModel, ids: torch.Tensor) -> int:
    """What all streams of a trunk take."""
    return (loaded.depth + 1) * ids.numel() * loaded.stream_bytes
