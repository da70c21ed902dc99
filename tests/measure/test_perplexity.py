"""Perplexity against a slow reference of the same definition, whatever the stride."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from inspector.errors import MaskError, ResultError
from inspector.measure.perplexity import losses, perplexity, token_losses
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.surgery import replaced
from inspector.results.checks import Perplexity, buckets
from inspector.results.files import from_json
from inspector.units import Mask
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 24


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return plain.tiny("llama")


@pytest.mark.parametrize("model_type", plain.TYPES)
def test_every_family(model_type: str) -> None:
    loaded = plain.tiny(model_type)
    windows, mask = plain.text(loaded, 5, LENGTH, stride=10), loaded.mask("1.attn,2")
    total, tokens = plain.perplexity(loaded, windows.ids, 10, mask)
    ours = perplexity(loaded, windows, mask)
    assert ours.tokens == tokens == LENGTH - 1 + 4 * 10
    assert plain.close(ours.nll, total / tokens)
    assert plain.close(ours.perplexity, math.exp(total / tokens))
    total, tokens = plain.perplexity(loaded, windows.ids, 10)
    assert plain.close(ours.baseline["nll"], total / tokens)


@pytest.mark.parametrize("whole", [False, True], ids=["replayed", "plain"])
@pytest.mark.parametrize("stride", [1, 2, LENGTH // 2, LENGTH - 2, LENGTH - 1, LENGTH])
def test_every_stride(llama: LoadedModel, stride: int, whole: bool) -> None:
    loaded = dataclasses.replace(llama, not_replayable="a test says so") if whole else llama
    windows, mask = plain.text(llama, 14, LENGTH, stride=stride), llama.mask("2.ffn")
    total, tokens = plain.perplexity(llama, windows.ids, stride, mask)
    found = losses(loaded, windows, mask)
    assert len(found) == 14
    assert sum(count for _, count in found) == tokens
    assert plain.close(sum(each for each, _ in found), total)
    # Every token of the text but the first, and the first of each window that overlaps no other.
    text = LENGTH + 13 * stride
    assert tokens == text - 1 - (13 if stride == LENGTH else 0)


def test_context_makes_no_token_count_twice(llama: LoadedModel) -> None:
    """The same tokens, cut with and without overlap, are each predicted once."""
    overlapping = plain.text(llama, 9, LENGTH, stride=LENGTH // 2)
    apart = dataclasses.replace(overlapping, ids=overlapping.ids[::2], stride=LENGTH)
    more, fewer = (
        sum(count for _, count in losses(llama, windows, llama.empty()))
        for windows in (overlapping, apart)
    )
    assert more == 9 * (LENGTH // 2) + LENGTH // 2 - 1
    assert fewer == 5 * (LENGTH - 1)


def test_the_baseline_is_the_untouched_model(llama: LoadedModel) -> None:
    windows = plain.text(llama, 4, LENGTH)
    untouched = perplexity(llama, windows, llama.empty())
    assert untouched.baseline == {
        "perplexity": untouched.perplexity,
        "nll": untouched.nll,
        "tokens": untouched.tokens,
    }
    masked = perplexity(llama, windows, llama.mask("0"))
    assert masked.baseline == untouched.baseline
    assert masked.nll != untouched.nll


def test_a_known_baseline_is_used_and_not_measured_again(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, mask = plain.text(llama, 4, LENGTH), llama.mask("0")
    baseline = perplexity(llama, windows, llama.empty()).untouched
    expected = perplexity(llama, windows, mask)
    measured: list[str] = []
    from inspector.measure import perplexity as module

    def spy(loaded: Any, windows: Any, mask: Mask, **more: Any) -> Any:
        measured.append(str(mask))
        return token_losses(loaded, windows, mask, **more)

    monkeypatch.setattr(module, "token_losses", spy)
    ours = perplexity(llama, windows, mask, baseline=baseline)
    assert measured == ["0"]
    assert (ours.nll, ours.baseline) == (expected.nll, expected.baseline)
    assert ours.baseline_each == expected.baseline_each
    perplexity(llama, windows, mask)
    assert measured == ["0", "", "0"]


def test_what_a_result_says(llama: LoadedModel) -> None:
    windows = plain.text(llama, 4, LENGTH, stride=7)
    ours = perplexity(llama, windows, llama.mask("3.ffn,3.attn"))
    assert (ours.mask, ours.length, ours.stride) == ("3", LENGTH, 7)
    assert ours.provenance.corpus == windows.about
    assert ours.perplexity == math.exp(ours.nll)


def test_windows_are_compared_one_by_one(llama: LoadedModel) -> None:
    windows, mask = plain.text(llama, 6, LENGTH), llama.mask("2.ffn")
    ours = perplexity(llama, windows, mask)
    for each, muted in ((ours.each, mask), (ours.baseline_each, llama.empty())):
        totals = [plain.perplexity(llama, row[None], LENGTH, muted)[0] for row in windows.ids]
        assert [plain.close(a, b / (LENGTH - 1)) for a, b in zip(each, totals, strict=True)]
        assert len(set(each)) == 6
    change = ours.change
    assert change is not None
    assert change.difference == pytest.approx(ours.nll - ours.baseline["nll"])
    again = from_json(json.loads(ours.dumps()))
    assert isinstance(again, Perplexity) and again.change == change
    assert perplexity(llama, windows, llama.empty()).change is not None


def test_progress_rises_to_the_whole(llama: LoadedModel) -> None:
    shares: list[float] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        shares.append(done / total)

    for mask in ("", "1"):
        for stride in (100, 60):
            shares.clear()
            windows = plain.text(llama, 5, 100, stride=stride)
            perplexity(llama, windows, llama.mask(mask), progress=progress)
            assert shares == sorted(shares)
            assert shares[-1] == 1
            assert len(shares) > 3


def test_a_perplexity_beyond_all_bounds() -> None:
    """Exp overflows; the mean NLL is still a number, and the result still JSON."""
    loaded = load("tiny:llama", dtype="fp32")
    loaded.model.get_parameter("lm_head.weight").data *= 1e5
    ours = perplexity(loaded, plain.text(loaded, 2, LENGTH), loaded.empty())
    assert ours.nll > 1000
    assert ours.perplexity == math.inf
    again = from_json(json.loads(ours.dumps()))
    assert isinstance(again, Perplexity)
    assert math.isnan(again.perplexity)
    assert ours.change is not None
    assert again.nll == ours.nll


def test_refusals(llama: LoadedModel) -> None:
    with pytest.raises(MaskError, match="a model of 9 layers, the loaded model has 4"):
        perplexity(llama, plain.text(llama, 2, LENGTH), Mask(9))


@pytest.mark.parametrize(
    ("length", "sizes"),
    [(2, [1]), (3, [1, 1]), (17, [1] * 16), (18, [2] * 8 + [1]), (512, [32] * 15 + [31])],
)
def test_buckets_are_the_predicted_positions_in_equal_parts(length: int, sizes: list[int]) -> None:
    found = buckets(length)
    assert [at for part in found for at in part] == list(range(1, length))
    assert [len(part) for part in found] == sizes


@pytest.mark.parametrize("whole", [False, True], ids=["replayed", "plain"])
@pytest.mark.parametrize(("length", "stride"), [(24, 24), (24, 23), (24, 7), (40, 1), (3, 2)])
def test_by_position(llama: LoadedModel, length: int, stride: int, whole: bool) -> None:
    loaded = dataclasses.replace(llama, not_replayable="a test says so") if whole else llama
    windows, mask = plain.text(llama, 5, length, stride=stride), llama.mask("1.attn,2")
    ours = perplexity(loaded, windows, mask)
    for means, units in ((ours.by_position, mask), (ours.baseline_by_position, llama.empty())):
        at: dict[int, list[float]] = {}
        for number, ids in enumerate(windows.ids):
            logits = plain.logits(llama, ids[None], units)[0].double().log_softmax(-1)
            for place in range(1, length):
                if number == 0 or place >= length - stride:
                    at.setdefault(place, []).append(-float(logits[place - 1, ids[place]]))
        parts = [[value for place in part for value in at[place]] for part in buckets(length)]
        assert ours.position_tokens == [len(part) for part in parts]
        for mean, part in zip(means, parts, strict=True):
            assert plain.close(mean, math.fsum(part) / len(part))
    weighed = zip(ours.by_position, ours.position_tokens, strict=True)
    assert sum(ours.position_tokens) == ours.tokens
    assert plain.close(math.fsum(mean * count for mean, count in weighed) / ours.tokens, ours.nll)


def test_positions_come_back_from_a_file_and_through_a_known_baseline(llama: LoadedModel) -> None:
    windows, mask = plain.text(llama, 4, LENGTH), llama.mask("0")
    ours = perplexity(llama, windows, mask)
    again = from_json(json.loads(ours.dumps()))
    assert again == ours
    assert perplexity(llama, windows, mask, baseline=ours.untouched).by_position == ours.by_position
    # A file, or a baseline, of a time without positions.
    old = {key: value for key, value in ours.to_json().items() if "position" not in key}
    before = from_json(old)
    assert isinstance(before, Perplexity) and before.by_position == before.position_tokens == []
    bare = dataclasses.replace(ours.untouched, by_position=[])
    assert perplexity(llama, windows, mask, baseline=bare).by_position == []
    for wrong in ({"by_position": [1.0]}, {"position_tokens": []}):
        with pytest.raises(ResultError, match=r"by_position|have 12 parts"):
            from_json({**ours.to_json(), **wrong})


def test_logits_that_are_no_numbers_give_no_perplexity(llama: LoadedModel) -> None:
    output: Any = llama.model.get_output_embeddings()
    with replaced(output, lambda rows: torch.full((*rows.shape[:2], 300), torch.nan)):
        ours = perplexity(llama, plain.text(llama, 2, LENGTH), llama.mask("1"))
    assert math.isnan(ours.perplexity) and ours.no_number and ours.change is None
    again = from_json(json.loads(ours.dumps()))
    assert isinstance(again, Perplexity) and again.no_number
