"""Which of many candidates costs least, without measuring the others to the end.

A divergence is a sum of parts that are never below 0. A candidate whose sum so far is above the
whole sum of another is therefore out, whatever the rest of the text says: an exact search is left
with the very same candidate, at the same score, and with lower bounds of the others.

All candidates go over a first few windows. Those that have cost least there go over the whole text;
the others follow a few windows at a time, those first in which the best has lost most, and who is
out goes no further. Within these windows the same holds for tokens through the head.

Several processes have windows of their own, and tell each other what those have added. Until then
each leaves out only what it knows to be out, which holds for all: the lowest candidate and its
score are those of one process, but others may drop out elsewhere, with another lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from inspector.errors import MaskError
from inspector.jobs import Progress, silent
from inspector.measure.corpus import Windows
from inspector.measure.kept import Candidate, Kept
from inspector.measure.metrics import Metric
from inspector.measure.ranks import ALONE, Ranks
from inspector.measure.scoring import (
    filled,
    groups,
    head_tokens,
    head_work,
    memory_levers,
    ready,
    steady_rows,
    ticker,
    token_values,
    window_sums,
)
from inspector.measure.sweep import BESIDES, NOTE, at_once, held_bytes, side_by_side, work
from inspector.measure.waves import waves, waves_of_all
from inspector.model.loaded import LoadedModel
from inspector.model.replay import place_for_logits, to_logits
from inspector.units import Mask

Todo = dict[int, list[Candidate]]
"""What to measure, by group."""

GROUPS = 8
"""A short text is cut into so many groups of windows, so that there is what to save; into fewer
where one would not fill a quarter of a pass."""

SHARE = 8
"""Candidates in a rank's share at least: with fewer the passes would hardly be filled."""

FULL = 4
"""Groups go through the layers at once up to so many full passes: those through layers in which few
candidates have joined are filled up."""

LEADERS = 4
"""So many go over the whole text before the others."""


@dataclass(frozen=True)
class Raced:
    """What a race has found.

    `scores` are means over all tokens (windows, for a windowed metric) of the text; those of
    `bounds` are lower bounds, of candidates that were out before its end. `layers` and `heads` say
    what it took: candidates' windows that went through the layers, and tokens through the head,
    each as a multiple of the whole text. `stream_bytes` is the most that streams took at once.
    """

    scores: dict[Candidate, float]
    bounds: frozenset[Candidate]
    layers: float
    heads: float
    stream_bytes: int


def race(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    chosen: Sequence[Candidate],
    *,
    metric: Metric,
    early_exit: bool = True,
    progress: Progress = silent,
    memory: int | None = None,
    kept: Kept | None = None,
    ranks: Ranks = ALONE,
) -> Raced:
    """The candidates' divergences under the mask, in full for the lowest one at least.

    A candidate that costs as little as the lowest one is measured in full, too. All passes have the
    same shape, so that a score is the same to the last bit whichever others are measured with it;
    but not where a layer mixes its rows, as a mixture of experts does.

    Args:
        loaded: the model.
        windows: the text, [W, T] token ids.
        mask: what is muted already.
        chosen: the candidates, in the order of the forward pass.
        metric: a divergence: a metric `against_logits`.
        early_exit: without it every candidate is measured in full; so is it where the weights are
            off the device, as bringing them in for the rest of the text would cost more.
        progress: called after every few windows.
        memory: bound in bytes on the streams held at once, as for `sweep`.
        kept: what is kept of this model on these windows, on top of that bound.
        ranks: processes that share the work; what it took is added up over them.

    Raises:
        MaskError: there is no window.
        OutOfMemory: names the levers, or what the bound has to be.
    """
    if not len(windows):
        raise MaskError("there is no window of text to measure on.")
    early_exit = early_exit and not loaded.brought_by_layer
    kept = kept or Kept(0)
    going = _Race(loaded, windows, mask, chosen, metric, early_exit, memory, kept, progress, ranks)
    with memory_levers(windows.ids.shape[1]):
        if loaded.brought_by_layer:
            going.go_side_by_side()
            return going.result()
        if early_exit:
            going.take_the_lead()
        going.measure(going.by_worth(), chosen)
    return going.result()


