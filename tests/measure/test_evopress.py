"""The evolutionary search: the same masks as the plain way, bounds, progress, cancel and cost."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from inspector.errors import MaskError
from inspector.jobs import Cancelled
from inspector.measure import scoring
from inspector.measure.budget import Budget
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS, evolution, evopress
from inspector.measure.methods.evolution import Evolution, Plan, State, asked, layer_runs, muting
from inspector.measure.methods.evopress import Judge
from inspector.measure.pace import Pace
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.results.comparison import SEARCHED, compare
from inspector.results.trajectory import Trajectory
from inspector.units import KINDS, Mask, Unit
from tests import plain
from tests import plain_methods as slow
from tests.measure.test_methods import agrees

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 16
SHORT = Evolution(generations=5, offspring=6, starts=5, search_tokens=(2 * LENGTH, 4 * LENGTH))
SLOW_SHORT = {"generations": 5, "offspring": 6, "starts": 5, "tokens": SHORT.search_tokens}
SLOW = {"evopress": slow.evolve_units, "evopress-layer": slow.evolve_layers}


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return slow.deep("llama")


@pytest.fixture(scope="module")
def text(llama: LoadedModel) -> Windows:
    return plain.text(llama, 9, LENGTH)


def run(loaded: LoadedModel, text: Windows, **more: Any) -> Trajectory:
    asked = {"method": "evopress", "remove": 4, "evolution": SHORT, **more}
    return prune(loaded, text, asked.pop("mask", loaded.empty()), **asked)


def masks_of(found: Trajectory) -> list[str]:
    return [step.mask for step in found.steps]


# The definition


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt_neox", "opt"])
@pytest.mark.parametrize(("method", "remove"), [("evopress", 6), ("evopress-layer", 3)])
def test_the_same_masks_as_the_plain_way(model_type: str, method: str, remove: int) -> None:
    """Every window of a stage is drawn afresh, and the same draws lead to the same elites."""
    loaded = slow.deep(model_type)
    windows = plain.text(loaded, 9, LENGTH)
    for seed in (0, 3):
        found = run(loaded, windows, method=method, remove=remove, seed=seed)
        agrees(found, SLOW[method](loaded, windows.ids, remove, seed=seed, **SLOW_SHORT))
        assert len(found.steps) > 2, "nothing has been improved: the test sees no generation"
        expected = {"generations": 5, "offspring": 6, "starts": 5, "search_tokens": "32,64"}
        assert found.options == {**expected, **({"seed": seed} if seed else {})}


def test_from_a_mask_on_with_one_kind_and_units_that_stay(
    llama: LoadedModel, text: Windows
) -> None:
    start, protect = llama.mask("2.ffn,5"), llama.mask("0,3.ffn")
    found = run(llama, text, mask=start, protect=protect)
    free = [unit for unit in slow.layers(range(8)) if unit not in start and unit not in protect]
    pools = [[(unit,) for unit in free if unit.kind == kind] for kind in KINDS]
    plan = slow.evolve(llama, text.ids, pools, 2, muted=start, **SLOW_SHORT)
    assert len(found.steps) == len(plan) + 1
    for step, (gone, scores) in zip(found.steps[1:], plan, strict=True):
        assert slow.texts(Mask.parse(step.mask, 8)) == gone | slow.texts(start)
        assert plain.differences(step.scores, scores, floor=2e-6) == []
    one = run(llama, text, mask=start, protect=protect, only="ffn", remove=3)
    plan = slow.evolve(llama, text.ids, pools[1:], 3, muted=start, **SLOW_SHORT)
    assert [slow.texts(Mask.parse(step.mask, 8)) for step in one.steps[1:]] == [
        gone | slow.texts(start) for gone, _ in plan
    ]


def test_the_seed_decides(llama: LoadedModel, text: Windows) -> None:
    one, same = run(llama, text), run(llama, text)
    assert [dataclasses.replace(step, seconds=0) for step in one.steps] == [
        dataclasses.replace(step, seconds=0) for step in same.steps
    ]
    others = {tuple(masks_of(run(llama, text, seed=seed))) for seed in range(4)}
    assert len(others) == 4


@pytest.mark.parametrize("method", SEARCHED)
def test_on_the_whole_text_it_never_gets_worse(
    llama: LoadedModel, text: Windows, method: str
) -> None:
    """Then scores of different generations are of the same windows."""
    whole = Evolution(generations=12, offspring=2, starts=1, search_tokens=(999, 999))
    found = run(llama, text, method=method, evolution=whole)
    scores = [next(iter(step.scores.values())) for step in found.steps[1:]]
    assert len(scores) > 2
    assert scores == sorted(scores, reverse=True)
    for step, score in zip(found.steps[1:], scores, strict=True):
        mask = Mask.parse(step.mask, 8)
        assert plain.close(score, plain.costs(llama, text.ids, mask)["kl"], floor=2e-6)


@pytest.mark.parametrize("remove", [2, 4])
def test_all_masks_of_a_small_model_are_among_the_starts(remove: int) -> None:
    """Then the first step is the best mask there is, and nothing betters it."""
    loaded = plain.tiny("llama")
    windows = plain.text(loaded, 3, LENGTH)
    found = run(loaded, windows, remove=remove, evolution=Evolution(starts=99))
    sides = [itertools.combinations(range(4), remove // 2) for _ in KINDS]
    masks = [
        [Unit(i, "attn") for i in attentions] + [Unit(i, "ffn") for i in ffns]
        for attentions, ffns in itertools.product(*sides)
    ]
    costs = [plain.costs(loaded, windows.ids, mask)["kl"] for mask in masks]
    best = masks[min(range(len(masks)), key=costs.__getitem__)]
    assert masks_of(found) == ["", str(Mask.of(4, best))]
    assert found.finished


def test_everything_can_go(text: Windows) -> None:
    loaded = plain.tiny("llama")
    for method, remove in (("evopress", 8), ("evopress-layer", 4)):
        found = run(loaded, text, method=method, remove=remove)
        assert masks_of(found) == ["", "0-3"]
        assert found.finished


# Draws


def the_plan(count: int = 3, depth: int = 9, **more: Any) -> Plan:
    pools = tuple(tuple((Unit(i, kind),) for i in range(depth)) for kind in KINDS)
    return Plan(pools, count, Evolution(**more))


def sides(state: State) -> list[int]:
    return [sum(group[0].kind == kind for group in state) for kind in KINDS]


def test_draws_keep_to_the_law() -> None:
    """Both kinds are swapped, by 1 to 3 swaps of which fewer are likelier, and none is doubled."""
    plan, draw = the_plan(starts=40, offspring=400), random.Random(0)
    starts = evolution.draw_starts(plan, draw)
    assert len(set(starts)) == 40
    assert all(sides(state) == [3, 3] for state in starts)
    parent = starts[0]
    children = evolution.draw_children(plan, parent, draw)
    assert len(set(children)) == 400 and parent not in children
    assert all(sides(state) == [3, 3] for state in children)
    swaps = [len(child - parent) for child in children]
    assert set(swaps) == {1, 2, 3}
    # A swap is one of 18 pairs of a kind: there are 36 children one swap away, and they are rarer
    # than drawn here, because none is taken twice.
    assert swaps.count(1) == 36
    single, count = the_plan(offspring=1), 4000
    found = [
        len(evolution.draw_children(single, parent, random.Random(n))[0] - parent)
        for n in range(count)
    ]
    for distance, share in distances(3, 9).items():
        spread = math.sqrt(share * (1 - share) / count)
        assert abs(found.count(distance) / count - share) < 4 * spread, distance


def distances(muted: int, depth: int) -> dict[int, float]:
    """How likely a child is at which distance from its parent, from the law as it stands.

    At the distance d within a kind, d of the parent's units are on and d of the others off: what a
    swap mutes is the parent's in d of depth - muted cases, what it brings back in muted - d of
    muted.
    """
    here, reached = {(0, 0): 1.0}, dict.fromkeys(range(4), 0.0)
    for ends in (5 / 9, 3 / 9, 1 / 9):  # how likely min(a, b) is 1, 2, 3
        after: dict[tuple[int, int], float] = {}
        for place, share in here.items():
            for kind in (0, 1):
                d = place[kind]
                mutes, returns = d / (depth - muted), (muted - d) / muted
                for step, chance in (
                    (-1, mutes * (1 - returns)),
                    (0, mutes * returns + (1 - mutes) * (1 - returns)),
                    (1, (1 - mutes) * returns),
                ):
                    to = (d + step, place[1]) if kind == 0 else (place[0], d + step)
                    after[to] = after.get(to, 0.0) + share * chance / 2
        here = after
        for place, share in here.items():
            if share:
                reached[sum(place)] += share * ends
    whole = 1 - reached.pop(0)  # the parent itself is drawn anew
    return {distance: share / whole for distance, share in reached.items()}


def test_few_masks_end_the_draw() -> None:
    plan, draw = the_plan(1, 2), random.Random(0)
    starts = evolution.draw_starts(plan, draw)
    assert len(set(starts)) == len(starts) == 4
    assert len(set(evolution.draw_children(plan, starts[0], draw))) == 3
    assert evolution.draw_children(the_plan(2, 2), evolution.draw_starts(the_plan(2, 2), draw)[0],
                                   draw) == []  # fmt: skip


@pytest.mark.parametrize(
    ("count", "depth", "generations"), [(12, 32, 160), (8, 32, 128), (1, 4, 2), (4, 4, 0)]
)
def test_generations_by_default(count: int, depth: int, generations: int) -> None:
    """12 of 32 blocks are 160 in the authors' example script."""
    assert the_plan(count, depth).generations == generations
    assert the_plan(count, depth, generations=7).generations == 7


