"""Tasks on the live model: lm-eval's own numbers, on the same items, from this mask alone."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from inspector import assets
from inspector.errors import InspectorError, MaskError, OutOfMemory, ResultError, TaskError
from inspector.jobs import Cancelled
from inspector.measure import tasks
from inspector.measure.benchmark import BOOTSTRAPS, benchmark
from inspector.measure.suites import SUITES
from inspector.measure.tasks import DEFAULT_TASKS, find, read_items
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.surgery import muted, replaced
from inspector.results.checks import Benchmark, Cut
from inspector.results.files import from_json
from inspector.units import Mask

LIMIT = 24
MASK = "1.attn,2"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("tiny:llama", dtype="fp32")


@pytest.fixture(scope="module")
def ids(loaded: LoadedModel) -> torch.Tensor:
    return loaded.tokenizer("the same forward pass", return_tensors="pt").input_ids


ITEMS = [
    {"query": "12", "choices": ["one", "two, or more"], "gold": 1},
    {"query": "{{ 7 * 7 }} {% raw %}", "choices": ["{{ query }}", "x", "[1]"], "gold": 0},
    {"query": "Größe:\n", "choices": ["klein", "groß", "µ"], "gold": 2, "id": "kept out"},
    {"query": "a b c d e", "choices": ["f", "g", "h", "i", "j"], "gold": 0},
    {"query": "The end is", "choices": ["near", "far away from here"], "gold": 0},
    {"query": "['x', 'y']", "choices": ["1", "2"], "gold": 1},
]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "mine.jsonl", ITEMS)


def write_items(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def multiple_choice(name: str, data: Path, **more: Any) -> dict[str, Any]:
    """A task as lm-eval's users write it."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "query",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
        **more,
    }


