"""What a search keeps from one step to the next is what it would compute again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from inspector.measure import kept as kept_module
from inspector.measure import waves as waves_module
from inspector.measure.corpus import Windows
from inspector.measure.kept import Kept, Trunk, stride_for, trunk_bytes
from inspector.measure.metrics import METRICS
from inspector.measure.pruning import prune
from inspector.measure.racing import race
from inspector.measure.scoring import final_streams
from inspector.measure.sweep import sweep, together
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import mute_units
from inspector.units import Mask, all_units
from tests import plain
from tests import plain_methods as slow

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 24


@pytest.fixture(scope="module")
def deep() -> LoadedModel:
    return slow.deep("llama")


@pytest.fixture(scope="module")
def text(deep: LoadedModel) -> Windows:
    return plain.text(deep, 4, LENGTH)


@pytest.fixture
def layers_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that trunks have gone through."""
    run: list[int] = []
    real = kept_module.through

    def through(loaded: LoadedModel, layer: int, *args: Any, **more: Any) -> torch.Tensor:
        run.append(layer)
        return real(loaded, layer, *args, **more)

    monkeypatch.setattr(kept_module, "through", through)
    return run


def end_of(trunk: Trunk, mask: Mask) -> torch.Tensor:
    with mute_units(trunk.loaded, mask), torch.no_grad():
        return trunk.end()


@pytest.mark.parametrize("bound", [0, 10**9])
def test_a_trunk_is_the_forward_pass_under_its_mask(
    deep: LoadedModel, text: Windows, bound: int, layers_run: list[int]
) -> None:
    kept = Kept(bound)
    for mask in ("", "3.attn", "3.attn,6", "3.attn,5.ffn,6", "5.ffn", "0.ffn,5.ffn", "0.ffn,5.ffn"):
        there = deep.mask(mask)
        found = end_of(kept.trunk(deep, 0, text.ids, there), there)
        assert torch.equal(found, final_streams(deep, text.ids, there)), mask
        found.zero_()  # whoever has asked for it may use it up
    every = list(range(8))
    # From the first layer in which a mask differs from the one before on; the last one not at all.
    again = [every, every[3:], every[6:], every[5:], every[3:], every, []]
    assert layers_run == [layer for some in (again if bound else [every] * 7) for layer in some]