def test_windows_are_drawn_whole_and_without_putting_back() -> None:
    plan = the_plan()
    assert plan.stages(1000, 256) == (8, 128)
    assert plan.stages(1000, 300) == (7, 110)
    assert plan.stages(100, 256) == (8, 100)
    assert plan.repeats(1000, 256) == ""
    assert plan.repeats(128, 256) == "32,768 tokens of text for stages of 2,048 and 32,768"
    draw = random.Random(0)
    drawn = [evolution.draw_windows(9, 4, draw) for _ in range(50)]
    assert all(len(set(each)) == 4 for each in drawn) and len(set(map(tuple, drawn))) > 40
    assert set().union(*drawn) == set(range(9))
    assert evolution.draw_windows(3, 4, draw) == [0, 1, 2]


# What it costs


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many windows have gone through a layer since the last call."""
    found = [0]
    real = scoring.run_layer

    def run_layer(loaded: LoadedModel, index: int, stream: torch.Tensor, calls: Any) -> Any:
        found[0] += len(stream)
        return real(loaded, index, stream, calls)

    monkeypatch.setattr(scoring, "run_layer", run_layer)

    def since() -> int:
        here, found[0] = found[0], 0
        return here

    yield since


def test_what_masks_share_runs_once(
    llama: LoadedModel, text: Windows, runs: Callable[[], int]
) -> None:
    judge, draw = Judge(llama, text, "kl"), random.Random(1)
    plan = the_plan(depth=8, starts=7, offspring=9)
    parent, *starts = evolution.draw_starts(plan, draw)
    judge.scores([llama.empty()], range(9))
    assert runs() == 2 * 8 * 9  # the mask, and the untouched model that it is measured against
    for states in (starts, evolution.draw_children(plan, parent, draw)):
        masks = [muting(llama.mask("7"), state) for state in states]
        judge.scores(masks, [0, 4, 5])
        expected = layer_runs(masks)
        assert runs() == 3 * expected  # and the untouched model is known by now
        assert 8 < expected < 8 * len(masks)
    two = [llama.mask("3.ffn,6"), llama.mask("3.ffn,6.ffn")]
    assert layer_runs(two) == 6 + 1 + 2  # layers 0 to 5 once, 6 once, 7 twice
    assert layer_runs([llama.empty()]) == 8
    assert layer_runs([]) == 0


def test_bounds_on_memory_change_no_score(
    llama: LoadedModel, text: Windows, runs: Callable[[], int]
) -> None:
    plan = the_plan(depth=8, starts=7)
    masks = [muting(llama.empty(), s) for s in evolution.draw_starts(plan, random.Random(0))]
    roomy = Judge(llama, text, "kl")
    expected = roomy.scores(masks, [1, 2, 8])
    one = LENGTH * 64 * 4
    for stream_bytes, kept in ((1, 0), (3 * 3 * one, 1), (1 << 20, 2)):
        tight = Judge(llama, text, "kl", stream_bytes=stream_bytes, kept_bytes=kept * one)
        found = tight.scores(masks, [1, 2, 8])
        assert all(plain.close(a, b) for a, b in zip(found, expected, strict=True))
        assert len(tight.kept) == kept
        assert tight.scores(masks, [1, 2, 8]) == found
    assert len(roomy.kept) == 3


def test_it_says_what_it_holds(llama: LoadedModel, text: Windows) -> None:
    """Streams of [w, T, H]: before a layer, side by side, behind it; and the untouched model's."""
    one = LENGTH * 64 * 4
    judge = Judge(llama, text, "kl")
    judge.scores([llama.mask("3.ffn"), llama.mask("5"), llama.mask("6.attn")], [1, 2])
    # From layer 6 on all three are apart; two windows are kept, and two are laid beside them.
    assert judge.held == (3 * 3 * 2 + 2 + 2) * one
    judge.held = 0
    judge.scores([llama.mask("5")], [1])
    assert judge.held == (3 * 1 + 2 + 1) * one
    judge.scores([llama.mask("5")], [7])
    assert judge.held == (3 * 1 + 3 + 1) * one
    loss = Judge(llama, text, "nll")
    loss.scores([llama.mask("0-7")], [1])
    assert loss.held == 2 * one  # no layer runs, and the loss needs no other model
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    passes = Judge(whole, text, "kl")
    passes.scores([llama.mask("5")], [1])
    assert passes.held == 0


