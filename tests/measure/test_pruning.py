"""Greedy pruning equals the plain way's order and scores, and records what it should."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from inspector.errors import MaskError, ResultError
from inspector.jobs import Cancelled
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import _lowest, prune
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results import Trajectory
from inspector.units import KINDS, Mask, Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 40


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture(scope="module")
def text(llama: LoadedModel) -> Windows:
    return plain.text(llama, 3, LENGTH)


def attention_first(loaded: LoadedModel) -> list[Unit]:
    return [Unit(layer, kind) for kind in KINDS for layer in range(loaded.depth)]


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "gemma2", "opt", "qwen3_moe"])
@pytest.mark.parametrize(
    ("method", "metric"), [("finercut", "js"), ("finercut", "nll"), ("blockpruner", "perplexity")]
)
def test_order_and_scores_equal_the_plain_way(model_type: str, method: str, metric: str) -> None:
    loaded = plain.tiny(model_type)
    windows, mask = plain.text(loaded, 3, LENGTH), loaded.mask("2.ffn")
    ours = prune(loaded, windows, mask, method=method, metric=metric, remove=3)
    units = all_units(4) if method == "finercut" else attention_first(loaded)
    left = [unit for unit in units if unit not in mask]
    expected = plain.greedy(loaded, windows.ids, left, metric, remove=3, muted=mask, rows=3)
    assert ours.removed == [unit for unit, _ in expected]
    for step, (_, scores) in zip(ours.steps[1:], expected, strict=True):
        assert plain.differences(step.scores, scores) == []
        assert set(step.score_status.values()) == {"exact"}


@pytest.mark.parametrize("metric", METHODS["finercut"].metrics)
def test_finercut_by_every_metric(llama: LoadedModel, text: Windows, metric: str) -> None:
    ours = prune(llama, text, llama.empty(), method="finercut", metric=metric, remove=2)
    expected = plain.greedy(llama, text.ids, all_units(4), metric, remove=2, rows=3)
    assert ours.removed == [unit for unit, _ in expected]
    assert ours.metric == metric


@pytest.mark.parametrize("method", METHODS)
def test_what_every_step_records(llama: LoadedModel, text: Windows, method: str) -> None:
    start = llama.mask("1.ffn")
    ours = prune(llama, text, start, method=method, remove=4)
    assert (ours.mask, ours.method, ours.finished) == ("1.ffn", method, True)
    assert ours.metric == METHODS[method].metrics[0]
    assert [step.step for step in ours.steps] == [0, 1, 2, 3, 4]

    first = ours.steps[0]
    assert (first.mask, first.removed, first.restored) == ("1.ffn", [], [])
    assert (first.scores, first.score_status) == ({}, {})

    mask = start
    for before, step in zip([None, *ours.steps], ours.steps, strict=False):
        if before is not None:
            assert set(step.scores) == {str(u) for u in all_units(4) if u not in mask}
            (unit,) = step.removed
            assert step.scores[unit] == min(step.scores.values())
            mask = mask.mute(Mask.parse(unit, 4))
        assert step.mask == str(mask)
        assert step.perplexity == pytest.approx(perplexity(llama, text, mask).perplexity, rel=1e-6)
        on = [unit for unit in all_units(4) if unit not in mask]
        hidden, inner, keys = 64, 128, 32
        size = {"attn": 2 * hidden * (hidden + keys), "ffn": 3 * hidden * inner}
        rest = 2 * 259 * hidden + (2 * 4 + 1) * hidden  # embedding, head and norms
        assert step.parameters == rest + sum(size[unit.kind] for unit in on)
        assert step.kv_bytes_per_token == 4 * 2 * keys * sum(unit.kind == "attn" for unit in on)
        assert step.seconds > 0
    assert ours.removed == [unit for step in ours.steps for unit in step.removed]


def test_everything_can_go(llama: LoadedModel, text: Windows) -> None:
    ours = prune(llama, text, llama.empty(), method="finercut", remove=8)
    assert ours.steps[-1].mask == "0-3"
    assert sorted(ours.removed) == [str(unit) for unit in all_units(4)]
    assert ours.steps[-1].kv_bytes_per_token == 0


@pytest.mark.parametrize("only", KINDS)
def test_one_kind_alone(llama: LoadedModel, text: Windows, only: str) -> None:
    ours = prune(llama, text, llama.empty(), method="blockpruner", remove=4, only=only)
    assert {unit.partition(".")[2] for unit in ours.removed} == {only}
    assert set(ours.steps[1].scores) == {f"{layer}.{only}" for layer in range(4)}
    with pytest.raises(MaskError, match=r"^cannot remove 5 units: 4 are left that can be\.$"):
        prune(llama, text, llama.empty(), method="blockpruner", remove=5, only=only)


def test_until_a_perplexity(llama: LoadedModel, text: Windows) -> None:
    whole = prune(llama, text, llama.empty(), method="finercut", remove=8)
    values = [step.perplexity for step in whole.steps]
    bound = sorted(values)[4]  # five are at most this
    first_above = next(n for n, value in enumerate(values) if value > bound)
    ours = prune(llama, text, llama.empty(), method="finercut", until_perplexity=bound)
    assert len(ours.steps) == first_above + 1
    assert ours.finished
    both = prune(llama, text, llama.empty(), method="finercut", until_perplexity=math.inf, remove=2)
    assert len(both.steps) == 3
    never = prune(llama, text, llama.empty(), method="finercut", until_perplexity=1e-3)
    assert [step.removed for step in never.steps] == [[]]  # it is above the bound to begin with
    assert never.finished


@pytest.mark.parametrize("method", METHODS)
def test_perplexity_on_another_text(llama: LoadedModel, text: Windows, method: str) -> None:
    check = plain.text(llama, 2, 30, stride=15, seed=9)
    alone = prune(llama, text, llama.empty(), method=method, remove=2)
    ours = prune(llama, text, llama.empty(), method=method, remove=2, check=check)
    assert ours.removed == alone.removed
    assert (ours.check_corpus, ours.provenance.corpus) == (check.about, text.about)
    assert not ours.checked_on_search_text
    assert alone.checked_on_search_text
    for step, same in zip(ours.steps, alone.steps, strict=True):
        expected = perplexity(llama, check, Mask.parse(step.mask, 4)).perplexity
        assert step.perplexity == pytest.approx(expected, rel=1e-6)
        assert step.perplexity != same.perplexity
        assert plain.differences(step.scores, same.scores) == []


@pytest.mark.parametrize("method", METHODS)
def test_overlapping_windows_keep_one_definition(llama: LoadedModel, method: str) -> None:
    windows = plain.text(llama, 4, LENGTH, stride=13)
    ours = prune(llama, windows, llama.empty(), method=method, remove=2)
    for step in ours.steps:
        expected = perplexity(llama, windows, Mask.parse(step.mask, 4)).perplexity
        assert step.perplexity == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_cannot_be_replayed(llama: LoadedModel, text: Windows, method: str) -> None:
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    ours, theirs = (
        prune(each, text, llama.empty(), method=method, remove=3) for each in (whole, llama)
    )
    assert ours.removed == theirs.removed
    for step, other in zip(ours.steps, theirs.steps, strict=True):
        assert plain.close(step.perplexity, other.perplexity)
        assert plain.differences(step.scores, other.scores) == []


# Ties


def test_ties_go_by_the_methods_order() -> None:
    """A head of zeros makes every candidate cost the same."""
    loaded = load("tiny:llama", dtype="fp32")
    torch.nn.init.zeros_(loaded.model.get_parameter("lm_head.weight"))
    windows = plain.text(loaded, 2, 20)
    by_block = prune(loaded, windows, loaded.empty(), method="blockpruner", remove=8)
    assert len(set(by_block.steps[1].scores.values())) == 1
    assert by_block.removed == [str(unit) for unit in attention_first(loaded)]
    by_layer = prune(loaded, windows, loaded.empty(), method="finercut", remove=8)
    assert set(by_layer.steps[1].scores.values()) == {0.0}
    assert by_layer.removed == [str(unit) for unit in all_units(4)]
    assert by_block.steps[3].perplexity == pytest.approx(259)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "block", "finer"),
    [
        ({"0.ffn": 1.0, "1.attn": 1.0, "2.attn": 1.0}, "1.attn", "0.ffn"),
        ({"2.ffn": 1.0, "9.ffn": 1.0, "10.ffn": 1.0}, "2.ffn", "2.ffn"),
        ({"0.attn": 1.0, "0.ffn": 0.5, "1.ffn": 0.5}, "0.ffn", "0.ffn"),
        ({"0.attn": NAN, "0.ffn": 3.0, "1.attn": NAN}, "0.ffn", "0.ffn"),
        ({"0.attn": NAN, "0.ffn": INF, "1.attn": -INF}, "1.attn", "1.attn"),
        ({"0.ffn": NAN, "1.attn": NAN}, "1.attn", "0.ffn"),
        ({"0.ffn": -1e-9, "1.attn": 0.0}, "0.ffn", "0.ffn"),
    ],
)
def test_the_lowest_score(scores: dict[str, float], block: str, finer: str) -> None:
    assert str(_lowest(scores, METHODS["blockpruner"])) == block
    assert str(_lowest(scores, METHODS["finercut"])) == finer


# Progress and errors


def test_partial_runs(llama: LoadedModel, text: Windows) -> None:
    partials: list[Trajectory] = []
    shares: list[float] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        shares.append(done / total)
        if partial is not None:
            assert isinstance(partial, Trajectory)
            partials.append(partial)

    final = prune(llama, text, llama.empty(), method="finercut", remove=3, progress=progress)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    lengths = [len(each.steps) for each in partials]
    assert lengths == sorted(lengths)
    assert set(lengths) == {1, 2, 3, 4}
    assert not any(each.finished for each in partials)
    for each in partials:
        assert each.steps == final.steps[: len(each.steps)]
    assert final.provenance.seconds > 0


def test_a_cancelled_run_keeps_its_steps(llama: LoadedModel, text: Windows) -> None:
    last: list[Trajectory] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        if partial is not None:
            last.append(partial)
        if done > 2.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        prune(llama, text, llama.empty(), method="finercut", remove=4, progress=progress)
    assert [step.step for step in last[-1].steps] == [0, 1, 2]
    assert not last[-1].finished


def test_refusals(llama: LoadedModel, text: Windows) -> None:
    def run(arguments: dict[str, Any]) -> None:
        arguments = {"method": "finercut", **arguments}
        prune(llama, text, llama.mask(arguments.pop("mask", "")), **arguments)

    for arguments, message in (
        ({"remove": 9}, "cannot remove 9 units: 8 are left that can be."),
        ({"remove": 6, "mask": "0,1.attn"}, "cannot remove 6 units: 5 are left that can be."),
        ({"remove": 0}, "remove 1 unit or more."),
        ({"remove": -1}, "remove 1 unit or more."),
        ({}, "say how many units to remove, or up to which perplexity."),
        ({"until_perplexity": 0.0}, "the perplexity to stop at must be above 0."),
        ({"until_perplexity": NAN}, "the perplexity to stop at must be above 0."),
        ({"remove": 1, "only": "mlp"}, "--only takes attn or ffn, not 'mlp'."),
        (
            {"remove": 1, "mask": "0-3"},
            "no unit is left to score: everything that can be muted is muted.",
        ),
    ):
        with pytest.raises(MaskError) as raised:
            run(arguments)
        assert str(raised.value) == message

    with pytest.raises(ResultError) as raised:
        run({"method": "magic", "remove": 1})
    assert str(raised.value) == "unknown method 'magic': choose one of finercut, blockpruner."
    with pytest.raises(ResultError) as raised:
        run({"method": "blockpruner", "metric": "js", "remove": 1})
    assert str(raised.value) == "blockpruner goes by perplexity, not by 'js'."
    with pytest.raises(MaskError, match="a model of 9 layers"):
        prune(llama, text, Mask(9), method="finercut", remove=1)