def write_folder(folder: Path, *configs: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for at, config in enumerate(configs):
        (folder / f"{at}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def plain(
    loaded: LoadedModel, folder: Path, names: list[str], mask: str = "", **more: Any
) -> dict[str, dict[str, Any]]:
    return plain_results(loaded, folder, names, mask, **more)["results"]


def plain_results(
    loaded: LoadedModel, folder: Path, names: list[str], mask: str = "", **more: Any
) -> dict[str, Any]:
    """lm-eval itself, as its documentation calls it."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    with muted(loaded, loaded.mask(mask)):
        kind: Any = HFLM
        asked: Any = {"tasks": names, "bootstrap_iters": BOOTSTRAPS, **more}
        model = kind(pretrained=loaded.model, tokenizer=tokenizer, batch_size=3)
        results: Any = simple_evaluate(model=model, task_manager=manager, **asked)
    return results


def table(result: Benchmark, *, baseline: bool = False) -> dict[tuple[str, str], float]:
    return {(row.task, row.metric): row.baseline if baseline else row.value for row in result.tasks}


def rows_of(plain_results: dict[str, dict[str, Any]], task: str) -> dict[str, tuple[float, float]]:
    row = plain_results[task]
    return {
        metric: (row[f"{metric},none"], row[f"{metric}_stderr,none"])
        for metric in ("acc", "acc_norm")
    }


class Heard(list[Any]):
    """A progress that remembers its calls, and cancels once `cancel_at` is reached."""

    def __init__(self, cancel_at: float = math.inf) -> None:
        super().__init__()
        self.cancel_at = cancel_at

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        self.append((done, total, note, partial))
        if total > 1 and done >= self.cancel_at:
            raise Cancelled


def same_as_before(loaded: LoadedModel, ids: torch.Tensor, before: torch.Tensor) -> bool:
    untouched = not any("forward" in module.__dict__ for module in loaded.model.modules())
    return untouched and torch.equal(loaded.model(ids).logits, before)


# The numbers


@pytest.mark.parametrize("mask", ["", MASK, "0-3"])
def test_the_own_set_scores_as_lm_eval_scores_it(
    loaded: LoadedModel, tmp_path: Path, mask: str
) -> None:
    config = multiple_choice("reference", assets.asset("benchmark.jsonl"))
    folder = write_folder(tmp_path, config)
    found = benchmark(loaded, DEFAULT_TASKS, loaded.mask(mask), limit=LIMIT)
    edited = rows_of(plain(loaded, folder, ["reference"], mask, limit=LIMIT), "reference")
    untouched = rows_of(plain(loaded, folder, ["reference"], limit=LIMIT), "reference")
    assert {row.metric: (row.value, row.stderr) for row in found.tasks} == edited
    assert {row.metric: (row.baseline, row.baseline_stderr) for row in found.tasks} == untouched
    assert [(row.task, row.items) for row in found.tasks] == [("own", LIMIT)] * 2
    assert (found.mask, found.limit) == (mask, LIMIT)
    assert (mask == "") == (edited == untouched)  # else equality would tell nothing
    assert from_json(found.to_json()).to_json() == found.to_json()


def test_items_are_compared_one_by_one(loaded: LoadedModel, items: Path, tmp_path: Path) -> None:
    found = benchmark(loaded, [str(items)], loaded.mask(MASK))
    folder = write_folder(tmp_path / "tasks", multiple_choice("reference", items))
    answers = {mask: samples(loaded, folder, mask) for mask in ("", MASK)}
    for row in found.tasks:
        assert row.each == [each[row.metric] for each in answers[MASK]]
        assert row.baseline_each == [each[row.metric] for each in answers[""]]
        assert row.change is not None
        assert row.change.difference == pytest.approx(row.value - row.baseline)
    picks = {
        mask: [int(np.argmax([answer[0] for answer in each["filtered_resps"]])) for each in rows]
        for mask, rows in answers.items()
    }
    assert picks[""] != picks[MASK]
    assert (found.picks, found.baseline_picks) == ({"mine": picks[MASK]}, {"mine": picks[""]})
    flipped = [at for at in range(len(ITEMS)) if picks[""][at] != picks[MASK][at]]
    assert [flip.item for flip in found.flips] == flipped
    for flip in found.flips:
        item = ITEMS[flip.item]
        assert (flip.question, flip.choices, flip.gold) == (
            item["query"],
            item["choices"],
            item["gold"],
        )
        assert (flip.here, flip.untouched) == (picks[MASK][flip.item], picks[""][flip.item])
    again = benchmark(loaded, [str(items)], loaded.mask(MASK), baseline=found.untouched())
    assert again.to_json()["flips"] == found.to_json()["flips"]
    assert again.tasks == found.tasks
    assert benchmark(loaded, [str(items)], loaded.empty()).flips == []


def samples(loaded: LoadedModel, folder: Path, mask: str) -> list[dict[str, Any]]:
    return plain_results(loaded, folder, ["reference"], mask)["samples"]["reference"]


def test_a_file_scores_as_its_yaml_does(loaded: LoadedModel, items: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tasks", multiple_choice("reference", items))
    found = benchmark(loaded, [str(items)], loaded.mask(MASK))
    edited = rows_of(plain(loaded, folder, ["reference"], MASK), "reference")
    assert {row.metric: (row.value, row.stderr) for row in found.tasks} == edited
    assert {row.task for row in found.tasks} == {"mine"}


@torch.no_grad()
def test_the_scores_follow_from_the_log_probabilities(loaded: LoadedModel, items: Path) -> None:
    def log_probability(query: str, choice: str) -> float:
        whole = loaded.tokenizer(f"{query} {choice}", return_tensors="pt").input_ids
        scores = loaded.model(whole, use_cache=False).logits[0].log_softmax(-1)
        start = len(loaded.tokenizer(query.rstrip()).input_ids)
        return float(sum(scores[at - 1, whole[0, at]] for at in range(start, whole.shape[1])))

    right, right_norm = [], []
    with muted(loaded, loaded.mask(MASK)):
        for item in ITEMS:
            total = [log_probability(item["query"], choice) for choice in item["choices"]]
            share = [one / len(choice) for one, choice in zip(total, item["choices"], strict=True)]
            right.append(np.argmax(total) == item["gold"])
            right_norm.append(np.argmax(share) == item["gold"])
    assert right != right_norm  # the two differ on these items
    found = table(benchmark(loaded, [str(items)], loaded.mask(MASK)))
    assert found["mine", "acc"] == pytest.approx(np.mean(right))
    assert found["mine", "acc_norm"] == pytest.approx(np.mean(right_norm))


def test_the_fields_of_a_file_are_data_and_no_template(items: Path) -> None:
    task = find([str(items)]).tasks["mine"]
    task.build_all_requests(rank=0, world_size=1)
    asked = [request.args for request in task.instances]
    assert asked == [(item["query"], f" {choice}") for item in ITEMS for choice in item["choices"]]


def test_few_shot_examples_are_the_same_in_both_turns(loaded: LoadedModel, tmp_path: Path) -> None:
    data = assets.asset("benchmark.jsonl")
    more = {"num_fewshot": 2, "fewshot_split": "test", "task": "shots"}
    folder = write_folder(tmp_path, multiple_choice("", data, **more))
    found = benchmark(loaded, [str(folder)], loaded.mask("3.ffn"), limit=LIMIT)
    assert table(found, baseline=True) == table(
        benchmark(loaded, [str(folder)], loaded.empty(), limit=LIMIT)
    )
    edited = rows_of(plain(loaded, folder, ["shots"], "3.ffn", limit=LIMIT), "shots")
    assert {row.metric: (row.value, row.stderr) for row in found.tasks} == edited


def other_kinds(items: Path) -> list[dict[str, Any]]:
    """Tasks that are no multiple choice: text, last words, written answers; and a group."""
    base = {key: multiple_choice("", items)[key] for key in ("dataset_path", "dataset_kwargs")}
    base |= {"test_split": "test", "doc_to_text": "query"}
    last_word = [
        {"metric": metric, "aggregation": metric if metric == "perplexity" else "mean"}
        for metric in ("perplexity", "acc")
    ]
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    pick = {"function": "regex", "regex_pattern": "(s)"}
    rolling = [{"metric": name} for name in ("word_perplexity", "bits_per_byte")]
    return [
        {
            **base,
            "task": "written",
            "output_type": "generate_until",
            "doc_to_target": "s",
            "generation_kwargs": {"max_gen_toks": 9, "until": ["\n"], "do_sample": False},
            "metric_list": [exact],
            "filter_list": [
                {"name": "picked", "filter": [pick, {"function": "take_first"}]},
                {"name": "none", "filter": [{"function": "take_first"}]},
            ],
        },
        {
            **base,
            "task": "words",
            "output_type": "loglikelihood",
            "doc_to_target": " {{choices[gold]}}",
            "metric_list": last_word,
        },
        {
            **base,
            "task": "rolling",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{query * 90}}",
            "metric_list": rolling,
        },
        multiple_choice("choice", items),
        {
            "group": "both",
            "task": ["choice", "words"],
            "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        },
    ]


def test_every_metric_of_every_kind_of_task_is_reported(
    loaded: LoadedModel, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "tasks", *other_kinds(items))
    heard = Heard()
    found = benchmark(loaded, [str(folder)], loaded.mask(MASK), progress=heard)
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    names = ["both", "written", "rolling"]
    edited = plain(loaded, folder, names, MASK)
    untouched = plain(loaded, folder, names)
    expected = {
        ("choice", "acc"): "acc,none",
        ("choice", "acc_norm"): "acc_norm,none",
        ("words", "perplexity"): "perplexity,none",
        ("words", "acc"): "acc,none",
        ("both", "acc"): "acc,none",
        ("written", "exact_match (picked)"): "exact_match,picked",
        ("written", "exact_match"): "exact_match,none",
        ("rolling", "word_perplexity"): "word_perplexity,none",
        ("rolling", "bits_per_byte"): "bits_per_byte,none",
    }
    assert {(row.task, row.metric) for row in found.tasks} == set(expected)
    for row in found.tasks:
        key = expected[row.task, row.metric]
        error = edited[row.task][key.replace(",", "_stderr,")]
        assert row.value == pytest.approx(edited[row.task][key], rel=1e-5)
        assert row.baseline == pytest.approx(untouched[row.task][key], rel=1e-5)
        if error == "N/A":
            assert math.isnan(row.stderr)
        else:
            assert row.stderr == pytest.approx(error, rel=1e-5)
        assert row.items == (2 * len(ITEMS) if row.task == "both" else len(ITEMS))
    assert any(row.stderr > 0 for row in found.tasks if row.metric == "perplexity")
    requests = sum(len(item["choices"]) for item in ITEMS) + 3 * len(ITEMS)
    assert_counts_up(heard, 2 * requests)


def small_window(tokens: int) -> LoadedModel:
    """A tiny model of one's own that takes so few tokens."""
    loaded = load("tiny:llama", dtype="fp32")
    loaded.model.config.max_position_embeddings = tokens
    return loaded


LONG = [
    {"query": "word " * words, "choices": ["one", "two, or more"], "gold": words % 2}
    for words in (2, 5, 6, 7, 8, 30)
]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "one by one"])
@pytest.mark.parametrize("mask", ["", MASK])
def test_what_is_too_long_is_cut_as_lm_eval_cuts_it_and_counted(
    tmp_path: Path, mask: str, shared: bool
) -> None:
    loaded = small_window(40)
    loaded.takes_branches = shared
    data = write_items(tmp_path / "mine.jsonl", LONG)
    folder = write_folder(tmp_path / "tasks", multiple_choice("reference", data))
    found = benchmark(loaded, [str(data)], loaded.mask(mask))
    rows = plain_results(loaded, folder, ["reference"], mask)["samples"]["reference"]
    for row in found.tasks:
        assert row.each == [each[row.metric] for each in rows]
    assert found.picks["mine"] == [
        int(np.argmax([answer[0] for answer in each["filtered_resps"]])) for each in rows
    ]

    def size(item: dict[str, Any]) -> int:
        return max(len(loaded.tokenizer(f"{item['query']} {c}").input_ids) for c in item["choices"])

    sizes = [size(item) for item in LONG]
    assert {41, 42} & set(sizes) or min(sizes) < 41 < max(sizes)
    long = sum(each > 41 for each in sizes)  # the last token is only predicted
    assert 0 < long < len(LONG)
    assert found.cut == [Cut("mine", long, len(LONG), 40)]
    again = from_json(json.loads(found.dumps()))
    assert isinstance(again, Benchmark) and again.cut == found.cut
    assert f"{long} of 6 items of mine were cut to the last 40 tokens" in found.remarks
    assert benchmark(loaded, [str(data)], loaded.mask(mask), limit=1).cut == []


