"""Which measurements go along with an export, and what its card says of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from inspector.model.export.measured import fitting, misfit, section
from inspector.model.loaded import LoadedModel
from inspector.results.checks import Benchmark, Generation, Perplexity, TaskScore
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

NLLS, UNTOUCHED = [1.2, 1.4], [1.0, 1.1]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture
def perplexity(loaded: LoadedModel) -> Perplexity:
    made = loaded.provenance(corpus={"name": "a text", "windows": 2, "length": 8})
    baseline = {"perplexity": math.exp(1.05), "nll": 1.05, "tokens": 14}
    return Perplexity(
        made, "1.ffn", math.exp(1.3), 1.3, 14, 8, 8, baseline, each=NLLS, baseline_each=UNTOUCHED
    )


@pytest.fixture
def benchmark(loaded: LoadedModel) -> Benchmark:
    score = TaskScore("own", "acc", 0.5, 0.05, 100, 0.75, 0.04)
    return Benchmark(loaded.provenance(), "1.ffn", [score])


def test_what_is_of_another_model_or_mask_is_named(
    loaded: LoadedModel, perplexity: Perplexity, benchmark: Benchmark
) -> None:
    mask, made = loaded.mask("1.ffn"), perplexity.provenance
    assert misfit(loaded, mask, perplexity) == misfit(loaded, mask, benchmark) == ""
    text = Generation(made, "1.ffn", [])
    reasons = {
        "it is a generation result, and a check is a perplexity or a benchmark": text,
        "it was measured without 2.ffn, and this is without 1.ffn": replace(
            perplexity, mask="2.ffn"
        ),
        "it was measured without nothing, and": replace(benchmark, mask=""),
        "(llama, sha256 0), and this model is tiny:llama (llama, random, seed 0)": replace(
            perplexity, provenance=replace(made, weights="sha256 0")
        ),
        "it is of tiny:qwen3 (qwen3, random, seed 0), and": replace(
            perplexity, provenance=replace(made, source="tiny:qwen3", model_type="qwen3")
        ),
    }
    for reason, result in reasons.items():
        assert reason in misfit(loaded, mask, result)
    # Where the model lies does not matter: the weights are known.
    moved = replace(perplexity, provenance=replace(made, source="elsewhere"))
    assert not misfit(loaded, mask, moved)
    found = [*reasons.values(), benchmark, perplexity, replace(benchmark), moved]
    assert fitting(loaded, mask, found) == [benchmark, perplexity, moved]


def test_one_without_a_number_is_kept_once(loaded: LoadedModel, perplexity: Perplexity) -> None:
    nan = replace(perplexity, nll=math.nan, perplexity=math.nan)
    found = fitting(loaded, loaded.mask("1.ffn"), [nan, replace(nan), perplexity])
    assert [each is perplexity for each in found] == [False, True]


def test_the_card_says_each_with_its_error(perplexity: Perplexity, benchmark: Benchmark) -> None:
    lines = section([perplexity, benchmark]).splitlines()
    assert lines[2] == "Measured on the source, in float32, with those units muted."
    # The steps are 0.2 and 0.3: mean 0.25, standard error 0.05; 1.959964 of them to each side.
    low, high = math.exp(0.25 - 0.0979982), math.exp(0.25 + 0.0979982)
    assert lines[6] == (
        "| perplexity, a text, windows of 8 tokens (lower is better) "
        f"| 3.669 ({low:.4g} to {high:.4g} times the source's, 95 %, 2 windows) | 2.858 |"
    )
    assert lines[7] == "| own, acc, 100 items (higher is better) | 0.500 ± 0.050 | 0.750 ± 0.040 |"


def test_the_card_without_errors_or_a_baseline(
    perplexity: Perplexity, benchmark: Benchmark
) -> None:
    one = replace(perplexity, baseline={}, each=[1.3], baseline_each=[1.0])
    (task,) = benchmark.tasks
    bare = replace(task, stderr=math.nan, baseline=math.nan, baseline_stderr=math.nan)
    lines = section([one, replace(benchmark, tasks=[bare])]).splitlines()
    assert lines[6].endswith("| 3.669 | - |")
    assert lines[7].endswith("| 0.500 | - |")


def test_words_of_a_file_are_no_markdown(perplexity: Perplexity, benchmark: Benchmark) -> None:
    bad = "<img src=x>|\n# [a](http://b)"
    made = replace(perplexity.provenance, dtype=bad, corpus={"name": bad})
    (task,) = benchmark.tasks
    text = section(
        [
            replace(perplexity, provenance=made),
            replace(perplexity, provenance=replace(made, corpus=[bad])),  # type: ignore[arg-type]
            replace(benchmark, tasks=[replace(task, task=bad, metric=bad, items=bad)]),  # type: ignore[arg-type]
        ]
    )
    assert not set("<>[]#") & set(text.removeprefix("## "))
    assert all(line.count("|") == 4 for line in text.splitlines()[4:])
