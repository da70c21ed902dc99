"""Every command on a tiny model: what it prints, what it writes, and that it is the API's call."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inspector import __version__
from inspector.cli import main
from inspector.cli.arguments import COMMON, CORPUS, LENGTH, SAMPLES, Argument
from inspector.cli.commands import COMMANDS
from inspector.cli.summaries import VIEWS, trajectory
from inspector.measure import corpus
from inspector.measure.corpus import windows
from inspector.measure.generation import generate
from inspector.measure.methods import METHODS
from inspector.measure.methods.evolution import Evolution
from inspector.measure.metrics import METRICS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import prune
from inspector.measure.similarity import similarity
from inspector.measure.sweep import sweep
from inspector.measure.tasks import DEFAULT_TASKS
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.base import Provenance, Result
from inspector.results.files import from_json
from inspector.results.files import load as load_result
from inspector.results.scores import Scores
from inspector.results.trajectory import Step, Trajectory
from inspector.units import Mask

MODEL = "tiny:llama"
SMALL = ["--samples", "2", "--length", "32", "--dtype", "fp32"]
HEAVY = ("torch", "transformers", "gradio", "lm_eval", "datasets", "plotly", "numpy")


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load(MODEL, dtype="fp32")


def ok(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command prints on stdout."""
    assert main(argv) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    """What a command prints with --json: valid JSON, and nothing else."""
    return json.loads(ok(capsys, *argv, "--json"), parse_constant=pytest.fail)


def measured(result: Result) -> dict[str, Any]:
    """A result's JSON without what differs from run to run."""
    data = result.to_json()
    for name in ("command", "created", "seconds", "seed"):
        del data["provenance"][name]
    for step in data.get("steps", ()):
        del step["seconds"]
    return data