@pytest.mark.parametrize("memory", [None, 64 * LENGTH * 64 * 4])
def test_steps_carry_what_was_held(llama: LoadedModel, text: Windows, memory: int | None) -> None:
    """It stays within the bound, and does not grow with the text beyond what is kept of it."""
    for method in ("evopress", "ours"):
        more: dict[str, Any] = {"evolution": SHORT} if method == "evopress" else {}
        found = prune(llama, text, llama.empty(), method=method, remove=4, memory=memory, **more)
        held = [step.stream_bytes for step in found.steps]
        assert held[0] == 0 and min(held[1:]) > 0
        assert found.stream_bytes == max(held) <= (memory or 2**30)


@pytest.mark.parametrize("length", [16, 150])
def test_scores_are_means_over_all_tokens(llama: LoadedModel, length: int) -> None:
    windows = plain.text(llama, 5, length)
    masks = [llama.mask("1"), llama.mask("2.attn,3.ffn"), llama.mask("0-7"), llama.mask("1,7")]
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    for loaded in (llama, whole):
        found = Judge(loaded, windows, "kl").scores(masks, [4, 0, 2])
        for mask, score in zip(masks, found, strict=True):
            expected = plain.costs(llama, windows.ids[[4, 0, 2]], mask)["kl"]
            assert plain.close(score, expected, floor=2e-6)


