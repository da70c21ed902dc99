"""Units and masks: the text and JSON forms, their errors, and operations that return new masks."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import InspectorError, MaskError
from inspector.units import KINDS, Mask, Unit, all_units, layers, unit


@st.composite
def masks(draw: st.DrawFn, *, max_depth: int = 40) -> Mask:
    depth = draw(st.integers(1, max_depth))
    units = st.sampled_from(all_units(depth))
    return Mask(depth, draw(st.frozensets(units, max_size=2 * depth)))


@given(masks())
def test_text_round_trip(mask: Mask) -> None:
    assert Mask.parse(str(mask), mask.depth) == mask


@given(masks())
def test_json_round_trip(mask: Mask) -> None:
    data = json.loads(json.dumps(mask.to_json()))
    assert set(data) == {"depth", "muted"}
    assert Mask.from_json(data) == mask
    assert Mask.from_json(data, mask.depth) == mask
    assert ",".join(data["muted"]) == str(mask)


@given(masks(max_depth=6), st.randoms(use_true_random=False))
def test_text_is_canonical(mask: Mask, random: Any) -> None:
    """Whatever order, repetition and spacing the units are written in, the text is the same."""
    parts = [str(each) for each in mask] * 2
    random.shuffle(parts)
    spaced = " , ".join(parts)
    again = Mask.parse(f"  {spaced}\n", mask.depth)
    assert again == mask
    assert hash(again) == hash(mask)
    assert str(again) == str(mask)
    assert again.to_json() == mask.to_json()


@given(masks(max_depth=6), masks(max_depth=6))
def test_different_masks_have_different_texts(one: Mask, other: Mask) -> None:
    if one.depth == other.depth:
        assert (str(one) == str(other)) == (one == other)
    assert (one.to_json() == other.to_json()) == (one == other)


@given(st.text(alphabet="0123456789-., atnf\t", max_size=20), st.integers(1, 12))
def test_any_text_is_read_or_refused(text: str, depth: int) -> None:
    try:
        mask = Mask.parse(text, depth)
    except MaskError:
        return
    assert Mask.parse(str(mask), depth) == mask


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("", []),
        ("  ", []),
        ("5.attn", ["5.attn"]),
        ("3.ffn", ["3.ffn"]),
        ("7", ["7.attn", "7.ffn"]),
        ("7.attn, 7.ffn", ["7.attn", "7.ffn"]),
        ("2-4.attn", ["2.attn", "3.attn", "4.attn"]),
        ("2 - 3", ["2.attn", "2.ffn", "3.attn", "3.ffn"]),
        ("4-4.ffn", ["4.ffn"]),
        ("007.ffn", ["7.ffn"]),
        ("9.ffn,0.attn,9.ffn", ["0.attn", "9.ffn"]),
        ("0-9", [str(each) for each in all_units(10)]),
    ],
)
def test_reading(text: str, units: list[str]) -> None:
    assert [str(each) for each in Mask.parse(text, 10)] == units


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("7.ffn,7.attn", "7"),
        ("3,2,1", "1-3"),
        ("1.attn,2.attn,3.attn,5.attn", "1-3.attn,5.attn"),
        ("1.attn,2,3.attn", "1.attn,2,3.attn"),
        ("0-3.attn,0-3.ffn", "0-3"),
        ("1.ffn,0.attn", "0.attn,1.ffn"),
        ("0.attn,1.ffn,2.attn", "0.attn,1.ffn,2.attn"),
    ],
)
def test_canonical_text(written: str, canonical: str) -> None:
    assert str(Mask.parse(written, 10)) == canonical


FORMS = "write units as 5.attn, 3.ffn, 17 (both) or 21-28.attn, separated by commas"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("28-21.attn", f"the range '28-21.attn' runs backwards: {FORMS}."),
        ("5.mlp", f"'5.mlp' names no kind of unit (attn or ffn): {FORMS}."),
        ("5.ATTN", f"'5.ATTN' names no kind of unit (attn or ffn): {FORMS}."),
        ("30", "layer 30 is out of range: this model has 30 layers, numbered 0 to 29."),
        ("0-30.ffn", "layer 30 is out of range: this model has 30 layers, numbered 0 to 29."),
        ("0-99999999999", "layer 99999999999 is out of range: this model has 30 layers, "
         "numbered 0 to 29."),
        ("attn.5", f"'attn.5' is not a unit: {FORMS}."),
        ("-1.attn", f"'-1.attn' is not a unit: {FORMS}."),
        ("5.attn;6.attn", f"'5.attn;6.attn' is not a unit: {FORMS}."),
        ("5.", f"'5.' is not a unit: {FORMS}."),
        ("5 .attn", f"'5 .attn' is not a unit: {FORMS}."),
        ("5.5", f"'5.5' is not a unit: {FORMS}."),
        ("1,,2", f"'' is not a unit: {FORMS}."),
        ("<b>", f"'<b>' is not a unit: {FORMS}."),
    ],
)  # fmt: skip
def test_refused_texts(text: str, message: str) -> None:
    with pytest.raises(MaskError) as raised:
        Mask.parse(text, 30)
    assert str(raised.value) == message
    assert isinstance(raised.value, InspectorError)


def test_absurdly_long_numbers_are_out_of_range_too() -> None:
    with pytest.raises(MaskError):
        Mask.parse("9" * 5000, 30)


@pytest.mark.parametrize("data", [None, [], "5.attn", {}, {"muted": []}, {"depth": "30"}, 3])
def test_json_that_is_no_mask(data: Any) -> None:
    with pytest.raises(MaskError, match=r'a mask in JSON looks like \{"depth": 30'):
        Mask.from_json(data)


@pytest.mark.parametrize("muted", [None, "5.attn", [5], {"5.attn": 1}])
def test_json_with_bad_units(muted: Any) -> None:
    with pytest.raises(MaskError, match='"muted" must be a list of unit texts'):
        Mask.from_json({"depth": 30, "muted": muted})


def test_json_out_of_range() -> None:
    with pytest.raises(MaskError, match="layer 30 is out of range: this model has 30 layers"):
        Mask.from_json({"depth": 30, "muted": ["30.attn"]})


def test_a_mask_for_another_depth_is_refused() -> None:
    mask = Mask.parse("5", 30)
    assert mask.require_depth(30) is mask
    message = "this mask is for a model of 30 layers, the loaded model has 24"
    with pytest.raises(MaskError, match=message):
        mask.require_depth(24)
    with pytest.raises(MaskError, match=message):
        Mask.from_json(mask.to_json(), 24)


def test_units_beyond_the_depth_cannot_be_put_into_a_mask() -> None:
    for bad in (Unit(4, "attn"), Unit(-1, "ffn")):
        with pytest.raises(MaskError, match=f"layer {bad.layer} is out of range"):
            Mask(4, frozenset([bad]))
        with pytest.raises(MaskError, match="out of range"):
            Mask(4).mute([bad])
        with pytest.raises(MaskError, match="out of range"):
            Mask(4).toggle(bad)


@given(masks(), st.data())
def test_operations_return_new_masks(mask: Mask, data: st.DataObject) -> None:
    before = copy.deepcopy(mask)
    some = data.draw(st.lists(st.sampled_from(all_units(mask.depth)), max_size=5))
    on, off = mask.unmute(some), mask.mute(some)
    assert off.muted == mask.muted | set(some)
    assert on.muted == mask.muted - set(some)
    for each in some:
        switched = mask.toggle(each)
        assert (each in switched) != (each in mask)
        assert switched.toggle(each) == mask
    assert mask == before
    assert on.depth == off.depth == mask.depth


def test_masks_are_frozen_values() -> None:
    mask = Mask.parse("1,3.ffn", 4)
    for name, value in (("depth", 5), ("muted", frozenset())):
        with pytest.raises(AttributeError):
            setattr(mask, name, value)
    assert pickle.loads(pickle.dumps(mask)) == mask
    assert {mask: 1}[Mask.parse("3.ffn,1", 4)] == 1
    assert len(mask) == 3
    assert list(mask) == [Unit(1, "attn"), Unit(1, "ffn"), Unit(3, "ffn")]
    assert mask != Mask.parse("1,3.ffn", 5)


def test_of_takes_units_and_texts() -> None:
    assert Mask.of(5, [Unit(1, "attn"), "3-4.ffn"]) == Mask.parse("1.attn,3-4.ffn", 5)
    assert Mask.of(5, []) == Mask(5)


def test_order_is_that_of_the_forward_pass() -> None:
    assert [str(each) for each in all_units(2)] == ["0.attn", "0.ffn", "1.attn", "1.ffn"]
    assert layers(1, 2) == all_units(3)[2:]
    assert KINDS == ("attn", "ffn")
    assert list(Mask.of(12, ["10.attn", "2.ffn", "2.attn"])) == [
        Unit(2, "attn"),
        Unit(2, "ffn"),
        Unit(10, "attn"),
    ]


def test_kinds_are_open_in_a_mask() -> None:
    mask = Mask(3, frozenset([Unit(1, "mixer"), Unit(1, "ffn"), Unit(1, "attn")]))
    assert str(mask) == "1.attn,1.ffn,1.mixer"
    assert list(mask)[-1] == Unit(1, "mixer")


def test_one_unit_by_its_text() -> None:
    assert unit("5.attn", 30) == Unit(5, "attn")
    assert unit("5-5.ffn", 30) == Unit(5, "ffn")
    with pytest.raises(MaskError, match=r"'5' names 2 units where one is needed, such as 5\.attn"):
        unit("5", 30)
    with pytest.raises(MaskError, match="'' names 0 units"):
        unit("", 30)
