"""A model's card: what it says of the model, and what a damaged one does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from inspector.errors import MaskError, ResultError
from inspector.model.loaded import LoadedModel
from inspector.units import Mask
from inspector.view.card import Card


@pytest.fixture
def card(tiny: LoadedModel) -> Card:
    return Card.of(tiny)


def test_it_says_what_the_model_says(tiny: LoadedModel, card: Card):
    assert (card.depth, card.parameters) == (tiny.depth, tiny.parameters)
    assert card.kv_bytes == tiny.kv_bytes_left(tiny.empty())
    mask = tiny.mask("1.attn,2")
    left = card.parameters - sum(card.units[str(unit)][0] for unit in mask)
    assert left == tiny.parameters_left(mask)
    assert card.bytes_per_parameter == 4
    assert len(card.types) == tiny.depth
    assert str(card.toggleable()) == "0-3"
    assert card.name == "tiny:llama · random, seed 0 · float32"


def test_it_goes_through_json_and_is_then_marked_as_recorded(card: Card):
    back = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert back == replace(card, recorded=True)
    assert back.same_model(card)


@pytest.mark.parametrize(
    "change",
    [{"units": {"0.attn": 3}}, {"units": None}, {"surprise": 1}, {"units": {"0.attn": ["x", 1]}}],
)
def test_a_damaged_one_is_refused(card: Card, change: dict[str, object]):
    with pytest.raises(ResultError, match="recorded model card is damaged"):
        Card.from_json({**card.to_json(), **change})


def test_a_missing_field_is_refused(card: Card):
    data = card.to_json()
    del data["depth"]
    with pytest.raises(ResultError, match="recorded model card is damaged"):
        Card.from_json(data)


def test_masks_are_checked(card: Card):
    stuck = replace(card, problems={"1.ffn": "it does nothing"})
    assert stuck.check(Mask.parse("1.attn", 4)) == Mask.parse("1.attn", 4)
    assert stuck.takes(Mask.parse("1.attn", 4))
    with pytest.raises(MaskError, match=r"1\.ffn cannot be muted"):
        stuck.check(Mask.parse("1", 4))
    assert not stuck.takes(Mask.parse("1", 4)) and not stuck.takes(Mask(5))
    assert str(stuck.toggleable()) == "0,1.attn,2-3"


def test_same_model_is_the_same_weights_in_the_same_dtype(card: Card):
    assert card.same_model(replace(card, device="cuda:0 (x)"))
    assert not card.same_model(None)
    for change in ({"source": "x"}, {"weights": "x"}, {"dtype": "x"}, {"depth": 5}):
        assert not card.same_model(replace(card, **change))
