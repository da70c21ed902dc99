"""Every row of the table of methods against a plain implementation of what the paper says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from inspector.errors import MaskError, ResultError
from inspector.measure import racing, scoring
from inspector.measure import sweep as sweep_module
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS, WAYS, method_named, scores, window
from inspector.measure.methods.choices import choices, stretches
from inspector.measure.methods.goals import SCORES
from inspector.measure.methods.search import Search, lowest
from inspector.measure.methods.taylor import windows_at_once
from inspector.measure.metrics import METRICS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import prune
from inspector.model import replay
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.trajectory import Trajectory
from inspector.units import KINDS, Mask, Unit, all_units
from tests import plain
from tests import plain_methods as slow

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = ["llama", "gemma2", "gpt_neox", "opt"]
LENGTH = 24


def attention_first(loaded: LoadedModel) -> list[Unit]:
    return [Unit(layer, kind) for kind in KINDS for layer in range(loaded.depth)]


def ranked(score: Callable[..., dict[int, float]], first: int = 0, last: int = 0) -> Any:
    """A one-shot method over all layers but the first and last so many."""

    def plan(loaded: LoadedModel, ids: torch.Tensor, remove: int) -> slow.Plan:
        may_go = range(first, loaded.depth - last)
        return slow.one_shot_layers(score(loaded, ids), may_go, remove)

    return plan


def dropped(kinds: tuple[str, ...], again: bool) -> Any:
    return lambda loaded, ids, remove: slow.drop(loaded, ids, kinds, remove, again=again)


PLANS: dict[str, Callable[..., slow.Plan]] = {
    "finercut": lambda m, ids, k: slow.greedy_units(m, ids, all_units(m.depth), "js", k),
    "blockpruner": lambda m, ids, k: slow.greedy_units(m, ids, attention_first(m), "perplexity", k),
    "sleb": slow.sleb,
    "shortgpt": ranked(slow.influence),
    "llm-drop-attn": dropped(("attn",), again=False),
    "llm-drop-ffn": dropped(("ffn",), again=False),
    "llm-drop-joint": dropped(KINDS, again=False),
    "llm-drop-attn-iterative": dropped(("attn",), again=True),
    "llm-drop-ffn-iterative": dropped(("ffn",), again=True),
    "llm-drop-joint-iterative": dropped(KINDS, again=True),
    "shortened-ppl": ranked(slow.perplexity_without, 4, 2),
    "shortened-taylor": ranked(slow.taylor, 4, 2),
    "angular": slow.angular,
    "deepest": ranked(slow.behind, 0, 1),
    "reverse": ranked(slow.behind),
    "random": ranked(slow.drawn),
    "magnitude-l1": ranked(slow.magnitude(1)),
    "magnitude-l2": ranked(slow.magnitude(2)),
    "taylor": ranked(slow.taylor),
    "perplexity-oneshot": ranked(slow.perplexity_without),
    "bi-flat": ranked(slow.flat_influence, 0, 1),
    "evopress": slow.evolve_units,
    "evopress-layer": slow.evolve_layers,
    "ours": slow.exchange,
}


def model_for(method: str, model_type: str = "llama") -> LoadedModel:
    """Four layers; eight where six of them stay."""
    many = sum(METHODS[method].keep) > 3
    return slow.deep(model_type) if many else plain.tiny(model_type)


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture(scope="module")
def text(llama: LoadedModel) -> Windows:
    return plain.text(llama, 3, LENGTH)


def agrees(run: Trajectory, plan: slow.Plan, *, floor: float = 2e-6) -> None:
    """Step by step the same mask, and scores that differ by a ten-thousandth, or by `floor`."""
    gone: set[str] = set()
    row = METHODS[run.method]
    assert len(run.steps) == len(plan) + 1
    for number, (step, (expected, costs)) in enumerate(zip(run.steps[1:], plan, strict=True)):
        assert slow.texts(Mask.parse(step.mask, run.depth)) == expected, step.step
        assert set(step.removed) == expected - gone
        assert set(step.restored) == gone - expected
        least = 1e-4 if row.way == "exchanges" else floor  # of small units
        assert plain.differences(step.scores, costs, floor=least) == [], step.step
        if row.way != "exchanges":  # which is lazy
            fresh = row.way in ("iterative", "evolution") or number == 0
            assert set(step.score_status.values()) == {"exact" if fresh else "stale"}
        gone = expected


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_row_equals_its_definition(method: str, model_type: str) -> None:
    loaded = model_for(method, model_type)
    windows = plain.text(loaded, 3, LENGTH)
    before = plain.logits(loaded, windows.ids)
    run = prune(loaded, windows, loaded.empty(), method=method, remove=2, early_exit=False)
    agrees(run, PLANS[method](loaded, windows.ids, 2))
    assert (run.method, run.metric) == (method, METHODS[method].metrics[0])
    assert run.finished
    short = "72 tokens of text for stages of 2,048 and 32,768"
    known = {"no_early_exit": True} if method == "finercut" else {}
    known = {"repeats": short} if METHODS[method].way == "evolution" else known
    assert run.options == (known if method != "random" else run.options)
    for step in run.steps:
        mask = Mask.parse(step.mask, loaded.depth)
        assert step.perplexity == pytest.approx(
            perplexity(loaded, windows, mask).perplexity, rel=1e-6
        )
        assert step.parameters == loaded.parameters_left(mask)
        assert step.kv_bytes_per_token == loaded.kv_bytes_left(mask)
    assert torch.equal(plain.logits(loaded, windows.ids), before)


def test_every_row_has_a_definition_here_and_is_filled_in() -> None:
    assert list(PLANS) == list(METHODS)
    for name, row in METHODS.items():
        assert row.name == name
        assert all((row.label, row.paper, row.metrics, row.calibration, row.cost, row.note))
        assert row.way in WAYS
        assert row.grain in ("unit", "layer")
        assert set(row.metrics) <= {*METRICS, *SCORES}
        assert method_named(name) is row
        assert bool(row.published_order) <= bool(row.published)
    used = {metric for row in METHODS.values() for metric in row.metrics}
    assert set(SCORES) <= used
    with pytest.raises(ResultError) as raised:
        method_named("magic")
    assert str(raised.value) == f"unknown method 'magic': choose one of {', '.join(METHODS)}."


def test_the_last_steps_of_each_way(llama: LoadedModel, text: Windows) -> None:
    """Until nothing is left that may go."""
    for method, left in (
        ("reverse", ""),
        ("angular", ""),
        ("sleb", "0,3"),
        ("deepest", "3"),
        ("llm-drop-attn-iterative", "0-3.ffn"),
    ):
        row = METHODS[method]
        count = len(choices(row, llama.toggleable(), llama.empty()))
        run = prune(llama, text, llama.empty(), method=method, remove=count)
        on = Mask.parse(left, 4)
        assert Mask.parse(run.steps[-1].mask, 4) == Mask.of(4, all_units(4)).unmute(on)
        grain = "layers" if row.grain == "layer" else "units"
        message = rf"^cannot remove {count + 1} {grain}: {count} are left that can be\.$"
        with pytest.raises(MaskError, match=message):
            prune(llama, text, llama.empty(), method=method, remove=count + 1)


# From a mask on


def test_layers_under_a_mask(llama: LoadedModel, text: Windows) -> None:
    """Muted layers count as absent; of a half muted one the other half goes."""
    start = llama.mask("0,2.ffn")
    run = prune(llama, text, start, method="sleb", remove=1)  # layer 1 is the first that is on
    assert set(run.steps[1].scores) == {"2.attn"}
    assert run.removed == ["2.attn"]
    cost = slow.nll(llama, text.ids, slow.layers([0, 2])) - slow.nll(llama, text.ids, start)
    assert plain.close(run.steps[1].scores["2.attn"], cost)
    run = prune(llama, text, start, method="perplexity-oneshot", remove=3)
    assert run.steps[-1].mask == "0-3"
    assert set(run.steps[1].scores) == {"1.attn", "1.ffn", "2.attn", "3.attn", "3.ffn"}


def test_scores_under_a_mask_are_those_of_what_is_on(llama: LoadedModel, text: Windows) -> None:
    start = llama.mask("1,2.ffn")
    x = slow.streams(llama, text.ids, start)
    run = prune(llama, text, start, method="shortgpt", remove=1)
    expected = {i: 1 - float(slow.cosine(x[i], x[i + 1]).mean()) for i in (0, 2, 3)}
    wanted = {unit: score for unit, score in slow.on_units(expected).items() if unit != "2.ffn"}
    assert plain.differences(run.steps[1].scores, wanted, floor=2e-6) == []
    run = prune(llama, text, start, method="magnitude-l1", remove=1)
    attention = [w for n, w in llama.layers[2].named_parameters() if "mlp" not in n]
    size = sum(float(w.abs().sum()) for w in attention)
    assert plain.close(run.steps[1].scores["2.attn"], size)


# Whole layers in a sweep


@pytest.mark.parametrize("whole", [True, False])
def test_a_sweep_of_whole_layers(llama: LoadedModel, text: Windows, whole: bool) -> None:
    loaded = llama if whole else dataclasses.replace(llama, not_replayable="a test says so")
    mask = llama.mask("1.attn")
    for metric in METRICS:
        found = sweep_module.sweep(loaded, text, mask, metric=metric, grain="layer")
        assert set(found.scores) == {str(u) for u in all_units(4) if u not in mask}
        less = found.reference if metric == "nll" else 0.0
        for i in range(4):
            cost = plain.costs(llama, text.ids, [*mask, *slow.layer(i)], rows=3)[metric] - less
            assert plain.close(found.scores[f"{i}.ffn"], cost), (metric, i)
            assert (
                found.scores.get(f"{i}.attn", found.scores[f"{i}.ffn"]) == found.scores[f"{i}.ffn"]
            )


def test_a_layer_muted_whole_is_not_computed(
    llama: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    real = scoring.run_layer

    def run_layer(loaded: LoadedModel, layer: int, stream: torch.Tensor, *a: Any) -> Any:
        runs.append(len(stream))
        return real(loaded, layer, stream, *a)

    monkeypatch.setattr(scoring, "run_layer", run_layer)
    monkeypatch.setattr(scoring, "STEADY_TOKENS", text.ids.shape[1])  # nothing is filled up
    sweep_module.sweep(llama, text, llama.empty(), grain="layer")
    base, behind = 4, 3 + 2 + 1  # the base's own layers, and those behind each candidate
    assert sum(runs) == (base + behind) * len(text)
    runs.clear()
    sweep_module.sweep(llama, text, llama.empty())
    assert sum(runs) == (base + 2 * (4 + 3 + 2 + 1)) * len(text)


# What it costs


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], float]]:
    """How many candidates have gone through the layers in sweeps of three windows."""
    scored = [0]
    real = sweep_module.waves

    def waves(*args: Any, **more: Any) -> Any:
        for names, streams in real(*args, **more):
            scored[0] += streams.shape[1] * sum(name is not None for name in names)
            yield names, streams

    monkeypatch.setattr(sweep_module, "waves", waves)
    monkeypatch.setattr(racing, "waves", waves)
    yield lambda: scored[0] / 3


@pytest.mark.parametrize(
    ("method", "remove", "options", "expected"),
    [
        ("finercut", 8, {"as_published": True}, 8 * 9 / 2 - 2),  # M (M + 1) / 2 - 2
        ("finercut", 3, {}, 3 * 8 - 3 * 2 / 2),  # k M - k (k - 1) / 2
        ("blockpruner", 4, {}, 4 * 8 - 4 * 3 / 2),
        ("blockpruner", 2, {"only": "attn"}, 2 * 4 - 1),
        ("sleb", 2, {}, 2 * (4 - 2) - 2 * 1 / 2),  # k (L - 2) - k (k - 1) / 2
        ("perplexity-oneshot", 3, {}, 4),
        ("shortened-ppl", 2, {}, 8 - 4 - 2),
        ("shortgpt", 3, {}, 0),
        ("llm-drop-joint-iterative", 3, {}, 0),
        ("angular", 3, {}, 0),
        ("taylor", 3, {}, 0),
        ("random", 3, {}, 0),
    ],
)
def test_candidate_evaluations(
    method: str,
    remove: int,
    options: dict[str, Any],
    expected: float,
    evaluations: Callable[[], float],
) -> None:
    loaded = model_for(method)
    windows = plain.text(loaded, 3, LENGTH)
    run = prune(
        loaded, windows, loaded.empty(), method=method, remove=remove, early_exit=False, **options
    )
    assert evaluations() == expected
    for counted in ([step.layers for step in run.steps], [step.heads for step in run.steps]):
        assert sum(counted) == expected or (not expected and math.isnan(sum(counted)))


def test_block_influence_is_one_pass(
    llama: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    real = scores.through

    def through(loaded: LoadedModel, layer: int, stream: torch.Tensor, *a: Any, **k: Any) -> Any:
        runs.append(len(stream))
        return real(loaded, layer, stream, *a, **k)

    monkeypatch.setattr(scores, "through", through)
    prune(llama, text, llama.empty(), method="shortgpt", remove=3)
    assert sum(runs) == 4 * len(text)


# Ties


def headless() -> LoadedModel:
    """A head of zeros makes every candidate cost the same."""
    loaded = load("tiny:llama", dtype="fp32")
    torch.nn.init.zeros_(loaded.model.get_parameter("lm_head.weight"))
    return loaded


@pytest.mark.parametrize(
    ("method", "options", "order"),
    [
        ("finercut", {}, "0.attn 0.ffn 1.attn 1.ffn 2.attn 2.ffn 3.attn 3.ffn"),
        # Layer 0 is barred at first, and mlp comes before self_attn.
        (
            "finercut",
            {"as_published": True},
            "1.ffn 0.ffn 0.attn 1.attn 2.ffn 2.attn 3.ffn 3.attn",
        ),
        ("finercut", {"metric": "js-reversed"}, "0.attn 0.ffn 1.attn"),
        ("blockpruner", {}, "0.attn 1.attn 2.attn 3.attn 0.ffn 1.ffn 2.ffn 3.ffn"),
        ("sleb", {}, "1.attn 1.ffn 2.attn 2.ffn"),
        ("perplexity-oneshot", {}, "0.attn 0.ffn 1.attn 1.ffn 2.attn 2.ffn 3.attn 3.ffn"),
        ("taylor", {}, "0.attn 0.ffn 1.attn 1.ffn 2.attn 2.ffn 3.attn 3.ffn"),
    ],
)
def test_ties_go_by_the_methods_order(method: str, options: Any, order: str) -> None:
    loaded, expected = headless(), order.split()
    remove = len(expected) // (2 if METHODS[method].grain == "layer" else 1)
    windows = plain.text(loaded, 2, 20)
    run = prune(loaded, windows, loaded.empty(), method=method, remove=remove, **options)
    assert len({round(score, 6) for score in run.steps[1].scores.values()}) == 1
    assert run.removed == expected


def search(method: str, loaded: LoadedModel, **more: Any) -> Search:
    row = METHODS[method]
    groups = tuple(choices(row, loaded.toggleable(), loaded.empty()))
    return Search(loaded, Windows(torch.zeros(1, 2), 2, {}), row, row.metrics[0], groups, 1, **more)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("costs", "block", "finer", "published"),
    [
        ({"0.ffn": 1.0, "1.attn": 1.0, "2.attn": 1.0}, "1.attn", "0.ffn", "0.ffn"),
        ({"2.ffn": 1.0, "9.ffn": 1.0, "10.ffn": 1.0}, "2.ffn", "2.ffn", "10.ffn"),
        ({"1.attn": 1.0, "10.ffn": 1.0, "1.ffn": 1.0}, "1.attn", "1.attn", "1.ffn"),
        ({"0.attn": 1.0, "0.ffn": 0.5, "1.ffn": 0.5}, "0.ffn", "0.ffn", "0.ffn"),
        ({"0.attn": NAN, "0.ffn": 3.0, "1.attn": NAN}, "0.ffn", "0.ffn", "0.ffn"),
        ({"0.attn": NAN, "0.ffn": INF, "1.attn": -INF}, "1.attn", "1.attn", "1.attn"),
        ({"0.ffn": NAN, "1.attn": NAN}, "1.attn", "0.ffn", "0.ffn"),
        ({"0.ffn": -1e-9, "1.attn": 0.0}, "0.ffn", "0.ffn", "0.ffn"),
    ],
)
def test_the_lowest_score(
    llama: LoadedModel, costs: dict[str, float], block: str, finer: str, published: str
) -> None:
    by_group = {tuple(Mask.parse(unit, 20)): score for unit, score in costs.items()}
    for method, as_published, expected in (
        ("blockpruner", False, block),
        ("finercut", False, finer),
        ("finercut", True, published),
    ):
        found = lowest(search(method, llama, as_published=as_published), list(by_group), by_group)
        assert [str(unit) for unit in found] == [expected], method


# FinerCut's constraints


def test_layer_0_is_barred_from_the_first_removal_alone(llama: LoadedModel, text: Windows) -> None:
    run = prune(llama, text, llama.empty(), method="finercut", remove=2, as_published=True)
    assert set(run.steps[1].scores) == {str(u) for u in all_units(4) if u.layer}
    assert {"0.attn", "0.ffn"} <= set(run.steps[2].scores)
    assert run.options == {"as_published": True}
    plan = slow.greedy_units(llama, text.ids, slow.layers([1, 2, 3]), "js", 1)
    assert run.steps[1].removed == list(plan[0][0])


@pytest.mark.parametrize("share", [0.13, 0.25, 0.4])
def test_first_layers_are_barred_until_enough_is_gone(
    llama: LoadedModel, text: Windows, share: float
) -> None:
    run = prune(llama, text, llama.empty(), method="finercut", remove=6, protect_first_until=share)
    barred, until = int(8 * share / 2) + 1, int(8 * share) + 1
    for step in run.steps[1:]:
        lowest_layer = min(int(unit.partition(".")[0]) for unit in step.scores)
        assert lowest_layer == (barred if step.step <= until else 0) or step.step > until
        if step.step <= until:
            assert all(int(unit.partition(".")[0]) >= barred for unit in step.removed)
    assert {"0.attn", "0.ffn"} <= set(run.steps[until + 1].scores)
    assert run.options == {"protect_first_until": share}


# As the authors' code has it


@pytest.mark.parametrize("model_type", FAMILIES)
def test_shortgpt_as_published_takes_the_normed_stream(model_type: str) -> None:
    loaded = plain.tiny(model_type)
    windows = plain.text(loaded, 3, LENGTH)
    run = prune(loaded, windows, loaded.empty(), method="shortgpt", remove=2, as_published=True)
    normed = slow.influence_after_norm(loaded, windows.ids)
    agrees(run, slow.one_shot_layers(normed, range(4), 2))
    true = slow.influence(loaded, windows.ids)
    assert not plain.close(normed[3], true[3], relative=5e-4)
    assert plain.close(normed[2], true[2], floor=2e-6)


def test_another_seed_is_another_order(llama: LoadedModel, text: Windows) -> None:
    orders = set()
    for seed in range(5):
        run = prune(llama, text, llama.empty(), method="random", remove=4, seed=seed)
        agrees(run, slow.one_shot_layers(slow.drawn(llama, text.ids, seed), range(4), 4))
        assert run.options == ({"seed": seed} if seed else {})
        orders.add(tuple(run.removed))
    assert len(orders) > 2


def test_hidden_states_need_no_layers_run_one_by_one(llama: LoadedModel, text: Windows) -> None:
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    ours, theirs = (
        prune(each, text, llama.empty(), method="shortgpt", remove=2, as_published=True)
        for each in (whole, llama)
    )
    assert [step.scores for step in ours.steps] == [step.scores for step in theirs.steps]


@pytest.mark.parametrize("method", ["shortgpt", "bi-flat", "llm-drop-joint", "angular", "taylor"])
def test_a_text_that_is_taken_a_window_at_a_time(llama: LoadedModel, method: str) -> None:
    """Sums over the whole text come before cosines, means and absolute values."""
    windows = plain.text(llama, 3, 150)
    run = prune(llama, windows, llama.empty(), method=method, remove=2)
    agrees(run, PLANS[method](llama, windows.ids, 2))


# Gradients


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_taylor_leaves_the_model_as_it_was(dtype: str) -> None:
    """A narrow model's gradients are those of its rounded weights, in fp32."""
    loaded = load("tiny:llama", dtype=dtype)
    windows = plain.text(loaded, 3, LENGTH)
    before = {name: w.clone() for name, w in loaded.model.named_parameters()}
    places = [w.data_ptr() for w in loaded.model.parameters()]
    run = prune(loaded, windows, loaded.empty(), method="taylor", remove=1)
    expected = slow.on_units(slow.taylor(loaded, windows.ids))
    assert plain.differences(run.steps[1].scores, expected, relative=1e-3) == []
    for name, weight in loaded.model.named_parameters():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name])
        assert weight.grad is None
        assert not weight.requires_grad
    assert [w.data_ptr() for w in loaded.model.parameters()] == places