def test_a_model_that_cannot_be_replayed(llama: LoadedModel, text: Windows) -> None:
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    assert masks_of(run(whole, text)) == masks_of(run(llama, text))


def test_the_model_is_left_as_it_was(llama: LoadedModel, text: Windows) -> None:
    before = plain.logits(llama, text.ids)
    run(llama, text)
    assert torch.equal(plain.logits(llama, text.ids), before)


def test_not_a_number_is_the_worst(
    llama: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(self: Judge, masks: list[Mask], numbers: list[int], **more: Any) -> list[float]:
        return [math.nan if Unit(0, "attn") in mask else float(len(masks)) for mask in masks]

    monkeypatch.setattr(evopress.Judge, "scores", scores)
    found = run(llama, text, evolution=dataclasses.replace(SHORT, starts=40))
    assert not any(Unit(0, "attn") in Mask.parse(step.mask, 8) for step in found.steps)


def test_the_estimate_counts_what_runs(
    llama: LoadedModel, text: Windows, runs: Callable[[], int]
) -> None:
    """By the second a layer and token: the runs of a search in which all goes the same way."""
    pools = tuple(tuple((Unit(i, kind),) for i in range(8)) for kind in KINDS)
    plan = Plan(pools, 2, dataclasses.replace(SHORT, generations=0))
    pace = Pace(1.0, {"kl": 0.0}, 8)
    judge, draw = Judge(llama, text, "kl"), random.Random(0)
    starts = evolution.draw_starts(plan, draw)
    judge.scores([muting(llama.empty(), state) for state in starts], [0, 1])
    layers = runs()
    assert pace.evolve(plan, llama.empty(), (9, LENGTH), metric="kl") == layers * LENGTH
    heads = Pace(0.0, {"kl": 1.0}, 8)
    assert heads.evolve(plan, llama.empty(), (9, LENGTH), metric="kl") == 6 * 2 * LENGTH
    plan = Plan(pools, 2, SHORT)
    stages = 6 * 2 + 5 * ((6 + 1) * 2 + (3 + 1) * 4)
    assert heads.evolve(plan, llama.empty(), (9, LENGTH), metric="kl") == stages * LENGTH
    more = pace.evolve(plan, llama.empty(), (9, LENGTH), metric="kl") - layers * LENGTH
    run(llama, text, check=plain.text(llama, 1, 2))
    whole = (runs() - 3 * 8 - layers) * LENGTH  # without the perplexities of three masks or so
    assert 0.7 * whole < more < 1.4 * whole


# Bounds


@pytest.mark.parametrize(
    ("bounds", "mask", "muted"),
    [
        ({"remove_params": "25%"}, "", 6),  # pairs of 36,864 parameters out of 329,152
        ({"remove_kv": "25%"}, "", 4),
        ({"remove_kv": "25.1%"}, "", 6),
        ({"remove": 6, "remove_kv": "25%"}, "", 4),
        ({"remove": 2, "remove_kv": "25%"}, "", 2),
        ({"remove_kv": "25%", "only": "attn"}, "", 2),
        ({"remove_kv": "25%", "method": "evopress-layer"}, "", 4),
        ({"remove": 3, "method": "evopress-layer"}, "1.attn", 6),
        ({"remove": 3, "only": "ffn"}, "", 3),
    ],
)
def test_a_share_becomes_a_size(
    llama: LoadedModel, text: Windows, bounds: dict[str, Any], mask: str, muted: int
) -> None:
    begun = llama.mask(mask)
    found = run(llama, text, **{"remove": None, "mask": begun, **bounds})
    whole = {"parameters": llama.parameters, "kv_bytes_per_token": llama.kv_bytes_left(begun)}
    for step in found.steps[1:]:
        sizes = len(Mask.parse(step.mask, 8).mute(begun)) - len(begun)
        assert sizes == muted or (mask and muted - 1 <= sizes <= muted)
        for name, field in (("remove_params", "parameters"), ("remove_kv", "kv_bytes_per_token")):
            if name in bounds and "remove" not in bounds:
                gone = 1 - getattr(step, field) / whole[field]
                assert gone >= float(bounds[name].rstrip("%")) / 100 - 1e-12
    assert found.finished


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"remove": 3},
            "evopress mutes as many attentions as FFNs: remove an even number of units",
        ),
        (
            {"until_perplexity": 9.0},
            "evopress searches masks of one size: give --remove, --remove-",
        ),
        ({"remove": 18}, "cannot remove 9 attentions and 9 FFNs: 8 attentions and 8 FFNs are left"),
        ({"remove": 9, "only": "attn"}, "cannot remove 9 units: 8 are left that can be"),
        ({"remove": 9, "method": "evopress-layer"}, "cannot remove 9 layers: 8 are left that can"),
        ({"remove": None, "remove_params": "95%"}, "cannot remove 95 % of the parameters"),
        ({"remove": None}, "say when to stop"),
        ({"protect_first_until": 0.4}, "evopress bars no first layers"),
        ({"method": "evopress-layer", "only": "attn"}, "evopress-layer removes whole layers"),
        ({"method": "finercut"}, "finercut has no generations: leave out evolution"),
        ({"protect": Mask.parse("0-7.ffn", 8)}, "2 FFNs: 8 attentions and 0 FFNs are left that"),
        ({"protect": Mask.parse("0-7", 8)}, "nothing is left that evopress may remove"),
    ],
)
def test_what_makes_no_search_is_refused(
    llama: LoadedModel, text: Windows, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(MaskError, match=message):
        run(llama, text, **more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generations": -1}, "--generations takes a whole number of at least 0"),
        ({"offspring": 0}, "--offspring takes a whole number of at least 1"),
        ({"starts": 0}, "--starts takes a whole number of at least 1"),
        *(
            ({"search_tokens": text}, "--search-tokens takes two numbers of tokens above 0")
            for text in ("1", "1,2,3", "x,2", "-1,2", "0,2", "1.5,2", ",", "9" * 30 + ",1", "²,1")
        ),
    ],
)
def test_options_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MaskError, match=message):
        asked(METHODS["evopress"], **given)


