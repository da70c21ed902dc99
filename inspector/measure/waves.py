"""Candidates through the layers, as many at a time as fit: each joins at its own layer.

Where the weights are on the device, a few windows go all the way after another. Where they have to
be brought there, all windows go through a layer before the next one comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from inspector.measure.kept import Candidate, CandidateStreams, Trunk
from inspector.measure.scoring import Tick, idle, through, through_in_place
from inspector.model.loaded import LoadedModel
from inspector.model.replay import Calls, record
from inspector.model.surgery import mute_units
from inspector.units import KINDS, Mask, Unit


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

    Each of them joins from the trunk, which goes through the layers once, over all waves; or, where
    that is `steady`, from the last of its own streams that is kept.

    Args:
        trunk: of a few windows [w, T] under the mask.
        mask: what is muted already.
        chosen: the candidates, in the order of the forward pass; they come in another one.
        size: candidates in a wave.
        steady: have a candidate's numbers depend on itself alone, see `through_in_place`.
        own: at last give what leaves it under the mask itself, too, as [None].
        tick: told of the work done.
    """
    loaded = trunk.loaded
    with mute_units(loaded, mask), torch.no_grad():
        for start in range(0, len(chosen), size):
            some = chosen[start : start + size]
            wave = _Wave(loaded, mask, some, steady, tick, trunk.candidates if steady else None)
            rows = trunk.rows(len(some))
            for layer in range(wave.first, loaded.depth):
                wave.through(layer, rows, partial(trunk.before, layer), trunk.calls)
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
                            wave.through(layer, rows[text], partial(_same, base), calls[text])
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
        candidates: CandidateStreams | None = None,
    ) -> None:
        self.loaded, self.mask, self.candidates = loaded, mask, candidates
        self.steady, self.tick, self.joined = steady, tick, 0
        known = {each: candidates.last(each) if candidates is not None else None for each in chosen}
        self.joining = {each: at[0] - 1 if at else each[0].layer for each, at in known.items()}
        """Behind which layer each of them joins: its own, or what its kept stream has left."""
        self.known = {each: at[1] for each, at in known.items() if at}
        self.chosen = sorted(chosen, key=self.joining.__getitem__)
        self.first = min(self.joining.values(), default=0)
        self.last = max(self.joining.values(), default=0)

    def through(
        self, layer: int, rows: torch.Tensor, base: Callable[[], torch.Tensor], calls: Calls
    ) -> None:
        """Take those that have joined through a layer, and have further ones join behind it.

        `rows` are their streams, [n, w, T, H], and `base` gives what enters the layer under the
        mask.
        """
        if self.joined:
            if self.candidates is not None:
                for each, stream in zip(self.chosen[: self.joined], rows, strict=False):
                    self.candidates.add(each, layer, stream)
            here = rows[: self.joined].flatten(0, 1)
            through_in_place(self.loaded, layer, here, calls, steady=self.steady, tick=self.tick)
        for each in self.chosen[self.joined :]:
            if self.joining[each] > layer:
                break
            if each in self.known:
                rows[self.joined] = self.known[each]
                self.tick(len(rows[0]) * (layer - each[0].layer + 1.0))
            else:
                rows[self.joined] = self._from(base(), each, calls)
            self.joined += 1

    def _from(self, base: torch.Tensor, each: Candidate, calls: Calls) -> torch.Tensor:
        """The base's stream after the candidate's own layer, without the candidate."""
        layer = each[0].layer
        if {Unit(layer, kind) for kind in KINDS} <= self.mask.muted | set(each):
            return base  # the probe has found that a layer muted whole passes its input on
        with mute_units(self.loaded, each):
            return through(self.loaded, layer, base, calls, tick=self.tick)


def _same(stream: torch.Tensor) -> torch.Tensor:
    return stream
