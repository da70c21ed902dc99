"""Greedy pruning equals the plain way's order and scores, and records what it should."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest

from inspector.errors import MaskError, ResultError
from inspector.jobs import Cancelled
from inspector.measure.budget import Budget
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.results.trajectory import Trajectory
from inspector.units import KINDS, Mask, Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 40
NAN = math.nan
GREEDY = ["finercut", "blockpruner"]


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
    ours = prune(loaded, windows, mask, method=method, metric=metric, remove=3, early_exit=False)
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


@pytest.mark.parametrize("method", GREEDY)
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
    assert not ours.remark and not both.remark


def test_a_perplexity_that_is_passed_at_the_start_or_never(
    llama: LoadedModel, text: Windows
) -> None:
    def run(mask: str, bound: float, **more: Any) -> Trajectory:
        start = llama.mask(mask)
        return prune(llama, text, start, method="reverse", until_perplexity=bound, **more)

    least, most = (run(mask, math.inf).steps[0].perplexity for mask in ("", "2,3"))
    for mask, bound, more in (("", least * 0.99, {}), ("2,3", most * 0.99, {"remove": 1})):
        with pytest.raises(MaskError, match=r"^nothing is to be removed: .*, [\d.]+, is above"):
            run(mask, bound, **more)
    assert len(run("", least).steps) > 1  # it is not above itself
    never = run("", math.inf)
    assert never.remark == "all that may go is gone, and the perplexity was never above inf"
    assert never.finished and never.steps[-1].mask == "0-3"
    protected = run("", 1e9, protect=llama.mask("0"))
    assert protected.steps[-1].mask == "1-3" and "never above 1e+09" in protected.remark


def taken(run: Trajectory, field: str) -> list[float]:
    """What has been taken away after each step."""
    values = [getattr(step, field) for step in run.steps]
    return [values[0] - value for value in values]


@pytest.mark.parametrize("method", ["finercut", "perplexity-oneshot", "angular"])
@pytest.mark.parametrize(
    ("bound", "field"),
    [("remove_params", "parameters"), ("remove_kv", "kv_bytes_per_token")],
)
@pytest.mark.parametrize("share", ["5%", 0.4])
def test_shares_end_at_the_first_step_at_or_above(
    llama: LoadedModel, text: Windows, method: str, bound: str, field: str, share: Any
) -> None:
    part = {"5%": 0.05, 0.4: 0.4}[share]
    whole = {"parameters": llama.parameters, "kv_bytes_per_token": 4 * 4 * 2 * 32}[field]
    run = prune(llama, text, llama.mask("1.attn"), method=method, **{bound: share})
    gone = taken(run, field)
    assert gone[-1] >= part * whole
    assert all(amount < part * whole for amount in gone[:-1])
    assert run.finished
    most = 7 if method == "finercut" else 4  # one unit is muted to begin with
    longer = prune(llama, text, llama.mask("1.attn"), method=method, remove=most)
    assert [step.mask for step in run.steps] == [
        step.mask for step in longer.steps[: len(run.steps)]
    ]


def test_shares_are_exact(llama: LoadedModel, text: Windows) -> None:
    """A quarter of the cache is one attention of four, to the byte; 0.07 of 100 is 7."""
    run = prune(llama, text, llama.empty(), method="blockpruner", only="attn", remove_kv="25%")
    assert len(run.removed) == 1
    run = prune(llama, text, llama.empty(), method="blockpruner", only="attn", remove_kv="25.1%")
    assert len(run.removed) == 2
    run = prune(llama, text, llama.empty(), method="blockpruner", remove_kv="25%")
    assert [unit.partition(".")[2] for unit in run.removed].count("attn") == 1
    assert taken(run, "kv_bytes_per_token")[-1] == llama.kv_bytes_left(llama.empty()) / 4
    for written in ("50%", "50 %", " 0.5 ", 0.5):
        assert Budget.of(remove_params=written).shares[0] == Fraction(1, 2)
    budget = Budget.of(remove_params=0.07)
    assert budget.steps([(1, 0)] * 50, (100, 0), grain="unit") == 7


def test_the_first_bound_that_is_met_ends_the_run(llama: LoadedModel, text: Windows) -> None:
    def steps(**bounds: Any) -> int:
        return len(prune(llama, text, llama.empty(), method="blockpruner", **bounds).steps) - 1

    assert steps(remove=2, remove_params="60%") == 2
    assert steps(remove=7, remove_kv="25%", until_perplexity=math.inf) < 7


def test_a_budget_knows_how_many_steps_it_takes_at_most() -> None:
    sizes = [(30, 0), (10, 4), (10, 4), (50, 0)]
    cases: list[tuple[dict[str, Any], int]] = [
        ({"remove": 3}, 3),
        ({"remove_params": "10%"}, 1),
        ({"remove_params": 0.11}, 2),
        ({"remove_params": "20.1%"}, 3),
        ({"remove_kv": "50%"}, 3),  # the units without a cache may go first
        ({"remove_kv": 1}, 4),
        ({"until_perplexity": 3.0}, 4),
        ({"remove": 2, "remove_params": 1.0, "until_perplexity": 3.0}, 2),
    ]
    for bounds, expected in cases:
        assert Budget.of(**bounds).steps(sizes, (100, 8), grain="unit") == expected


@pytest.mark.parametrize(
    ("method", "protect", "never"),
    [
        ("finercut", "1,3.ffn", "1,3.ffn"),
        ("blockpruner", "0", "0"),
        ("shortgpt", "3", "3"),
        ("perplexity-oneshot", "0.ffn", "0"),  # half a layer keeps the whole
        ("angular", "3", "3"),
        ("reverse", "3", "3"),
        ("llm-drop-joint-iterative", "2", "2"),
    ],
)
def test_what_is_protected_stays(
    llama: LoadedModel, text: Windows, method: str, protect: str, never: str
) -> None:
    run = prune(
        llama, text, llama.empty(), method=method, until_perplexity=math.inf,
        protect=llama.mask(protect),
    )  # fmt: skip
    kept = llama.mask(never)
    assert Mask.parse(run.steps[-1].mask, 4) == llama.mask("0-3").unmute(kept)
    for step in run.steps:
        assert not any(str(unit) in step.scores for unit in kept)
    assert run.options == {"protect": protect}


@pytest.mark.parametrize("method", GREEDY)
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


@pytest.mark.parametrize("method", GREEDY)
def test_overlapping_windows_keep_one_definition(llama: LoadedModel, method: str) -> None:
    windows = plain.text(llama, 4, LENGTH, stride=13)
    ours = prune(llama, windows, llama.empty(), method=method, remove=2)
    for step in ours.steps:
        expected = perplexity(llama, windows, Mask.parse(step.mask, 4)).perplexity
        assert step.perplexity == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", GREEDY)
def test_a_model_that_cannot_be_replayed(llama: LoadedModel, text: Windows, method: str) -> None:
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    ours, theirs = (
        prune(each, text, llama.empty(), method=method, remove=3, early_exit=False)
        for each in (whole, llama)
    )
    assert ours.removed == theirs.removed
    for step, other in zip(ours.steps, theirs.steps, strict=True):
        assert plain.close(step.perplexity, other.perplexity)
        assert plain.differences(step.scores, other.scores) == []


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


SHARE = "--remove-{} takes a share such as 10% or 0.1, above 0 and up to 1."


def test_refusals(llama: LoadedModel, text: Windows) -> None:
    def run(arguments: dict[str, Any]) -> None:
        arguments = {"method": "finercut", **arguments}
        if "protect" in arguments:
            arguments["protect"] = llama.mask(arguments["protect"])
        prune(llama, text, llama.mask(arguments.pop("mask", "")), **arguments)

    for arguments, message in (
        ({"remove": 9}, "cannot remove 9 units: 8 are left that can be."),
        ({"remove": 6, "mask": "0,1.attn"}, "cannot remove 6 units: 5 are left that can be."),
        ({"remove": 0}, "remove 1 or more."),
        ({"remove": -1}, "remove 1 or more."),
        (
            {},
            "say when to stop: --remove, --remove-params, --remove-kv or --until-perplexity.",
        ),
        ({"remove_params": "0%"}, SHARE.format("params")),
        ({"remove_params": "110%"}, SHARE.format("params")),
        ({"remove_kv": "a lot"}, SHARE.format("kv")),
        ({"remove_kv": NAN}, SHARE.format("kv")),
        ({"remove_kv": "1e-999999999"}, SHARE.format("kv")),
        (
            {"remove_params": "90%"},
            "cannot remove 90 % of the parameters: what the method may remove holds 81.38 %.",
        ),
        (
            {"remove_kv": 0.5, "only": "ffn"},
            "cannot remove 50 % of the KV cache: what the method may remove holds 0 %.",
        ),
        (
            {"remove_kv": 0.6, "method": "sleb"},
            "cannot remove 60 % of the KV cache: what the method may remove holds 50 %.",
        ),
        (
            {"remove_kv": "76%", "method": "angular", "protect": "1"},
            "cannot remove 76 % of the KV cache: what the method may remove holds 50 %.",
        ),
        (
            {"remove": 3, "method": "angular", "protect": "2"},
            "cannot remove 3 layers: 2 are left that can be.",
        ),
        (
            {"remove": 1, "method": "sleb", "only": "attn"},
            "sleb removes whole layers: leave out --only.",
        ),
        (
            {"remove": 1, "protect": "0-3"},
            "nothing is left that finercut may remove: 0-3 is protected.",
        ),
        (
            {"remove": 1, "method": "shortened-ppl"},
            "nothing is left that shortened-ppl may remove: "
            "it keeps the first 4 layers and the last 2 layers.",
        ),
        (
            {"remove": 1, "method": "sleb", "protect": "1.attn", "mask": "2"},
            "nothing is left that sleb may remove: it keeps the first layer and the last layer, "
            "1.attn is protected, 2 is muted already.",
        ),
        (
            {"remove": 1, "method": "llm-drop-attn", "only": "ffn"},
            "nothing is left that llm-drop-attn may remove: it removes attn units, only ffn units "
            "are wanted.",
        ),
        (
            {"remove": 1, "method": "blockpruner", "protect_first_until": 0.4},
            "blockpruner bars no first layers: leave out --protect-first-until.",
        ),
        (
            {"remove": 1, "method": "sleb", "as_published": True},
            "sleb has nothing that is other as published: leave out --as-published, which is for "
            "finercut, shortgpt.",
        ),
        (
            {"remove": 1, "protect_first_until": 1.0},
            "--protect-first-until takes a share between 0 and 1, such as 0.4.",
        ),
        (
            {"remove": 1, "as_published": True, "protect": "1-3"},
            "--as-published bars layer 0 at first, and nothing else may go here.",
        ),
        (
            {"remove": 4, "protect_first_until": 0.6},
            "--protect-first-until 0.6 bars layers 0 to 2 until 5 units are gone, and only 2 "
            "others can go: choose a smaller share.",
        ),
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

    with pytest.raises(
        ResultError, match=r"^unknown method 'magic': choose one of finercut, block"
    ):
        run({"method": "magic", "remove": 1})
    with pytest.raises(ResultError) as raised:
        run({"method": "blockpruner", "metric": "js", "remove": 1})
    assert str(raised.value) == "blockpruner goes by perplexity, not by 'js'."
    with pytest.raises(MaskError, match="a model of 9 layers"):
        prune(llama, text, Mask(9), method="finercut", remove=1)


@pytest.mark.parametrize("method", ["taylor", "angular", "shortgpt", "magnitude-l1", "random"])
def test_memory_is_for_methods_that_sweep(method: str) -> None:
    loaded = plain.tiny("llama")
    text = plain.text(loaded, 2, 16)
    with pytest.raises(ResultError, match=f"{method} makes no sweep, whose streams --memory"):
        prune(loaded, text, loaded.empty(), method=method, remove=1, memory=1 << 30)
    assert prune(loaded, text, loaded.empty(), method="sleb", remove=1, memory=1 << 30).removed
