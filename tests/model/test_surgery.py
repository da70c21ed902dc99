"""The one place that changes a forward pass: what it refuses, and that it always puts things back.

That muting is exact in every family is in test_families.py.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import DynamicCache

from inspector.errors import MaskError
from inspector.jobs import Cancelled, Job
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import mute_units, muted, replaced
from inspector.units import Mask, Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = all_units(4)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture(scope="module")
def ids(loaded: LoadedModel) -> torch.Tensor:
    return plain.random_ids(loaded, 2, 12)


def untouched(loaded: LoadedModel) -> bool:
    return not any("forward" in module.__dict__ for module in loaded.model.modules())


@torch.no_grad()
def forward(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    return loaded.model(input_ids=ids, use_cache=False).logits


@given(st.frozensets(st.sampled_from(UNITS)), st.frozensets(st.sampled_from(UNITS)))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_two_masks_nested(
    loaded: LoadedModel, ids: torch.Tensor, outer: frozenset[Unit], inner: frozenset[Unit]
) -> None:
    with muted(loaded, Mask(4, outer)):
        with muted(loaded, Mask(4, inner)):
            both = forward(loaded, ids)
        alone = forward(loaded, ids)
    assert torch.equal(both, plain.logits(loaded, ids, outer | inner))
    assert torch.equal(alone, plain.logits(loaded, ids, outer))
    assert untouched(loaded)


def test_a_mask_for_another_depth_is_refused(loaded: LoadedModel) -> None:
    message = "a model of 5 layers, the loaded model has 4"
    with pytest.raises(MaskError, match=message), muted(loaded, Mask.parse("1", 5)):
        pytest.fail("the block was entered")
    assert untouched(loaded)


def test_a_unit_that_cannot_be_muted_is_refused(loaded: LoadedModel) -> None:
    units = tuple(
        dataclasses.replace(info, problem="it is holy" if str(info.unit) == "2.ffn" else "")
        for info in loaded.units
    )
    doctored = dataclasses.replace(loaded, units=units)
    assert Unit(2, "ffn") not in doctored.toggleable()
    for text in ("2.ffn", "2", "0-3"):
        message = r"^2\.ffn cannot be muted: it is holy\.$"
        with pytest.raises(MaskError, match=message), muted(doctored, Mask.parse(text, 4)):
            pytest.fail("the block was entered")
        with pytest.raises(MaskError, match="it is holy"):
            doctored.mask(text)
    assert untouched(loaded)
    doctored.mask("0,1,2.attn,3")


def test_what_was_muted_is_restored_when_a_later_unit_fails(loaded: LoadedModel) -> None:
    for bad in (Unit(0, "mixer"), Unit(9, "attn")):
        with (
            pytest.raises((AttributeError, KeyError, IndexError)),
            mute_units(loaded, [Unit(0, "attn"), bad]),
        ):
            pytest.fail("the block was entered")
    assert untouched(loaded)


def test_cancelled_inside_the_forward_pass(loaded: LoadedModel, ids: torch.Tensor) -> None:
    job = Job(1, "work", "")
    before = forward(loaded, ids)

    def cancel(*_: Any) -> None:
        job.cancel()
        job.report(1, 2)

    handle = loaded.layers[2].register_forward_pre_hook(cancel)
    with pytest.raises(Cancelled), muted(loaded, loaded.mask("1")):
        try:
            forward(loaded, ids)
        finally:
            handle.remove()
    assert untouched(loaded)
    assert torch.equal(forward(loaded, ids), before)


def test_replaced_puts_back_what_was_there() -> None:
    module = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    before = module(x)
    with replaced(module, lambda x: x * 0):
        assert torch.equal(module(x), torch.zeros(1, 2))
        with replaced(module, lambda x: x + 1):
            assert torch.equal(module(x), torch.full((1, 2), 2.0))
        assert torch.equal(module(x), torch.zeros(1, 2))
    assert "forward" not in module.__dict__
    assert torch.equal(module(x), before)

    def own(input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as nn.Linear names it
        return input * 7

    module.forward = own
    with pytest.raises(ZeroDivisionError), replaced(module, lambda x: x):
        raise ZeroDivisionError
    assert module.__dict__["forward"] is own


def test_the_class_is_never_touched(loaded: LoadedModel, ids: torch.Tensor) -> None:
    other = plain.tiny("llama", "eager")
    before = forward(other, ids)
    classes = {type(module): type(module).forward for module in loaded.model.modules()}
    with muted(loaded, Mask.of(4, UNITS)):
        assert torch.equal(forward(other, ids), before)
        assert all(cls.forward is found for cls, found in classes.items())


def test_gradients_pass_by_muted_units(loaded: LoadedModel, ids: torch.Tensor) -> None:
    embedding = loaded.model.get_parameter("model.embed_tokens.weight")
    embedding.requires_grad_(True)
    try:
        with muted(loaded, loaded.mask("1")):
            logits = loaded.model(input_ids=ids, use_cache=False).logits
        gradient = torch.autograd.grad(logits.float().square().mean(), embedding)[0]
    finally:
        embedding.requires_grad_(False)
    assert gradient.abs().max() > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("text", ["0.attn", "0-3.attn", "3.attn", "0-3"])
def test_every_cache_slot_counts_the_tokens(
    loaded: LoadedModel, ids: torch.Tensor, text: str
) -> None:
    cache = DynamicCache(config=loaded.model.config)
    with muted(loaded, loaded.mask(text)), torch.no_grad():
        for piece in ids.split([5, 1, 6], dim=1):
            loaded.model(input_ids=piece, past_key_values=cache, use_cache=True)
    assert [cache.get_seq_length(layer) for layer in range(4)] == [12] * 4


def test_a_cache_can_be_cut_and_reordered(loaded: LoadedModel, ids: torch.Tensor) -> None:
    """What assisted decoding and beam search do to a cache between two steps."""
    mask = loaded.mask("0.attn,2")
    with muted(loaded, mask), torch.no_grad():
        cache = DynamicCache(config=loaded.model.config)
        loaded.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache.crop(-4)
        cache.reorder_cache(torch.LongTensor([1, 0]))
        rest = ids.flip(0)[:, -4:]
        ours = loaded.model(input_ids=rest, past_key_values=cache, use_cache=True).logits
    theirs = plain.logits(loaded, ids.flip(0), mask)[:, -4:]
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_static_cache(loaded: LoadedModel, ids: torch.Tensor) -> None:
    from transformers import StaticCache

    mask = loaded.mask("0.attn,2")
    cache = StaticCache(config=loaded.model.config, max_cache_len=16)
    with muted(loaded, mask), torch.no_grad():
        pieces = [
            loaded.model(input_ids=piece, past_key_values=cache, use_cache=True).logits
            for piece in ids.split([7, 1, 4], dim=1)
        ]
    theirs = plain.logits(loaded, ids, mask)
    assert torch.allclose(torch.cat(pieces, 1), theirs, rtol=1e-4, atol=1e-5)


def test_a_threads_failure_restores_too(loaded: LoadedModel) -> None:
    def work() -> None:
        with pytest.raises(ZeroDivisionError), muted(loaded, Mask.of(4, UNITS)):
            raise ZeroDivisionError

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert untouched(loaded)