class _Race:
    """The state of a race: what every candidate has cost so far."""

    def __init__(
        self,
        loaded: LoadedModel,
        windows: Windows,
        mask: Mask,
        chosen: Sequence[Candidate],
        metric: Metric,
        early_exit: bool,
        memory: int | None,
        kept: Kept,
        progress: Progress,
        ranks: Ranks,
    ) -> None:
        self.loaded, self.mask, self.chosen, self.ranks = loaded, mask, chosen, ranks
        self.metric, self.early_exit, self.memory, self.kept = metric, early_exit, memory, kept
        self.count, self.length = windows.ids.shape
        least = self.length * steady_rows(loaded.dtype, 4 * self.length)
        tokens = min(256, max(windows.ids.numel() // GROUPS, least))
        self.groups = list(groups(windows.ids, tokens=tokens))
        self.parts: dict[Candidate, dict[int, float]] = {each: {} for each in chosen}
        """What each window has added, by the window's number."""
        self.out: set[Candidate] = set()
        self.whole: dict[Candidate, set[int]] = {each: set() for each in chosen}
        """The groups that a candidate has come to the end of."""
        self.news: list[tuple[Candidate, int]] = []
        """What the other ranks have not been told of: candidates, and groups they were in."""
        self.best = math.inf
        """The least sum of those that have come to the end."""
        self.worth: dict[int, torch.Tensor] = {}
        """By group: what each of its tokens has cost one of the best, [w * T]."""
        self.through_layers = self.through_head = self.held = 0
        self.place = place_for_logits(loaded, head_tokens(loaded.dtype))
        self.tick = ticker(progress, self.count * work(loaded, chosen) / ranks.size, NOTE)

    def take_the_lead(self) -> None:
        """Measure a few in full: those that have cost least on the first group of every rank."""
        self.measure(range(min(self.ranks.size, len(self.groups))), self.chosen)
        leaders = sorted(self.chosen, key=self.total)[:LEADERS]
        self.measure(range(len(self.groups)), sorted(leaders))

    def by_worth(self) -> list[int]:
        """The groups, those first in which one of the best has lost most."""
        worth = {number: float(values.sum()) for number, values in self.worth.items()}
        return sorted(range(len(self.groups)), key=lambda number: -worth.get(number, 0.0))

    def total(self, each: Candidate) -> float:
        """The sum of what its windows have added; the same in whatever order they came."""
        return math.fsum(self.parts[each].values())

    def measure(self, numbers: Sequence[int], candidates: Sequence[Candidate]) -> None:
        """Measure on groups, in this order, those candidates that can still be the lowest.

        Every rank has groups of its own, whose streams it keeps. On one group each, they take turns
        with shares of the candidates: what one has found may rule a candidate out before another
        comes to it. All know the same whenever they choose what to do next.
        """
        rank, size = self.ranks.rank, self.ranks.size
        while any(self.left(number, candidates) for number in numbers):
            own = self.together(self.own(numbers, candidates))
            going = [each for each in candidates if each not in self.out]
            # Until one has come to the end nothing is ruled out.
            shares = min(size, max(1, len(going) // SHARE)) if math.isfinite(self.best) else 1
            for turn in range(shares):
                share = set(going[(rank + turn) % shares :: shares]) - self.out
                self.go({number: [e for e in own[number] if e in share] for number in own})
                self.tell()
                if self.early_exit:
                    self.out |= {each for each in self.chosen if self.total(each) > self.best}

    def own(self, numbers: Sequence[int], candidates: Sequence[Candidate]) -> Todo:
        """This rank's groups on which there is something left to measure, and what.

        A text of fewer groups than ranks has several for each, which share the candidates out.
        """
        rank, size, own = self.ranks.rank, self.ranks.size, Todo()
        for number in numbers:
            there = range(number % size, size, len(self.groups))
            left = self.left(number, candidates)
            if rank in there and (here := left[there.index(rank) :: len(there)]):
                own[number] = here
        return own

    def together(self, own: Todo) -> Todo:
        """The first of the groups, and others of its shape that go along as they save passes."""
        if not own:
            return own
        first = next(iter(own))
        windows = len(self.groups[first][1])
        rows = steady_rows(self.loaded.dtype, self.length) // windows
        many = FULL * rows // len(own[first]) if self.early_exit else rows
        alike = [number for number in own if len(self.groups[number][1]) == windows]
        return {each: own[each] for each in alike[: max(1, many if self.memory is None else 1)]}

    def left(self, number: int, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those candidates that can still be the lowest and were not in the group yet."""
        first, _ = self.groups[number]
        return [
            each for each in candidates if each not in self.out and first not in self.parts[each]
        ]

    def go(self, todo: Todo) -> None:
        """Measure candidates on groups of as many windows each."""
        todo = {number: left for number, left in todo.items() if left}
        if not todo:
            return
        texts = [self.groups[number] for number in todo]
        references = [self.kept.untouched(self.loaded, *text) for text in texts]
        if self.loaded.not_replayable:
            for (number, left), reference in zip(todo.items(), references, strict=True):
                for each in left:
                    self._plainly(number, each, reference)
            return
        tokens = texts[0][1].numel()
        entries = [(text, each) for text, left in enumerate(todo.values()) for each in left]
        fit = at_once(self.loaded, tokens, len(entries), self.memory)
        trunks = [self.kept.trunk(self.loaded, *text, self.mask) for text in texts]
        known = [ready(self.loaded, reference).flatten(0, 1) for reference in references]
        for wave, streams in waves(trunks, self.mask, entries, fit, steady=True, tick=self.tick):
            ready(self.loaded, streams.flatten(0, 1), spent=True)
            for text, number in enumerate(todo):
                rows = {each: row for row, (other, each) in enumerate(wave) if other == text}
                self._head(number, rows, streams.flatten(1, 2), known[text])
        held = held_bytes(self.loaded, tokens, fit + BESIDES * (len(texts) - 1))
        self.held = max(self.held, held + self.kept.bytes)

    def go_side_by_side(self) -> None:
        """Measure all candidates in full, many groups at once in each layer."""
        texts, number = [ids for _, ids in self.groups], 0
        for some in side_by_side(self.loaded, texts, len(self.chosen), self.memory):
            fit = at_once(self.loaded, some[0].numel(), len(self.chosen), self.memory)
            tokens = sum(ids.numel() for ids in some)
            self.held = max(self.held, held_bytes(self.loaded, tokens, fit))
            for one in waves_of_all(
                self.loaded, some, self.mask, self.chosen, fit, reference=True, steady=True,
                own=False, tick=self.tick,
            ):  # fmt: skip
                if one.reference is not None:
                    known = ready(self.loaded, one.reference).flatten(0, 1)
                    ready(self.loaded, one.streams.flatten(0, 1), spent=True)
                    rows = {each: row for row, each in enumerate(one.chosen) if each}
                    self._head(number + one.text, rows, one.streams.flatten(1, 2), known)
            number += len(some)

    def _plainly(self, number: int, each: Candidate, reference: torch.Tensor) -> None:
        """By whole forward passes, where layers cannot be run one by one."""
        _, ids = self.groups[number]
        sums = window_sums(self.loaded, self.metric, ids, self.mask.mute(each), reference)
        self.through_layers += len(ids)
        self.through_head += ids.numel()
        self._put(each, number, sums)
        self._end(each, number)
        self.tick(len(ids) * (self.loaded.depth + head_work(self.loaded)))

    @torch.no_grad()
    def _head(
        self,
        number: int,
        rows: dict[Candidate, int],
        streams: torch.Tensor,
        known: torch.Tensor,
    ) -> None:
        """From what left the last layer to what the windows of a group add.

        `rows` are the candidates' among the streams, [n, w * T, H], which are ready for the head,
        and so is `known`, the untouched model's, [w * T, H].
        """
        if not rows:
            return
        _, ids = self.groups[number]
        wave, at = list(rows), torch.tensor(list(rows.values()))
        self.through_layers += len(ids) * len(wave)
        values = torch.zeros(len(wave), ids.numel(), dtype=torch.float64)
        alive = torch.arange(len(wave))
        size = head_tokens(self.loaded.dtype)
        at_once = max(1, min(ids.numel(), size // 4))
        for piece in self._tokens(number, ids.numel()).split(at_once):
            alive = alive[[wave[row] not in self.out for row in alive.tolist()]]
            if not len(alive):
                return
            places = filled(piece, at_once).to(known.device)
            logits = to_logits(self.loaded, known[places].unsqueeze(0))
            against = self.metric.prepare(logits[0].float())
            for some in alive.split(max(1, size // at_once)):
                here = filled(at[some], max(1, size // at_once)).to(known.device)
                logits = to_logits(self.loaded, streams[here[:, None], places], self.place)
                found = token_values(self.metric, logits, against)
                values[some[:, None], piece] = found[: len(some), : len(piece)]
                self.through_head += len(some) * len(piece)
                self.tick(head_work(self.loaded) * len(some) * len(piece) / self.length)
            sums = values.view(len(wave), len(ids), self.length).sum(2)
            for row in alive.tolist():
                self._put(wave[row], number, sums[row])
        for row in alive.tolist():
            self._end(wave[row], number)
        self.worth.setdefault(number, values[alive[values[alive].sum(1).argmin()]])

    def _tokens(self, number: int, count: int) -> torch.Tensor:
        """The tokens of a group, those first that have cost one of the best most."""
        if number not in self.worth:
            return torch.arange(count)
        return self.worth[number].argsort(descending=True)

    def _put(self, each: Candidate, number: int, sums: torch.Tensor) -> None:
        """Take over what a group's windows have added, their sums over tokens so far [w]."""
        first, _ = self.groups[number]
        if first not in self.parts[each]:
            self.news.append((each, number))
        for window, value in enumerate(sums.tolist(), start=first):
            self.parts[each][window], _ = self.metric.of_window(value, self.length)
        if self.early_exit and self.total(each) > self.best:
            self.out.add(each)

    def _end(self, each: Candidate, number: int) -> None:
        """A candidate has come to the end of a group, and perhaps of the text."""
        self.whole[each].add(number)
        if len(self.whole[each]) == len(self.groups):
            self.best = min(self.best, self.total(each))

    def tell(self) -> None:
        """Exchange with the other ranks what is new: they all know the same then."""
        if self.ranks.size == 1:
            return
        places = {each: place for place, each in enumerate(self.chosen)}
        parts, worth = [], {}
        for each, number in self.news:
            first, ids = self.groups[number]
            values = [self.parts[each][first + window] for window in range(len(ids))]
            parts.append((places[each], number, values, number in self.whole[each]))
            if number in self.worth:
                worth[number] = self.worth[number].tolist()
        out = [places[each] for each in self.out]
        self.news.clear()
        for theirs in reversed(self.ranks.everybodys((parts, list(worth.items()), out))):
            self._hear(*theirs)

    def _hear(
        self,
        parts: Iterable[tuple[int, int, list[float], bool]],
        worth: Iterable[tuple[int, list[float]]],
        out: Iterable[int],
    ) -> None:
        """Take over what a rank has found."""
        for place, number, values, whole in parts:
            each, (first, _) = self.chosen[place], self.groups[number]
            self.parts[each].update(enumerate(values, start=first))
            if whole:
                self._end(each, number)
        self.out |= {self.chosen[place] for place in out}
        for number, values in worth:
            self.worth[number] = torch.tensor(values, dtype=torch.float64)

    def result(self) -> Raced:
        """What has been found."""
        count = self.count * self.metric.of_window(0.0, self.length)[1]
        effort = self.through_layers, self.through_head, self.held
        layers, heads, held = zip(*self.ranks.everybodys(effort), strict=True)
        ended = {each for each in self.chosen if len(self.whole[each]) == len(self.groups)}
        return Raced(
            scores={each: self.total(each) / count for each in self.chosen},
            bounds=frozenset(self.chosen) - ended,
            layers=sum(layers) / self.count,
            heads=sum(heads) / (self.count * self.length),
            stream_bytes=max(held),
        )
