"""What the map is coloured by: every row of the table, stale marks, and the fallback."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from inspector.model.loaded import LoadedModel
from inspector.results.base import Result
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Trajectory
from inspector.units import Mask, all_units
from inspector.view.card import Card
from inspector.view.colours import COLOURS, chosen, map_value
from inspector.view.session import Session

UNITS = {str(unit) for unit in all_units(4)}


@pytest.fixture
def session(tiny: LoadedModel, measured: dict[str, Result]) -> Session:
    """A page with every kind of data."""
    made = Session("a")
    made.attach(Card.of(tiny), 1)
    made.results = dict(measured)
    return made


@pytest.mark.parametrize("name", list(COLOURS))
def test_every_colour_scores_units_and_says_what_it_is(session: Session, name: str):
    session.colour = name
    assert chosen(session).name == name
    found = COLOURS[name].of(session)
    assert found is not None
    scores, meaning = found
    assert set(scores) == UNITS
    assert meaning["label"] and meaning["direction"] and meaning["stale"] == ""
    value = map_value(session)
    assert value is not None and value["measure"]["label"] == meaning["label"]
    assert value["scores"] == pytest.approx(scores)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_the_values_are_those_of_the_results(session: Session, tiny: LoadedModel):
    similarity, run = session.similarity, session.trajectory
    assert similarity is not None and run is not None and session.scores is not None

    def scores(name: str) -> dict[str, float]:
        found = COLOURS[name].of(session)
        assert found is not None
        return found[0]

    assert scores("What next: cost of muting") == session.scores.scores
    assert scores("Turn of the stream") == similarity.turn
    assert scores("Growth of the stream") == similarity.growth
    angles = scores("Angle across the layer")
    assert angles["2.attn"] == angles["2.ffn"] == float(similarity.angular_last[2, 3])
    assert scores("Score at the run's next step") == run.steps[1].scores
    session.step = 2
    assert scores("Score at the run's next step") == run.steps[3].scores
    session.step = 3  # the last: there is no next one
    assert scores("Score at the run's next step") == run.steps[3].scores
    info = tiny.units[0]
    assert scores("Parameters")["0.attn"] == info.parameters
    assert scores("KV cache")["0.attn"] == info.kv_bytes_per_token > 0
    assert scores("KV cache")["0.ffn"] == 0


@pytest.mark.parametrize(
    "name", [name for name in COLOURS if COLOURS[name].refresh and "run's" not in name]
)
def test_measured_colours_know_their_mask_for_the_map_to_mark_them_stale(
    session: Session, name: str
):
    kind = COLOURS[name].refresh
    session.results[kind] = replace(session.results[kind], mask="1.attn,2")
    found = COLOURS[name].of(session)
    assert found is not None
    assert found[1]["mask"] == [str(unit) for unit in Mask.parse("1.attn,2", 4)]


def test_a_steps_scores_are_of_the_mask_before_it(session: Session):
    run = session.trajectory
    assert run is not None
    session.step = 1
    found = COLOURS["Score at the run's next step"].of(session)
    assert found is not None and found[1]["mask"] == [str(unit) for unit in run.removed[:1]]
    assert found[1]["unit"] == run.metric


@pytest.mark.parametrize("name", ["Parameters", "KV cache"])
def test_costs_belong_to_no_mask(session: Session, name: str):
    found = COLOURS[name].of(session)
    assert found is not None and found[1]["mask"] is None
    assert found[1]["direction"].startswith("higher")


@pytest.mark.parametrize("change", [{"source": "other"}, {"weights": "x"}, {"dtype": "bfloat16"}])
def test_another_models_results_are_marked(session: Session, change: dict[str, str]):
    for kind, result in session.results.items():
        made = replace(result.provenance, **change)
        session.results[kind] = replace(result, provenance=made)
    for name, row in COLOURS.items():
        found = row.of(session)
        assert found is not None
        assert bool(found[1]["stale"]) == (name not in ("Parameters", "KV cache")), name


def test_only_nll_is_signed(session: Session):
    scores = session.scores
    assert scores is not None and scores.metric == "nll"
    for metric, signed in (("nll", True), ("kl", False)):
        session.results["sweep"] = replace(scores, metric=metric)
        found = COLOURS["What next: cost of muting"].of(session)
        assert found is not None and found[1]["signed"] is signed


def test_without_data_the_next_colour_that_has_some_is_taken(session: Session):
    session.colour = "What next: cost of muting"
    del session.results["sweep"]
    assert chosen(session).name == "Turn of the stream"
    del session.results["similarity"]
    assert chosen(session).name == "Score at the run's next step"
    run = session.trajectory
    assert run is not None
    session.results["pruning"] = replace(run, steps=run.steps[:1])  # a baseline has no scores
    assert chosen(session).name == "Parameters"
    session.colour = "no such colour"
    assert chosen(session).name == "Parameters"


def test_without_a_model_there_is_nothing_to_colour():
    session = Session("a")
    assert chosen(session).name == "Parameters"
    assert map_value(session) is None


def test_the_map_shows_what_cannot_be_switched_and_what_is_known(session: Session):
    card = session.require_card()
    session.card = replace(card, problems={"3.ffn": "it does nothing"})
    session.set_mask(Mask.parse("1.attn", 4))
    value = map_value(session)
    assert value is not None
    assert value["disabled"] == {"3.ffn": "it does nothing"} and value["muted"] == ["1.attn"]
    assert value["totals"]["parameters"] == card.parameters
    run = session.trajectory
    assert isinstance(run, Trajectory) and isinstance(session.similarity, Similarity)
    details = dict(value["details"][run.removed[1]])
    assert details["Removed at step"] == "2"
    assert details["Turn"] == f"{session.similarity.turn[run.removed[1]]:.4g}"
    assert isinstance(session.scores, Scores) and "Muting next, nll" in details