def test_a_long_prompt_of_a_written_answer_is_cut_and_counted(tmp_path: Path) -> None:
    loaded = small_window(40)
    data = write_items(tmp_path / "mine.jsonl", LONG)
    folder = write_folder(tmp_path / "tasks", other_kinds(data)[0])
    found = benchmark(loaded, [str(folder)], loaded.mask(MASK))
    asked = plain_results(loaded, folder, ["written"], MASK)["samples"]["written"]
    for row in found.tasks:
        chosen = "picked" if "picked" in row.metric else "none"
        rows = [each["exact_match"] for each in asked if each["filter"] == chosen]
        assert row.each == rows
    long = sum(len(loaded.tokenizer(item["query"]).input_ids) > 40 - 9 for item in LONG)
    assert 0 < long < len(LONG)
    assert found.cut == [Cut("written", long, len(LONG), 40 - 9)]


def test_a_text_that_is_scored_whole_is_not_cut(items: Path, tmp_path: Path) -> None:
    loaded = small_window(40)
    folder = write_folder(tmp_path / "tasks", other_kinds(items)[2])
    assert benchmark(loaded, [str(folder)], loaded.empty()).cut == []


# Which mask


def test_nothing_muted_is_its_own_baseline_and_measured_once(
    loaded: LoadedModel, items: Path
) -> None:
    heard = Heard()
    found = benchmark(loaded, [str(items)], loaded.empty(), progress=heard)
    assert table(found) == table(found, baseline=True)
    assert all(row.stderr == row.baseline_stderr for row in found.tasks)
    assert_counts_up(heard, sum(len(item["choices"]) for item in ITEMS))