def test_options() -> None:
    row = METHODS["evopress-layer"]
    assert asked(row) == Evolution()
    assert Evolution().options == {}
    found = asked(row, " 512, 4096", generations=20, offspring=None, starts=64) or Evolution()
    assert found == Evolution(generations=20, search_tokens=(512, 4096))
    assert found.options == {"generations": 20, "search_tokens": "512,4096"}
    assert asked(METHODS["angular"]) is None
    with pytest.raises(MaskError, match=r"^angular has no generations: leave out --starts and"):
        asked(METHODS["angular"], "1,2", starts=3)


def test_the_methods_that_search() -> None:
    assert tuple(name for name, row in METHODS.items() if row.way == "evolution") == SEARCHED


# Progress


def test_progress_and_cancel_at_any_point(llama: LoadedModel, text: Windows) -> None:
    shares: list[float] = []
    partials: list[Trajectory] = []
    notes: list[str] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        shares.append(done / total)
        notes.append(note)
        partials.extend([partial] if partial is not None else [])

    final = run(llama, text, progress=progress)
    assert shares == sorted(shares) and shares[-1] == 1
    assert {f"generation {n} of 5" for n in range(1, 6)} <= set(notes)
    assert "measuring random masks" in notes
    assert not any(each.finished for each in partials)
    lengths = set()
    for calls in range(1, len(shares), 7):
        kept = cancelled(llama, text, calls)
        assert masks_of(kept) == masks_of(final)[: len(kept.steps)] if kept else calls < 4
        lengths.add(len(kept.steps) if kept else 0)
    assert lengths >= set(range(1, len(final.steps) + 1))


