"""Streams that a search comes back to, again and again over the same text.

From step to step only what follows the change differs: what enters the layers before it stays the
same, with and without a candidate, and the untouched model's streams do so for the whole search.
"""

from __future__ import annotations

import math

import torch

from inspector.measure.scoring import through, untouched
from inspector.model.loaded import LoadedModel
from inspector.model.replay import record
from inspector.units import Mask, Unit

Candidate = tuple[Unit, ...]
"""What is muted together: a unit, or all that is on of a layer."""

KEPT_BYTES = 1 << 28
"""Bound on the trunks and untouched streams that are kept by default: 57 windows of 128 tokens of a
bf16 model of 30 x 576."""

CANDIDATE_BYTES = 1 << 30
"""Bound on the candidates' streams that are kept besides: at every second layer, of that model's 60
units, 2,071 tokens."""

STRIDE = 2
"""A candidate's stream is kept before every so many layers; before fewer where the bound is too
small for the text, but before three at least."""


class Room:
    """Bytes taken, out of a bound."""

    def __init__(self, bound: int) -> None:
        self.bound, self.bytes = bound, 0

    def take(self, size: int) -> bool:
        """Whether so many bytes more fit, which are then taken."""
        fits = self.bytes + size <= self.bound
        self.bytes += size if fits else 0
        return fits

    def give_back(self, size: int) -> None:
        """So many bytes are free again."""
        self.bytes -= size


class CandidateStreams:
    """What enters every so many layers without a candidate, for a few windows [w, T]."""

    def __init__(self, room: Room, stride: int) -> None:
        self.room, self.stride = room, stride
        self._streams: dict[Candidate, dict[int, torch.Tensor]] = {}

    def last(self, each: Candidate) -> tuple[int, torch.Tensor] | None:
        """The last layer before which the candidate's stream is known, and that, [w, T, H]."""
        known = self._streams.get(each)
        return max(known.items(), key=lambda item: item[0]) if known else None

    def add(self, each: Candidate, layer: int, stream: torch.Tensor) -> None:
        """Keep a copy of what enters the layer, [w, T, H], if that is one of them and it fits."""
        known = self._streams.setdefault(each, {})
        if layer % self.stride == 0 and layer not in known and self.room.take(stream.nbytes):
            known[layer] = stream.clone()

    def forget_behind(self, layer: int) -> None:
        """Forget what has gone through the layer, which is about to change."""
        for known in self._streams.values():
            for at in [at for at in known if at > layer]:
                self.room.give_back(known.pop(at).nbytes)


class Trunk:
    """What enters each layer under a mask for a few windows [w, T], computed layer by layer.

    Where it is kept it has `candidates`, which leave it, and each stream stays; else the last one
    alone. Whoever asks for streams has muted the mask's units.
    """

    def __init__(
        self, loaded: LoadedModel, ids: torch.Tensor, candidates: CandidateStreams | None = None
    ) -> None:
        stream, self.calls = record(loaded, ids)
        self.loaded, self.candidates, self._streams = loaded, candidates, {0: stream}

    def before(self, layer: int) -> torch.Tensor:
        """What enters the layer, or leaves the last one, [w, T, H]; not to be written over."""
        last = max(self._streams)
        while last < layer:
            stream = through(self.loaded, last, self._streams[last], self.calls)
            if self.candidates is None:
                self._streams.clear()
            last += 1
            self._streams[last] = stream
        return self._streams[layer]

    def end(self) -> torch.Tensor:
        """What leaves the last layer, [w, T, H], for whoever asks to use up."""
        stream = self.before(self.loaded.depth)
        return stream if self.candidates is None else stream.clone()

    def rows(self, count: int) -> torch.Tensor:
        """Memory for so many variants' streams, [count, w, T, H]."""
        like = next(iter(self._streams.values()))
        return like.new_empty((count, *like.shape))

    def forget_behind(self, layer: int) -> None:
        """Forget what has gone through the layer, which is about to change."""
        self._streams = {at: stream for at, stream in self._streams.items() if at <= layer}
        if self.candidates is not None:
            self.candidates.forget_behind(layer)


class Kept:
    """The trunks with their candidates, and the untouched streams, of one text within bounds."""

    def __init__(
        self, bound: int = KEPT_BYTES, *, tokens: int = 0, candidate_bound: int = CANDIDATE_BYTES
    ) -> None:
        """Bounds in bytes; with `bound` 0 nothing is kept. `tokens` are those of the whole text."""
        self.tokens, self._room, self._candidate_room = tokens, Room(bound), Room(candidate_bound)
        self._mask: Mask | None = None
        self._trunks: dict[tuple[int, int], Trunk] = {}
        self._untouched: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def bytes(self) -> int:
        """What it takes, once all of a trunk has been asked for."""
        return self._room.bytes + self._candidate_room.bytes

    def trunk(self, loaded: LoadedModel, first: int, ids: torch.Tensor, mask: Mask) -> Trunk:
        """The trunk of windows [w, T] under a mask; `first` is the number of the first window."""
        self._turn_to(mask)
        key = first, len(ids)
        if key not in self._trunks:
            if not self._room.take(trunk_bytes(loaded, ids)):
                return Trunk(loaded, ids)
            stride = stride_for(loaded, self.tokens, self._candidate_room.bound)
            self._trunks[key] = Trunk(loaded, ids, CandidateStreams(self._candidate_room, stride))
        return self._trunks[key]

    def untouched(self, loaded: LoadedModel, first: int, ids: torch.Tensor) -> torch.Tensor:
        """`scoring.untouched` of windows [w, T]; not to be written over."""
        key = first, len(ids)
        if key in self._untouched:
            return self._untouched[key]
        found = untouched(loaded, ids)
        if not loaded.not_replayable and self._room.take(found.nbytes):
            self._untouched[key] = found
        return found

    def _turn_to(self, mask: Mask) -> None:
        if self._mask is not None and mask != self._mask:
            first = min(unit.layer for unit in mask.muted ^ self._mask.muted)
            for trunk in self._trunks.values():
                trunk.forget_behind(first)
        self._mask = mask


def trunk_bytes(loaded: LoadedModel, ids: torch.Tensor) -> int:
    """What all streams of a trunk take."""
    return (loaded.depth + 1) * ids.numel() * loaded.stream_bytes


def stride_for(loaded: LoadedModel, tokens: int, bound: int) -> int:
    """Before every how many layers candidates' streams of so many tokens are kept."""
    # On average a candidate has a stream of its own in half of the layers.
    every = len(loaded.toggleable()) * loaded.depth * tokens * loaded.stream_bytes / 2
    wanted = math.ceil(every / bound) if bound else STRIDE
    return max(STRIDE, min(wanted, loaded.depth // 4))
