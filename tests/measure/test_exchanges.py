"""The project's own method: what its steps and swaps are, and where it begins again."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from inspector.errors import OutOfMemory
from inspector.jobs import Cancelled
from inspector.measure.corpus import Windows
from inspector.measure.methods import exchanges
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.results.trajectory import Trajectory
from inspector.units import Mask, Unit
from tests import plain
from tests import plain_methods as slow

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 8


@pytest.fixture(scope="module")
def deep() -> LoadedModel:
    """Eight layers: sixteen candidates."""
    return slow.deep("llama")


@pytest.fixture(scope="module")
def text(deep: LoadedModel) -> Windows:
    return plain.text(deep, 8, LENGTH)


def ours(loaded: LoadedModel, text: Windows, **asked: Any) -> Trajectory:
    return prune(loaded, text, loaded.empty(), method="ours", **asked)


def masks(run: Trajectory) -> list[set[str]]:
    return [slow.texts(Mask.parse(step.mask, run.depth)) for step in run.steps]


def test_swaps_equal_the_definition(deep: LoadedModel, text: Windows) -> None:
    run = ours(deep, text, remove=10)
    plan = slow.exchange(deep, text.ids, 10)
    assert masks(run)[1:] == [gone for gone, _ in plan]
    assert any(step.restored for step in run.steps), "no swap was made: the text tests nothing"
    for before, step in pairwise(masks(run)):
        assert len(step) == len(before) + 1


def test_it_goes_by_the_loss_where_that_is_asked_for(deep: LoadedModel, text: Windows) -> None:
    run = ours(deep, text, remove=5, metric="loss-per-parameter")
    assert masks(run)[1:] == [gone for gone, _ in slow.exchange(deep, text.ids, 5, metric="nll")]


def test_both_halves_are_better_off_after_a_swap(deep: LoadedModel, text: Windows) -> None:
    run = ours(deep, text, remove=10)
    swapped = [step for step in run.steps if step.restored]
    for step in swapped:
        before = Mask.parse(run.steps[step.step - 1].mask, 8)
        after = Mask.parse(step.mask, 8)
        kinds = [[unit.kind for unit in mask] for mask in (before, after)]
        assert abs(kinds[0].count("attn") - kinds[1].count("attn")) <= 1
        # Some one removal led here: the swapped mask beats it on either half.
        halves = text.ids[::2], text.ids[1::2]
        known = [
            unit for unit in deep.toggleable() if str(unit) in step.scores and unit not in before
        ]
        first = min(known, key=lambda unit: step.scores[str(unit)])
        for half in halves:
            plainly = plain.costs(deep, half, before.mute([first]))["kl"]
            assert plain.costs(deep, half, after)["kl"] < plainly


@pytest.mark.parametrize(
    ("model_type", "count", "length", "share"),
    [
        ("llama", 8, 8, "8%"),
        ("llama", 8, 8, "15%"),
        ("llama", 5, 24, "30%"),
        ("gpt_neox", 5, 24, "20%"),
        ("opt", 2, 16, "30%"),
    ],
)
def test_exchanges_of_any_size_meet_the_share(
    model_type: str, count: int, length: int, share: str
) -> None:
    loaded = slow.deep(model_type)
    text = plain.text(loaded, count, length)
    run = ours(loaded, text, remove_params=share)
    wanted = float(share[:-1]) / 100 * loaded.parameters
    plan = slow.exchange(loaded, text.ids, len(run.steps) - 1, wanted=math.ceil(wanted))
    assert masks(run)[1:] == [gone for gone, _ in plan]
    for step, (_, scores) in zip(run.steps[1:], plan, strict=True):
        assert plain.differences(step.scores, scores, floor=1e-4) == []
    gone = [run.steps[0].parameters - step.parameters for step in run.steps]
    assert gone[-2] < wanted <= gone[-1]
    if model_type == "opt":
        assert any(step.restored for step in run.steps), "nothing came back: this tests less"


@pytest.mark.parametrize("asked", [{"remove": 10}, {"remove_params": "15%"}])
def test_one_window_has_no_second_half_and_makes_no_exchange(
    deep: LoadedModel, text: Windows, asked: dict[str, Any]
) -> None:
    one = dataclasses.replace(text, ids=text.ids[:1])
    run = ours(deep, one, **asked)
    wanted = math.ceil(0.15 * deep.parameters) if "remove_params" in asked else 0
    plan = slow.exchange(deep, one.ids, len(run.steps) - 1, wanted=wanted)
    assert masks(run)[1:] == [gone for gone, _ in plan]
    assert not any(step.restored for step in run.steps)


def test_what_is_muted_or_protected_stays_so(deep: LoadedModel, text: Windows) -> None:
    run = prune(
        deep, text, deep.mask("2.attn,5"), method="ours", remove=5, protect=deep.mask("0,7.ffn")
    )
    for step in run.steps:
        mask = Mask.parse(step.mask, 8)
        assert {Unit(2, "attn"), Unit(5, "attn"), Unit(5, "ffn")} <= mask.muted
        assert not {Unit(0, "attn"), Unit(0, "ffn"), Unit(7, "ffn")} & mask.muted
    only = ours(deep, text, remove=5, only="ffn")
    assert {unit[2:] for unit in only.removed} == {"ffn"}


def test_it_goes_on_from_its_journal(deep: LoadedModel, text: Windows, tmp_path: Path) -> None:
    whole = ours(deep, text, remove_params="40%")

    def cancel(done: float, total: float, note: str = "", partial: Any = None) -> None:
        if isinstance(partial, Trajectory) and len(partial.steps) == 5:
            raise Cancelled

    journal = tmp_path / "run.journal"
    with pytest.raises(Cancelled):
        ours(deep, text, remove_params="40%", journal=journal, progress=cancel)
    again = ours(deep, text, remove_params="40%", journal=journal, resume=True)
    assert [step.mask for step in again.steps] == [step.mask for step in whole.steps]
    assert [step.scores for step in again.steps] == [step.scores for step in whole.steps]
    assert [step.score_status for step in again.steps] == [s.score_status for s in whole.steps]


def test_a_bound_on_memory_changes_nothing_or_says_what_it_takes(
    deep: LoadedModel, text: Windows
) -> None:
    run = ours(deep, text, remove=4)
    stream = LENGTH * 64 * 4
    tight = ours(deep, text, remove=4, memory=40 * stream)
    assert masks(tight) == masks(run)
    with pytest.raises(OutOfMemory, match="--memory"):
        ours(deep, text, remove=4, memory=3 * stream)


def test_progress_rises_to_the_end(deep: LoadedModel, text: Windows) -> None:
    shares: list[float] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        shares.append(done / total)

    ours(deep, text, remove=4, progress=progress)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_the_constants_are_those_of_the_definition() -> None:
    found = exchanges.LAYERS, exchanges.BACK, exchanges.INSTEAD, exchanges.FILLED, exchanges.ROUNDS
    assert found == (8, 2, 12, 6, 4)
