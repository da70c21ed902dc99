"""The value of the layer map, and what is accepted from a browser."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from inspector.errors import InspectorError, MaskError
from inspector.units import Mask
from inspector.view.grid import layer_map_value, measure, read_clicks, read_mask


def test_the_value_is_json_and_says_what_is_muted():
    mask = Mask.parse("1,2.ffn", 4)
    value = layer_map_value(
        mask,
        scores={"0.attn": 0.5, "0.ffn": math.nan, "3.ffn": 2.0},
        measure=measure("Cost", unit="nats", mask=mask),
        disabled={"0.attn": "why"},
        costs={"3.ffn": (10, 0)},
        totals={"parameters": 100, "kv": 8, "bytes_per_parameter": 2},
        details={"3.ffn": [("Heads", 9)]},
        types=["a", "b", "a", "b"],
    )
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["muted"] == ["1.attn", "1.ffn", "2.ffn"]
    assert value["scores"] == {"0.attn": 0.5, "0.ffn": None, "3.ffn": 2.0}
    assert value["measure"]["range"] == [0.5, 2.0] and not value["measure"]["clipped"]
    assert value["measure"]["mask"] == value["muted"]
    assert value["details"] == {"3.ffn": [["Heads", "9"]]}
    assert [row["kind"] for row in value["rows"]] == ["attn", "ffn"]


def test_a_bare_value_has_no_colours():
    value = layer_map_value(Mask(2))
    assert (value["measure"], value["totals"], value["types"]) == (None, None, ["", ""])


@pytest.mark.parametrize("field", ["scores", "disabled", "costs", "details"])
def test_units_of_another_model_are_refused(field: str):
    wrong: dict[str, Any] = {"scores": 1.0, "disabled": "x", "costs": (1, 1), "details": []}
    given: Any = {field: {"9.attn": wrong[field]}}
    with pytest.raises(MaskError, match=r"9\.attn"):
        layer_map_value(Mask(4), **given)


def test_types_of_another_depth_are_refused():
    with pytest.raises(MaskError, match="3 layer types"):
        layer_map_value(Mask(4), types=["a"] * 3)


def sent(muted: Any, **more: Any) -> dict[str, Any]:
    return {**layer_map_value(Mask(4)), "muted": muted, **more}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        sent("1.ffn"),
        sent([1]),
        sent(None),
        sent(["4.attn"]),
        sent(["1"]),
        sent(["0-3.ffn"]),
        sent(["<b>"]),
        sent([], depth=5),
    ],
    ids=repr,
)
def test_whatever_else_a_browser_sends_is_refused(data: Any):
    with pytest.raises(InspectorError):
        read_mask(data, before=Mask(4))


def test_a_disabled_unit_does_not_change():
    both = sent(["0.attn", "1.ffn"])
    with pytest.raises(InspectorError, match=r"1\.ffn"):
        read_mask(both, before=Mask(4), disabled={"1.ffn": "why"})
    held = Mask.parse("0.attn", 4)  # off before it was disabled: stays off, others may change
    assert len(read_mask(both, before=held, disabled=["0.attn"])) == 2


def test_the_mask_is_read_from_the_value():
    value = layer_map_value(Mask.parse("1,2.ffn", 4))
    assert read_mask(value, before=Mask(4)) == Mask.parse("1,2.ffn", 4)


def test_the_count_of_clicks_is_a_number_whatever_a_browser_sends():
    assert read_clicks({"clicks": 3}) == 3
    assert layer_map_value(Mask(4), clicks=3)["clicks"] == 3
    for data in (None, [], {}, {"clicks": -1}, {"clicks": "3"}, {"clicks": True}, {"clicks": 0.5}):
        assert read_clicks(data) == 0
