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

Entry = tuple[int, Candidate]
"""A candidate on one of several texts, by the text's place among them."""


def waves(
    trunks: Sequence[Trunk],
    mask: Mask,
    chosen: Sequence[Entry],
    size: int,
    *,
    steady: bool = False,
    tick: Tick = idle,
) -> Iterator[tuple[Sequence[Entry], torch.Tensor]]:
    """Candidates in waves, and what leaves the last layer for each: [n, w, T, H].

    Each of them joins from its text's trunk, which goes through the layers once, over all waves;
    or, where that is `steady`, from the last of its own streams that is kept.

    Args:
        trunks: one for each text, a few windows [w, T] under the mask; all of the same shape.
        mask: what is muted already.
        chosen: the candidates, those of each text in the order of the forward pass; they come in
            another one.
        size: candidates in a wave.
        steady: have a candidate's numbers depend on itself alone, see `through_in_place`.
        tick: told of the work done.
    """
    loaded, calls = trunks[0].loaded, trunks[0].calls
    kept = [trunk.candidates if steady else None for trunk in trunks]
    with mute_units(loaded, mask), torch.no_grad():
        for start in range(0, len(chosen), size):
            wave = _Wave(loaded, mask, chosen[start : start + size], steady, tick, kept)
            rows = trunks[0].rows(len(wave.chosen))
            for layer in range(wave.first, loaded.depth):
                wave.through(layer, rows, lambda text, at=layer: trunks[text].before(at), calls)
            yield wave.chosen, rows


def own_stream(trunk: Trunk, mask: Mask) -> torch.Tensor:
    """What leaves the last layer under the mask itself, [w, T, H], to be used up."""
    with mute_units(trunk.loaded, mask), torch.no_grad():
        return trunk.end()


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
            entries = [(0, each) for each in chosen[start : start + size]]
            wave = _Wave(loaded, mask, entries, steady, tick)
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
                        names = [each for _, each in wave.chosen]
                        yield Passed(text, names, rows[text], known)
                    if ending:
                        yield Passed(text, [None], base.unsqueeze(0), known)


class _Wave:
    """Candidates that go through the layers together, and how many have joined so far."""

    def __init__(
        self,
        loaded: LoadedModel,
        mask: Mask,
        chosen: Sequence[Entry],
        steady: bool,
        tick: Tick,
        kept: Sequence[CandidateStreams | None] = (None,),
    ) -> None:
        """`kept` are the candidates' streams that are kept of each text."""
        self.loaded, self.mask, self.kept = loaded, mask, kept
        self.steady, self.tick, self.joined = steady, tick, 0
        self.known: dict[Entry, torch.Tensor] = {}
        """The kept streams that some of them join with."""
        self.joining: dict[Entry, int] = {}
        """Behind which layer each of them joins: its own, or what its kept stream has left."""
        for text, each in chosen:
            streams = kept[text]
            found = streams.last(each) if streams is not None else None
            self.joining[text, each] = found[0] - 1 if found else each[0].layer
            if found:
                self.known[text, each] = found[1]
        self.chosen = sorted(chosen, key=self.joining.__getitem__)
        self.first = min(self.joining.values(), default=0)
        self.last = max(self.joining.values(), default=0)

    def through(
        self, layer: int, rows: torch.Tensor, base: Callable[[int], torch.Tensor], calls: Calls
    ) -> None:
        """Take those that have joined through a layer, and have further ones join behind it.

        `rows` are their streams, [n, w, T, H], and `base` gives what enters the layer under the
        mask on a text.
        """
        if self.joined:
            for (text, each), stream in zip(self.chosen[: self.joined], rows, strict=False):
                streams = self.kept[text]
                if streams is not None:
                    streams.add(each, layer, stream)
            here = rows[: self.joined].flatten(0, 1)
            through_in_place(self.loaded, layer, here, calls, steady=self.steady, tick=self.tick)
        for text, each in self.chosen[self.joined :]:
            if self.joining[text, each] > layer:
                break
            if (text, each) in self.known:
                rows[self.joined] = self.known[text, each]
                self.tick(len(rows[0]) * (layer - each[0].layer + 1.0))
            else:
                rows[self.joined] = self._from(base(text), each, calls)
            self.joined += 1

    def _from(self, base: torch.Tensor, each: Candidate, calls: Calls) -> torch.Tensor:
        """The base's stream after the candidate's own layer, without the candidate."""
        layer = each[0].layer
        if {Unit(layer, kind) for kind in KINDS} <= self.mask.muted | set(each):
            return base  # the probe has found that a layer muted whole passes its input on
        with mute_units(self.loaded, each):
            return through(self.loaded, layer, base, calls, tick=self.tick)


def _same(stream: torch.Tensor, _: int) -> torch.Tensor:
    return stream
