"""Short, obvious, slow selection methods, by the definitions as they stand in the papers.

What a method would do is a list of steps: which units are gone after it, and every candidate's
score before it. Whole layers are numbers here; streams come from hooks on one plain forward pass,
and gradients from one plain backward pass of a copy in float64.
"""

from __future__ import annotations

import copy
import math
import operator
import random
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch

from inspector.model.families import FAMILIES, TINY_COMMON
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.units import Unit, all_units
from tests import plain

Plan = list[tuple[set[str], dict[str, float]]]
"""A step: the texts of all units that are gone after it, and the scores that led to it."""


@cache
def deep(model_type: str, depth: int = 8) -> LoadedModel:
    """A tiny model with more layers than the others have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY_COMMON, "num_hidden_layers", depth)
        own = FAMILIES[model_type].tiny
        if "layer_types" in own:
            patch.setitem(own, "layer_types", own["layer_types"][:2] * (depth // 2))
        return load(f"tiny:{model_type}", dtype="fp32")


def layer(number: int) -> list[Unit]:
    return [Unit(number, "attn"), Unit(number, "ffn")]


def layers(numbers: Iterable[int]) -> list[Unit]:
    return [unit for number in numbers for unit in layer(number)]


def texts(units: Iterable[Unit]) -> set[str]:
    return {str(unit) for unit in units}


def on_units(scores: dict[int, float]) -> dict[str, float]:
    """Scores of layers as results have them: on both units."""
    return {str(unit): score for number, score in scores.items() for unit in layer(number)}


@torch.no_grad()
def streams(loaded: LoadedModel, ids: torch.Tensor, gone: Iterable[Unit] = ()) -> torch.Tensor:
    """What enters each layer and what leaves the last, [L+1, W, T, H] in float64."""
    found: list[torch.Tensor] = []

    def entering(_: Any, args: Any, kwargs: Any) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    def leaving(_: Any, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [each.register_forward_pre_hook(entering, with_kwargs=True) for each in loaded.layers]
    handles.append(loaded.layers[-1].register_forward_hook(leaving))
    try:
        plain.logits(loaded, ids, gone)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found).double()


def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))


# Scores of whole layers


def influence(loaded: LoadedModel, ids: torch.Tensor) -> dict[int, float]:
    x = streams(loaded, ids)
    return {i: 1 - float(cosine(x[i], x[i + 1]).mean()) for i in range(loaded.depth)}


@torch.no_grad()
def influence_after_norm(loaded: LoadedModel, ids: torch.Tensor) -> dict[int, float]:
    """With the model's own hidden states, the last of which is after the final norm."""
    x = loaded.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    x = [each.double() for each in x]
    return {i: 1 - float(cosine(x[i], x[i + 1]).mean()) for i in range(loaded.depth)}


def flat_influence(loaded: LoadedModel, ids: torch.Tensor) -> dict[int, float]:
    """One cosine over everything laid end to end; the last layer has none."""
    x = streams(loaded, ids).flatten(1)
    return {i: 1 - float(cosine(x[i], x[i + 1])) for i in range(loaded.depth - 1)}


def magnitude(order: int) -> Callable[..., dict[int, float]]:
    def of(loaded: LoadedModel, ids: torch.Tensor) -> dict[int, float]:
        return {
            i: sum(
                float(w.double().abs().pow(order).sum() ** (1 / order)) for w in each.parameters()
            )
            for i, each in enumerate(loaded.layers)
        }

    return of


def taylor(loaded: LoadedModel, ids: torch.Tensor) -> dict[int, float]:
    """|W * gradient| summed over each layer's weights; one backward pass over the whole text."""
    model: Any = copy.deepcopy(loaded.model).double().requires_grad_()
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    found = {}
    for i, each in enumerate(model.get_submodule(loaded.family.layers)):
        used = [w for w in each.parameters() if w.grad is not None]
        found[i] = sum(float((w.detach() * w.grad).abs().sum()) for w in used)
    return found


def perplexity_without(loaded: LoadedModel, ids: torch.Tensor) -> dict[int, float]:
    return {i: math.exp(nll(loaded, ids, layer(i))) for i in range(loaded.depth)}


