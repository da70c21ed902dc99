"""A lazy search scores what earlier scores do not rule out, and says what it did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from inspector.errors import ResultError
from inspector.jobs import Cancelled, Progress
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS, lazily
from inspector.measure.methods.choices import Group
from inspector.measure.methods.lazily import rescored
from inspector.measure.methods.search import Measured, Search
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.results.files import from_json
from inspector.results.trajectory import Trajectory
from inspector.units import Mask, Unit
from inspector.units import unit as named
from tests import plain
from tests import plain_methods as slow

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def deep() -> LoadedModel:
    """Eight layers: sixteen candidates, so that there is what to leave out."""
    return slow.deep("llama")


@pytest.fixture(scope="module")
def text(deep: LoadedModel) -> Windows:
    return plain.text(deep, 3, 40)


def statuses(run: Trajectory, number: int) -> list[str]:
    return list(run.steps[number].score_status.values())


def carried_over(metric: str, score: float, was: float, now: float) -> float:
    """A score of the step before, if 95 % is left of what the candidate added to the mask's."""
    if metric == "perplexity":
        return math.exp(math.log(now) + 0.95 * (math.log(score) - math.log(was)))
    if metric == "nll":  # which is what a candidate adds
        return 0.95 * score
    return now + 0.95 * (score - was)


@pytest.mark.parametrize(
    ("method", "metric"),
    [("finercut", "js"), ("finercut", "nll"), ("blockpruner", "perplexity"), ("sleb", "nll")],
)
def test_what_a_lazy_run_says_is_so(
    deep: LoadedModel, text: Windows, method: str, metric: str
) -> None:
    """Fresh scores are the exact ones; of the others 95 % of what they added is left."""
    run = prune(
        deep, text, deep.empty(), method=method, metric=metric, remove=4, lazy=True, verify=True
    )
    assert run.options == {"lazy": True}
    assert "approximation" in run.search
    assert set(statuses(run, 1)) == {"exact"}
    grain = 2 if METHODS[method].grain == "layer" else 1
    was = run.steps[0].perplexity if metric == "perplexity" else 0.0
    for before, step in zip(run.steps[1:], run.steps[2:], strict=False):
        mask = deep.mask(before.mask)
        whole = prune(
            deep, text, mask, method=method, metric=metric, remove=1, early_exit=False
        ).steps[1]
        fresh = {unit for unit, status in step.score_status.items() if status == "exact"}
        assert step.layers == step.heads == len(fresh) / grain
        assert set(step.removed) <= fresh
        order = sorted(named(unit, deep.depth) for unit in before.scores)
        places = [order.index(named(unit, deep.depth)) for unit in before.removed]
        near = (min(places) - 1, max(places) + 1)
        assert {str(order[at]) for at in near if 0 <= at < len(order)} <= fresh
        now = before.scores[before.removed[0]]
        for unit, score in step.scores.items():
            if unit in fresh:
                assert plain.close(score, whole.scores[unit], relative=1e-6), unit
            else:
                assert step.score_status[unit] == "stale"
                expected = carried_over(metric, before.scores[unit], was, now)
                assert plain.close(score, expected, relative=1e-6), unit
                assert score > step.scores[step.removed[0]]
        was = now
    last = run.steps[-1]
    exact = prune(deep, text, deep.mask(run.steps[-2].mask), method=method, metric=metric, remove=1)
    assert run.verified == {
        "step": 4,
        "removed": exact.removed,
        "same": exact.removed == last.removed,
    }
    again = from_json(run.to_json())
    assert isinstance(again, Trajectory)
    assert (again.verified, again.search) == (run.verified, run.search)


def test_some_are_left_out_by_a_divergence(deep: LoadedModel, text: Windows) -> None:
    run = prune(deep, text, deep.empty(), method="finercut", remove=3, lazy=True)
    assert "stale" in statuses(run, 2)
    assert not run.verified
    assert run.steps[2].layers < 15


def fake(
    monkeypatch: pytest.MonkeyPatch, now: Mapping[Group, float]
) -> tuple[Search, list[list[str]]]:
    """A search in which candidates cost what is written, and what it asks for."""
    asked: list[list[str]] = []

    def scored(search: Search, mask: Mask, groups: Sequence[Group], progress: Progress) -> Measured:
        assert not search.early_exit  # a bound would be carried over as a score
        asked.append([str(group[0]) for group in groups])
        return Measured({each: now[each] for each in groups}, layers=len(groups), heads=len(groups))

    monkeypatch.setattr(lazily, "scored", scored)
    loaded: Any = None
    row = METHODS["finercut"]
    return Search(loaded, Windows(loaded, 2, {}), row, "js", tuple(now), 1), asked


