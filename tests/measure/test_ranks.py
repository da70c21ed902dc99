"""Several processes find what one finds, to the last bit; here each is a thread with a model."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from inspector.errors import RankError
from inspector.measure import racing
from inspector.measure.methods.evolution import Evolution
from inspector.measure.perplexity import losses
from inspector.measure.pruning import prune
from inspector.measure.ranks import ALONE, Ranks
from inspector.measure.sweep import sweep
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.trajectory import Step, Trajectory
from inspector.units import Unit
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

T = TypeVar("T")


@cache
def model(rank: int) -> LoadedModel:
    """One for each thread: a forward pass is changed for as long as units are muted."""
    return load("tiny:llama", dtype="fp32")


def together(size: int, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` gives in each of so many threads that share a store."""
    store, found, failed = HashStore(), {}, {}

    def run(rank: int) -> None:
        torch.set_num_threads(1)  # is a thread's own
        try:
            found[rank] = work(Ranks(rank, size, store=store))
        except BaseException as error:
            failed[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failed:
        raise failed[min(failed)]
    return [found[rank] for rank in range(size)]


def bare(run: Trajectory) -> Trajectory:
    """Without times, and without what each process holds for itself."""
    stamp = dataclasses.replace(run.provenance, seconds=0.0, created="")
    steps = [dataclasses.replace(step, seconds=0.0, stream_bytes=0) for step in run.steps]
    return dataclasses.replace(run, steps=steps, provenance=stamp)


SMALL = Evolution(generations=3, offspring=4, starts=5, search_tokens=(64, 192))

RUNS: list[dict[str, Any]] = [
    {"method": "finercut", "early_exit": False},
    {"method": "finercut", "metric": "norm", "early_exit": False},
    {"method": "finercut", "metric": "nll"},
    {"method": "finercut", "lazy": True, "verify": True},
    {"method": "blockpruner"},
    {"method": "blockpruner", "lazy": True, "verify": True},
    {"method": "sleb", "remove": 2},
    {"method": "shortgpt"},
    {"method": "llm-drop-joint"},
    {"method": "llm-drop-attn-iterative"},
    {"method": "taylor"},
    {"method": "bi-flat"},
    {"method": "angular"},
    {"method": "perplexity-oneshot"},
    {"method": "random", "seed": 3},
    {"method": "evopress", "remove": 4, "evolution": SMALL},
    {"method": "ours", "remove_params": "20%"},
]


@pytest.mark.parametrize("asked", RUNS, ids=lambda asked: "-".join(map(str, asked.values()))[:40])
def test_the_run_is_that_of_one_process(asked: dict[str, Any]) -> None:
    asked = asked if "remove_params" in asked else {"remove": 3, **asked}
    text, check = plain.text(model(0), 13, 64), plain.text(model(0), 6, 96, stride=48)

    def run(ranks: Ranks) -> Trajectory:
        loaded = model(ranks.rank)
        return prune(loaded, text, loaded.empty(), check=check, ranks=ranks, **asked)

    whole = bare(run(ALONE))
    for size in (2, 3):
        for found in together(size, run):
            assert repr(bare(found)) == repr(whole)  # NaN equals NaN


@pytest.mark.parametrize("share", [1, 8])
@pytest.mark.parametrize(("metric", "samples"), [("js", 13), ("kl", 2), ("norm", 8), ("js", 1)])
def test_with_early_exit_the_same_goes_at_the_same_score(
    metric: str, samples: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "SHARE", share)
    text = plain.text(model(0), samples, 64)

    def run(ranks: Ranks, **more: Any) -> Trajectory:
        loaded = model(ranks.rank)
        return prune(
            loaded, text, loaded.empty(), method="finercut", metric=metric, remove=4,
            ranks=ranks, **more,
        )  # fmt: skip

    whole = run(ALONE, early_exit=False)
    for size in (2, 3):
        first, *others = together(size, run)
        assert all(repr(bare(other)) == repr(bare(first)) for other in others)
        assert first.removed == whole.removed
        for step, full in zip(first.steps[1:], whole.steps[1:], strict=True):
            same_scores(step, full)


def same_scores(step: Step, full: Step) -> None:
    """Exact scores are those of the whole measurement, bounds lie between the lowest and theirs."""
    lowest = full.scores[full.removed[0]]
    assert step.score_status[step.removed[0]] == "exact"
    assert step.perplexity == full.perplexity
    for unit, score in step.scores.items():
        if step.score_status[unit] == "exact":
            assert score == full.scores[unit]
        else:
            assert lowest < score <= full.scores[unit]
    assert step.heads <= step.layers <= full.layers


def test_candidates_are_shared_out_and_drop_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one rank finds rules out before another comes to it: hardly more is measured."""
    monkeypatch.setattr(racing, "SHARE", 1)
    text = plain.text(model(0), 8, 64)

    def run(ranks: Ranks) -> Trajectory:
        loaded = model(ranks.rank)
        return prune(loaded, text, loaded.empty(), method="finercut", remove=3, ranks=ranks)

    alone, (two, _) = run(ALONE), together(2, run)
    assert two.removed == alone.removed
    spent, before = (sum(step.layers for step in each.steps) for each in (two, alone))
    whole = sum(len(step.scores) for step in alone.steps)
    assert spent < 0.9 * whole and spent < 1.3 * before


@pytest.mark.parametrize("metric", ["nll", "js"])
def test_a_sweep_and_a_loss(metric: str) -> None:
    text = plain.text(model(0), 11, 48)

    def scores(ranks: Ranks) -> dict[str, float]:
        loaded = model(ranks.rank)
        return sweep(loaded, text, loaded.mask("1.ffn"), metric=metric, ranks=ranks).scores

    def values(ranks: Ranks) -> list[tuple[float, int]]:
        loaded = model(ranks.rank)
        return losses(loaded, text, loaded.mask("1.ffn"), ranks=ranks)

    assert together(3, scores) == [scores(ALONE)] * 3
    assert together(3, values) == [values(ALONE)] * 3


def test_less_work_for_each() -> None:
    """Not the same work done several times: the layers of one rank see its windows alone."""
    text, seen = plain.text(model(0), 12, 64), dict.fromkeys(range(3), 0)

    def count(rank: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            seen[rank] += args[0].shape[0] * args[0].shape[1]

        return hook

    def run(ranks: Ranks) -> None:
        loaded = model(ranks.rank)
        mlp = loaded.modules(Unit(2, "ffn"))[0]
        handle = mlp.register_forward_pre_hook(count(ranks.rank))
        prune(loaded, text, loaded.empty(), method="blockpruner", remove=2, ranks=ranks)
        handle.remove()

    run(ALONE)
    whole, seen[0] = seen[0], 0
    together(3, run)
    assert sum(seen.values()) == whole
    assert all(each == whole / 3 for each in seen.values())


def test_what_is_exchanged_is_everybodys_and_exact() -> None:
    values = [0.1 + 0.2, math.inf, 1e-300]

    def work(ranks: Ranks) -> list[list[float]]:
        return [ranks.everybodys(values[ranks.rank] / 2**n) for n in range(20)]

    for found in together(3, work):
        assert found == [[value / 2**n for value in values] for n in range(20)]
    assert math.isnan(together(2, lambda ranks: ranks.of_first(lambda: math.nan))[1])
    assert ALONE.everybodys(None) == [None]
    assert [list(Ranks(rank, 3).own(range(7))) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


CHANGES: list[tuple[str, Callable[[LoadedModel, dict[str, Any]], LoadedModel], str]] = [
    ("weights", lambda loaded, _: dataclasses.replace(loaded, weights="others"), "weights is ran"),
    (
        "option",
        lambda loaded, asked: asked.update(only="attn") or loaded,
        "options only is nothing",
    ),
    ("bound", lambda loaded, asked: asked.update(remove=2) or loaded, "bounds remove is 1 on rank"),
    ("verify", lambda loaded, asked: asked.update(verify=True) or loaded, "verify is False on"),
    (
        "text",
        lambda loaded, asked: asked.update(windows=7) or loaded,
        "text windows is 4 on rank 0",
    ),
]


@pytest.mark.parametrize(("what", "change", "words"), CHANGES, ids=[each[0] for each in CHANGES])
def test_ranks_that_disagree_are_refused(
    what: str, change: Callable[..., LoadedModel], words: str
) -> None:
    said = []

    def run(ranks: Ranks) -> None:
        asked: dict[str, Any] = {"method": "finercut", "remove": 1, "lazy": True}
        loaded = model(ranks.rank)
        if ranks.rank == 2:
            loaded = change(loaded, asked)
        text = plain.text(loaded, asked.pop("windows", 4), 32)
        with pytest.raises(RankError, match="rank 2 is about to do something else") as error:
            prune(loaded, text, loaded.empty(), ranks=ranks, **asked)
        said.append(str(error.value))

    together(3, run)
    assert len(said) == 3 and len(set(said)) == 1 and words in said[0]
