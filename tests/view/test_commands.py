"""The command lines that the page shows: they parse, and mean what the form said."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.cli.parser import build_parser
from inspector.units import Mask
from inspector.view.card import Card
from inspector.view.commands import command
from inspector.view.status import active
from inspector.view.tabs import pruning
from tests.view.conftest import Pages, request, settle

CARD = Card("smollm2", "sha256 0", "llama", "bfloat16", "cpu", 30, 1, 2, {}, {}, [])
NASTY = (
    'say "hi"; rm -rf $HOME `id`',
    "it's\ntwo lines\t\\ and a tab",
    "--mask",
    "-x",
    "-1",
    "--prompt=x y",
    "!history $(id) ${x} *",
    "日本語 🎉",
    " leading and trailing ",
)


def parsed(line: str) -> Any:
    words = shlex.split(line)
    assert words[0] == "inspector"
    return build_parser().parse_args(words[1:])


@pytest.mark.parametrize("prompt", NASTY)
def test_any_prompt_comes_through(prompt: str):
    line = command("generate", CARD, "5.attn", prompt=prompt, tokens=7, chat=True)
    args = parsed(line)
    assert (args.prompt, args.tokens, args.chat, args.mask) == ([prompt], 7, True, "5.attn")
    assert (args.model, args.dtype, args.device) == ("smollm2", "bf16", "cpu")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_at_all_comes_through(prompt: str):
    if prompt:
        assert parsed(command("generate", CARD, "", prompt=prompt)).prompt == [prompt]


@pytest.mark.parametrize("source", ["org/name@main", "a folder/it's/$HOME", "tiny:llama", "x;y"])
def test_any_source_comes_through(source: str):
    card = replace(CARD, source=source)
    assert parsed(command("sweep", card, "", metric="nll")).model == source


@pytest.mark.parametrize(("dtype", "short"), [("float32", "fp32"), ("float16", "fp16")])
def test_the_dtype_is_the_cards(dtype: str, short: str):
    assert parsed(command("sweep", replace(CARD, dtype=dtype), "")).dtype == short


def test_a_model_of_the_hub_is_named_with_the_commit_that_was_loaded():
    for source in ("org/name", "org/name@main"):
        card = replace(CARD, source=source, weights="revision 0123abcd", device="cuda:1 (H100)")
        args = parsed(command("sweep", card, ""))
        assert (args.model, args.device) == ("org/name@0123abcd", "cuda:1")


@given(
    value=st.floats(min_value=0.001, max_value=1e9, allow_nan=False),
    seed=st.integers(min_value=0, max_value=2**63),
)
def test_numbers_lose_no_digit(value: float, seed: int):
    args = parsed(command("prune", CARD, "", until_perplexity=value, seed=seed, remove=3))
    assert (args.until_perplexity, args.seed, args.remove) == (value, seed, 3)


def test_what_is_not_set_is_left_out_and_zero_is_not_nothing():
    line = command("generate", CARD, "", prompt="x", tokens=None, chat=False, seed=0)
    assert line == "inspector generate smollm2 --dtype bf16 --device cpu --prompt x --seed 0"


# ---- the lines that the tabs make ----------------------------------------------------------------

TEXT = ("pydoc:search", 2, 16, "")
SEEDED = ("pydoc:search", 2, 16, "7")
LAZY = "lazy, last step checked"
FULL = "exact, every score in full"
SHORT = ("", "", "", "")  # the length of a search
PRUNE = ("finercut", "kl", 2, "remove", "pydoc:check", "attn", "", "", False, "", FULL, *SHORT)
SAME = ("blockpruner", "perplexity", 1, "remove", "", "both", "", "", False, "", "exact", *SHORT)


def line_of(pages: Pages, kind: str) -> Any:
    session = pages.bench.session(request("a"))
    settle(pages.bench, session, lambda: not active(session))
    assert not session.errors[kind]
    found = session.results[kind]
    args = parsed(found.provenance.command)
    assert Mask.parse(args.mask, found.depth) == Mask.parse(found.mask, found.depth)
    assert (args.model, args.dtype) == (found.provenance.source, "fp32")
    if "corpus" in args:
        made = found.provenance.corpus
        cut = (made["name"], made["windows"], made["length"], made["seed"])
        assert (args.corpus, args.samples, args.length, args.seed) == cut
    return args, found


@pytest.mark.parametrize("form", [TEXT, SEEDED], ids=["first windows", "seeded"])
@pytest.mark.parametrize(
    ("kind", "button", "before"),
    [("similarity", "similarity-go", ()), ("sweep", "sweep-go", ("angular",))],
)
def test_searching_lines(ready_pages: Pages, kind: str, button: str, before: Any, form: Any):
    ready_pages.bench.session(request("a")).set_mask(Mask.parse("1.attn,2", 4))
    ready_pages.fire(button, "click", *before, *form)
    args, _ = line_of(ready_pages, kind)
    if kind == "sweep":
        assert args.metric == "angular"


@pytest.mark.parametrize("form", [PRUNE, SAME])
def test_pruning_lines(ready_pages: Pages, form: Any):
    ready_pages.bench.session(request("a")).set_mask(Mask.parse("3.ffn", 4))
    ready_pages.fire("prune-go", "click", *form, *SEEDED)
    args, run = line_of(ready_pages, "pruning")
    assert (args.method, args.metric, args.remove) == (run.method, run.metric, len(run.steps) - 1)
    assert args.only == ("attn" if form is PRUNE else None)
    assert args.early_exit == (form is not PRUNE)
    assert run.options.get("no_early_exit", False) == (form is PRUNE)
    assert args.check_corpus == ("pydoc:check" if form is PRUNE else None)
    assert run.checked_on_search_text == (form is not PRUNE)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            (
                "finercut",
                "js",
                12.5,
                "remove_params",
                "",
                "both",
                "0,3.ffn",
                "0.3",
                True,
                "",
                "exact",
            ),
            {"remove_params": "12.5%", "protect_first_until": 0.3, "as_published": True},
        ),
        (
            ("random", "random", 30, "remove_kv", "", "both", "", "", False, "5", "exact"),
            {"remove_kv": "30%", "method_seed": 5},
        ),
        (
            ("finercut", "js", 20, "remove_params", "", "both", "", "", False, "", LAZY),
            {"search": "lazy", "verify": True, "early_exit": True},
        ),
        (
            (
                "reverse",
                "from-end",
                400,
                "until_perplexity",
                "",
                "both",
                "",
                "",
                False,
                "",
                "exact",
            ),
            {"until_perplexity": 400, "method_seed": 0},
        ),
        (
            (
                *("evopress", "kl", 30, "remove_params", "", "both", "0", "", False, "3"),
                *("exact", "0", "", "4", "16, 32"),
            ),
            {
                "remove_params": "30%",
                "method_seed": 3,
                "generations": 0,
                "offspring": None,
                "starts": 4,
                "search_tokens": "16,32",
            },
        ),
        (
            (
                *("shortgpt", "influence", 30, "remove_kv", "", "both", "", "", False, ""),
                *("exact", "5", "x", "y", "z"),
            ),
            {"remove_kv": "30%", "generations": None, "starts": None, "search_tokens": None},
        ),
    ],
)
def test_lines_of_every_bound_and_choice(ready_pages: Pages, form: Any, expected: dict[str, Any]):
    ready_pages.bench.session(request("a")).set_mask(Mask.parse("2.attn", 4))
    form = (*form, *SHORT)[: len(pruning.FORM)]
    ready_pages.fire("prune-go", "click", *form, *SEEDED)
    args, run = line_of(ready_pages, "pruning")
    found = {name: getattr(args, name) for name in expected}
    assert found == expected
    assert (args.method, args.metric, args.remove) == (run.method, run.metric, None)
    assert args.protect == run.options.get("protect", "")
    assert (args.search == "lazy") == run.options.get("lazy", False)
    assert args.verify == bool(run.verified)
    assert args.as_published == run.options.get("as_published", False)
    assert args.protect_first_until == run.options.get("protect_first_until")


@pytest.mark.parametrize("stride", ["", "8"])
def test_perplexity_lines(ready_pages: Pages, stride: str):
    ready_pages.fire("perplexity-go", "click", stride, "pydoc:check", 2, 16)
    args, found = line_of(ready_pages, "perplexity")
    assert (args.stride or 16) == found.stride


@pytest.mark.parametrize("prompt", NASTY)
def test_generation_lines(ready_pages: Pages, prompt: str):
    form = (f"{prompt}\n---\nx", 2, False, "", "", "")
    ready_pages.fire("generate-go", "click", *form)
    args, found = line_of(ready_pages, "generation")
    assert args.prompt == [each.prompt for each in found.continuations] == [prompt, "x"]
    assert (args.tokens, args.chat, args.temperature, args.top_p) == (2, False, None, 1.0)


def test_lines_of_drawn_texts(ready_pages: Pages):
    ready_pages.fire("generate-go", "click", "Once", 4, False, " 0.7", "0.9", "11")
    args, found = line_of(ready_pages, "generation")
    assert (args.temperature, args.top_p, args.seed) == (0.7, 0.9, 11)
    assert (found.temperature, found.top_p, found.seed) == (0.7, 0.9, 11)


def test_speed_lines(ready_pages: Pages):
    ready_pages.bench.session(request("a")).set_mask(Mask.parse("2", 4))
    ready_pages.fire("speed-go", "click", 7, 3, 2)
    args, found = line_of(ready_pages, "speed")
    assert (args.prompt_tokens, args.tokens, args.rounds) == (7, 3, 2)
    assert (found.prompt_length, found.new_tokens, len(found.runs)) == (7, 3, 2)


def test_benchmark_lines(ready_pages: Pages, monkeypatch: pytest.MonkeyPatch):
    lines = []
    monkeypatch.setattr(ready_pages.bench, "run", lambda *args: lines.append(args[-1]))
    ready_pages.bench.session(request("a")).set_mask(Mask.parse("1", 4))
    for limit in (40, None):
        ready_pages.fire("benchmark-go", "click", "own, a folder/of tasks", limit)
    args = [parsed(line) for line in lines]
    assert [each.limit for each in args] == [40, None]
    assert {each.tasks for each in args} == {"own,a folder/of tasks"}
    assert {each.mask for each in args} == {"1"}
    assert not any(each.until_decided for each in args)
    ready_pages.fire("benchmark-go", "click", "own", 40, True)
    assert parsed(lines[-1]).until_decided and not parsed(lines[-1]).fresh_baseline
    ready_pages.fire("benchmark-go", "click", "own", 40, False, True)
    assert parsed(lines[-1]).fresh_baseline