def nll(loaded: LoadedModel, ids: torch.Tensor, gone: Iterable[Unit]) -> float:
    return plain.costs(loaded, ids, gone, rows=len(ids), measures=("nll",))["nll"]


def drawn(loaded: LoadedModel, ids: torch.Tensor, seed: int = 0) -> dict[int, float]:
    generator = random.Random(seed)
    return {i: generator.random() for i in range(loaded.depth)}


def behind(loaded: LoadedModel, ids: torch.Tensor) -> dict[int, float]:
    return {i: loaded.depth - 1 - i for i in range(loaded.depth)}


# Scores of units


def turns(
    loaded: LoadedModel, ids: torch.Tensor, kinds: tuple[str, ...], gone: list[Unit]
) -> dict[str, float]:
    """1 - mean cos(x, x + f). The stream behind an attention leaves its layer without the FFN."""
    x, found = streams(loaded, ids, gone), {}
    for i in range(loaded.depth):
        between = streams(loaded, ids, [*gone, Unit(i, "ffn")])[i + 1]
        for kind, before, after in (("attn", x[i], between), ("ffn", between, x[i + 1])):
            if kind in kinds and Unit(i, kind) not in gone:
                found[f"{i}.{kind}"] = 1 - float(cosine(before, after).mean())
    return found


# Ways


def one_shot_layers(scores: dict[int, float], candidates: Iterable[int], remove: int) -> Plan:
    """Scored once, removed from the lowest on."""
    left, gone, plan = list(candidates), [], []
    for _ in range(remove):
        seen = on_units({i: scores[i] for i in left})
        best = min(left, key=lambda i: scores[i])
        left.remove(best)
        gone.append(best)
        plan.append((texts(layers(gone)), seen))
    return plan


def drop(
    loaded: LoadedModel, ids: torch.Tensor, kinds: tuple[str, ...], remove: int, *, again: bool
) -> Plan:
    """LLM-Drop: by turn, scored once or anew after every removal."""
    gone: list[Unit] = []
    plan: Plan = []
    scores = turns(loaded, ids, kinds, gone)
    for _ in range(remove):
        left = [u for u in all_units(loaded.depth) if u not in gone and u.kind in kinds]
        scores = turns(loaded, ids, kinds, gone) if again else scores
        seen = {str(unit): scores[str(unit)] for unit in left}
        gone.append(min(left, key=lambda unit: seen[str(unit)]))
        plan.append((texts(gone), seen))
    return plan


def greedy_units(
    loaded: LoadedModel, ids: torch.Tensor, units: list[Unit], metric: str, remove: int
) -> Plan:
    steps = plain.greedy(loaded, ids, units, metric, remove=remove, rows=len(ids))
    gone = [unit for unit, _ in steps]
    return [(set(gone[: k + 1]), scores) for k, (_, scores) in enumerate(steps)]


def sleb(loaded: LoadedModel, ids: torch.Tensor, remove: int) -> Plan:
    """Greedy over whole layers by the loss; the first and the last stay."""
    left, gone, plan = list(range(1, loaded.depth - 1)), [], []
    for _ in range(remove):
        now = nll(loaded, ids, layers(gone))
        scores = {i: nll(loaded, ids, layers([*gone, i])) - now for i in left}
        best = min(left, key=lambda i: scores[i])
        left.remove(best)
        gone.append(best)
        plan.append((texts(layers(gone)), on_units(scores)))
    return plan


def angular(loaded: LoadedModel, ids: torch.Tensor, remove: int) -> Plan:
    """For every n the window of n layers whose ends' last tokens are least apart."""
    x, plan = streams(loaded, ids)[:, :, -1], []
    for n in range(1, remove + 1):
        angle = {
            start: float((cosine(x[start], x[start + n]).clamp(-1, 1).arccos() / math.pi).mean())
            for start in range(loaded.depth - n + 1)
        }
        best = min(angle, key=lambda start: angle[start])
        plan.append((texts(layers(range(best, best + n))), on_units(angle)))
    return plan


# Searches over whole masks


