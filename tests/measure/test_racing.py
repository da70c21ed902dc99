"""Early exit leaves the search what it is: the same goes at the same score, to the last bit."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from inspector.errors import MaskError
from inspector.measure import racing, scoring
from inspector.measure.corpus import Windows
from inspector.measure.metrics import DIVERGENCES, METRICS
from inspector.measure.pruning import prune
from inspector.measure.racing import race
from inspector.measure.sweep import BESIDES, together
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.trajectory import Trajectory
from inspector.units import Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 64


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture(scope="module")
def text(llama: LoadedModel) -> Windows:
    return plain.text(llama, 8, LENGTH)


def same_search(run: Trajectory, whole: Trajectory) -> None:
    """The same units went, at the same scores; a bound is below its score and above the lowest."""
    assert run.removed == whole.removed
    assert run.steps[0] == dataclasses.replace(whole.steps[0], seconds=run.steps[0].seconds)
    for step, full in zip(run.steps[1:], whole.steps[1:], strict=True):
        lowest = full.scores[full.removed[0]]
        assert step.score_status[step.removed[0]] == "exact"
        assert list(step.scores) == list(full.scores)
        assert set(full.score_status.values()) == {"exact"}
        for unit, score in step.scores.items():
            if step.score_status[unit] == "exact":
                assert score == full.scores[unit], unit
            else:
                assert lowest < score <= full.scores[unit], unit
                assert step.score_status[unit] == "lower_bound"
        assert step.layers <= full.layers == full.heads == len(full.scores)
        assert step.heads <= step.layers


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("metric", sorted(DIVERGENCES))
def test_the_same_goes_at_the_same_score(model_type: str, metric: str) -> None:
    loaded = plain.tiny(model_type)
    windows, mask = plain.text(loaded, 8, LENGTH), loaded.mask("2.ffn")
    run, whole = (
        prune(loaded, windows, mask, method="finercut", metric=metric, remove=3, early_exit=early)
        for early in (True, False)
    )
    same_search(run, whole)
    assert any("lower_bound" in step.score_status.values() for step in run.steps)
    assert sum(step.heads for step in run.steps) < sum(step.heads for step in whole.steps)
    assert (run.options, whole.options) == ({}, {"no_early_exit": True})


@pytest.mark.parametrize("cut", [(1, 300), (2, 20), (7, 40), (3, 100)])
def test_texts_of_any_cut(llama: LoadedModel, cut: tuple[int, int]) -> None:
    windows = plain.text(llama, *cut)
    same_search(
        prune(llama, windows, llama.empty(), method="finercut", remove=2),
        prune(llama, windows, llama.empty(), method="finercut", remove=2, early_exit=False),
    )


@pytest.mark.parametrize("options", [{"as_published": True}, {"protect_first_until": 0.3}])
def test_units_that_join_later(llama: LoadedModel, text: Windows, options: Any) -> None:
    """Some were barred at the step before, and have no score yet."""
    run, whole = (
        prune(llama, text, llama.empty(), method="finercut", remove=4, early_exit=early, **options)
        for early in (True, False)
    )
    same_search(run, whole)
    assert run.options == options


def test_a_model_that_cannot_be_replayed(llama: LoadedModel, text: Windows) -> None:
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    runs = [
        prune(whole, text, whole.empty(), method="finercut", remove=2, early_exit=early)
        for early in (True, False)
    ]
    same_search(*runs)
    assert runs[0].removed == prune(llama, text, llama.empty(), method="finercut", remove=2).removed


def test_ties_are_measured_in_full(text: Windows) -> None:
    """Of candidates that cost the same none may be left behind: the method's order decides."""
    loaded = load("tiny:llama", dtype="fp32")
    torch.nn.init.zeros_(loaded.model.get_parameter("lm_head.weight"))
    run = prune(loaded, text, loaded.empty(), method="finercut", remove=3)
    assert all(set(step.score_status.values()) == {"exact"} for step in run.steps[1:])
    twins = load("tiny:llama", dtype="fp32")
    for name, weight in twins.layers[3].named_parameters():
        weight.data = torch.zeros_like(weight) if "norm" not in name else weight.data
        twins.layers[2].get_parameter(name).data = weight.data  # layers 2 and 3 do nothing
    run = prune(twins, text, twins.empty(), method="finercut", metric="kl", remove=1)
    step = run.steps[1]
    assert step.removed == ["2.attn"]
    assert {u: step.score_status[u] for u in ("2.attn", "2.ffn", "3.attn", "3.ffn")} == (
        dict.fromkeys(("2.attn", "2.ffn", "3.attn", "3.ffn"), "exact")
    )


