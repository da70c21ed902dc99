"""The handlers of tabs and map: what forms and clicks do, and that no browser is trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from inspector.errors import InspectorError, ResultError
from inspector.measure.methods import METHODS
from inspector.measure.pace import Pace
from inspector.results.base import Result
from inspector.results.checks import Benchmark, Continuation, Generation, TaskScore
from inspector.units import Mask
from inspector.view import outcomes, sidebar
from inspector.view.session import Session
from inspector.view.side_by_side import side_by_side
from inspector.view.status import active
from inspector.view.tabs import check, pruning
from inspector.view.wiring import Wiring
from tests.view.conftest import Pages, request, settle

FORM: dict[str, Any] = {
    "method": "finercut",
    "metric": "js",
    "amount": 2,
    "stop": "remove",
    "check": "pydoc:check",
    "only": "both",
    "protect": "",
    "bar": "",
    "published": False,
    "seed": "",
    "search": "exact",
    "generations": "",
    "offspring": "",
    "starts": "",
    "search_tokens": "",
}
EVOPRESS = {"method": "evopress", "metric": "kl"}
TEXT = ("pydoc:search", 2, 16, "")


@pytest.fixture
def session(ready_pages: Pages, measured: dict[str, Result]) -> Session:
    """The page `a`, with the model loaded and one result for each tab."""
    made = ready_pages.bench.session(request("a"))
    made.results = dict(measured)
    made.set_mask(Mask.parse("1.attn", 4))
    return made


def refused(pages: Pages, session: Session, *fire: Any, match: str | None = None) -> None:
    """Firing the event is one sentence to the user, and changes nothing."""
    before = (str(session.mask), session.step, list(session.done), dict(session.results))
    with pytest.raises(gr.Error, match=match) as caught:
        fire[0](*fire[1:])
    assert isinstance(caught.value.__cause__, InspectorError)
    assert not caught.value.print_exception
    assert (str(session.mask), session.step, session.done, session.results) == before
    assert pages.bench.session(request("a")) is session


MALFORMED = ["__import__('os')", "9.attn", "attn", "", None, 5, 2.5, True, [], ["1.ffn"], {"a": 1}]


@pytest.mark.parametrize("plot", ["sweep", "angular"])
@pytest.mark.parametrize("data", MALFORMED, ids=repr)
def test_malformed_clicks_change_nothing(
    ready_pages: Pages, session: Session, plot: str, data: Any
):
    refused(ready_pages, session, ready_pages.click, plot, data)


@pytest.mark.parametrize("plot", ["step-map", "curve"])
@pytest.mark.parametrize(
    "data",
    ["__import__('os')", "1", None, 9, -1, 1.5, [], ["x"], [[1]], [9, "1.attn"], {"a": 1}],
    ids=repr,
)
def test_malformed_steps_change_nothing(ready_pages: Pages, session: Session, plot: str, data: Any):
    refused(ready_pages, session, ready_pages.click, plot, data, match="his run has steps 0 to 3")


@pytest.mark.parametrize("plot", ["sweep", "angular", "step-map", "curve"])
def test_a_click_that_carries_nothing_changes_nothing(
    ready_pages: Pages, session: Session, plot: str
):
    refused(ready_pages, session, ready_pages.click, plot)


@pytest.mark.parametrize("step", [None, 9, -1, 0.5, float("nan"), "1"])
def test_malformed_slider_values_change_nothing(ready_pages: Pages, session: Session, step: Any):
    refused(ready_pages, session, ready_pages.fire, "step", "input", step)


def test_clicks_mute_what_they_say_on_top_of_the_mask(ready_pages: Pages, session: Session):
    ready_pages.click("sweep", "2.ffn")
    assert str(session.mask) == "1.attn,2.ffn"
    ready_pages.click("angular", "2-3")
    assert str(session.mask) == "1.attn,2-3"


def test_a_window_with_a_unit_that_cannot_be_muted_mutes_the_rest(
    ready_pages: Pages, session: Session
):
    session.card = replace(session.require_card(), problems={"3.ffn": "it does nothing"})
    ready_pages.click("angular", "2-3")
    assert str(session.mask) == "1.attn,2,3.attn"
    refused(ready_pages, session, ready_pages.click, "sweep", "3.ffn", match="cannot be muted")


def test_a_step_puts_its_mask_on_the_map(ready_pages: Pages, session: Session):
    run = session.trajectory
    assert run is not None
    for element, data in (("step-map", [2, "1.attn"]), ("curve", [1, "x"])):
        ready_pages.click(element, data)
        assert (str(session.mask), session.step) == (run.steps[data[0]].mask, data[0])
    ready_pages.fire("step", "input", 3.0)
    assert (str(session.mask), session.step) == (run.steps[3].mask, 3)
    assert type(session.step) is int
    ready_pages.fire("step", "input", 0)
    assert (str(session.mask), session.step) == ("", 0)
    session.undo()
    assert str(session.mask) == run.steps[3].mask


def test_without_a_run_there_is_no_step(session: Session, measured: dict[str, Result]):
    empty: dict[str, Result] = {"pruning": replace(measured["pruning"], steps=[])}
    for results in ({}, empty):
        session.results = results
        with pytest.raises(InspectorError, match="start or open a run first"):
            pruning.go_to(session, 0)


def test_a_step_of_a_run_of_another_depth_is_refused(session: Session):
    session.card = replace(session.require_card(), depth=5)
    with pytest.raises(InspectorError, match="this run is for 4 layers, the model on the page has"):
        pruning.go_to(session, 1)


def test_a_step_that_mutes_what_this_model_cannot_is_refused(session: Session):
    run = session.trajectory
    assert run is not None
    session.card = replace(session.require_card(), problems={run.removed[0]: "it does nothing"})
    with pytest.raises(InspectorError, match="cannot be muted"):
        pruning.go_to(session, 1)
    assert session.step is None


# ---- the mask ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "mask"),
    [
        ("2.ffn, 3", "2.ffn,3"),
        (" 1-2.attn ", "1-2.attn"),
        ("", ""),
        ('{"depth": 4, "muted": ["0.attn", "3"]}', "0.attn,3"),
    ],
)
def test_a_mask_is_read_as_text_or_json(
    ready_pages: Pages, session: Session, written: str, mask: str
):
    ready_pages.fire("mask-text", "submit", written)
    assert str(session.mask) == mask


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("4.attn", "Layer 4 is out of range: this model has 4 layers"),
        ("1.mlp", "names no kind of unit"),
        ("3-1", "runs backwards"),
        ("x", "is not a unit"),
        ("{", "not the JSON of a mask"),
        ('{"depth": 30, "muted": []}', "for a model of 30 layers"),
        ('{"depth": 4}', "must be a list"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_a_mask_that_cannot_be_read_is_one_sentence(
    ready_pages: Pages, session: Session, written: str, message: str
):
    refused(ready_pages, session, ready_pages.fire, "mask-text", "submit", written, match=message)


def test_the_maps_value_is_checked(ready_pages: Pages, session: Session):
    for value in (None, [], {"depth": 9, "muted": []}, {"depth": 4, "muted": ["9.attn"]}):
        refused(ready_pages, session, ready_pages.fire, "map", "toggle", value)
    session.card = replace(session.require_card(), problems={"3.ffn": "it does nothing"})
    bad = {"depth": 4, "muted": ["1.attn", "3.ffn"]}
    refused(ready_pages, session, ready_pages.fire, "map", "toggle", bad, match=r"3\.ffn cannot")
    ready_pages.fire("map", "toggle", {"depth": 4, "muted": ["0.attn", "1.attn"]})
    assert str(session.mask) == "0-1.attn"


def test_undo_redo_reset_and_presets(ready_pages: Pages, session: Session):
    assert session.similarity is not None
    start, _ = session.similarity.windows()[2]
    seen = []
    for element, event, *values in (
        ("preset-last", "click", 1),
        ("undo", "click"),
        ("redo", "click"),
        ("reset", "click"),
        ("preset-best", "click", 2),
        ("map", "undo"),
        ("map", "redo"),
    ):
        ready_pages.fire(element, event, *values)
        seen.append(str(session.mask))
    window = str(Mask.parse(f"{start}-{start + 1}", 4))
    assert seen == ["1.attn,3", "1.attn", "1.attn,3", "", window, "", window]


@pytest.mark.parametrize("button", ["preset-last", "preset-best"])
@pytest.mark.parametrize("number", [None, 0, 5, -1, float("nan")])
def test_presets_need_a_number_of_layers(
    ready_pages: Pages, session: Session, button: str, number: Any
):
    refused(
        ready_pages, session, ready_pages.fire, button, "click", number, match="hoose 1 to 4 layers"
    )


def test_the_best_window_needs_the_similarity(ready_pages: Pages, session: Session):
    del session.results["similarity"]
    refused(
        ready_pages,
        session,
        ready_pages.fire,
        "preset-best",
        "click",
        2,
        match="measure that first",
    )


def test_a_colour_without_data_says_what_to_press_and_is_then_measured(
    ready_pages: Pages, session: Session
):
    bench = ready_pages.bench
    session.results.clear()
    with pytest.raises(gr.Error, match="has not been measured yet: press Measure again"):
        ready_pages.fire("colour", "input", "Turn of the stream")
    ready_pages.fire("refresh", "click", *TEXT)
    settle(bench, session, lambda: not active(session))
    assert session.similarity is not None and session.similarity.mask == "1.attn"
    ready_pages.fire("colour", "input", "Parameters")
    with pytest.raises(gr.Error, match="needs no measuring"):
        ready_pages.fire("refresh", "click", *TEXT)


# ---- what needs the model ------------------------------------------------------------------------

STARTS = {
    "similarity-go": TEXT,
    "sweep-go": ("nll", *TEXT),
    "prune-go": (*FORM.values(), *TEXT),
    "perplexity-go": ("", "pydoc:check", 2, 16),
    "benchmark-go": ("own", 4),
    "speed-go": (8, 2, 1),
    "generate-go": ("Once", 4, False, "", "", ""),
}


@pytest.mark.parametrize("button", list(STARTS))
def test_what_needs_the_model_says_so(pages: Pages, button: str):
    with pytest.raises(gr.Error, match="needs the model in memory: press Load model first"):
        pages.fire(button, "click", *STARTS[button])


@pytest.mark.parametrize("button", [name for name in STARTS if name != "benchmark-go"])
def test_what_has_the_model_measures_under_the_present_mask(
    ready_pages: Pages, session: Session, button: str
):
    session.results.clear()
    ready_pages.fire(button, "click", *STARTS[button])
    settle(ready_pages.bench, session, lambda: not active(session))
    (result,) = session.results.values()
    assert result.mask == "1.attn" and result.provenance.source == "tiny:llama"
    assert not any(session.errors.values())


@pytest.mark.parametrize(
    ("button", "values", "message"),
    [
        ("generate-go", (" ", 4, False, "", "", ""), "rite a prompt first"),
        ("generate-go", ("---\n \n---", 4, False, "", "", ""), "rite a prompt first"),
        ("generate-go", ("x", None, False, "", "", ""), "how many tokens"),
        ("generate-go", ("x", 0, False, "", "", ""), "how many tokens"),
        ("generate-go", ("x", 4, False, "warm", "", ""), "he temperature must be a number"),
        ("generate-go", ("x", 4, False, "1", "", "1.5"), "the seed: a whole number"),
        ("speed-go", (None, 2, 1), "how many prompt tokens"),
        ("speed-go", (8, 0, 1), "how many new tokens"),
        ("speed-go", (8, 2, 1.5), "how many rounds"),
        ("benchmark-go", (" , ", 4), "ame a task"),
        ("benchmark-go", ("own", -1), "how many items"),
        ("benchmark-go", ("own", 0), "how many items"),
        ("prune-go", (*{**FORM, "amount": 1.5}.values(), *TEXT), "ay how many to remove"),
        ("prune-go", (*{**FORM, "amount": None}.values(), *TEXT), "after how much the run is to"),
        ("prune-go", (*{**FORM, "stop": "never"}.values(), *TEXT), "hoose what to count"),
        ("prune-go", (*{**FORM, "method": "x"}.values(), *TEXT), "nknown method"),
        ("prune-go", (*{**FORM, "metric": "perplexity"}.values(), *TEXT), "inercut goes by"),
        ("prune-go", (*{**FORM, "protect": "9"}.values(), *TEXT), "ayer 9 is out of range"),
        ("prune-go", (*{**FORM, "protect": "x"}.values(), *TEXT), "is not a unit"),
        ("prune-go", (*{**FORM, "bar": "x"}.values(), *TEXT), "share to bar first layers by must"),
        ("prune-go", (*{**FORM, "seed": "1.5"}.values(), *TEXT), "ay the method.*s seed"),
        ("prune-go", (*{**FORM, "search": "x"}.values(), *TEXT), "hoose a search: exact, "),
        (
            "prune-go",
            (*{**FORM, **EVOPRESS, "generations": "1.5"}.values(), *TEXT),
            "ay how many generations",
        ),
        ("prune-go", (*{**FORM, **EVOPRESS, "starts": "x"}.values(), *TEXT), "number of starts"),
        ("prune-go", (*{**FORM, **EVOPRESS, "starts": "0"}.values(), *TEXT), "--starts takes"),
        ("prune-go", (*{**FORM, **EVOPRESS, "search_tokens": "5"}.values(), *TEXT), "--search-tok"),
        ("prune-cancel", (), "o run is going on"),
    ],
)
def test_a_form_filled_in_wrongly_starts_nothing(
    ready_pages: Pages, session: Session, button: str, values: Any, message: str
):
    refused(ready_pages, session, ready_pages.fire, button, "click", *values, match=message)
    assert active(session) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amount": 99}, "cannot remove 99 units: 7 are left"),
        ({"stop": "until_perplexity", "amount": -3}, "must be above 0"),
        ({"stop": "until_perplexity", "amount": float("nan")}, "must be above 0"),
        ({"stop": "remove_params", "amount": 0}, "--remove-params takes a share such as 10%"),
        ({"stop": "remove_params", "amount": 99}, "cannot remove 99 % of the parameters"),
        ({"stop": "remove_kv", "amount": 1e9}, "--remove-kv takes a share such as 10% or 0.1"),
        ({"protect": "0-3"}, "nothing is left that finercut may remove: 0-3 is protected"),
        ({"method": "sleb", "metric": "nll", "amount": 3}, "cannot remove 3 layers: 2 are left"),
        ({"bar": "0.9"}, "--protect-first-until 0.9 bars layers 0 to 3"),
        ({"check": "nothing"}, "nothing"),
    ],
)
def test_what_a_run_refuses_is_said_in_the_status(
    ready_pages: Pages, session: Session, change: dict[str, Any], message: str
):
    ready_pages.fire("prune-go", "click", *{**FORM, **change}.values(), *TEXT)
    settle(ready_pages.bench, session, lambda: not active(session))
    assert message in session.errors["pruning"]
    assert "unexpected" not in session.errors["pruning"]


def test_a_row_of_the_history_brings_its_mask_back(
    ready_pages: Pages, session: Session, measured: dict[str, Result], tmp_path: Path
):
    made = measured["sweep"].provenance
    for text in ("2.ffn", ""):
        rows = [TaskScore("own", "acc", 0.5, 0.1, 4, 0.5, 0.1)]
        outcomes.note(session, "benchmark", Benchmark(made, text, rows))
    session.set_mask(Mask.parse("3", 4))

    def click(*row: Any) -> None:
        event = gr.EventData(None, {"index": [0, 0], "value": "x", "row_value": list(row)})
        ready_pages._handler("history", "select")(request("a"), event)

    for text, expected in (("2.ffn", "2.ffn"), ("nothing", "")):
        click(text, 1, 0.5)
        assert str(session.mask) == expected
    for row in ([], ["3"], ["9.attn"], [None], [["2.ffn"]], ["__import__('os')"]):
        refused(ready_pages, session, click, *row, match="his row is gone")
    path = Path(str(check._csv(tmp_path, session)))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",")[:2] == ["Mask", "Off"]
    assert len(lines) == 3 and lines[2].startswith("2.ffn,1,0.5,")
    session.set_mask(Mask.parse("3", 4))
    refused(
        ready_pages, session, ready_pages.fire, "history-delete", "click", match="has no row in"
    )
    click("2.ffn", 1, 0.5)
    ready_pages.fire("history-delete", "click")
    assert [row["Mask"] for row in session.history] == ["nothing"]
    ready_pages.fire("history-clear", "click", False)  # not confirmed
    assert len(session.history) == 1
    ready_pages.fire("history-clear", "click", True)
    assert session.history == [] and check._csv(tmp_path, session) is None
    session.id = "../../x"
    session.history = [{"Mask": "x"}]
    assert Path(str(check._csv(tmp_path, session))).resolve().is_relative_to(tmp_path)


def test_the_untouched_model_is_benchmarked_once(
    ready_pages: Pages, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("INSPECTOR_BASELINES", str(tmp_path / "kept"))
    found = []
    for form in (("own", 4), ("own", 4), ("own", 5), ("own", 4, False, True)):
        ready_pages.fire("benchmark-go", "click", *form)
        settle(ready_pages.bench, session, lambda: not active(session))
        found.append(session.results["benchmark"])
    assert [bool(each.baseline_from) for each in found] == [False, True, False, False]
    one, again, *_ = found
    assert [row.baseline for row in one.tasks] == [row.baseline for row in again.tasks]
    assert one.flips == again.flips and one.baseline_picks == again.baseline_picks
    assert "earlier run" in " ".join(again.remarks)
    assert "--fresh-baseline" in found[-1].provenance.command
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize(
    "tasks",
    ["/etc", "own,/etc/passwd", "x.jsonl", "../x", "~", "~root", "own, ~/tasks", "a b", "x" * 300],
)
def test_on_a_public_server_tasks_are_names(ready_pages: Pages, session: Session, tasks: str):
    ready_pages.bench.public = True
    fire = ready_pages.fire
    refused(ready_pages, session, fire, "benchmark-go", "click", tasks, 4, match="chosen by name")


def test_on_a_public_server_a_folder_beside_the_program_is_no_task(
    ready_pages: Pages, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "tasks").mkdir()
    monkeypatch.chdir(tmp_path)
    ready_pages.bench.public = True
    fire = ready_pages.fire
    refused(ready_pages, session, fire, "benchmark-go", "click", "tasks", 4, match="chosen by name")


def test_the_generated_texts_say_their_mask_and_where_they_part(session: Session):
    made = session.results["sweep"].provenance
    one = Continuation("Once", " upon <b>", " upon a", 4, 4, parted=2, shared=6)
    found = Generation(made, "2", [one, Continuation("x", "y", "y", 1, 1, shared=1)])
    shown = side_by_side(found)
    assert "With 2 off" in shown and "The two part after 2 tokens." in shown
    assert shown.count('">' + " upon </span>") == 2  # in grey, on both sides
    assert "</span>&lt;b&gt;</div>" in shown and "</span>a</div>" in shown
    assert "The two are the same." in shown
    assert "With nothing off" in side_by_side(replace(found, mask=""))
    assert "Nothing generated" in side_by_side(None)


def test_generated_texts_are_never_markup(session: Session):
    evil = "<img src=x onerror=alert(1)>&\"'"
    made = session.results["sweep"].provenance
    one = Continuation(evil, evil, evil, 9, 9, shared=len(evil))
    for shared in (0, 3, len(evil)):
        shown = side_by_side(Generation(made, evil, [replace(one, shared=shared)]))
        assert "<img" not in shown and "onerror=alert(1)>" not in shown
        assert shown.count("&lt;img") >= 2


@pytest.mark.parametrize(
    ("written", "prompts"),
    [
        ("one", ["one"]),
        (" one\ntwo \n", [" one\ntwo \n"]),
        ("one\n---\ntwo\n\nthree", ["one", "two\n\nthree"]),
        ("---\none\n--- \n---\r\n two\n---", ["one", " two"]),
        ("one --- two\n----\n --- x", ["one --- two\n----\n --- x"]),
    ],
)
def test_prompts_stand_between_lines_of_three_dashes(written: str, prompts: list[str]):
    assert check.prompts_of(written) == prompts


def test_what_a_page_chooses_to_see_is_its_own_and_goes_with_it(
    ready_pages: Pages, session: Session
):
    bench = ready_pages.bench
    other = bench.session(request("b"))
    tokens = ready_pages.component(gr.Radio, label="Tokens")
    ready_pages.handler(tokens, "input")(request("a"), "all", "rescaled", "growth")
    assert session.looks == {"similarity": ("all", "rescaled", "growth")}
    assert other.looks == {}


# ---- the estimate --------------------------------------------------------------------------------


@pytest.fixture
def paced(ready_pages: Pages, session: Session) -> Wiring:
    """A machine of a known pace: a second for a token in a layer, none for the head."""
    wiring = Wiring(ready_pages.bench)
    wiring.bench.pace = Pace(1.0, dict.fromkeys(("nll", "js", "kl", "angular", "norm"), 0.0), 4)
    return wiring


def test_the_estimate_is_the_paces(paced: Wiring, session: Session):
    words = pruning.estimate(paced, session, FORM, *TEXT)
    # Units 0, 2 and 3 have both kinds left, 1 has its FFN: 4 + 4+4 + 3 + 2+2 + 1+1 layers a token,
    # 32 tokens, and then six sevenths of it: 672 s + 576 s. Three perplexities of four layers: 384.
    assert words.endswith("**At most 27 min** here for 2 units.")
    one = {**FORM, "only": "attn", "amount": 1, "check": pruning.SAME}
    only = pruning.estimate(paced, session, one, *TEXT)
    # 4 + 4 + 2 + 1 layers: 352 s, and two perplexities: 256 s.
    assert only.endswith("**At most 10 min** here for 1 unit.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # Layers 0, 2, 3 are whole and join behind themselves, of 1 the FFN goes: 4 + 3+3+1+0.
        (
            {"method": "perplexity-oneshot", "metric": "perplexity", "amount": 1},
            "**About 10 min** here for 1 layer.",  # 11 x 32 s, and two perplexities
        ),
        ({"method": "ours", "metric": "kl-per-parameter", "amount": 1}, "here for 1 unit."),
        # By its own score, the check text is the search text: 7 layers and 11 layers.
        (
            {"method": "blockpruner", "metric": "perplexity", "amount": 1, "check": ""},
            "**About 11 min** here for 1 unit.",  # 21 layers x 32 s
        ),
        ({"method": "shortgpt", "metric": "influence", "amount": 1}, "**About 6 min 24 s** here"),
        ({"method": "reverse", "metric": "from-end", "amount": 2}, "**About 6 min 24 s** here"),
        ({"method": "angular", "metric": "distance", "amount": 1}, "**About 6 min 24 s** here"),
        (
            {"method": "reverse", "metric": "from-end", "amount": 30, "stop": "remove_kv"},
            "**At most 8 min 32 s** here for 3 layers.",
        ),
        (
            {"method": "reverse", "metric": "from-end", "amount": 9, "stop": "until_perplexity"},
            "**At most 10 min** here for 4 layers.",
        ),
        ({"method": "taylor", "metric": "taylor"}, "(sidebar)."),
        # One mask, the untouched model and two perplexities of four layers each.
        (
            {**EVOPRESS, "generations": "0", "starts": "1"},
            "**At most 8 min 32 s** here for 2 units in 0 generations. **No fresh text:** 32 token",
        ),
        ({**EVOPRESS, "search_tokens": "16,31"}, "here for 2 units in 2 generations."),
        (
            {**EVOPRESS, "only": "attn", "amount": 1, "generations": "1"},
            "here for 1 unit in 1 generation. **No",
        ),
    ],
)
def test_every_kind_of_method_has_its_pace(
    paced: Wiring, session: Session, change: dict[str, Any], words: str
):
    assert words in pruning.estimate(paced, session, {**FORM, **change}, *TEXT)


@pytest.mark.parametrize("method", METHODS)
def test_the_words_say_what_a_method_removes_and_on_which_text(
    paced: Wiring, session: Session, method: str
):
    row = METHODS[method]
    words = pruning.estimate(
        paced, session, {**FORM, "method": method, "metric": row.metrics[0], "amount": None}, *TEXT
    )
    assert ("**whole layers**" in words) == (row.grain == "layer")
    assert row.cost in words and row.paper in words and row.note in words
    reads = "Searches on **pydoc:search, 2 x 16 tokens** (sidebar)." in words
    assert reads == (method not in ("random", "deepest", "reverse", "magnitude-l1", "magnitude-l2"))


def test_the_form_follows_the_method(ready_pages: Pages):
    follow = ready_pages._handler("method", "change")
    score, counted, length = follow("shortgpt", "remove_kv")
    assert (score["choices"], score["value"]) == (["influence"], "influence")
    assert counted["value"] == "remove_kv"
    assert counted["choices"][0] == ("layers", "remove")
    assert not length["visible"] and follow("evopress", "remove")[2]["visible"]


def test_more_units_than_there_are_take_no_time(paced: Wiring, session: Session):
    words = pruning.estimate(paced, session, {**FORM, "amount": 8}, *TEXT)
    assert words.endswith("**This cannot run:** cannot remove 8 units: 7 are left that can be.")
    session.card = replace(session.require_card(), problems={"3.ffn": "it does nothing"})
    words = pruning.estimate(paced, session, {**FORM, "amount": 7}, *TEXT)
    assert words.endswith("**This cannot run:** cannot remove 7 units: 6 are left that can be.")


def test_without_a_pace_or_a_number_there_is_no_estimate(paced: Wiring, session: Session):
    row = pruning.method_named("finercut")
    plain = f"{pruning.described(row)} {pruning.searched_on(row, *TEXT)}"
    assert pruning.estimate(paced, session, {**FORM, "amount": None}, *TEXT) == plain
    paced.bench.pace = None
    assert pruning.estimate(paced, session, FORM, *TEXT) == plain


def test_before_loading_it_says_what_to_do(pages: Pages):
    session = pages.bench.session(request("a"))
    words = pruning.estimate(Wiring(pages.bench), session, FORM, *TEXT)
    assert words.endswith("**Load the model** to start a run.")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "perplexity"}, "finercut goes by"),
        ({"protect": "0-3"}, "0-3 is protected"),
        ({"protect": "x"}, "is not a unit"),
        ({"stop": "remove_params", "amount": 0}, "--remove-params takes a share"),
        ({"stop": "remove_params", "amount": 90}, "what the method may remove holds"),
        ({"method": "sleb", "metric": "nll", "only": "attn"}, "sleb removes whole layers"),
        ({**EVOPRESS, "amount": 3}, "remove an even number of units"),
        ({**EVOPRESS, "stop": "until_perplexity"}, "in the place of --until-perplexity"),
        ({**EVOPRESS, "search_tokens": "x"}, "--search-tokens takes two numbers"),
    ],
)
def test_a_form_that_cannot_run_is_said_beside_the_method(
    paced: Wiring, session: Session, change: dict[str, Any], said: str
):
    words = pruning.estimate(paced, session, {**FORM, **change}, *TEXT)
    assert METHODS[{**FORM, **change}["method"]].note in words
    assert said in words.partition("**This cannot run:** ")[2]


def test_an_unknown_method_is_refused(paced: Wiring, session: Session):
    with pytest.raises(ResultError, match="unknown method"):
        pruning.estimate(paced, session, {**FORM, "method": "x"}, *TEXT)


def test_the_size_of_a_model_chosen_since_is_not_overwritten(
    ready_pages: Pages, session: Session, monkeypatch: pytest.MonkeyPatch
):
    block = ready_pages.component(gr.Dropdown, elem_id="source")
    sized = ready_pages.handler(block, "change")
    assert "4 layers" in sized(request("a"), "tiny:llama", "cpu", "fp32")
    real, answers = sidebar.size_of, []

    def slow(text: str, **more: Any) -> Any:
        monkeypatch.setattr(sidebar, "size_of", real)
        answers.append(sized(request("a"), "tiny:llama", "cpu", "bf16"))
        return real(text, **more)

    monkeypatch.setattr(sidebar, "size_of", slow)
    late = sized(request("a"), "tiny:gemma2", "cpu", "fp32")
    assert "bfloat16" in answers[0] and late == gr.skip()
    assert 'class="note bad"' in sized(request("a"), "tiny:nothing", "cpu", "fp32")