def test_no_answer_comes_from_another_mask(loaded: LoadedModel) -> None:
    def scores(mask: str) -> tuple[Any, Any]:
        found = benchmark(loaded, DEFAULT_TASKS, loaded.mask(mask), limit=LIMIT)
        return table(found), table(found, baseline=True)

    first, base = scores("1.attn")
    second, base_again = scores("0-2")
    assert first != second
    assert base == base_again
    assert scores("1.attn") == (first, base)
    assert scores("") == (base, base)


def test_a_known_baseline_is_not_measured_again(loaded: LoadedModel) -> None:
    known = benchmark(loaded, DEFAULT_TASKS, loaded.empty(), limit=LIMIT)
    known = from_json(json.loads(known.dumps()))  # as it comes from a file
    assert isinstance(known, Benchmark)
    both = Heard()
    measured = benchmark(loaded, DEFAULT_TASKS, loaded.mask(MASK), limit=LIMIT, progress=both)
    once = Heard()
    given = benchmark(
        loaded, DEFAULT_TASKS, loaded.mask(MASK), limit=LIMIT, baseline=known, progress=once
    )
    assert given.tasks == measured.tasks
    assert once[-1][1] * 2 == both[-1][1]
    assert "the untouched model" not in {note for *_, note, _ in once}


