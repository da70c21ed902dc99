"""Streams kept from the last pass over a text, so that the next mask starts where it differs.

Everything before the first layer in which two masks differ is the same for both. What enters each
layer is kept for every window, in bounded memory; where not every layer's fits, every second's,
every third's, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inspector.measure.corpus import Windows
from inspector.measure.scoring import Tick, idle, through
from inspector.model.loaded import LoadedModel
from inspector.model.replay import Calls, record
from inspector.model.surgery import mute_units
from inspector.units import Mask

BYTES = 1 << 30
"""Bound on the streams of one text."""


@dataclass
class _Held:
    """Of a few windows: the mask they last went through under, and the stream entering a layer."""

    mask: Mask
    streams: dict[int, torch.Tensor]
    calls: Calls


class Warm:
    """The streams of one text in one model, which must be layer by layer runnable."""

    def __init__(self, loaded: LoadedModel, windows: Windows, *, bound: int = BYTES) -> None:
        """`bound` is in bytes; the streams of a few windows more may exist while they are used."""
        self.loaded, self.windows = loaded, windows
        width = loaded.model.config.get_text_config().hidden_size * loaded.dtype.itemsize
        room = bound // (windows.ids.numel() * width)
        self.every = loaded.depth + 1 if room < 1 else -(-loaded.depth // room)
        self._held: dict[int, _Held] = {}

    @property
    def bytes(self) -> int:
        """What the kept streams take."""
        return sum(
            stream.numel() * stream.element_size()
            for held in self._held.values()
            for stream in held.streams.values()
        )

    @torch.no_grad()
    def final_streams(
        self, number: int, ids: torch.Tensor, mask: Mask, *, tick: Tick = idle
    ) -> torch.Tensor:
        """What leaves the last layer under the mask, [n, T, H], for the windows [n, T].

        `number` tells these windows from the text's others; equal numbers mean equal windows.
        `tick` is told of the work done.
        """
        held = self._held.pop(number, None)  # a cancel in the middle forgets them
        if held is None:
            stream, calls = record(self.loaded, ids)
            held = _Held(mask, {0: stream}, calls)
        first = min((unit.layer for unit in held.mask.muted ^ mask.muted), default=mask.depth)
        streams = {layer: kept for layer, kept in held.streams.items() if layer <= first}
        start = max(streams)
        stream = streams[start]
        with mute_units(self.loaded, mask):
            for layer in range(start, mask.depth):
                stream = through(self.loaded, layer, stream, held.calls, tick=tick)
                if (layer + 1) % self.every == 0:
                    streams[layer + 1] = stream
        if self.every <= mask.depth:
            self._held[number] = _Held(mask, streams, held.calls)
        return stream
