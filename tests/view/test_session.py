"""What one open page holds: mask, undo, and what a change of model leaves of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from inspector.errors import InspectorError, MaskError
from inspector.model.loaded import LoadedModel
from inspector.results.base import Result
from inspector.results.checks import Untouched
from inspector.units import Mask
from inspector.view.card import Card
from inspector.view.session import SECTIONS, UNDO, Session

DEPTH = 4


def parse(text: str) -> Mask:
    return Mask.parse(text, DEPTH)


@pytest.fixture
def card(tiny: LoadedModel) -> Card:
    return Card.of(tiny)


@pytest.fixture
def session(card: Card) -> Session:
    made = Session("a")
    made.attach(card, 1)
    return made


def other(card: Card, **more: Any) -> Card:
    return replace(card, source="another", **more)


def test_undo_and_redo_walk_the_masks(session: Session):
    for text in ("1.attn", "1", "1,3.ffn"):
        session.set_mask(parse(text))
    seen = []
    for step in (session.undo, session.undo, session.redo, session.undo, session.undo):
        step()
        seen.append(str(session.mask))
    assert seen == ["1", "1.attn", "1", "1.attn", ""]
    session.undo()  # there is nothing before
    assert str(session.mask) == "" and not session.done


def test_a_new_mask_ends_the_way_forth(session: Session):
    session.set_mask(parse("1"))
    session.undo()
    session.set_mask(parse("2"))
    session.redo()
    assert str(session.mask) == "2"
    assert [str(mask) for mask in session.done] == [""]


def test_the_same_mask_again_is_no_step(session: Session):
    session.set_mask(parse("1"))
    session.set_mask(parse("1.attn,1.ffn"))
    assert len(session.done) == 1


def test_the_way_back_is_bounded(session: Session):
    for number in range(UNDO + 5):
        session.set_mask(parse(str(number % 2)))
    assert len(session.done) == UNDO


def test_without_a_model_there_is_no_mask():
    with pytest.raises(InspectorError, match="press Load model first"):
        Session("a").set_mask(parse("1"))


def test_a_mask_that_the_model_cannot_take_is_refused_and_changes_nothing(card: Card):
    session = Session("a")
    session.attach(replace(card, problems={"2.ffn": "it does nothing"}), 1)
    session.set_mask(parse("1"))
    with pytest.raises(MaskError, match=r"2\.ffn cannot be muted: it does nothing"):
        session.set_mask(parse("2"))
    with pytest.raises(MaskError, match="5 layers"):
        session.set_mask(Mask(5))
    assert str(session.mask) == "1" and len(session.done) == 1


def test_another_model_of_that_depth_keeps_the_mask_and_drops_the_results(
    session: Session, card: Card, measured: dict[str, Result]
):
    session.set_mask(parse("1"))
    session.results = dict(measured)
    session.step, session.history = 2, [{"Mask": "x"}]
    session.live["result"] = "old"
    session.baselines["text"] = Untouched({"perplexity": 1.0}, [])
    session.attach(other(card), 2)
    assert (str(session.mask), session.generation) == ("1", 2)
    assert (session.results, session.step, session.live, session.history) == ({}, None, {}, [])
    assert session.baselines == {}
    session.undo()
    assert str(session.mask) == ""


def test_the_same_weights_again_keep_the_results_but_no_baseline(
    session: Session, card: Card, measured: dict[str, Result]
):
    session.results = dict(measured)
    session.baselines["text"] = Untouched({"perplexity": 1.0}, [])
    session.attach(replace(card, recorded=True), 2)
    assert session.results == measured
    assert session.baselines == {}


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"weights": "x"}, {"source": "x"}])
def test_other_weights_are_another_model(
    session: Session, card: Card, measured: dict[str, Result], change: dict[str, str]
):
    session.results = dict(measured)
    session.attach(replace(card, **change), 2)
    assert session.results == {}


def test_another_depth_drops_the_mask_and_its_way_back(session: Session, card: Card):
    session.set_mask(parse("1"))
    session.attach(other(card, depth=6), 2)
    assert session.mask == Mask(6)
    session.undo()
    assert session.mask == Mask(6)


def test_masks_that_the_new_model_cannot_take_are_not_come_back_to(session: Session, card: Card):
    for text in ("2.ffn", "2.ffn,1", "1"):
        session.set_mask(parse(text))
    session.undo()
    session.undo()
    session.undo()
    session.redo()
    assert [str(each) for each in session.undone] == ["1", "1,2.ffn"]
    session.attach(other(card, problems={"2.ffn": "it does nothing"}), 2)
    assert session.mask == Mask(DEPTH)  # the one that stood there could not be kept
    assert not any("2.ffn" in str(mask) for mask in (*session.done, *session.undone))


def test_sections_are_news_once(session: Session):
    assert {name for name in SECTIONS if session.news(name)} == set(SECTIONS)
    assert not any(session.news(name) for name in SECTIONS)
    session.set_mask(parse("1"))
    assert {name for name in SECTIONS if session.news(name)} == {"map", "mask", "live"}


def test_results_are_given_by_their_kind(session: Session, measured: dict[str, Result]):
    session.results = dict(measured)
    assert session.similarity is measured["similarity"]
    assert session.scores is measured["sweep"]
    assert session.trajectory is measured["pruning"]
    assert session.generated is None
    session.results["sweep"] = measured["pruning"]
    assert session.scores is None