def exchange(
    loaded: LoadedModel, ids: torch.Tensor, remove: int, wanted: int = 0, *, metric: str = "kl"
) -> Plan:
    """`ours`: the least cost per parameter, and exchanges that even and odd windows agree on.

    `wanted` are the parameters to remove at least, where they bound the run. A single window has no
    halves, and nothing is exchanged.
    """
    size = {unit: loaded.info(unit).parameters for unit in all_units(loaded.depth)}
    known: dict[Unit, float] = {}
    gone: set[Unit] = set()
    plan: Plan = []

    def total(units: Iterable[Unit]) -> int:
        return sum(size[unit] for unit in units)

    def cost(ids: torch.Tensor, gone: Iterable[Unit]) -> float:
        return plain.costs(loaded, ids, gone, rows=len(ids), measures=(metric,))[metric]

    def halves(gone: set[Unit]) -> list[float]:
        return [cost(half, gone) for half in (ids[::2], ids[1::2]) if len(half)]

    def layers_left() -> list[tuple[Unit, ...]]:
        """The eight whole layers that seem cheapest by what their units cost alone."""
        both = [tuple(layer(i)) for i in range(loaded.depth) if not gone & set(layer(i))]
        guess = {pair: sum(known[u] * size[u] for u in pair) / total(pair) for pair in both}
        return sorted(both, key=lambda pair: (guess[pair], pair))[:8] if wanted else []

    for number in range(remove):
        left = [unit for unit in size if unit not in gone]
        now = cost(ids, gone)
        fresh: dict[tuple[Unit, ...], float] = {}

        def score(
            groups: Iterable[tuple[Unit, ...]],
            fresh: dict[tuple[Unit, ...], float] = fresh,
            gone: set[Unit] = gone,
            now: float = now,
        ) -> None:
            for group in groups:
                if group not in fresh:
                    added = cost(ids, gone | set(group)) - now
                    fresh[group] = 1e6 * added / total(group)

        queue = sorted(left, key=lambda unit: known.get(unit, -math.inf))
        many = 4 if known else len(left)
        while queue:
            score([(unit,) for unit in queue[:many]])
            queue, many = queue[many:], 2 * many
            if queue and min(fresh.values()) < known[queue[0]]:
                break
        known |= {unit: fresh[unit,] for unit in left if (unit,) in fresh}
        score(layers_left())
        chosen = min(fresh, key=lambda group: (fresh[group], group))
        wanting = wanted - total(gone)
        if 0 < wanting < total(chosen):
            score([(unit,) for unit in left if size[unit] >= wanting])
            enough = [group for group in fresh if total(group) >= wanting]
            chosen = min(enough, key=lambda group: (fresh[group] * total(group), group))
        known |= {unit: fresh[unit,] for unit in left if (unit,) in fresh}
        known |= dict.fromkeys(chosen, fresh[chosen])
        scores = {str(unit): known[unit] for unit in left}
        gone = gone | set(chosen)

        last = total(gone) >= wanted if wanted else number + 1 == remove
        for _ in range((4 if last else 1) if min(len(gone), len(ids)) > 1 else 0):
            before, saved = halves(gone), total(gone)
            worth = {
                unit: (cost(ids, gone) - cost(ids, gone - {unit})) / size[unit] for unit in gone
            }
            dear = sorted(gone, key=lambda unit: (-worth[unit], unit))
            cheap = sorted(set(size) - gone, key=lambda unit: (known[unit], unit))
            trials = [
                gone - {old} | {new}
                for old in ([] if wanted else dear[:2])
                for new in [u for u in cheap if (u.kind, size[u]) == (old.kind, size[old])][:12]
            ]
            least = min(saved, wanted)
            for group in [*((unit,) for unit in cheap[:12]), *layers_left()] if wanted else []:
                trial = gone | set(group)
                for unit in dear:
                    if worth[unit] > 0 and total(trial) - size[unit] >= least:
                        trial = trial - {unit}
                trials.append(trial)
            for old in dear[:6] if wanted else []:
                trial = gone - {old}
                for unit in cheap:
                    trial = trial | ({unit} if total(trial) < least else set())
                trials.append(trial)
            found = [
                (halves(each), each) for each in trials if total(each) >= least != 0 or not wanted
            ]
            agreed = [each for each in found if all(map(operator.lt, each[0], before))]
            if not agreed:
                break
            gone = min(agreed, key=lambda each: mean_of(each[0], len(ids)))[1]
        plan.append((texts(gone), scores))
    return plan