def cancelled(loaded: LoadedModel, text: Windows, calls: int) -> Trajectory | None:
    """What is left of a run that is cancelled at one of its calls of progress."""
    kept: list[Trajectory] = []
    left = itertools.count(calls - 1, -1)

    def cancel(done: float, total: float, note: str = "", partial: Any = None) -> None:
        kept.extend([partial] if partial is not None else [])
        if not next(left):
            raise Cancelled

    with pytest.raises(Cancelled):
        run(loaded, text, progress=cancel)
    return kept[-1] if kept else None


def test_a_comparison_takes_what_the_search_ended_with(llama: LoadedModel, text: Windows) -> None:
    found = run(llama, text)
    other = prune(llama, text, llama.empty(), method="reverse", remove=4)
    agreement = compare([found, other]).agreement
    assert agreement.masks[0] == masks_of(found)[-1] and len(found.steps) > 2
    assert agreement.steps[0] == len(found.steps) - 1


def test_a_budget_of_pairs_counts_the_smallest(llama: LoadedModel) -> None:
    """Attentions of 10 and 30, FFNs of 20 and 20: one pair takes 30 or more, two take 80."""
    sizes = {"0.attn": 10, "1.attn": 30, "0.ffn": 20, "1.ffn": 20}
    groups = [(unit,) for unit in slow.layers([0, 1])]
    for share, count in ((0.3, 1), (0.31, 2), (0.8, 2)):
        plan = evolution.planned_for(
            METHODS["evopress"],
            groups,
            lambda group: (sizes[str(group[0])], 0),
            (100, 0),
            budget=Budget.of(remove_params=share),
            only=None,
            evolution=None,
        )
        assert plan is not None and plan.count == count
