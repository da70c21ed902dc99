"""Saved results: every kind goes to strict JSON and back, and damage is said in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector.errors import InspectorError, ResultError
from inspector.results.base import FORMAT, Provenance, Result
from inspector.results.checks import (
    Benchmark,
    Continuation,
    Flip,
    Generation,
    Perplexity,
    Speed,
    SpeedRun,
    TaskScore,
)
from inspector.results.files import KINDS, from_json, load, save
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Step, Trajectory

DEPTH = 3
NAN, INF = math.nan, math.inf


def provenance(**changes: Any) -> Provenance:
    made = Provenance(
        source="tiny:llama",
        weights="random, seed 0",
        model_type="llama",
        dtype="float32",
        device="cpu",
        depth=DEPTH,
        corpus={"name": "pydoc:search", "windows": 4, "length": 256, "seed": None},
        seed=7,
        command="inspector sweep tiny:llama",
        created="2026-01-01T00:00:00+00:00",
        seconds=1.5,
        versions={"torch": "2"},
    )
    return dataclasses.replace(made, **changes)


def upper(size: int) -> np.ndarray:
    values = np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size)
    return np.where(np.triu(np.ones((size, size)), 1) > 0, values, NAN)


def step(number: int, **changes: Any) -> Step:
    made = Step(
        step=number,
        mask="1.attn" if number else "",
        removed=["1.attn"] if number else [],
        restored=[],
        scores={"1.attn": 0.1, "0.ffn": NAN, "2.ffn": INF} if number else {},
        score_status={"1.attn": "exact", "0.ffn": "stale", "2.ffn": "lower_bound"}
        if number
        else {},
        perplexity=12.25,
        parameters=1000 - number,
        kv_bytes_per_token=64,
        seconds=0.5,
    )
    return dataclasses.replace(made, **changes)


EXAMPLES: dict[str, Result] = {
    "similarity": Similarity(
        provenance(),
        "1",
        angular_last=upper(DEPTH + 1),
        angular_all=upper(DEPTH + 1) / 3,
        stream=np.eye(2 * DEPTH + 1, dtype=np.float32),
        turn={"0.attn": 0.1, "0.ffn": NAN},
        growth={"0.attn": 2.5},
    ),
    "scores": Scores(
        provenance(),
        "1.attn",
        metric="nll",
        reference=2.5,
        scores={"0.attn": -0.125, "0.ffn": NAN, "2.ffn": 1e-30},
        windows_done=3,
        windows=4,
    ),
    "trajectory": Trajectory(
        provenance(),
        "",
        method="finercut",
        metric="js",
        steps=[step(0), step(1, perplexity=NAN)],
        check_corpus={"name": "pydoc:check"},
        finished=False,
    ),
    "perplexity": Perplexity(
        provenance(),
        "0-2",
        perplexity=NAN,
        nll=1000.0,
        tokens=1020,
        length=256,
        stride=128,
        baseline={"perplexity": 12.5, "nll": math.log(12.5), "tokens": 1020},
    ),
    "benchmark": Benchmark(
        provenance(),
        "",
        tasks=[
            TaskScore("arc", "acc", 0.5, 0.01, 2, 1.0, 0.02, each=[1, 0], baseline_each=[1, 1]),
            TaskScore("x", "acc", 1.0, NAN, 1),
        ],
        limit=100,
        picks={"arc": [1, 0]},
        baseline_picks={"arc": [1, 1]},
        flips=[Flip("arc", 1, "a\u2028b", ["c", "d"], gold=1, here=0, untouched=1)],
    ),
    "speed": Speed(
        provenance(), "1", prompt_length=512, new_tokens=32, batch=1, rounds=2,
        runs=[SpeedRun(1234.5, 20.25, 3.0)], baseline_runs=[SpeedRun(1000.0, 30.0)],
        kv_measured=260.0, baseline_kv_measured=NAN, kv_computed=256, baseline_kv_computed=512,
    ),
    "generation": Generation(
        provenance(), "2.ffn",
        [
            Continuation("a\u2028b", "\U0001f600", "", tokens=3, baseline_tokens=0),
            Continuation("x", "abc", "abd", 3, 3, parted=2, shared=2),
        ],
        temperature=0.5, top_p=0.9, seed=7,
    ),
}  # fmt: skip


def test_there_is_an_example_of_every_kind() -> None:
    assert set(EXAMPLES) == set(KINDS)
    assert all(EXAMPLES[kind].kind == kind for kind in KINDS)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def same(one: Any, other: Any) -> bool:
    """Equal, NaN with NaN; infinity comes back as NaN, since JSON has neither."""
    if dataclasses.is_dataclass(one):
        fields = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in fields
        )
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and not math.isfinite(one):
        return isinstance(other, float) and math.isnan(other)
    return one == other


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    result = EXAMPLES[kind]
    data = strict(result.dumps())
    assert list(data)[:2] == ["kind", "format"]
    assert (data["kind"], data["format"]) == (kind, FORMAT)
    again = from_json(data)
    assert same(result, again)
    assert again.dumps() == result.dumps()

    path = tmp_path / "result.json"
    save(result, path)
    assert same(result, load(path))
    assert strict(path.read_text(encoding="utf-8")) == data
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_duration_round_trips() -> None:
    result = dataclasses.replace(EXAMPLES["scores"], provenance=provenance(seconds=NAN))
    again = from_json(strict(result.dumps()))
    assert math.isnan(again.provenance.seconds)


def test_depth_and_about() -> None:
    assert EXAMPLES["scores"].depth == DEPTH
    assert provenance().about == (
        "tiny:llama · random, seed 0 · float32 · pydoc:search, 4 x 256 tokens"
    )
    assert provenance(corpus={}).about == "tiny:llama · random, seed 0 · float32"


def test_trajectory_json_has_the_promised_fields() -> None:
    data = EXAMPLES["trajectory"].to_json()
    assert set(data["steps"][1]) >= {
        "step", "mask", "removed", "restored", "scores", "score_status", "perplexity",
        "parameters", "kv_bytes_per_token",
    }  # fmt: skip
    assert data["steps"][1]["scores"] == {"1.attn": 0.1, "0.ffn": None, "2.ffn": None}
    trajectory = EXAMPLES["trajectory"]
    assert isinstance(trajectory, Trajectory)
    assert trajectory.removed == ["1.attn"]
    assert not trajectory.checked_on_search_text
    assert dataclasses.replace(trajectory, check_corpus=provenance().corpus).checked_on_search_text


def test_scores_ranking_and_completeness() -> None:
    scores = Scores(provenance(), "", "kl", 0.0, {"0.attn": 2.0, "1.ffn": 0.5, "2.attn": 1.0}, 4, 4)
    assert scores.complete
    assert scores.ranking() == ["1.ffn", "2.attn", "0.attn"]
    partial = EXAMPLES["scores"]
    assert isinstance(partial, Scores)
    assert not partial.complete


def test_best_windows() -> None:
    distance = np.full((4, 4), NAN)
    distance[[0, 1, 2], [1, 2, 3]] = [0.3, 0.1, 0.2]
    distance[[0, 1], [2, 3]] = [0.25, 0.4]
    distance[0, 3] = 0.5
    other = 1 - distance
    similarity = dataclasses.replace(
        EXAMPLES["similarity"], angular_last=distance, angular_all=other
    )
    assert isinstance(similarity, Similarity)
    expected = {1: (1, 0.1), 2: (0, 0.25), 3: (0, 0.5)}
    for n, (start, value) in similarity.windows().items():
        assert (start, pytest.approx(value)) == expected[n]
    assert {n: start for n, (start, _) in similarity.windows(tokens="all").items()} == {
        1: 0,
        2: 1,
        3: 0,
    }


def damaged(kind: str, **changes: Any) -> dict[str, Any]:
    data = {**EXAMPLES[kind].to_json(), **changes}
    return {name: value for name, value in data.items() if value is not ...}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "not a saved result: its kind is none of similarity, scores, trajectory"),
        ({"kind": ["scores"]}, "not a saved result: its kind is none of"),
        ([], "not a saved result"),
        ({}, "not a saved result"),
        ({"kind": "picture"}, "not a saved result"),
        (damaged("scores", format=99), f"this result has format 99, this version reads {FORMAT}"),
        (damaged("scores", format=...), "this result has format None"),
        (damaged("scores", metric=...), "this scores result is damaged"),
        (damaged("scores", extra=1), "this scores result is damaged"),
        (damaged("scores", provenance=...), "this scores result is damaged"),
        (damaged("scores", provenance={"source": "x"}), "this scores result is damaged"),
        (damaged("scores", scores=[1, 2]), "this scores result is damaged"),
        (damaged("scores", scores={"0.attn": "much"}), "this scores result is damaged"),
        (damaged("trajectory", steps=[{}]), "this trajectory result is damaged"),
        (damaged("trajectory", steps=3), "this trajectory result is damaged"),
        (damaged("benchmark", tasks=[{"task": "x"}]), "this benchmark result is damaged"),
        (damaged("similarity", stream=[[1.0]]), r"stream has shape \(1, 1\), not \(7, 7\)"),
        (damaged("similarity", stream=[[1.0], [1.0, 2.0]]), "this similarity result is damaged"),
        (damaged("similarity", angular_last=[]), r"angular_last has shape \(0,\), not \(4, 4\)"),
    ],
)
def test_damaged_data(data: Any, message: str) -> None:
    with pytest.raises(ResultError, match=message) as raised:
        from_json(data)
    assert isinstance(raised.value, InspectorError)


def test_every_score_needs_a_known_status() -> None:
    for status in ({}, {"1.attn": "guessed"}, {"1.attn": "exact", "2.attn": "exact"}):
        with pytest.raises(ResultError, match="step 1: every score needs a status"):
            step(1, scores={"1.attn": 1.0}, score_status=status)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a JSON result"),
        (b'{"kind": "scores"', "is not a JSON result"),
        (b"\xff\xfe\x00", "is not a JSON result"),
        (b"[1, 2]", "not a saved result"),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=message):
        load(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    whole = EXAMPLES["trajectory"].dumps().encode()
    path = tmp_path / "result.json"
    for end in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(ResultError, match="is not a JSON result"):
            load(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"cannot read .*none\.json: No such file or directory"):
        load(tmp_path / "none.json")
    with pytest.raises(ResultError, match=r"cannot read .*: Is a directory"):
        load(tmp_path)


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    save(EXAMPLES["scores"], path)
    before = path.read_bytes()

    def half(self: Path, text: str, **_: Any) -> int:
        self.write_bytes(text.encode()[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(ResultError, match=r"cannot write .*: No space left on device"):
        save(EXAMPLES["trajectory"], path)
    assert path.read_bytes() == before


def test_saving_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"cannot write .*: No such file or directory"):
        save(EXAMPLES["scores"], tmp_path / "none" / "result.json")


def test_a_result_that_is_no_json_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    save(EXAMPLES["scores"], path)
    before = path.read_bytes()
    odd = dataclasses.replace(EXAMPLES["scores"], provenance=provenance(corpus={"name": object()}))
    with pytest.raises(TypeError):
        save(odd, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