@pytest.mark.parametrize(
    ("before", "now", "batches"),
    [
        # The best fresh score is below the next earlier one after four.
        ([1, 2, 3, 4, 9, 9, 9, 9], [5, 6, 7, 8, 9, 9, 9, 9], [4]),
        # A tie with the next earlier one is not below it: all eight of the second batch follow.
        ([1, 2, 3, 4, 5, 9, 9, 9], [5, 6, 7, 8, 9, 9, 9, 9], [4, 4]),
        # In the order of the earlier scores, not of the forward pass.
        ([9, 9, 9, 9, 4, 3, 2, 1], [9, 9, 9, 9, 8, 7, 6, 5], [4]),
        # Never scored: first of all. What could not be scored: last, and only if it must be.
        ([None, 2, 3, 4, NAN, 9, 9, 9], [8, 5, 6, 7, 1, 9, 9, 9], [4]),
        ([1, 1, 1, 1, 2, 2, 2, INF], [NAN] * 8, [4, 4]),
        # The one that has fallen is missed: an approximation.
        ([1, 2, 3, 4, 9, 9, 9, 9], [5, 6, 7, 8, 0, 9, 9, 9], [4]),
    ],
)
def test_the_rule(
    monkeypatch: pytest.MonkeyPatch, before: list[Any], now: list[float], batches: list[int]
) -> None:
    groups = [(Unit(layer, "attn"),) for layer in range(8)]
    search, asked = fake(monkeypatch, dict(zip(groups, now, strict=True)))
    known = {group: score for group, score in zip(groups, before, strict=True) if score is not None}
    found = rescored(search, Mask(8), groups, known, lambda *_, **__: None)
    assert [len(each) for each in asked] == batches
    fresh = {unit for each in asked for unit in each}
    for group, new in zip(groups, now, strict=True):
        is_fresh = str(group[0]) in fresh
        assert found.status(group) == ("exact" if is_fresh else "stale")
        expected = new if is_fresh else known[group]
        assert found.scores[group] == expected or math.isnan(expected)
    assert found.layers == found.heads == len(fresh) == sum(batches)
    worst = [INF if score is None or math.isnan(score) else score for score in before]
    left_out = [worst[at] for at, group in enumerate(groups) if str(group[0]) not in fresh]
    taken = [known[g] for g in groups if str(g[0]) in fresh and g in known]
    assert all(a <= b for a in taken if not math.isnan(a) for b in left_out)


@pytest.mark.parametrize(
    ("method", "metric"), [("finercut", "js"), ("finercut", "norm"), ("blockpruner", "perplexity")]
)
def test_it_may_begin_with_a_mask(
    deep: LoadedModel, text: Windows, method: str, metric: str
) -> None:
    """What that mask costs is measured: what candidates add counts from there."""
    start = deep.mask("1.ffn,6.attn")
    run = prune(deep, text, start, method=method, metric=metric, remove=2, lazy=True)
    first, second = run.steps[1:]
    now, was = first.scores[first.removed[0]], run.steps[0].perplexity
    if metric != "perplexity":
        was = plain.costs(deep, text.ids, start)[metric]
    kept = [unit for unit, status in second.score_status.items() if status == "stale"]
    assert kept
    for unit in kept:
        expected = carried_over(metric, first.scores[unit], was, now)
        assert plain.close(second.scores[unit], expected, relative=1e-4), unit


def test_verifying_can_say_no(
    deep: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the lazy search is made to take another unit, the check names the right one."""

    def first_alone(
        search: Search, mask: Mask, groups: Sequence[Group], before: Any, progress: Progress
    ) -> Measured:
        return Measured({group: float(at) for at, group in enumerate(groups)})

    monkeypatch.setattr("inspector.measure.methods.one_by_one.rescored", first_alone)
    run = prune(deep, text, deep.empty(), method="finercut", remove=1, lazy=True, verify=True)
    right = prune(deep, text, deep.empty(), method="finercut", remove=1).removed
    assert run.removed == ["0.attn"] != right
    assert run.verified == {"step": 1, "removed": right, "same": False}


def test_progress_and_cancelling(deep: LoadedModel, text: Windows) -> None:
    shares: list[float] = []
    limit = [INF]

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        shares.append(done / total)
        if len(shares) > limit[0]:
            raise Cancelled

    def run() -> Trajectory:
        return prune(
            deep, text, deep.empty(), method="finercut", remove=2, lazy=True, verify=True,
            progress=progress,
        )  # fmt: skip

    run()
    assert shares == sorted(shares) and shares[-1] == 1
    count = len(shares)
    for place in (3, count // 2, count - 1):
        shares.clear()
        limit[0] = place
        with pytest.raises(Cancelled):
            run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "finercut", "verify": True}, "--verify checks a lazy search: add --search laz"),
        ({"method": "shortgpt", "lazy": True}, "shortgpt by influence does not score candidates"),
        ({"method": "perplexity-oneshot", "lazy": True}, "one by one at every step: leave out"),
        ({"method": "llm-drop-joint-iterative", "lazy": True}, "leave out --search lazy."),
        ({"method": "angular", "lazy": True}, "leave out --search lazy."),
    ],
)
def test_refusals(deep: LoadedModel, text: Windows, arguments: Any, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        prune(deep, text, deep.empty(), remove=1, **arguments)
