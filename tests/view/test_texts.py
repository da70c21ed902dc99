"""The fields that say which text is used: what they become, and a sentence for each mistake."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from inspector.errors import InspectorError
from inspector.view.texts import customdata, cut, number, options_of, text_of, whole
from inspector.view.workbench import Workbench


def test_fields_become_arguments_and_empty_ones_are_left_out(bench: Workbench):
    made = cut(bench, " pydoc:search ", 8.0, 256, "")
    assert made == {"spec": "pydoc:search", "samples": 8, "length": 256}
    assert all(type(made[name]) is int for name in ("samples", "length"))
    full = cut(bench, "pydoc:check", 1, 2, " 0 ", stride="128")
    assert full == {"spec": "pydoc:check", "samples": 1, "length": 2, "seed": 0, "stride": 128}
    assert options_of(full) == {
        "corpus": "pydoc:check",
        "samples": 1,
        "length": 2,
        "seed": 0,
        "stride": 128,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": None}, "say how many windows: a whole number of at least 1"),
        ({"samples": 0}, "say how many windows"),
        ({"samples": 2.5}, "say how many windows"),
        ({"samples": float("nan")}, "say how many windows"),
        ({"samples": float("inf")}, "say how many windows"),
        ({"length": None}, "say how many tokens a window has: a whole number of at least 2"),
        ({"length": 1}, "say how many tokens"),
        ({"seed": "x"}, "the seed must be a number, or empty"),
        ({"seed": "-1"}, "say the seed: a whole number of at least 0"),
        ({"seed": "1.5"}, "say the seed"),
        ({"seed": "nan"}, "say the seed"),
        ({"seed": "1e999"}, "say the seed"),
        ({"stride": "x"}, "the stride must be a number, or empty"),
        ({"stride": "0"}, "say the stride: a whole number of at least 1"),
        ({"stride": "inf"}, "say the stride"),
    ],
)
def test_each_mistake_has_its_sentence(bench: Workbench, change: dict[str, Any], message: str):
    form: dict[str, Any] = {"samples": 2, "length": 16, "seed": "", "stride": ""} | change
    with pytest.raises(InspectorError, match=message):
        cut(bench, "pydoc", form["samples"], form["length"], form["seed"], stride=form["stride"])


def test_on_a_public_server_the_text_is_one_of_the_list():
    with pytest.raises(InspectorError, match="chosen from the list"):
        cut(Workbench(public=True), "file:/etc/passwd", 1, 2)


def test_numbers():
    assert whole(3.0, "x", 3) == 3
    assert number(None, "x") is None and number("  ", "x") is None
    assert number("1e3", "x") == 1000


def test_what_a_click_carries():
    assert customdata(gr.EventData(None, {"customdata": [1, "2.attn"]})) == [1, "2.attn"]
    assert text_of(gr.EventData(None, {"customdata": "2.attn"})) == "2.attn"


@pytest.mark.parametrize("data", [None, {}, [], "x", {"customdata": None}, {"customdata": ""}])
def test_a_click_that_carries_no_text_is_one_sentence(data: Any):
    event = SimpleNamespace(_data=data)
    assert not customdata(event)
    with pytest.raises(InspectorError, match="could not be read"):
        text_of(event)


@pytest.mark.parametrize("value", [5, 5.0, True, ["1.attn"], {"a": 1}])
def test_a_click_with_something_else_is_not_taken_for_text(value: Any):
    with pytest.raises(InspectorError, match="could not be read"):
        text_of(gr.EventData(None, {"customdata": value}))
