"""Saved runs: safe names, no paths, and what an opened or uploaded run may do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from inspector import assets
from inspector.assets import asset
from inspector.errors import InspectorError, ResultError
from inspector.model.loaded import LoadedModel
from inspector.results.base import Result
from inspector.results.files import save
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Trajectory
from inspector.units import Mask
from inspector.view import runs
from inspector.view.colours import COLOURS, map_value
from inspector.view.figures import figures_of
from inspector.view.tabs.runs import RECORDED, find, open_file, read, show
from inspector.view.wiring import Wiring
from tests.view.conftest import Pages, request


def of(result: Result, **provenance: Any) -> Result:
    return replace(result, provenance=replace(result.provenance, **provenance))


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "../../../etc/passwd",
        "/abs/path/model.gguf",
        "org/name@refs/pr/1",
        "a folder/",
        "..",
        ".",
        "",
        "x" * 400,
        "nul\0 new\nline <b>\"'\\ C:\\con",
        "モデル",
    ],
)
def test_names_are_safe_whatever_the_source(measured: dict[str, Result], source: str):
    result = of(measured["pruning"], source=source)
    name = runs.keep(result)
    assert runs.names() == [name]
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith((".", "-")) and len(name) <= 120
    assert [path.name for path in runs.folder().iterdir()] == [f"{name}.json"]
    assert runs.open_run(name).to_json() == result.to_json()


def test_the_same_name_twice_is_two_files_and_the_newest_comes_first(measured: dict[str, Result]):
    old = of(measured["sweep"], created="2025-01-02T03:04:05+00:00")
    new = of(measured["sweep"], created="2025-01-02T03:04:06+00:00")
    names = [runs.keep(old), runs.keep(new), runs.keep(new)]
    assert len(set(names)) == 3
    assert names[0] == "20250102T030405-scores-tiny-llama"
    assert runs.names() == [names[2], names[1], names[0]]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "x.json", "", ".", "sub/x", "x\0"])
def test_a_path_is_no_name(measured: dict[str, Result], tmp_path: Path, name: str):
    save(measured["sweep"], tmp_path / "x.json")  # beside the folder of runs
    (runs.folder() / "sub").mkdir()
    save(measured["sweep"], runs.folder() / "sub" / "x.json")
    with pytest.raises(ResultError, match="there is no saved run"):
        runs.open_run(name)


def test_forgetting_deletes_those_and_no_others(measured: dict[str, Result]):
    one, two = runs.keep(measured["sweep"]), runs.keep(measured["pruning"])
    runs.forget([one, "gone already"])
    assert runs.names() == [two]


def test_the_folder_is_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("INSPECTOR_RUNS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert runs.folder() == tmp_path / "cache/layer-inspector/runs"
    assert runs.folder().is_dir()


def test_a_folder_that_cannot_be_made_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("INSPECTOR_RUNS", str(tmp_path / "file/runs"))
    with pytest.raises(InspectorError, match="run folder cannot be made"):
        runs.names()


# ---- recorded ------------------------------------------------------------------------------------


def test_the_run_that_comes_with_the_program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assets, "FOLDERS", assets.FOLDERS[1:])  # without the small one
    for name in ("model", *runs.RECORDED):
        try:
            asset(f"recorded/{name}.json")
        except InspectorError:
            pytest.skip(f"assets/recorded/{name}.json has not been recorded yet")
    card, results = runs.recorded()
    assert card.recorded and card.source == "smollm2" and card.depth == 30
    kinds = {"similarity": Similarity, "sweep": Scores, "pruning": Trajectory}
    for name, kind in kinds.items():
        result = results[name]
        made = result.provenance
        assert isinstance(result, kind) and figures_of(result)
        assert (made.source, made.weights, made.dtype, made.depth) == (
            card.source,
            card.weights,
            card.dtype,
            card.depth,
        )
        assert made.command.startswith("inspector ") and result.mask == ""
    run = results["pruning"]
    assert isinstance(run, Trajectory) and run.finished and len(run.steps) > 8
    assert run.steps[0].parameters == card.parameters


def test_a_damaged_recorded_run_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded/model.json").write_text("{")
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    with pytest.raises(ResultError, match="the recorded run cannot be read"):
        runs.recorded()


# ---- the tab -------------------------------------------------------------------------------------


def test_a_saved_run_is_opened_in_its_tab(pages: Pages, measured: dict[str, Result]):
    session = pages.bench.session(request("a"))
    made = replace(measured["sweep"], mask="", metric="kl")
    name = runs.keep(of(made, command="inspector sweep tiny:llama --metric kl"))
    session.step = 2
    pages.fire("run-open", "click", name)
    assert session.scores is not None and session.scores.metric == "kl"
    assert session.results["opened"] is session.results["sweep"]
    assert session.step == 2  # a run that prunes nothing leaves the step alone
    pages.fire("run-open", "click", RECORDED)
    assert session.step is None
    assert session.trajectory is runs.recorded()[1]["pruning"]


@pytest.mark.parametrize("name", ["../x", "nothing", None, ""])
def test_what_is_no_saved_run_is_one_sentence(pages: Pages, name: str | None):
    for element in ("run-open", "run-download"):
        with pytest.raises(gr.Error, match=r"[Tt]here is no saved run"):
            pages.fire(element, "click", name)


def test_a_hostile_name_is_escaped_in_the_message(pages: Pages):
    for element in ("run-open", "run-download"):
        with pytest.raises(gr.Error) as caught:
            pages.fire(element, "click", "<img src=x onerror=alert(1)>")
        assert "<img" not in str(caught.value)


def test_another_pages_run_is_not_found_on_a_public_server(
    pages: Pages, measured: dict[str, Result]
):
    pages.bench.public = True
    name = runs.keep(measured["sweep"])
    session = pages.bench.session(request("a"))
    wiring = Wiring(pages.bench)
    with pytest.raises(ResultError, match="no saved run"):
        find(wiring, session, name)
    session.own_runs.append(name)
    assert find(wiring, session, name).to_json() == measured["sweep"].to_json()


def test_a_saved_run_is_deleted_and_nothing_else(pages: Pages, measured: dict[str, Result]):
    names = [runs.keep(measured[kind]) for kind in ("sweep", "pruning")]
    assert pages.fire("run-delete", "click", None)["__type__"] == "update"  # not confirmed
    assert sorted(runs.names()) == sorted(names)
    found = pages.fire("run-delete", "click", names[0])
    assert runs.names() == [names[1]]
    assert found["value"] == RECORDED and found["choices"] == [RECORDED, names[1]]
    for name in (names[0], RECORDED, "../x", ""):
        with pytest.raises(gr.Error, match=r"o saved run|belongs to the program"):
            pages.fire("run-delete", "click", name)
    pages.bench.public = True
    with pytest.raises(gr.Error, match="o saved run"):  # another page's
        pages.fire("run-delete", "click", names[1])
    assert runs.names() == [names[1]]


def test_a_download_is_the_run_itself(pages: Pages, measured: dict[str, Result]):
    name = runs.keep(measured["sweep"])
    for run, expected in ((name, measured["sweep"]), (RECORDED, runs.recorded()[1]["pruning"])):
        found = pages.fire("run-download", "click", run)
        path = Path(found["value"])
        assert path.suffix == ".json" and found["visible"]
        assert json.loads(path.read_text(encoding="utf-8")) == expected.to_json()


def test_a_run_of_another_depth_says_what_to_load(pages: Pages, measured: dict[str, Result]):
    session = pages.bench.session(request("a"))
    session.card = replace(session.require_card(), depth=30)
    with pytest.raises(ResultError, match=r"4 layers, the page shows one with 30: load tiny:llama"):
        show(Wiring(pages.bench), session, measured["pruning"])


def damaged(result: Result) -> list[dict[str, Any]]:
    """JSON that reads as a result and that no tab or map could draw."""
    data = json.loads(result.dumps())
    made = {**data, "provenance": {**data["provenance"], "corpus": "not a dictionary"}}
    found = [made, {**data, "mask": "9.attn"}, {**data, "mask": 5}]
    if isinstance(result, Scores):
        found += [{**data, "scores": {"9.attn": 1.0}}, {**data, "metric": "nothing"}]
    if isinstance(result, Similarity):
        found += [{**data, "turn": {"x": 1.0}}]
    if isinstance(result, Trajectory):
        steps = data["steps"]
        strange = {**steps[1], "removed": ["9.attn"]}
        found += [
            {**data, "steps": [steps[0], strange]},
            {**data, "steps": [steps[0], {**steps[1], "restored": ["9.attn"]}]},
            {**data, "steps": [steps[0], {**steps[1], "mask": "9"}]},
            {**data, "steps": [steps[2], steps[0]]},
            {**data, "steps": [{**steps[0], "removed": None}]},
        ]
    return found


@pytest.mark.parametrize("kind", ["similarity", "sweep", "pruning"])
def test_an_uploaded_run_that_cannot_be_drawn_is_refused_and_changes_nothing(
    pages: Pages, measured: dict[str, Result], tmp_path: Path, kind: str
):
    session = pages.bench.session(request("a"))
    before, file = dict(session.results), tmp_path / "own.json"
    for number, data in enumerate(damaged(measured[kind])):
        file.write_text(json.dumps(data), encoding="utf-8")
        with pytest.raises(ResultError):
            open_file(Wiring(pages.bench), session, str(file))
            pytest.fail(f"{kind} {number} was taken")
        assert session.results == before
    map_value(session)
    assert all(row.of(session) for row in COLOURS.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "no text in UTF-8"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (b"{", "of no known form"),
        (b"[" * 200_000, "of no known form"),
        (b"[]", "of no known form"),
        (b'{"kind": "x"}', "its kind is none of"),
        (b'{"kind": "scores", "format": 99}', "has format 99"),
        (b'{"kind": "scores", "format": 1}', "damaged"),
    ],
)
def test_an_uploaded_file_that_is_no_run_is_one_sentence(
    pages: Pages, tmp_path: Path, content: bytes, message: str
):
    session = pages.bench.session(request("a"))
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(ResultError, match=message):
        open_file(Wiring(pages.bench), session, str(file))


def test_an_uploaded_file_that_is_too_large_is_not_read(
    pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    card = pages.bench.session(request("a")).require_card()
    file = tmp_path / "x.json"
    file.write_bytes(b" " * 100)
    monkeypatch.setattr("inspector.view.tabs.runs.MAX_BYTES", 99)
    with pytest.raises(ResultError, match="larger than 50 MB"):
        read(str(file), card)
    with pytest.raises(ResultError, match="cannot be read"):
        read(str(tmp_path / "gone.json"), card)


def test_a_good_run_comes_back_from_its_file(
    pages: Pages, measured: dict[str, Result], tmp_path: Path
):
    session = pages.bench.session(request("a"))
    for kind, result in measured.items():
        save(result, tmp_path / "x.json")
        open_file(Wiring(pages.bench), session, str(tmp_path / "x.json"))
        assert session.results[kind].to_json() == result.to_json()
    assert session.news("map") and session.news("runs")


# ---- other tools' files --------------------------------------------------------------------------


def test_an_order_of_another_tool_opens_as_a_run_with_the_models_sizes(
    pages: Pages, tiny: LoadedModel, tmp_path: Path
):
    session = pages.bench.session(request("a"))
    file = tmp_path / "order.json"
    file.write_text('{"1": [["mlp", 2]], "2": [["mha", 1], ["mlp", 2]]}')
    block = pages.component(gr.UploadButton, elem_id="run-upload")
    pages.handler(block, "upload")(request("a"), [str(file)])
    run = session.trajectory
    assert run is not None and run is session.results["opened"]
    assert run.removed == ["2.ffn", "1.attn"] and session.require_mask() == Mask(4)
    for step in run.steps:
        mask = tiny.mask(step.mask)
        assert step.parameters == tiny.parameters_left(mask)
        assert step.kv_bytes_per_token == tiny.kv_bytes_left(mask)
    text = figures_of(run)[1].layout.meta["lines"][0]  # pyright: ignore
    assert text == "No perplexity was measured"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "1,3", "1,3"),
        ("a.txt", "none\nattn\nmlp\nattn+mlp\n", "1.attn,2.ffn,3"),
        ("a.json", '{"drop_attn_list": [2], "drop_mlp_list": []}', "2.attn"),
        ("a.json", '{"depth": 4, "muted": ["1"]}', "1"),
        ("a.csv", "block_start,block_end,average_distance\n1,3,0.2\n2,4,0.1\n", "2-3"),
    ],
)
def test_a_mask_of_another_tool_goes_on_the_map(
    pages: Pages, tmp_path: Path, name: str, content: str, expected: str
):
    session = pages.bench.session(request("a"))
    before = dict(session.results)
    (tmp_path / name).write_text(content)
    block = pages.component(gr.UploadButton, elem_id="run-upload")
    assert {f".{name.rpartition('.')[2]}"} <= set(block.file_types)
    pages.handler(block, "upload")(request("a"), [str(tmp_path / name)])
    assert session.require_mask() == Mask.parse(expected, 4)
    assert session.results == before
    session.undo()
    assert session.require_mask() == Mask(4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("none\n" * 5, "for a model of 5 layers, not 4"),
        ("7", "layer 7 is out of range"),
        ("hello", "of no known form"),
        ("3.ffn", "of no known form"),
        ("3", "3.ffn cannot be muted: it does nothing"),
    ],
)
def test_a_file_that_does_not_fit_the_model_is_one_sentence(
    pages: Pages, tmp_path: Path, content: str, message: str
):
    session = pages.bench.session(request("a"))
    session.card = replace(session.require_card(), problems={"3.ffn": "it does nothing"})
    (tmp_path / "x.txt").write_text(content)
    block = pages.component(gr.UploadButton, elem_id="run-upload")
    with pytest.raises(gr.Error, match=f"(?i){message}"):
        pages.handler(block, "upload")(request("a"), [str(tmp_path / "x.txt")])
    assert session.require_mask() == Mask(4)