def test_a_score_is_a_candidates_own(
    llama: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever others are measured with it, in whatever waves and order, to the last bit."""
    chosen = together(all_units(4), "unit")
    row = METRICS["js"]
    whole = race(llama, text, llama.empty(), chosen, metric=row, early_exit=False)
    assert not whole.bounds
    for some in ([chosen[5]], chosen[2:7:2], chosen[:3]):
        found = race(llama, text, llama.empty(), some, metric=row, early_exit=False)
        assert found.scores == {each: whole.scores[each] for each in some}
    for wave in (1, 3):
        group = scoring.steady_rows(llama.dtype, 4 * LENGTH) * LENGTH
        memory = (wave + BESIDES) * group * 64 * 4
        found = race(llama, text, llama.empty(), chosen, metric=row, memory=memory)
        assert found.stream_bytes == memory
        for each in chosen:
            if each not in found.bounds:
                assert found.scores[each] == whole.scores[each]
    for leaders in (1, 8):  # takes more or less time alone
        monkeypatch.setattr(racing, "LEADERS", leaders)
        found = race(llama, text, llama.empty(), chosen, metric=row)
        assert min(chosen, key=found.scores.__getitem__) == min(
            chosen, key=whole.scores.__getitem__
        )


def test_what_is_counted_is_what_was_computed(
    llama: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, windows = [0], [0]
    real_values, real_waves = racing.token_values, racing.waves

    def token_values(metric: Any, logits: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
        tokens[0] += logits.shape[0] * logits.shape[1]
        return real_values(metric, logits, against)

    def waves(*args: Any, **more: Any) -> Any:
        for names, streams in real_waves(*args, **more):
            windows[0] += streams.shape[0] * streams.shape[1]
            yield names, streams

    monkeypatch.setattr(racing, "token_values", token_values)
    monkeypatch.setattr(racing, "waves", waves)
    monkeypatch.setattr(scoring, "HEAD_TOKENS", 2)  # nothing is filled up
    found = race(llama, text, llama.empty(), together(all_units(4), "unit"), metric=METRICS["js"])
    assert found.layers == windows[0] / 8 < 8
    assert found.heads == tokens[0] / (8 * LENGTH) < found.layers


@pytest.mark.parametrize("metric", sorted(DIVERGENCES))
def test_parts_are_never_below_nought(metric: str) -> None:
    """What early exit rests on, also where rounding is all that there is."""
    row = METRICS[metric]
    generator = torch.Generator().manual_seed(0)
    for scale, apart in itertools.product((0.1, 3.0, 30.0), (0.0, 1e-7, 1e-6, 1e-4, 1.0)):
        dense = scale * torch.randn(200, 301, generator=generator)
        other = dense + apart * scale * torch.randn(dense.shape, generator=generator)
        assert row.values(other[None], row.prepare(dense)).min() >= 0


def test_no_window(llama: LoadedModel, text: Windows) -> None:
    with pytest.raises(MaskError, match="there is no window of text"):
        nothing = Windows(text.ids[:0], LENGTH, {})
        race(llama, nothing, llama.empty(), [(Unit(0, "attn"),)], metric=METRICS["js"])