def test_a_baseline_of_something_else_is_refused(
    loaded: LoadedModel, items: Path, tmp_path: Path
) -> None:
    mask = loaded.mask(MASK)
    known = benchmark(loaded, [str(items)], loaded.empty(), limit=4)

    def against(model: LoadedModel = loaded, path: Path = items, limit: int | None = 4) -> str:
        with pytest.raises(ResultError) as caught:
            benchmark(model, [str(path)], mask, limit=limit, baseline=known)
        return str(caught.value)

    assert "a limit of 4 items, not 5" in against(limit=5)
    assert "a limit of 4 items, not None" in against(limit=None)
    half = load("tiny:llama", dtype="bf16")
    assert "another model (dtype float32, not bfloat16)" in against(model=half)
    assert "another model (source tiny:llama, not tiny:qwen2)" in against(load("tiny:qwen2"))
    changed = [{**ITEMS[0], "gold": 0}, *ITEMS[1:]]
    other = write_items(tmp_path / "again" / "mine.jsonl", changed)
    assert "not of the same items of mine" in against(path=other)
    renamed = write_items(tmp_path / "theirs.jsonl", ITEMS)
    assert "items of mine, items of theirs" in against(path=renamed)
    known = benchmark(loaded, [str(items)], mask, limit=4)
    assert f"measured with {MASK} muted" in against()
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


def test_what_was_asked_and_by_what_is_in_the_result(loaded: LoadedModel, items: Path) -> None:
    one = benchmark(loaded, [str(items)], loaded.empty(), limit=2).provenance
    assert one.source == "tiny:llama"
    assert one.seconds > 0
    assert one.versions["lm_eval"].startswith("0.4.")
    all_items = benchmark(loaded, [str(items)], loaded.empty()).provenance
    assert one.versions["items of mine"] != all_items.versions["items of mine"]


# Progress, cancel, quiet


def assert_counts_up(heard: Heard, total: float) -> None:
    counted = [(done, whole) for done, whole, *_ in heard if whole != 1]
    assert {whole for _, whole in counted} == {total}
    done = [each for each, _ in counted]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == total
    assert len(set(done)) > 2


def test_progress_counts_the_requests_of_both_turns(loaded: LoadedModel) -> None:
    heard = Heard()
    benchmark(loaded, DEFAULT_TASKS, loaded.mask(MASK), limit=LIMIT, progress=heard)
    choices = [len(item.choices) for item in read_items(assets.asset("benchmark.jsonl"))]
    assert_counts_up(heard, 2 * sum(choices[:LIMIT]))
    assert next(note for _, whole, note, _ in heard if whole != 1) == "the edited model"
    assert heard[-1][2] == "the untouched model"


def test_the_first_turns_scores_are_shown_before_the_second(loaded: LoadedModel) -> None:
    heard = Heard()
    found = benchmark(loaded, DEFAULT_TASKS, loaded.mask(MASK), limit=LIMIT, progress=heard)
    partials = [partial for *_, note, partial in heard if note == "the untouched model"]
    assert partials
    for partial in partials:
        assert table(partial) == table(found)
        assert all(math.isnan(row.baseline) for row in partial.tasks)
    assert all(partial is None for *_, note, partial in heard if note != "the untouched model")


@pytest.mark.parametrize("at", [0, 40, 120])
def test_cancel_restores_the_model(loaded: LoadedModel, ids: torch.Tensor, at: int) -> None:
    before = loaded.model(ids).logits
    heard = Heard(cancel_at=at)
    with pytest.raises(Cancelled):
        benchmark(loaded, DEFAULT_TASKS, loaded.mask("0-2"), limit=LIMIT, progress=heard)
    assert heard[-1][0] < 2 * 4 * LIMIT
    assert same_as_before(loaded, ids, before)
    # and what was cancelled leaves nothing behind that a later run would answer from
    found = benchmark(loaded, DEFAULT_TASKS, loaded.empty(), limit=4)
    assert table(found) == table(benchmark(loaded, DEFAULT_TASKS, loaded.empty(), limit=4))


def test_a_written_answer_can_be_cancelled_between_two_tokens(
    loaded: LoadedModel, ids: torch.Tensor, items: Path, tmp_path: Path
) -> None:
    config = {**other_kinds(items)[0], "generation_kwargs": {"max_gen_toks": 200, "until": []}}
    folder = write_folder(tmp_path / "tasks", config)
    before = loaded.model(ids).logits
    calls = 0

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        nonlocal calls
        calls += total > 1
        if calls == 10:
            raise Cancelled

    with pytest.raises(Cancelled):
        benchmark(loaded, [str(folder)], loaded.mask("1"), batch=8, progress=progress)
    assert calls == 10  # one batch holds all six items: these calls came from within it
    assert same_as_before(loaded, ids, before)


