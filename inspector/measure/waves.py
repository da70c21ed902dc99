"""Candidates through the layers, as many at a time as fit: each joins at its own layer.

Where the weights are on the device, a few windows go all the way after another. Where they have to
be brought there, all windows go through a layer before the next one comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from inspector.measure.kept import Trunk
from inspector.measure.scoring import Tick, idle, through, through_in_place
from inspector.model.loaded import LoadedModel
from inspector.model.replay import Calls, record
from inspector.model.surgery import mute_units
from inspector.units import KINDS, Mask, Unit

Candidate = tuple[Unit, ...]
"""What is muted together: a unit, or all that is on of a layer."""


def waves(
    trunk: Trunk,
    mask: Mask,
    chosen: Sequence[Candidate],
    size: int,
    *,
    steady: bool = False,
    own: bool = True,
    tick: Tick = idle,
) -> Iterator[tuple[Sequence[Candidate | None], torch.Tensor]]:
    """Candidates in waves, and what leaves the last layer for each: [n, w, T, H].

    Each of them joins from the trunk, which goes through the layers once, over all waves.

    Args:
        trunk: of a few windows [w, T] under the mask.
        mask: what is muted already.
        chosen: the candidates, in the order of the forward pass.
        size: candidates in a wave.
        steady: have a candidate's numbers depend on itself alone, see `through_in_place`.
        own: at last give what leaves it under the mask itself, too, as [None].
        tick: told of the work done.
    """
    loaded = trunk.loaded
    with mute_units(loaded, mask), torch.no_grad():
        for start in range(0, len(chosen), size):
            wave = _Wave(loaded, mask, chosen[start : start + size], steady, tick)
            base = trunk.before(wave.first)
            rows = base.new_empty((len(wave.chosen), *base.shape))
            for layer in range(wave.first, loaded.depth):
                base = trunk.before(layer) if layer <= wave.last else base
                wave.through(layer, rows, base, trunk.calls)
            yield wave.chosen, rows
        if own:
            yield [None], trunk.end().unsqueeze(0)


@dataclass
class Passed:
    """What has left the last layer for candidates on one of several texts: [n, w, T, H].

    `text` is the number of the text, `reference` what left the untouched model's last layer,
    [w, T, H], where that was wanted.
    """

    text: int
    chosen: Sequence[Candidate | None]
    streams: torch.Tensor
    reference: torch.Tensor | None


def waves_of_all(
    loaded: LoadedModel,
    texts: Sequence[torch.Tensor],
    mask: Mask,
    chosen: Sequence[Candidate],
    size: int,
    *,
    reference: bool,
    steady: bool = False,
    own: bool = True,
    tick: Tick = idle,
) -> Iterator[Passed]:
    """`waves` of several texts [w, T] side by side, for a model whose weights are off its device.

    All go through a layer in the very passes of `waves`, and so does the untouched model's stream,
    before the next layer's weights are brought in. The first wave brings in all weights once;
    further ones those from their first candidate's layer on. The streams of all texts are held at
    once; while they are given, the head's weights are there. Without a candidate only the stream
    under the mask goes through, and the tick hears of that.
    """
    outside = list(loaded.outside())
    ends = [loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()]
    tied = bool(loaded.offloaded and loaded.offloaded.tied)
    kept = [module for module in outside if tied or module not in ends]
    at = 0
    with torch.no_grad(), loaded.held(kept):
        with loaded.held(outside):
            entered = [record(loaded, ids) for ids in texts]
        calls = [call for _, call in entered]
        bases = [base for base, _ in entered]
        dense = list(bases) if reference else []
        for start in range(0, max(1, len(chosen)), size):
            wave = _Wave(loaded, mask, chosen[start : start + size], steady, tick)
            rows = [base.new_empty((len(wave.chosen), *base.shape)) for base in bases]
            ending = own and start + size >= len(chosen)
            for layer in range(at, loaded.depth):
                tick(0.0)
                with loaded.held(loaded.layers[layer].modules()):
                    with mute_units(loaded, mask):
                        joined = wave.joined
                        for text, base in enumerate(bases):
                            wave.joined = joined
                            wave.through(layer, rows[text], base, calls[text])
                            if ending or layer < wave.last:
                                heard = idle if chosen else tick
                                bases[text] = through(loaded, layer, base, calls[text], tick=heard)
                    for text, stream in enumerate(dense if not start else ()):
                        dense[text] = through(loaded, layer, stream, calls[text])
                if layer < wave.last:
                    at = layer + 1
            with loaded.held(outside):
                for text, base in enumerate(bases):
                    known = dense[text] if dense else None
                    if chosen:
                        yield Passed(text, wave.chosen, rows[text], known)
                    if ending:
                        yield Passed(text, [None], base.unsqueeze(0), known)


class _Wave:
    """Candidates that go through the layers together, and how many have joined so far."""

    def __init__(
        self,
        loaded: LoadedModel,
        mask: Mask,
        chosen: Sequence[Candidate],
        steady: bool,
        tick: Tick,
    ) -> None:
        self.loaded, self.mask, self.chosen = loaded, mask, chosen
        self.steady, self.tick, self.joined = steady, tick, 0
        layers = [each[0].layer for each in chosen]
        self.first, self.last = min(layers, default=0), max(layers, default=0)
        """The first and the last layer in which a candidate joins."""

    def through(self, layer: int, rows: torch.Tensor, base: torch.Tensor, calls: Calls) -> None:
        """Take those that have joined through a layer, and have its own candidates join.

        `rows` are their streams, [n, w, T, H], and `base` what enters the layer under the mask.
        """
        if self.joined:
            here = rows[: self.joined].flatten(0, 1)
            through_in_place(self.loaded, layer, here, calls, steady=self.steady, tick=self.tick)
        for each in self.chosen:
            if each[0].layer == layer:
                rows[self.joined] = self._joining(layer, each, base, calls)
                self.joined += 1

    def _joining(
        self, layer: int, each: Candidate, base: torch.Tensor, calls: Calls
    ) -> torch.Tensor:
        """The base's stream after the candidate's own layer, without the candidate."""
        if {Unit(layer, kind) for kind in KINDS} <= self.mask.muted | set(each):
            return base  # the probe has found that a layer muted whole passes its input on
        with mute_units(self.loaded, each):
            return through(self.loaded, layer, base, calls, tick=self.tick)
