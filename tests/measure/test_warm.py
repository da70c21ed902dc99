"""Perplexity from kept streams equals the cold one to the last bit and computes only the new."""

from __future__ import annotations

import random
from typing import Any

import pytest

from inspector.jobs import Cancelled
from inspector.measure import warm
from inspector.measure.corpus import Windows
from inspector.measure.perplexity import losses, perplexity, token_losses
from inspector.measure.scoring import through
from inspector.measure.warm import Warm
from inspector.model.loaded import LoadedModel
from inspector.units import Mask, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

WALK = ("", "3.ffn", "3", "2.attn,3", "2.attn", "0-3", "", "1.attn", "1.attn", "0.ffn")


@pytest.fixture(scope="module", params=["llama", "gemma2", "opt", "gpt_neox"])
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return plain.tiny(request.param)


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return plain.tiny("llama")


@pytest.mark.parametrize("stride", [40, 25])
@pytest.mark.parametrize("boundaries", [99, 2, 1, 0])
def test_every_step_of_a_walk_equals_the_cold_one(
    family: LoadedModel, stride: int, boundaries: int
) -> None:
    windows = plain.text(family, 7, 40, stride=stride)
    one = windows.ids.numel() * family.model.config.get_text_config().hidden_size * 4
    kept = Warm(family, windows, bound=boundaries * one)
    for text in WALK:
        mask = family.mask(text)
        assert losses(family, windows, mask, warm=kept) == losses(family, windows, mask)
        # Beside the bound there is what enters the first layer, which costs nothing to hold.
        assert kept.bytes <= (min(boundaries, family.depth) + 1) * one
    assert (kept.bytes > 0) == (boundaries > 0)


def test_any_walk(llama: LoadedModel) -> None:
    windows, draw = plain.text(llama, 3, 30), random.Random(0)
    kept, mask = Warm(llama, windows), llama.empty()
    for _ in range(25):
        mask = mask.toggle(draw.choice(all_units(llama.depth)))
        assert losses(llama, windows, mask, warm=kept) == losses(llama, windows, mask)


def test_only_what_comes_after_the_change_is_computed(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = plain.text(llama, 3, 30)  # few enough to go through together
    kept, ran = Warm(llama, windows), []

    def watched(loaded: LoadedModel, layer: int, *rest: Any, **more: Any) -> Any:
        ran.append(layer)
        return through(loaded, layer, *rest, **more)

    monkeypatch.setattr(warm, "through", watched)
    for text, expected in (
        ("", [0, 1, 2, 3]),
        ("2.ffn", [2, 3]),
        ("2.ffn,3.attn", [3]),
        ("2.ffn,3.attn", []),
        ("3.attn", [2, 3]),
        ("1.attn,3.attn", [1, 2, 3]),
    ):
        ran.clear()
        losses(llama, windows, llama.mask(text), warm=kept)
        assert ran == expected, text


def test_a_cancel_leaves_nothing_wrong_behind(llama: LoadedModel) -> None:
    windows = plain.text(llama, 20, 40)
    kept = Warm(llama, windows)

    def stop(done: float, total: float, note: str = "", partial: object = None) -> None:
        if done > 10:
            raise Cancelled

    losses(llama, windows, llama.empty(), warm=kept)
    with pytest.raises(Cancelled):
        token_losses(llama, windows, llama.mask("1"), warm=kept, progress=stop)
    for text in ("2", "1"):
        mask = llama.mask(text)
        assert losses(llama, windows, mask, warm=kept) == losses(llama, windows, mask)


def test_an_error_inside_a_layer_leaves_nothing_wrong_behind(llama: LoadedModel) -> None:
    windows = plain.text(llama, 3, 30)
    kept = Warm(llama, windows)
    losses(llama, windows, llama.empty(), warm=kept)

    def broken(*_: object) -> None:
        raise RuntimeError("in the middle")

    hook = llama.layers[3].register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        losses(llama, windows, llama.mask("1"), warm=kept)
    hook.remove()
    mask = llama.mask("3.attn")
    assert losses(llama, windows, mask, warm=kept) == losses(llama, windows, mask)


def test_perplexity_takes_it_and_its_baseline_stays_the_untouched_models(
    llama: LoadedModel,
) -> None:
    windows: Windows = plain.text(llama, 3, 30)
    kept, mask = Warm(llama, windows), Mask.parse("1.attn", llama.depth)
    first = perplexity(llama, windows, llama.empty(), warm=kept)
    found = perplexity(llama, windows, mask, warm=kept)
    cold = perplexity(llama, windows, mask)
    assert (found.nll, found.baseline) == (cold.nll, cold.baseline)
    assert found.baseline["nll"] == first.nll