def test_the_bound_holds(deep: LoadedModel) -> None:
    windows = plain.text(deep, 6, LENGTH)
    one = trunk_bytes(deep, windows.ids[:2])
    assert one == 9 * 2 * LENGTH * 64 * 4
    kept = Kept(one + one // 9)
    for first in (0, 2, 4):
        ids, mask = windows.ids[first : first + 2], deep.mask("2")
        assert kept.untouched(deep, first, ids).equal(final_streams(deep, ids, deep.empty()))
        trunk = kept.trunk(deep, first, ids, mask)
        assert end_of(trunk, mask).equal(final_streams(deep, ids, mask))
        assert bool(trunk.candidates) == (first == 0)
        assert kept.bytes == one + one // 9
    assert kept.trunk(deep, 0, windows.ids[:2], deep.mask("2")).candidates


@pytest.mark.parametrize("metric", ["js", "nll"])
def test_scores_with_what_is_kept_are_the_same_bits(
    deep: LoadedModel, text: Windows, metric: str
) -> None:
    kept, chosen = Kept(), together(all_units(8), "unit")
    for mask in ("", "4.ffn", "4.ffn,6", "1.attn,4.ffn"):
        there = deep.mask(mask)
        with_it = sweep(deep, text, there, metric=metric, kept=kept)
        assert with_it.scores == sweep(deep, text, there, metric=metric).scores
        if metric == "js":
            left = [each for each in chosen if each[0] not in there]
            asked: dict[str, Any] = {"metric": METRICS["js"]}
            found = race(deep, text, there, left, kept=kept, **asked)
            assert found.scores == race(deep, text, there, left, **asked).scores


@pytest.fixture
def candidates_run(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """The candidates that have gone through each layer behind their own."""
    run: Counter[int] = Counter()
    real = waves_module.through_in_place

    def through(
        loaded: LoadedModel, layer: int, rows: torch.Tensor, *args: Any, **more: Any
    ) -> None:
        run[layer] += len(rows)
        real(loaded, layer, rows, *args, **more)

    monkeypatch.setattr(waves_module, "through_in_place", through)
    return run


def measured(
    deep: LoadedModel, text: Windows, mask: Mask, metric: str, kept: Kept
) -> dict[str, float]:
    if metric == "nll":
        return sweep(deep, text, mask, kept=kept).scores
    left = [each for each in together(all_units(8), "unit") if each[0] not in mask]
    found = race(deep, text, mask, left, metric=METRICS[metric], early_exit=False, kept=kept)
    return {str(each[0]): score for each, score in found.scores.items()}


@pytest.mark.parametrize("metric", ["js", "nll"])
def test_candidates_go_on_from_where_the_mask_has_changed(
    deep: LoadedModel, text: Windows, metric: str, candidates_run: Counter[int]
) -> None:
    kept, none = Kept(), Kept(candidate_bound=0)
    for mask, expected in (
        ("", [0, 2, 4, 6, 8, 10, 12, 14]),  # each candidate from its own layer on
        ("", [0, 0, 0, 0, 0, 0, 12, 14]),
        ("4.ffn", [0, 0, 0, 0, 8, 9, 11, 13]),
        ("4.ffn,6.attn", [0, 0, 0, 0, 0, 0, 11, 12]),
        ("6.attn", [0, 0, 0, 0, 8, 10, 12, 13]),
        ("1.attn,6.attn", [0, 2, 3, 5, 7, 9, 11, 12]),
    ):
        there = deep.mask(mask)
        candidates_run.clear()
        ours = measured(deep, text, there, metric, kept)
        assert [candidates_run[layer] // len(text) for layer in range(8)] == expected, mask
        assert ours == measured(deep, text, there, metric, none) != {}
    assert none.bytes < kept.bytes


def test_the_bound_on_candidates_holds(deep: LoadedModel, text: Windows) -> None:
    stream = text.ids.numel() * 64 * 4
    all_of_them = (4 + 8 + 12) * stream  # 2 units a layer, before the layers 2, 4 and 6
    expected = measured(deep, text, deep.empty(), "nll", Kept(0))
    for bound, taken in ((all_of_them, all_of_them), (7 * stream - 1, 6 * stream), (0, 0)):
        kept = Kept(candidate_bound=bound)
        for _ in range(2):
            assert measured(deep, text, deep.empty(), "nll", kept) == expected
            assert kept.bytes == trunk_bytes(deep, text.ids) + taken
    kept = Kept()
    measured(deep, text, deep.empty(), "nll", kept)
    kept.trunk(deep, 0, text.ids, deep.mask("3.attn"))
    assert kept.bytes == trunk_bytes(deep, text.ids) + 4 * stream  # those behind layer 3 are gone


def test_candidates_of_a_long_text_are_kept_at_fewer_layers() -> None:
    loaded = slow.deep("llama", 40)
    every = 80 * 40 * 1000 * 64 * 4 / 2  # of 1,000 tokens, at every layer
    for share, stride in ((4, 2), (1 / 2, 2), (1 / 3, 3), (1 / 7, 7), (1 / 50, 10)):
        assert stride_for(loaded, 1000, int(every * share) + 1) == stride
    assert stride_for(loaded, 0, 1) == 2


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("method", ["finercut", "blockpruner", "sleb"])
def test_a_run_is_the_same_and_computes_less(
    deep: LoadedModel, text: Windows, method: str, lazy: bool, layers_run: list[int]
) -> None:
    def run(memory: int | None) -> tuple[list[dict[str, float]], int]:
        layers_run.clear()
        found = prune(deep, text, deep.empty(), method=method, remove=4, lazy=lazy, memory=memory)
        return [step.scores for step in found.steps], len(layers_run)

    scores, fewer = run(None)
    again, more = run(10**9)  # a bound: nothing is kept
    assert scores == again
    assert fewer < more
