"""What a method is given, what it proposes at a step, and how it decides between candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from inspector.errors import MaskError, ResultError
from inspector.measure.corpus import Windows
from inspector.measure.kept import Kept
from inspector.measure.methods import METHODS, Method
from inspector.measure.methods.choices import Group
from inspector.measure.methods.evolution import Plan
from inspector.measure.metrics import DIVERGENCES
from inspector.measure.ranks import ALONE, Ranks
from inspector.model.loaded import LoadedModel
from inspector.units import KINDS, Mask, Unit

Value = TypeVar("Value")


@dataclass(frozen=True)
class Search:
    """A method at work: what it searches in, by which score, and for how many steps at most.

    `plan` is that of an evolutionary search, whose steps are the starts and the generations.
    `parameters` are those that the run is to remove at least, 0 where they do not bound it. `kept`
    are streams that one step leaves to the next. `place` is that of the last `Proposal` before the
    search was cut short, empty where it begins.
    `ranks` are the processes that search together.
    """

    loaded: LoadedModel
    windows: Windows
    row: Method
    metric: str
    groups: tuple[Group, ...]
    steps: int
    as_published: bool = False
    protect_first_until: float | None = None
    seed: int = 0
    early_exit: bool = True
    lazy: bool = False
    verify: bool = False
    memory: int | None = None
    plan: Plan | None = None
    parameters: int = 0
    kept: Kept = field(default_factory=Kept)
    place: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for besides the method, its score and the candidates."""
        return {
            "as_published": self.as_published,
            "protect_first_until": self.protect_first_until,
            "seed": self.seed if self.metric == "random" or self.plan else None,
            "no_early_exit": self.races and not self.early_exit,
            "lazy": self.lazy,
            **(self.plan.asked.options if self.plan else {}),
            "repeats": self.plan.repeats(*self.windows.shape) if self.plan else "",
        }

    @property
    def races(self) -> bool:
        """Whether each step only has to find the lowest divergence, as `measure.racing` does."""
        return self.row.way == "iterative" and self.metric in DIVERGENCES

    def allowed(self, left: Sequence[Group], gone: int) -> list[Group]:
        """The candidates out of `left` that may go after `gone` removals."""
        first = barred(self, gone)
        return [group for group in left if group[0].layer >= first]


@dataclass(frozen=True)
class Measured:
    """Candidates' scores under a mask.

    Those of `bounds` are lower bounds, of candidates that cannot be the lowest; those of `stale`
    are from an earlier step. `layers` and
    `heads` say how many candidates' worth of text went through the layers and through the head;
    NaN where a score does not take candidates one by one. `stream_bytes` is the most that their
    streams took at once, 0 where none were held.
    """

    scores: dict[Group, float]
    bounds: frozenset[Group] = frozenset()
    stale: frozenset[Group] = frozenset()
    layers: float = math.nan
    heads: float = math.nan
    stream_bytes: int = 0

    def status(self, group: Group) -> str:
        """One of `results.trajectory.STATUSES`."""
        if group in self.stale:
            return "stale"
        return "lower_bound" if group in self.bounds else "exact"


@dataclass(frozen=True)
class Proposal:
    """What a method does next, and why.

    `scores` has every candidate's score by unit text; both units of a whole layer carry the
    layer's. `status` says what each score is, one of `results.trajectory.STATUSES`. `layers`,
    `heads` and `stream_bytes` are those of `Measured`, 0 where nothing was measured for this step.
    `done` is how much of the search lies behind it, in steps, where not every proposal takes a like
    share. `place` is what it takes, besides the steps, to go on from here, as JSON knows it; a
    proposal that removes and restores nothing has only that to say.
    """

    scores: dict[str, float]
    status: dict[str, str]
    removed: list[Unit]
    restored: list[Unit]
    layers: float = math.nan
    heads: float = math.nan
    stream_bytes: int = 0
    done: float | None = None
    place: dict[str, Any] = field(default_factory=dict)

    def applied(self, mask: Mask) -> Mask:
        """The mask after it."""
        return mask.unmute(self.restored).mute(self.removed)


def by_unit(values: Mapping[Group, Value]) -> dict[str, Value]:
    """Values by unit text: each unit carries that of its group."""
    return {str(unit): value for group, value in values.items() for unit in group}


def lowest(search: Search, groups: Iterable[Group], scores: Mapping[Group, float]) -> Group:
    """The candidate with the lowest score, ties by the method's order; NaN counts as the worst."""
    row = search.row
    order = ORDERS[(search.as_published and row.published_order) or row.order]
    ordered = sorted(groups, key=lambda group: order(search.loaded, group[0]))
    return min(ordered, key=lambda group: rank(scores[group]))


def rank(score: float) -> float:
    """What scores are sorted by: NaN counts as the worst."""
    return math.inf if math.isnan(score) else score


ORDERS: dict[str, Callable[[LoadedModel, Unit], Any]] = {
    "forward": lambda _, unit: (unit.layer, KINDS.index(unit.kind)),
    "attn_first": lambda _, unit: (KINDS.index(unit.kind), unit.layer),
    "module": lambda loaded, unit: f"{unit.layer}.{loaded.family.modules(unit.kind)[-1]}",
}
"""What equal scores are sorted by; the names of modules differ from the layer's number on."""


def barred(search: Search, gone: int) -> int:
    """How many layers, from the first on, nothing may be removed from after `gone` removals.

    FinerCut's code, for M units and ``-x X``: int(M X / 2) + 1 layers until int(M X) + 1 units are
    gone; and layer 0 from the first removal.
    """
    units, x = len(KINDS) * search.loaded.depth, search.protect_first_until
    if x is not None and gone <= int(units * x):
        return int(units * x / 2) + 1
    return int(search.as_published and search.row.bars_first and not gone)


def check_bars(search: Search) -> None:
    """Refuse a variant that is not there, and bars under which the method would run dry.

    Raises:
        MaskError: the method has no published variant, or no bars; or they are out of range, or
            leave too little.
    """
    if search.as_published and not search.row.published:
        have = ", ".join(row.name for row in METHODS.values() if row.published)
        raise MaskError(
            f"{search.row.name} has nothing that is other as published: leave out --as-published, "
            f"which is for {have}."
        )
    x = search.protect_first_until
    if x is None:
        if not search.allowed(search.groups, 0):
            raise MaskError("--as-published bars layer 0 at first, and nothing else may go here.")
        return
    if not search.row.bars_first:
        raise MaskError(f"{search.row.name} bars no first layers: leave out --protect-first-until.")
    if not 0 < x < 1:
        raise MaskError("--protect-first-until takes a share between 0 and 1, such as 0.4.")
    until = int(len(KINDS) * search.loaded.depth * x) + 1
    free = len(search.allowed(search.groups, 0))
    if free < min(until, search.steps):
        raise MaskError(
            f"--protect-first-until {x:g} bars layers 0 to {barred(search, 0) - 1} until {until} "
            f"units are gone, and only {free} others can go: choose a smaller share."
        )


def need_layers(loaded: LoadedModel, what: str) -> None:
    """Refuse a model that cannot be run layer by layer.

    Raises:
        ResultError: says why, and what to use instead.
    """
    if loaded.not_replayable:
        raise ResultError(
            f"{what} needs a model that runs layer by layer, and here {loaded.not_replayable}: "
            "use a method that goes by perplexity instead."
        )