def mean_of(halves: list[float], count: int) -> float:
    """The loss of all windows from that of the even ones and that of the odd ones."""
    sizes = (count + 1) // 2, count // 2
    return sum(loss * size for loss, size in zip(halves, sizes, strict=False)) / count


def evolve(
    loaded: LoadedModel,
    ids: torch.Tensor,
    pools: list[list[tuple[Unit, ...]]],
    count: int,
    *,
    seed: int = 0,
    starts: int = 64,
    offspring: int = 32,
    generations: int | None = None,
    tokens: tuple[int, int] = (2048, 32768),
    muted: Iterable[Unit] = (),
) -> Plan:
    """EvoPress: the best start, then every mask that takes the elite's place.

    One generator draws, in this order: the starts, their windows; and in each generation the
    children, the windows of the first stage, those of the second. A text shorter than a stage is
    taken whole, without a draw; 200 draws in a row of masks that are there already end a round.
    """
    generator, measured = random.Random(seed), cache(lambda gone, row: kl(loaded, ids, gone, row))
    if generations is None:
        generations = int(max(count * (len(pool) - count) / 1.5 for pool in pools))

    def units(state: list[set[tuple[Unit, ...]]]) -> frozenset[Unit]:
        return frozenset(unit for chosen in state for group in chosen for unit in group)

    def new(make: Callable[[], Any], wanted: int, besides: list[Any]) -> list[Any]:
        found: list[Any] = []
        misses = 0
        while len(found) < wanted and misses < 200:
            state = make()
            if state in found or state in besides:
                misses += 1
            else:
                found.append(state)
                misses = 0
        return found

    def child() -> Any:
        state = [set(chosen) for chosen in elite]
        for _ in range(min(generator.randint(1, 3), generator.randint(1, 3))):
            which = generator.choice(both_sides)
            goes = generator.choice([each for each in pools[which] if each not in state[which]])
            back = generator.choice([each for each in pools[which] if each in state[which]])
            state[which] = (state[which] | {goes}) - {back}
        return state

    def ranked(states: list[Any], stage: int) -> list[tuple[float, Any]]:
        wanted = math.ceil(tokens[stage] / ids.shape[1])
        rows = list(range(len(ids)))
        rows = generator.sample(rows, wanted) if wanted < len(rows) else rows
        costs = []
        for state in states:
            gone = units(state) | frozenset(muted)
            costs.append(sum(measured(gone, row) for row in rows) / len(rows))
        order = sorted(range(len(states)), key=lambda place: costs[place])
        return [(costs[place], states[place]) for place in order]

    both_sides = [which for which, pool in enumerate(pools) if count < len(pool)]
    score, elite = ranked(
        new(lambda: [set(generator.sample(pool, count)) for pool in pools], starts, []), 0
    )[0]
    gone = units(elite)
    plan: Plan = [(texts(gone), dict.fromkeys(texts(gone), score))]
    for _ in range(generations if both_sides else 0):
        children = new(child, offspring, [elite])
        alive = [state for _, state in ranked(children, 0)[:2]]
        score, best = ranked([*alive, elite], 1)[0]
        if best != elite:
            new_units = units(best) - units(elite)
            plan.append((texts(units(best)), dict.fromkeys(texts(new_units), score)))
        elite = best
    return plan


def kl(loaded: LoadedModel, ids: torch.Tensor, gone: Iterable[Unit], row: int) -> float:
    """KL(P || P') over one window, the mean over its tokens."""
    window = ids[row : row + 1]
    dense, pruned = plain.logits(loaded, window)[0], plain.logits(loaded, window, gone)[0]
    return plain.divergence("kl", dense, pruned) / ids.shape[1]


def evolve_units(loaded: LoadedModel, ids: torch.Tensor, remove: int, **more: Any) -> Plan:
    """As many attentions as FFNs, `remove` in all."""
    pools = [[(Unit(i, kind),) for i in range(loaded.depth)] for kind in ("attn", "ffn")]
    return evolve(loaded, ids, pools, remove // 2, **more)


def evolve_layers(loaded: LoadedModel, ids: torch.Tensor, remove: int, **more: Any) -> Plan:
    """Whole layers."""
    return evolve(loaded, ids, [[tuple(layer(i)) for i in range(loaded.depth)]], remove, **more)
