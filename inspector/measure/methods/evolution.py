"""What an evolutionary search draws: masks of one size, and children that differ by a few swaps.

The law is that of EvoPress's depth pruning (arXiv 2410.14649, and the authors' evo_drop_search.py
with the settings of their example_scripts/drop_search.sh): starts and children are all different,
and a child makes min(a, b) swaps, a and b drawn from 1 to 3, each within a pool that is drawn anew.
Nothing here is measured.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from inspector.errors import MaskError
from inspector.measure.budget import Budget, Size
from inspector.measure.methods import Method
from inspector.measure.methods.choices import Group
from inspector.units import KINDS, Mask

State = frozenset[Group]
"""What is muted besides the mask at the start: as many candidates out of each pool."""

SURVIVORS = 2
"""Children of a generation that reach its second stage."""

MOST_SWAPS = 3

MISSES = 200
"""Draws in a row that bring nothing new before a generation makes do with fewer children: the
authors' code would draw for ever where there are not that many masks."""

OPTIONS = {
    "generations": "--generations",
    "offspring": "--offspring",
    "starts": "--starts",
    "search_tokens": "--search-tokens",
}


@dataclass(frozen=True)
class Evolution:
    """How long an evolutionary search is to be; the defaults are the authors'.

    The best of `starts` random masks on search_tokens[0] tokens is the first elite. In each of the
    `generations` (None: k (C - k) / 1.5, rounded down) the best two of `offspring` children of the
    elite on search_tokens[0] tokens meet it on search_tokens[1] others, and the best of the three
    is the next elite. Tokens come in whole windows, rounded up.
    """

    generations: int | None = None
    offspring: int = 32
    starts: int = 64
    search_tokens: tuple[int, int] = (2048, 32768)

    def __post_init__(self) -> None:
        """Refuse what makes no search.

        Raises:
            MaskError: names the option.
        """
        least = {"generations": 0, "offspring": 1, "starts": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise MaskError(f"{OPTIONS[name]} takes a whole number of at least {low}.")
        if min(self.search_tokens) < 1:
            raise MaskError("--search-tokens takes two numbers of tokens above 0: 2048,32768.")

    @property
    def options(self) -> dict[str, Any]:
        """What differs from the defaults, as options are written."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        found = {name: value for name, value in found.items() if value != getattr(PUBLISHED, name)}
        if "search_tokens" in found:
            found["search_tokens"] = ",".join(map(str, self.search_tokens))
        return found


PUBLISHED = Evolution()


def asked(row: Method, search_tokens: str | None = None, **counts: int | None) -> Evolution | None:
    """The search that options ask for; None for a method that goes another way.

    Args:
        row: the method.
        search_tokens: two numbers, such as ``512,4096``.
        counts: `generations`, `offspring` and `starts`; None leaves one at its default.

    Raises:
        MaskError: an option makes no sense, or this method has none of them.
    """
    given: dict[str, Any] = {name: value for name, value in counts.items() if value is not None}
    if search_tokens:
        parts = [part.strip() for part in search_tokens.split(",")]
        if len(parts) != len(PUBLISHED.search_tokens) or not all(map(_is_number, parts)):
            raise MaskError("--search-tokens takes two numbers of tokens above 0: 2048,32768.")
        given["search_tokens"] = tuple(map(int, parts))
    if row.way == "evolution":
        return Evolution(**given)
    if given:
        flags = " and ".join(OPTIONS[name] for name in given)
        raise MaskError(f"{row.name} has no generations: leave out {flags}.")
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


@dataclass(frozen=True)
class Plan:
    """A search that can run: `count` candidates of every pool are muted, the rest is `asked`."""

    pools: tuple[tuple[Group, ...], ...]
    count: int
    asked: Evolution

    @property
    def steps(self) -> int:
        """How many steps a run has at most: the best start, and each generation that betters it."""
        return 1 + self.generations

    @property
    def generations(self) -> int:
        """How many there are: by default k (C - k) / 1.5, of the largest pool."""
        if self.asked.generations is not None:
            return self.asked.generations
        return max(2 * self.count * (len(pool) - self.count) // 3 for pool in self.pools)

    def stages(self, count: int, length: int) -> tuple[int, int]:
        """How many windows the stages draw out of `count` windows of `length` tokens."""
        first, second = (math.ceil(tokens / length) for tokens in self.asked.search_tokens)
        return min(first, count), min(second, count)

    def repeats(self, count: int, length: int) -> str:
        """What stands in for fresh text where a stage takes all of it; empty where none does."""
        if max(self.asked.search_tokens) < count * length:
            return ""
        stages = " and ".join(f"{tokens:,}" for tokens in self.asked.search_tokens)
        return f"{count * length:,} tokens of text for stages of {stages}"


def planned_for(
    row: Method,
    groups: Sequence[Group],
    size: Callable[[Group], Size],
    total: Size,
    *,
    budget: Budget,
    only: str | None,
    evolution: Evolution | None,
) -> Plan | None:
    """From a budget to the size of the masks; None for a method that goes another way.

    Args:
        row: the method; with the grain `unit` it mutes as many units of each of its kinds.
        groups: the candidates.
        size: what muting a candidate takes away.
        total: the whole model's.
        budget: `remove` counts units, or layers; a share is met by the fewest removals that meet
            it whichever they are.
        only: the one kind to mute, if not both.
        evolution: how long the search is to be; the authors' by default.

    Raises:
        MaskError: no mask of that size can be had, or what is asked is for another kind of method.
    """
    if row.way != "evolution":
        if evolution is not None:
            raise MaskError(f"{row.name} has no generations: leave out evolution.")
        return None
    if budget.until_perplexity is not None:
        raise MaskError(
            f"{row.name} searches masks of one size: give --remove, --remove-params or "
            "--remove-kv in the place of --until-perplexity."
        )
    pools = [tuple(groups)]
    if row.grain == "unit":
        kinds = row.kinds if only is None else (only,)
        pools = [tuple(each for each in groups if each[0].kind == kind) for kind in kinds]
    if budget.remove is not None:
        budget = replace(budget, remove=_of_each(row, budget.remove, pools))
    least = [
        zip(*(sorted(size(each)[which] for each in pool) for pool in pools), strict=False)
        for which in range(len(total))
    ]
    sizes = [(sum(one), sum(other)) for one, other in zip(*least, strict=True)]
    count = budget.steps(sizes, total, grain=row.grain)
    return Plan(tuple(pools), count, evolution or PUBLISHED)


def _of_each(row: Method, remove: int, pools: Sequence[Collection[Group]]) -> int:
    """How many of each pool go, out of so many in all."""
    count, odd = divmod(remove, len(pools))
    if odd:
        raise MaskError(
            f"{row.name} mutes as many attentions as FFNs: remove an even number of units, or "
            f"units of one kind alone (--only {' or '.join(KINDS)})."
        )
    if len(pools) > 1 and count > min(map(len, pools)):
        attentions, ffns = map(len, pools)
        raise MaskError(
            f"cannot remove {count} attentions and {count} FFNs: {attentions} attentions and "
            f"{ffns} FFNs are left that can be."
        )
    return count


def draw_starts(plan: Plan, draw: random.Random) -> list[State]:
    """Random masks of the plan's size, all different."""

    def start() -> State:
        return frozenset(each for pool in plan.pools for each in draw.sample(pool, plan.count))

    return _different(start, plan.asked.starts, ())


def draw_children(plan: Plan, parent: State, draw: random.Random) -> list[State]:
    """The offspring of a generation, all different from each other and from the parent."""
    pools = [pool for pool in plan.pools if plan.count < len(pool)]  # those with two sides to swap

    def child() -> State:
        state = set(parent)
        for _ in range(min(draw.randint(1, MOST_SWAPS), draw.randint(1, MOST_SWAPS))):
            pool = draw.choice(pools)
            goes = draw.choice([each for each in pool if each not in state])
            returns = draw.choice([each for each in pool if each in state])
            state = state - {returns} | {goes}
        return frozenset(state)

    return _different(child, plan.asked.offspring, (parent,)) if pools else []


def _different(make: Callable[[], State], count: int, besides: Iterable[State]) -> list[State]:
    found: list[State] = []
    seen, misses = set(besides), 0
    while len(found) < count and misses < MISSES:
        state = make()
        misses = misses + 1 if state in seen else 0
        if state not in seen:
            seen.add(state)
            found.append(state)
    return found


def draw_windows(count: int, wanted: int, draw: random.Random) -> list[int]:
    """The numbers of `wanted` windows out of `count`: all of them, in order, or a fresh choice."""
    return list(range(count)) if wanted >= count else draw.sample(range(count), wanted)


def muting(mask: Mask, state: State) -> Mask:
    """The mask with a state's candidates muted as well."""
    return mask.mute(unit for group in state for unit in group)


def layer_runs(masks: Sequence[Mask]) -> int:
    """How often a layer runs where masks share all before the first layer in which they differ.

    Layers that are muted whole pass their input on and are not run.
    """
    runs, alike = 0, [list(masks)]
    for layer in range(masks[0].depth if masks else 0):
        parts: list[list[Mask]] = []
        for some in alike:
            by_off: dict[frozenset[str], list[Mask]] = {}
            for mask in some:
                off = frozenset(unit.kind for unit in mask.muted if unit.layer == layer)
                by_off.setdefault(off, []).append(mask)
            runs += sum(len(off) < len(KINDS) for off in by_off)
            parts += by_off.values()
        alike = parts
    return runs