def run_apart(*argv: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m inspector` in a process of its own, or `code`."""
    command = [sys.executable, *(("-c", code) if code else ("-m", "inspector")), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def argument(command: str, name: str) -> Argument:
    row = next(each for each in COMMANDS if each.name == command)
    return next(each for each in row.arguments if name in each.names)


# Without a model


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    out = ok(capsys)
    assert out.startswith("usage: inspector")
    assert all(row.name in out for row in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"inspector {__version__}\n"


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_command_has_help(row: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([row.name, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: inspector {row.name}")
    assert all(each.names[-1] in out for each in row.arguments if each.optional)


def test_help_and_mistakes_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from inspector.cli import main\n"
        "assert main([]) == 0 and main(['prune', 'tiny:llama']) == 2\n"
        f"print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    assert run_apart(code=code).stdout.splitlines()[-1] == "HEAVY"


def test_the_modules_main_is_the_command_line() -> None:
    done = run_apart("--version")
    assert (done.returncode, done.stdout) == (0, f"inspector {__version__}\n")


def test_help_names_every_corpus_metric_and_default() -> None:
    """The help is written by hand where a table would drag torch in; it agrees with the table."""
    assert all(each.spec in CORPUS.help for each in corpus.CORPORA)
    assert CORPUS.help.endswith(
        f"default: {corpus.DEFAULT_SEARCH}, for perplexity {corpus.DEFAULT_CHECK}"
    )
    assert f"{corpus.DEFAULT_SAMPLES}, for perplexity {corpus.CHECK_SAMPLES}" in SAMPLES.help
    assert f"{corpus.DEFAULT_LENGTH}, for perplexity {corpus.CHECK_LENGTH}" in LENGTH.help
    assert all(name in argument("prune", "--method").help for name in METHODS)
    checked = f"{corpus.CHECK_SAMPLES} windows of {corpus.CHECK_LENGTH} tokens"
    assert checked in argument("prune", "--check-corpus").help
    assert all(name in argument("sweep", "--metric").help for name in METRICS)
    assert argument("similarity", "--kind").settings["choices"] == tuple(VIEWS)
    assert [argument("bench", "--tasks").settings["default"]] == list(DEFAULT_TASKS)


def test_every_command_takes_the_common_arguments_that_mean_something_to_it() -> None:
    without_text = {"info", "bench", "speed", "generate"}
    for row in COMMANDS:
        # export's -o is a folder
        if row.name in ("methods", "plot", "compare", "import", "masks", "serve", "export"):
            continue
        common = [each for each in COMMON if each in row.arguments]
        text = [each for each in common if each in (CORPUS, SAMPLES, LENGTH)]
        assert len(text) == (0 if row.name in without_text else 3)
        assert len(common) >= 5


def test_serve_hands_its_arguments_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    page = ModuleType("inspector.view.page")
    page.__dict__["serve"] = lambda **options: calls.append(options)
    monkeypatch.setitem(sys.modules, "inspector.view.page", page)
    assert main(["serve", "--port", "7999"]) == 0
    assert calls == [{"host": "127.0.0.1", "port": 7999, "open_browser": False}]


# The model


def test_info_lists_the_units(tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    data = as_json(capsys, "info", MODEL, "--mask", "1.attn,3", "--dtype", "fp32")
    mask = tiny.mask("1.attn,3")
    assert [each["unit"] for each in data["units"]] == [str(info.unit) for info in tiny.units]
    assert [each["unit"] for each in data["units"] if each["muted"]] == list(map(str, mask))
    assert data["parameters"] == tiny.parameters
    assert data["bytes"] == 4 * tiny.parameters
    assert data["parameters_left"] == tiny.parameters_left(mask)
    assert data["kv_bytes_per_token_left"] == tiny.kv_bytes_left(mask)


def test_info_groups_units_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    out = ok(capsys, "info", "tiny:gemma2", "--mask", "1.attn")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row and row[-1] == "muted"] == ["1.attn"]
    assert any(row[:1] == ["0.attn,2.attn"] and "sliding_attention" in row for row in rows)


def test_info_says_what_cannot_be_muted(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import inspector.model.loading as loading

    units = (replace(tiny.units[0], problem="it changes nothing"), *tiny.units[1:])
    odd = replace(tiny, units=units)
    monkeypatch.setattr(loading, "load", lambda *_, **__: odd)
    out = ok(capsys, "info", MODEL)
    row = next(line for line in out.splitlines() if line.startswith("0.attn"))
    assert row.endswith("cannot be muted: it changes nothing")


def test_info_without_weights_gives_the_size_alone(capsys: pytest.CaptureFixture[str]) -> None:
    data = as_json(capsys, "info", MODEL, "--no-weights", "--dtype", "bf16")
    assert data["layers"] == 4
    assert data["bytes"] == 2 * data["parameters"]
    assert data["fits"] is True
    text = ok(capsys, "info", MODEL, "--no-weights")
    assert "4 layers, 8 units" in text
    assert "fits cpu" in text or "fits cuda" in text or "fits mps" in text


# Measurements are the API's


def test_similarity(tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["similarity", MODEL, "--mask", "2.ffn", *SMALL]
    found = from_json(as_json(capsys, *argv))
    text = windows(tiny.tokenizer, corpus.DEFAULT_SEARCH, samples=2, length=32)
    assert measured(found) == measured(similarity(tiny, text, tiny.mask("2.ffn")))


@pytest.mark.parametrize(
    ("kind", "first", "rows"),
    [("angular", "1", 4), ("stream", "into", 9), ("unit", "0.attn", 8)],
)
def test_similarity_prints_each_kind(
    kind: str, first: str, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ok(capsys, "similarity", MODEL, "--kind", kind, *SMALL)
    lines = out.rstrip("\n").split("\n\n")[-1].splitlines()[1:]
    assert len(lines) == rows
    assert lines[0].split()[0] == first


@pytest.mark.parametrize("metric", [None, "kl"])
def test_sweep(metric: str | None, tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    named = [] if metric is None else ["--metric", metric]
    data = as_json(capsys, "sweep", MODEL, "--mask", "0.attn", *named, "--seed", "5", *SMALL)
    text = windows(tiny.tokenizer, corpus.DEFAULT_SEARCH, samples=2, length=32, seed=5)
    same = sweep(tiny, text, tiny.mask("0.attn"), metric=metric or "nll")
    assert measured(from_json(data)) == measured(same)
    assert data["provenance"]["seed"] == 5


def test_sweep_prints_the_ranking(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sweep", MODEL, *SMALL]
    ranking = from_json(as_json(capsys, *argv))
    assert isinstance(ranking, Scores)
    lines = ok(capsys, *argv).rstrip("\n").splitlines()[-8:]
    assert [line.split()[:2] for line in lines] == [
        [str(place), unit] for place, unit in enumerate(ranking.ranking(), start=1)
    ]


def test_prune(tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["prune", MODEL, "--method", "blockpruner", "--remove", "2", "--only", "ffn", *SMALL]
    found = from_json(as_json(capsys, *argv, "--check-corpus", "pydoc:check"))
    text, check = (
        windows(tiny.tokenizer, spec, samples=2, length=32)
        for spec in (corpus.DEFAULT_SEARCH, "pydoc:check")
    )
    same = prune(tiny, text, tiny.empty(), method="blockpruner", remove=2, only="ffn", check=check)
    assert measured(found) == measured(same)


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["--remove-params", "10%"], {"remove_params": "10%"}),
        (
            ["--remove-kv", "0.3", "--protect", "0,3.attn"],
            {"remove_kv": 0.3, "protect": "0,3.attn"},
        ),
        (
            ["--remove", "3", "--protect-first-until", "0.3", "--as-published"],
            {"remove": 3, "protect_first_until": 0.3, "as_published": True},
        ),
        (
            ["--method", "random", "--remove", "2", "--method-seed", "7"],
            {"method": "random", "remove": 2, "seed": 7},
        ),
        (["--method", "angular", "--remove", "3"], {"method": "angular", "remove": 3}),
        (["--remove", "2", "--no-early-exit"], {"remove": 2, "early_exit": False}),
        (["--remove", "1", "--memory", "64KiB"], {"remove": 1, "memory": 1 << 16}),
        (
            ["--remove", "2", "--search", "lazy", "--verify"],
            {"remove": 2, "lazy": True, "verify": True},
        ),
        (
            ["--method", "evopress", "--remove", "2", "--method-seed", "1"],
            {"method": "evopress", "remove": 2, "seed": 1},
        ),
        (
            [
                *("--method", "evopress-layer", "--remove-params", "20%", "--generations", "3"),
                *("--offspring", "2", "--starts", "1", "--search-tokens", "16,40"),
            ],
            {
                "method": "evopress-layer",
                "remove_params": "20%",
                "evolution": Evolution(3, 2, 1, (16, 40)),
            },
        ),
    ],
)
def test_prune_options_are_the_apis(
    argv: list[str],
    options: dict[str, Any],
    tiny: LoadedModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = from_json(as_json(capsys, "prune", MODEL, *argv, *SMALL))
    text = windows(tiny.tokenizer, corpus.DEFAULT_SEARCH, samples=2, length=32)
    if "protect" in options:
        options = {**options, "protect": tiny.mask(options["protect"])}
    same = prune(tiny, text, tiny.empty(), **{"method": "finercut", **options})
    assert measured(found) == measured(same)


@pytest.mark.parametrize("command", [["sweep"], ["prune", "--remove", "1"]])
def test_memory_is_bounded_and_printed(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ok(capsys, command[0], MODEL, *command[1:], "--memory", "64KiB", *SMALL)
    assert "\nStreams held at once: 64 KiB at most" in out
    for size, message in (("4", "--memory takes a size such as 4GB"), ("9B", "use --memory ")):
        assert main([command[0], MODEL, *command[1:], "--memory", size, *SMALL]) == 2
        assert message in capsys.readouterr().err


def test_prune_prints_layers_that_come_back() -> None:
    made = Provenance("m", "w", "llama", "float32", "cpu", 4)
    steps = [
        Step(0, "", [], [], {}, {}, 10.0, 100, 8),
        Step(1, "2", ["2.attn", "2.ffn"], [], {}, {}, 11.0, 80, 6),
        Step(2, "0-1", ["0.attn", "0.ffn", "1.attn", "1.ffn"], ["2.attn", "2.ffn"], {}, {}, 12.0,
             60, 4),
    ]  # fmt: skip
    run = Trajectory(made, "", "angular", "distance", steps)
    rows = [line.split() for line in trajectory(run).splitlines()]
    assert rows[2][:4] == ["step", "removed", "back", "perplexity"]
    assert rows[4][:3] == ["1", "2", "-"]
    assert rows[5][:3] == ["2", "0-1", "2"]
    without = replace(run, steps=steps[:2])
    assert "back" not in trajectory(without)


def test_prune_prints_how_much_was_scored_in_full() -> None:
    made = Provenance("m", "w", "llama", "float32", "cpu", 4)
    scores = {"0.attn": 1.0, "1.attn": 2.0, "2.attn": 3.0}
    partly = dict.fromkeys(scores, "exact") | {"2.attn": "lower_bound"}
    steps = [
        Step(0, "", [], [], {}, {}, 10.0, 100, 8, layers=0.0, heads=0.0),
        Step(1, "0.attn", ["0.attn"], [], scores, partly, 11.0, 80, 6, layers=2.5, heads=2.25),
    ]
    run = Trajectory(made, "", "finercut", "js", steps)
    lines = trajectory(run).splitlines()
    effort = "2.5 through the layers, 2.25 through the head, of 3"
    assert lines[1] == f"Evaluations of the text: {effort}"
    assert lines[3].endswith("scored in full")
    assert lines[5].endswith("2 of 3")
    lazy = replace(run, options={"lazy": True})
    assert trajectory(lazy).startswith("finercut, lazy (an approximation) by js; ")
    for removed, same, words in ((["0.attn"], True, "the same"), (["2.attn"], False, "2.attn")):
        verified = {"step": 1, "removed": removed, "same": same}
        assert trajectory(replace(lazy, verified=verified)).startswith(
            f"finercut, lazy (an approximation; step 1 searched exactly removes {words}) by js; "
        )
    whole = replace(steps[1], score_status=dict.fromkeys(scores, "exact"))
    assert "in full" not in trajectory(replace(run, steps=[steps[0], whole]))
    carried = replace(steps[1], score_status=dict.fromkeys(scores, "stale"))  # a one-shot method's
    assert "in full" not in trajectory(replace(run, steps=[steps[0], carried]))


def test_prune_says_where_a_search_had_too_little_text(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["prune", MODEL, "--method", "evopress", "--remove", "2", *SMALL]
    note = "no fresh text: 64 tokens of text for stages of 2,048 and 32,768\n"
    assert note in ok(capsys, *argv)
    assert "no fresh text" not in ok(capsys, *argv, "--search-tokens", "32,32")


def test_prune_prints_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["prune", MODEL, "--remove", "2", *SMALL]
    run = from_json(as_json(capsys, *argv))
    assert isinstance(run, Trajectory)
    out = ok(capsys, *argv)
    rows = [line.split() for line in out.splitlines() if line[:1].isdigit()]
    assert [row[:2] for row in rows] == [
        ["0", "-"],
        *(["1", run.removed[0]], ["2", run.removed[1]]),
    ]
    assert [row[3] for row in rows] == [f"{step.parameters:,}" for step in run.steps]
    assert out.rstrip().endswith(f"mask: {run.steps[-1].mask}")


def test_prune_stops_once_a_perplexity_is_passed(capsys: pytest.CaptureFixture[str]) -> None:
    whole = as_json(capsys, "prune", MODEL, "--remove", "8", *SMALL)["steps"]
    bound = max(step["perplexity"] for step in whole[:3])
    passed = next((step["step"] for step in whole if step["perplexity"] > bound), 8)
    data = as_json(capsys, "prune", MODEL, "--until-perplexity", str(bound), *SMALL)
    assert passed > 2
    assert len(data["steps"]) == passed + 1
    assert data["finished"]
    never = all(step["perplexity"] <= bound for step in whole)
    assert bool(data["remark"]) == never


def test_prune_says_that_a_perplexity_was_never_passed(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["prune", MODEL, "--method", "reverse", "--until-perplexity", "1e9", *SMALL]
    said = "all that may go is gone, and the perplexity was never above 1e+09"
    assert said in ok(capsys, *argv).splitlines()
    data = as_json(capsys, *argv)
    assert data["finished"] and data["remark"] == said and len(data["steps"]) == 5
    assert not as_json(capsys, *argv, "--remove", "4")["remark"]  # that bound was met


def test_perplexity(tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["perplexity", MODEL, "--mask", "1", "--stride", "16", *SMALL]
    data = as_json(capsys, *argv)
    text = windows(tiny.tokenizer, corpus.DEFAULT_CHECK, samples=2, length=32, stride=16)
    assert measured(from_json(data)) == measured(perplexity(tiny, text, tiny.mask("1")))
    assert set(data["baseline"]) == {"perplexity", "nll", "tokens"}
    out = ok(capsys, *argv)
    ratio = data["perplexity"] / data["baseline"]["perplexity"]
    assert f"ratio: {ratio:.4g}" in out
    assert "by position" not in out
    rows = [line.split() for line in ok(capsys, *argv, "--by-position").splitlines()]
    first = [f"{data[name][0]:.4f}" for name in ("by_position", "baseline_by_position")]
    assert ["1-2", *first] in [row[:3] for row in rows]


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["bench", MODEL, "--mask", "1", "--limit", "4", "--dtype", "fp32"]
    data = as_json(capsys, *argv)
    rows = {row["metric"]: row for row in data["tasks"]}
    assert set(rows) == {"acc", "acc_norm"}
    assert (data["mask"], data["limit"], rows["acc"]["items"]) == ("1", 4, 4)
    bare = as_json(capsys, *argv[:2], *argv[4:])
    assert {row["metric"]: row["value"] for row in bare["tasks"]} == {
        metric: row["baseline"] for metric, row in rows.items()
    }
    out = ok(capsys, *argv)
    assert ["own", "acc"] in [line.split()[:2] for line in out.splitlines()]
    assert "the untouched model was measured in an earlier run" in out
    assert "earlier run" not in ok(capsys, *argv, "--fresh-baseline")


def test_bench_takes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        item = {"query": f"{name} and", "choices": ["a", "b"], "gold": 0}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(item), encoding="utf-8")
    tasks = ", ".join(str(tmp_path / name) for name in ("one.jsonl", "two.jsonl"))
    data = as_json(capsys, "bench", MODEL, "--tasks", tasks)
    assert {row["task"] for row in data["tasks"]} == {"one", "two"}


def test_speed(tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["speed", MODEL, "--mask", "1.attn,3", "--dtype", "fp32", "--prompt-tokens", "9"]
    argv += ["--tokens", "2", "--rounds", "2"]
    data = as_json(capsys, *argv)
    assert (data["mask"], data["prompt_length"], data["new_tokens"]) == ("1.attn,3", 9, 2)
    assert len(data["runs"]) == len(data["baseline_runs"]) == data["rounds"] == 2
    assert data["kv_computed"] == tiny.kv_bytes_left(tiny.mask("1.attn,3"))
    lines = ok(capsys, *argv).splitlines()
    assert [line.split(" (")[0] for line in lines if "B/token" in line] == [
        "KV cache as measured",
        "KV cache of the units that are on, computed",
    ]


def test_generate(tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", MODEL, "--prompt", "one two", "--tokens", "5", "--mask", "3"]
    data = as_json(capsys, *argv, "--dtype", "fp32")
    same = generate(tiny, "one two", tiny.mask("3"), tokens=5)
    assert measured(from_json(data)) == measured(same)
    out = ok(capsys, *argv)
    titles = [line for line in out.splitlines() if line.startswith("--- ")]
    assert same.continuations[0].parted == 0
    assert [title.split(",")[0] for title in titles] == [
        "--- prompt",
        "--- this mask",
        "--- untouched model",
        "--- the two part after 0 tokens",
    ]


def test_generate_draws_and_takes_several_prompts(
    tiny: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", MODEL, "--prompt", "one", "--prompt=two\nlines", "--tokens", "5"]
    argv += ["--mask", "3", "--temperature", "0.8", "--top-p", "0.9", "--seed", "4"]
    data = as_json(capsys, *argv, "--dtype", "fp32")
    prompts = ["one", "two\nlines"]
    drawn = {"temperature": 0.8, "top_p": 0.9, "seed": 4}
    same = generate(tiny, prompts, tiny.mask("3"), tokens=5, **drawn)
    assert measured(from_json(data)) == measured(same)
    assert data["provenance"]["seed"] == 4


def test_windows_are_no_longer_than_the_model_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """tiny models take 512 tokens; a shorter one gets its own length by default."""
    data = as_json(capsys, "perplexity", MODEL, "--samples", "1")
    assert data["length"] == corpus.CHECK_LENGTH == 512
    data = as_json(capsys, "perplexity", "tiny:opt", "--samples", "1", "--length", "64")
    assert data["length"] == 64


def test_a_model_for_short_windows_gets_those(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import inspector.model.loading as loading

    monkeypatch.setattr(tiny.model.config, "max_position_embeddings", 40)
    monkeypatch.setattr(loading, "load", lambda *_, **__: tiny)
    assert as_json(capsys, "perplexity", MODEL, "--samples", "1")["length"] == 40


def test_muting_everything_is_allowed_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perplexity", MODEL, "--mask", "0-3", *SMALL]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "inspector: warning: every unit is muted, which leaves the head on the embedding."
    ]
    assert "ratio" in captured.out


@pytest.mark.parametrize("at", ["@", ""])
def test_a_mask_from_a_file_is_its_text(
    at: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ("mask.json" if not at else "mask")
    file.write_text(json.dumps(Mask.parse("1-2.attn", 4).to_json()), encoding="utf-8")
    data = as_json(capsys, "info", MODEL, "--mask", f"{at}{file}")
    assert data["mask"] == "1-2.attn"


# What is written


def test_a_result_carries_the_command_that_made_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a result.json"
    argv = ["sweep", MODEL, "--mask", "0.attn, 1", "-o", str(file), *SMALL]
    out = ok(capsys, *argv)
    command = load_result(file).provenance.command
    assert shlex.split(command) == ["inspector", *argv]
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == out


def test_json_on_stdout_is_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    argv = ["perplexity", MODEL, "-o", str(file), *SMALL]
    assert as_json(capsys, *argv) == json.loads(file.read_text(encoding="utf-8"))
    info = tmp_path / "info.json"
    assert as_json(capsys, "info", MODEL, "-o", str(info)) == json.loads(info.read_text())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["info.json", "out.json"]


def test_plot_draws_every_figure_of_saved_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, scores, page = (str(tmp_path / name) for name in ("run.json", "scores.json", "out.html"))
    ok(capsys, "prune", MODEL, "--remove", "2", "-o", run, *SMALL)
    ok(capsys, "sweep", MODEL, "-o", scores, *SMALL)
    assert main(["plot", run, scores, "-o", page]) == 0
    assert capsys.readouterr().err == f"inspector: 3 figures written to {page}\n"
    html = Path(page).read_text(encoding="utf-8")
    assert html.count('class="figure"') == 3
    assert html.count("Plotly.newPlot(") >= 3
    assert "<script src" not in html  # plotly.js itself is inside, once
    assert 3_000_000 < len(html) < 8_000_000


def test_a_plot_runs_nothing_that_a_result_says(tmp_path: Path) -> None:
    from inspector.results.base import Provenance
    from inspector.results.checks import Perplexity
    from inspector.results.files import save

    attack = "</script><script>window.attacked = 1</script><img src=x onerror=attacked()>"
    made = Provenance(attack, attack, "llama", "float32", "cpu", 4, {"name": attack})
    result = Perplexity(made, "", 2.0, 0.69, 10, 8, 8)
    assert replace(result) == result
    save(result, tmp_path / "bad.json")
    assert main(["plot", str(tmp_path / "bad.json"), "-o", str(tmp_path / "bad.html")]) == 0
    html = (tmp_path / "bad.html").read_text(encoding="utf-8")
    assert "window.attacked" in html
    assert "<script>window.attacked" not in html
    assert "<img src=x" not in html


def said(stderr: str) -> list[str]:
    """What a process said on stderr beside its progress, of which a slow machine sees more."""
    return [line for line in stderr.splitlines() if not re.search(r": \d+ %", line)]


def test_what_libraries_say_stays_off_stderr(tmp_path: Path) -> None:
    """On a terminal or not, stderr has progress and errors alone; stdout is the JSON alone."""
    done = run_apart("perplexity", MODEL, "--json", "--mask", "0", *SMALL)
    assert done.returncode == 0
    assert json.loads(done.stdout)["kind"] == "perplexity"
    assert said(done.stderr) == []


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "inspector", "info", MODEL]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    os.close(writing)
    assert (done.returncode, said(done.stderr)) == (0, [])