def test_taylor_of_a_long_text_holds_a_bounded_part_of_it(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of the portions are summed before the absolute value."""
    portions: list[int] = []
    real = replay.record

    def record(loaded: LoadedModel, ids: torch.Tensor) -> Any:
        portions.append(len(ids))
        return real(loaded, ids)

    monkeypatch.setattr(replay, "record", record)
    for count in (30, 90):
        portions.clear()
        windows = plain.text(llama, count, LENGTH)
        run = prune(llama, windows, llama.empty(), method="taylor", remove=2)
        agrees(run, PLANS["taylor"](llama, windows.ids, 2))
        most = windows_at_once(llama, LENGTH)
        assert max(portions) == most < 30 and sum(portions) == count
        streams = (llama.depth + 1) * most * LENGTH * 64
        assert streams <= sum(weight.numel() for weight in llama.layers.parameters())


@pytest.mark.parametrize("method", ["shortgpt", "llm-drop-joint", "angular", "taylor", "bi-flat"])
def test_what_needs_layers_says_so(llama: LoadedModel, text: Windows, method: str) -> None:
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    message = f"^{method} needs a model that runs layer by layer, and here a test says so: use a"
    with pytest.raises(ResultError, match=message):
        prune(whole, text, llama.empty(), method=method, remove=1)


# Windows


def brute_force(
    distance: np.ndarray, alive: list[int], may_go: set[int], n: int
) -> tuple[list[int], dict[int, float]]:
    """The best n candidates in a row among the layers that are on."""
    costs, members = {}, {}
    for i in range(len(alive) - n + 1):
        window = alive[i : i + n]
        if set(window) <= may_go:
            costs[window[0]] = float(distance[window[0], window[-1] + 1])
            members[window[0]] = window
    best = min(costs, key=lambda start: costs[start])
    return members[best], costs


@pytest.mark.parametrize("seed", range(6))
def test_windows_on_any_distances(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows jump about, so layers come back; protected layers end them, muted ones do not."""
    loaded = slow.deep("llama")
    windows = plain.text(loaded, 2, 16)
    random = np.random.default_rng(seed)
    distance = random.random((9, 9)).astype(np.float32)
    monkeypatch.setattr(
        window, "similarity", lambda *_, **__: SimpleNamespace(angular_last=distance)
    )
    start, protect = loaded.mask("3" if seed % 2 else ""), loaded.mask("6" if seed > 2 else "")
    alive = [layer for layer in range(8) if layer != 3 or not start]
    may_go = {layer for layer in alive if layer != 6 or not protect}
    count = 6 if protect else len(alive)
    count = min(
        count, max(len(run) for run in stretches([(Unit(i, "attn"),) for i in may_go], start))
    )
    run = prune(loaded, windows, start, method="angular", remove=count, protect=protect or None)
    gone: set[str] = set()
    came_back = 0
    for n, step in enumerate(run.steps[1:], 1):
        chosen, costs = brute_force(distance, alive, may_go, n)
        wanted = slow.texts(slow.layers(chosen))
        assert slow.texts(Mask.parse(step.mask, 8)) == wanted | slow.texts(start)
        assert (set(step.removed), set(step.restored)) == (wanted - gone, gone - wanted)
        assert step.scores == slow.on_units(costs)
        came_back += len(step.restored)
        gone = wanted
    assert came_back or seed not in (0, 1)


def test_stretches() -> None:
    groups = [tuple(slow.layer(i)) for i in (0, 1, 4, 5, 7)]

    def found(mask: str) -> list[list[int]]:
        return [[g[0].layer for g in run] for run in stretches(groups, Mask.parse(mask, 8))]

    assert found("") == [[0, 1], [4, 5], [7]]
    assert found("2-3") == [[0, 1, 4, 5], [7]]
    assert found("2-3,6") == [[0, 1, 4, 5, 7]]
    assert found("2-3.attn,6.ffn") == [[0, 1], [4, 5], [7]]