def test_nothing_is_printed_and_the_log_is_as_before(
    loaded: LoadedModel, items: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.api import metrics, task

    log = logging.getLogger("lm_eval")
    before = (log.level, task.tqdm, metrics.bootstrap_stderr, dict(os.environ))
    folder = write_folder(tmp_path / "tasks", *other_kinds(items))
    benchmark(loaded, [str(folder), str(items)], loaded.mask(MASK), limit=3)
    assert capfd.readouterr() == ("", "")
    assert (log.level, task.tqdm, metrics.bootstrap_stderr, dict(os.environ)) == before


def test_the_tokenizer_and_the_random_numbers_are_left_alone(items: Path) -> None:
    loaded = load("tiny:llama", dtype="fp32")
    loaded.tokenizer.pad_token = None
    torch.manual_seed(5)
    state = torch.get_rng_state()
    benchmark(loaded, [str(items)], loaded.mask(MASK))
    assert loaded.tokenizer.pad_token is None
    assert torch.equal(torch.get_rng_state(), state)


# What can go wrong


def says(call: Callable[[], Any], kind: type[InspectorError] = TaskError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


BAD_LINES = [
    ('{"query": "a", "choices": ["b", "c"], "gold": 0', "is not JSON"),
    ("[1, 2]", "is not a JSON object"),
    ('{"choices": ["b", "c"], "gold": 0}', 'has no field "query"'),
    ('{"query": "a", "gold": 0}', 'has no field "choices"'),
    ('{"query": "a", "choices": ["b", "c"]}', 'has no field "gold"'),
    ('{"query": "a", "choices": ["b"], "gold": 0}', "a list of two strings or more"),
    ('{"query": "a", "choices": "bc", "gold": 0}', "a list of two strings or more"),
    ('{"query": "", "choices": ["b", "c"], "gold": 0}', "must be text, and not empty"),
    ('{"query": 5, "choices": ["b", "c"], "gold": 0}', "must be text, and not empty"),
    ('{"query": "a", "choices": ["b", ""], "gold": 0}', "must be text, and not empty"),
    ('{"query": "a", "choices": ["b", null], "gold": 0}', "must be text, and not empty"),
    ('{"query": "\\ud800", "choices": ["b", "c"], "gold": 0}', "must be text, and not empty"),
    ('{"query": "a", "choices": ["b", "c"], "gold": 2}', '"gold" is 2, and must be'),
    ('{"query": "a", "choices": ["b", "c"], "gold": -1}', "the number of a choice, 0 to 1"),
    ('{"query": "a", "choices": ["b", "c"], "gold": true}', '"gold" is true, and must be'),
    ('{"query": "a", "choices": ["b", "c"], "gold": "1"}', '"gold" is "1", and must be'),
    ("[" * 100_000, "is not JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = write_items(tmp_path / "bad.jsonl", [ITEMS[0], "", line, ITEMS[1]])
    said = says(lambda: find([str(path)]))
    assert said.startswith(f"{path}, line 3")
    assert message in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    assert says(lambda: find([str(path)])) == f"there is no file {path}: check the path."
    path.write_bytes(b'{"query": "\xff')
    assert says(lambda: find([str(path)])) == (
        f"{path} is not UTF-8 (byte 11): save it as UTF-8 text."
    )
    path.write_text("\n \n")
    assert says(lambda: find([str(path)])).startswith(f"{path} holds no items: write one object")
    path.unlink()
    path.mkdir()
    assert says(lambda: find([str(path)])).startswith(f"cannot read {path} (")


def test_line_separators_inside_a_text_and_a_byte_order_mark_are_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    row = json.dumps({**ITEMS[0], "query": "a\u2028b\x85c"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n")
    assert [item.query for item in read_items(path)] == ["a\u2028b\x85c"]


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    assert "there are none" in says(lambda: find([str(tmp_path)]))
    (tmp_path / "base.yaml").write_text("output_type: multiple_choice\n")
    assert "none of its 1 YAML files has a field task" in says(lambda: find([str(tmp_path)]))
    bad = tmp_path / "worse.yaml"
    bad.write_text("task: [unclosed\n")
    said = says(lambda: find([str(tmp_path)]))
    assert said.startswith(f"{bad} cannot be read as a task (")


def test_a_task_that_cannot_be_set_up_is_refused(items: Path, tmp_path: Path) -> None:
    def folder(name: str, **more: Any) -> str:
        return str(write_folder(tmp_path / name, multiple_choice(name, items, **more)))

    wrong = folder("wrong", doc_to_text="{{ no_such_field }}")
    assert says(lambda: find([wrong])).startswith("wrong cannot be set up (UndefinedError: ")
    unsafe = folder("unsafe", unsafe_code=True)
    assert "unsafe runs code that the model writes" in says(lambda: find([unsafe]))
    picture = folder("picture", doc_to_image="query")
    assert "picture needs pictures or sound" in says(lambda: find([picture]))
    gone = folder("gone", dataset_kwargs={"data_files": {"test": str(tmp_path / "gone.jsonl")}})
    assert says(lambda: find([gone])).startswith("gone cannot be set up (FileNotFoundError: ")
    lacking = Path(folder("lacking"))
    (lacking / "0.yaml").write_text("task: lacking\ndoc_to_text: !function helper.text\n")
    (lacking / "helper.py").write_text("import no_such_package_at_all\n")
    said = says(lambda: find([str(lacking)]))
    assert said.startswith("lacking needs a package that is not installed (")
    far = folder("far", dataset_path="somebody/data", dataset_kwargs={})
    said = says(lambda: find([far]))
    assert said.startswith("the data of far cannot be had from the hub (")
    assert "use own, a .jsonl file of query, choices and gold, or a folder" in said


@pytest.fixture
def some_of_lm_evals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of lm-eval's own tasks in place of all of them, which take 10 s to look through."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "arc"
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(tasks, "_lm_eval_tasks", lambda: manager)


@pytest.mark.usefixtures("some_of_lm_evals")
def test_a_task_of_lm_evals_needs_the_hub_and_says_what_does_not() -> None:
    said = says(lambda: find(["arc_easy"]))
    assert said.startswith("the data of arc_easy cannot be had from the hub (Couldn't reach")
    assert "use own, a .jsonl file of query, choices and gold, or a folder" in said


@pytest.mark.usefixtures("some_of_lm_evals")
def test_an_unknown_name_gets_the_nearest() -> None:
    said = says(lambda: find(["arc_esy"]))
    assert said.startswith("no task is called 'arc_esy': the nearest are arc_easy")
    assert "own, a .jsonl file or a folder of task YAMLs work too" in said
    assert "lm-eval has none like it" in says(lambda: find(["zzzzzzzz"]))


def test_all_of_lm_evals_tasks_are_known() -> None:
    said = says(lambda: find(["hellaswagg"]))
    assert "the nearest are hellaswag" in said
    known = set(tasks._lm_eval_tasks().all_tasks)
    assert {name for suite in SUITES.values() for name, _ in suite.tasks} <= known


@pytest.mark.parametrize("spec", ["no/such/folder", "task.yaml", "items.json", "", "  "])
def test_a_path_that_leads_nowhere_is_refused_at_once(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_lm_eval_tasks", lambda: pytest.fail("looked the name up"))
    said = says(lambda: find([spec]))
    assert said.startswith(f"{spec!r} is no folder of task YAMLs, no .jsonl file and no task")


def test_no_task_at_all_is_refused() -> None:
    assert says(lambda: find([])).startswith("no task is named: use own")


def test_two_tasks_of_one_name_are_refused(items: Path, tmp_path: Path) -> None:
    other = write_items(tmp_path / "again" / "mine.jsonl", ITEMS)
    said = says(lambda: find([str(items), str(other)]))
    assert said.startswith(f"{other} has a task called mine, and so has a task named before it")
    assert list(find([str(items), str(items), "own"]).tasks) == ["mine", "own"]
    assert list(find("own").tasks) == ["own"]


@pytest.mark.parametrize(("limit", "batch"), [(0, 8), (-1, 8), (None, 0)])
def test_a_limit_or_a_batch_below_one_is_refused(
    loaded: LoadedModel, limit: int | None, batch: int
) -> None:
    said = says(lambda: benchmark(loaded, DEFAULT_TASKS, loaded.empty(), limit=limit, batch=batch))
    assert "of 1 or more" in said


def test_a_choice_that_does_not_fit_the_window_is_refused(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    row = {"query": "a", "choices": ["b" * 600, "c"], "gold": 0}
    path = write_items(tmp_path / "long.jsonl", [row])
    said = says(lambda: benchmark(loaded, [str(path)], loaded.empty()))
    assert "has 601 tokens and this model takes 512: shorten it" in said


def test_a_prompt_without_room_for_the_answer_is_refused(items: Path, tmp_path: Path) -> None:
    loaded = small_window(9)
    folder = write_folder(tmp_path / "tasks", other_kinds(items)[0])
    said = says(lambda: benchmark(loaded, [str(folder)], loaded.empty()))
    assert said.startswith("written asks for 9 new tokens, and this model takes 9 with the prompt")


def test_a_task_without_items_is_refused(loaded: LoadedModel, items: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    folder = write_folder(tmp_path / "tasks", multiple_choice("none", empty))
    assert says(lambda: find([str(folder)])).startswith("none cannot be set up (")
    folder = write_folder(tmp_path / "filtered", multiple_choice("filtered", items))
    (folder / "helper.py").write_text("def docs(d):\n    return d.filter(lambda _: False)\n")
    with (folder / "0.yaml").open("a") as file:
        file.write("process_docs: !function helper.docs\n")
    said = says(lambda: benchmark(loaded, [str(folder)], loaded.empty()))
    assert said.startswith("filtered ") and ("no items" in said or "cannot be set up" in said)


@pytest.mark.parametrize("kind", [0, 1, 2, 3], ids=["written", "words", "rolling", "choice"])
def test_logits_that_are_no_numbers_have_no_accuracy(
    loaded: LoadedModel,
    items: Path,
    tmp_path: Path,
    kind: int,
) -> None:
    folder = write_folder(tmp_path / "tasks", other_kinds(items)[kind])
    output: Any = loaded.model.get_output_embeddings()
    real = output.forward

    def nan(rows: torch.Tensor) -> torch.Tensor:
        return torch.full_like(real(rows), torch.nan)

    with replaced(output, nan):
        said = says(lambda: benchmark(loaded, [str(folder)], loaded.mask(MASK)), InspectorError)
    assert ("(NaN)" in said and "no numbers" in said) or "not numbers (NaN)" in said


def test_a_perplexity_that_overflows_is_said(loaded: LoadedModel, tmp_path: Path) -> None:
    words = [{"query": "x" * 600, "choices": ["a", "b"], "gold": 0}]  # 600 tokens in a word
    data = write_items(tmp_path / "mine.jsonl", words)
    folder = write_folder(tmp_path / "tasks", other_kinds(data)[2])
    said = says(lambda: benchmark(loaded, [str(folder)], loaded.empty()), ResultError)
    assert said.startswith("a perplexity of these tasks is beyond all numbers")


def test_a_mask_for_another_depth_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(MaskError):
        benchmark(loaded, DEFAULT_TASKS, Mask(30))


def test_running_out_of_memory_names_the_levers(loaded: LoadedModel, items: Path) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with replaced(loaded.layers[0], full):
        said = says(lambda: benchmark(loaded, [str(items)], loaded.mask("1"), batch=5), OutOfMemory)
    assert said.startswith("out of memory with 5 requests of up to 34 tokens at a time")
    for lever in ("a smaller batch", "shorter texts", "--dtype bf16"):
        assert lever in said
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


# Where the own set lies


def test_a_missing_asset_names_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    said = says(lambda: assets.asset("benchmark.jsonl"), InspectorError)
    assert said.startswith("the file assets/benchmark.jsonl is missing from this installation")


def test_an_installed_package_finds_its_own_assets_first(tmp_path: Path) -> None:
    """A wheel's layout: inspector/assets/ beside inspector/assets.py, and a stranger's assets/."""
    source = Path(assets.__file__)
    package = tmp_path / "inspector"
    shutil.copytree(source.parent, package, ignore=lambda *_: ["view", "cli", "measure", "model"])
    (package / "assets").mkdir(exist_ok=True)
    (package / "assets" / "benchmark.jsonl").write_text("ours")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "benchmark.jsonl").write_text("theirs")
    spec = importlib.util.spec_from_file_location("installed_assets", package / "assets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.asset("benchmark.jsonl").read_text() == "ours"


def test_the_module_is_found_beside_a_folder_of_its_name(tmp_path: Path) -> None:
    import subprocess
    import sys

    package = tmp_path / "inspector"
    (package / "assets").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "assets.py"):
        shutil.copy(Path(assets.__file__).parent / name, package / name)
    (package / "assets" / "benchmark.jsonl").write_text("ours")
    code = (
        "from inspector.assets import asset; assert asset('benchmark.jsonl').read_text() == 'ours'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
