"""Runs beside each other: shares, bands, agreement, and what is refused."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import ResultError
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS, NO_TEXT
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.results.base import Provenance, Result
from inspector.results.checks import Benchmark, Perplexity, Speed, SpeedRun, TaskScore
from inspector.results.comparison import Comparison, compare, overlap
from inspector.results.measures import OWN, measures
from inspector.results.remarks import TEXTLESS
from inspector.results.trajectory import Step, Trajectory
from inspector.units import Mask, Unit, all_units
from inspector.view import runs
from inspector.view.figures.comparison import COLOURS, comparison
from inspector.view.session import UPLOADED
from inspector.view.tabs.runs import RECORDED, open_file
from inspector.view.wiring import Wiring
from tests.view.conftest import Pages, request

DEPTH, WHOLE = 4, 1000
SIZES = {"attn": 30, "ffn": 90}
CACHE, ATTENTIONS = 1000, [Unit(layer, "attn") for layer in range(DEPTH)]
TEXT = {"name": "wiki", "windows": 4, "length": 64, "sha256": "aa"}
MADE = Provenance("org/model", "sha256 00", "llama", "float32", "cpu", DEPTH, {"name": "search"})


def drawn(found: Comparison) -> Any:
    """The figure, whose attributes plotly's types do not know."""
    return comparison(found)


def run_of(
    order: Sequence[str],
    perplexities: Sequence[float] | None = None,
    *,
    start: str = "",
    method: str = "finercut",
    **more: Any,
) -> Trajectory:
    """A run that removes these masks' units one after another, from `start` on."""
    masks = [Mask.parse(start, DEPTH)]
    for text in order:
        masks.append(masks[-1].mute(Mask.parse(text, DEPTH)))
    perplexities = perplexities or [10.0 * 2**n for n in range(len(masks))]
    steps = [
        Step(
            step=n,
            mask=str(mask),
            removed=[str(unit) for unit in mask if n and unit not in masks[n - 1]],
            restored=[],
            scores={},
            score_status={},
            perplexity=value,
            parameters=WHOLE - sum(SIZES[unit.kind] for unit in mask),
            kv_bytes_per_token=CACHE * sum(unit not in mask for unit in ATTENTIONS),
        )
        for n, (mask, value) in enumerate(zip(masks, perplexities, strict=True))
    ]
    more = {"provenance": MADE, "metric": "js", "check_corpus": TEXT, **more}
    return Trajectory(mask=start, method=method, steps=steps, **more)


ONE = run_of(["3.attn", "2.attn", "1.ffn"])
TWO = run_of(["2.attn", "0", "3"], method="blockpruner", metric="perplexity")


def test_shares_are_of_all_parameters_and_in_percent() -> None:
    found = compare([ONE, TWO])
    one, two = found.lines
    assert (one.label, two.label) == ("finercut, js", "blockpruner, perplexity")
    assert one.removed == pytest.approx([0, 3, 6, 15])
    assert two.removed == pytest.approx([0, 3, 15, 27])
    assert one.perplexity == [10, 20, 40, 80]
    assert two.units == ["", "2.attn", "0.attn, 0.ffn", "3.attn, 3.ffn"]
    assert found.of == "all parameters" and found.text == TEXT and not found.bands


def test_agreement_is_at_the_largest_share_that_all_reach() -> None:
    found = compare([ONE, TWO]).agreement
    assert found.at == Fraction(150, 1000)
    assert (found.steps, found.masks) == ([3, 2], ["1.ffn,2-3.attn", "0,2.attn"])
    assert found.perplexity == [80, 40]
    assert (found.off, found.kv_bytes) == ([3, 3], [2000, 2000])
    assert found.standing(str)[0] == [
        *("3", "15.00", "3 of 8", "2,000", "80.0", "1.ffn,2-3.attn"),
    ]  # fmt: skip
    counts = {"2.attn": 2, "0.attn": 1, "0.ffn": 1, "1.ffn": 1, "3.attn": 1}
    assert found.units == list(counts.items())
    assert found.by_count == [(2, 1, "2.attn"), (1, 4, "0,1.ffn,3.attn")]
    assert found.overlap == pytest.approx(np.array([[1, 1 / 5], [1 / 5, 1]]))


@pytest.mark.parametrize(
    ("at", "steps"), [("0.03", [1, 1]), ("0.0301", [2, 2]), ("0.06", [2, 2]), ("0.15", [3, 2])]
)
def test_a_share_is_met_by_the_first_step_at_or_above(at: str, steps: list[int]) -> None:
    """Exactly: 3 % is 30 of 1000 parameters and no rounding takes it away."""
    assert compare([ONE, TWO], at=Fraction(at)).agreement.steps == steps


def test_a_share_that_a_run_does_not_reach_is_refused() -> None:
    with pytest.raises(ResultError, match=r"finercut, js removes 15 % .* and not 20 %"):
        compare([ONE, TWO], at=Fraction(1, 5))


@given(st.lists(st.sets(st.sampled_from(range(2 * DEPTH))), min_size=2, max_size=5))
def test_the_tables_count_what_sets_count(chosen: list[set[int]]) -> None:
    """Each run removes its units in one step; the whole model is known from their step 0."""
    units = all_units(DEPTH)
    masks = [Mask(DEPTH, frozenset(units[place] for place in places)) for places in chosen]
    made = [run_of([str(mask)], method=f"m{n}") for n, mask in enumerate(masks)]
    if any(not mask for mask in masks):  # nothing removed is reached at step 0 by all
        assert compare(made).agreement.units == []
        return
    found = compare(made, at=Fraction(1, WHOLE)).agreement
    assert dict(found.units) == {
        str(unit): count for unit in units if (count := sum(unit in mask for mask in masks))
    }
    assert [count for _, count in found.units] == sorted(dict(found.units).values(), reverse=True)
    for row, one in zip(found.overlap, masks, strict=True):
        for value, other in zip(row, masks, strict=True):
            assert value == len(one.muted & other.muted) / len(one.muted | other.muted)


def test_two_empty_masks_have_no_overlap() -> None:
    assert math.isnan(overlap("", "", DEPTH))
    assert overlap("", "1", DEPTH) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("source", "other"), ("weights", "sha256 11"), ("dtype", "bfloat16"), ("depth", 5)],
)
def test_runs_of_different_models_are_refused_by_what_differs(field: str, value: Any) -> None:
    other = replace(TWO, provenance=replace(MADE, **{field: value}))
    with pytest.raises(ResultError, match=rf"different models \({field}: .* and {value}\)"):
        compare([ONE, other])


@pytest.mark.parametrize(("field", "value"), [("name", "c4"), ("length", 128), ("sha256", "bb")])
def test_runs_checked_on_different_texts_are_refused_by_what_differs(
    field: str, value: Any
) -> None:
    other = replace(TWO, check_corpus={**TEXT, field: value})
    with pytest.raises(ResultError, match=rf"different texts \({field}: .* and {value}\)"):
        compare([ONE, other])


def test_a_run_without_a_perplexity_has_no_text_to_differ_in() -> None:
    bare = run_of(["3.attn", "1"], [math.nan] * 3, method="read", check_corpus={})
    found = compare([ONE, bare])
    assert found.agreement.labels == ["finercut, js", "read, js"] and found.text == TEXT
    figure = drawn(found)
    assert [trace.name for trace in figure.data] == ["finercut, js"]
    assert "No perplexity was measured for read, js" in figure.layout.meta["lines"]
    assert compare([bare, bare]).text == {}
    assert not drawn(compare([bare, bare])).data


def test_one_run_and_a_run_without_steps_are_refused() -> None:
    with pytest.raises(ResultError, match="two pruning runs or more"):
        compare([ONE])
    with pytest.raises(ResultError, match="without a step"):
        compare([ONE, replace(TWO, steps=[])])


def test_runs_from_a_mask_need_one_from_the_whole_model() -> None:
    late, other = run_of(["1.attn"], start="0"), run_of(["1.attn"], start="2")
    found = compare([ONE, late])
    assert found.lines[1].removed == pytest.approx([12, 15])
    same = compare([late, late])
    assert same.lines[0].removed == pytest.approx([0, 100 * 30 / 880])
    assert "start from" in same.of
    with pytest.raises(ResultError, match="start from different masks"):
        compare([late, other])


def test_labels_tell_runs_apart() -> None:
    other = replace(ONE, provenance=replace(MADE, corpus={"name": "alpaca"}))
    barred = replace(ONE, options={"protect": "0", "as_published": True})
    labels = compare([ONE, other, other, barred]).agreement.labels
    assert labels == [
        "finercut, js, on search",
        "finercut, js, on alpaca (1)",
        "finercut, js, on alpaca (2)",
        "finercut, js, protect 0, as published",
    ]


def random_run(seed: int, order: Sequence[str], values: Sequence[float]) -> Trajectory:
    options = {"seed": seed} if seed else {}
    return run_of(order, values, method="random", metric="random", options=options)


RANDOM = [
    random_run(0, ["0", "1"], [10, 20, 90]),
    random_run(1, ["2", "3"], [10, 40, 50]),
    random_run(7, ["3", "0"], [10, 30, 300]),
]


def test_random_runs_of_several_seeds_are_a_band() -> None:
    found = compare([ONE, *RANDOM, TWO])
    (band,) = found.bands
    assert band.label == "random, 3 seeds"
    assert band.removed == pytest.approx([0, 12, 24])
    assert band.low == pytest.approx([10, 20, 50])
    assert band.median == pytest.approx([10, 30, 90])
    assert band.high == pytest.approx([10, 40, 300])
    assert [line.label for line in found.lines] == ["finercut, js", "blockpruner, perplexity"]
    assert found.agreement.labels == ["finercut, js", "blockpruner, perplexity"]


def test_one_seed_is_a_line_and_other_options_make_another_band() -> None:
    assert not compare([ONE, RANDOM[0]]).bands
    assert compare([ONE, RANDOM[2]]).lines[1].label == "random, random, seed 7"
    assert not compare([ONE, RANDOM[0], RANDOM[0]]).bands  # one seed twice is no band
    barred = [replace(run, options={**run.options, "protect": "0"}) for run in RANDOM[:2]]
    assert len(compare([ONE, *RANDOM, *barred]).bands) == 2


def test_with_nothing_but_random_runs_these_are_compared() -> None:
    found = compare(RANDOM)
    assert len(found.bands) == 1 and not found.lines
    assert len(found.agreement.labels) == 3
    assert found.agreement.at == Fraction(240, 1000)


def test_random_runs_count_in_the_agreement_only_among_themselves() -> None:
    """One of a single seed stands in the tables, and its units are nobody's choice."""
    found = compare([ONE, RANDOM[0], TWO]).agreement
    assert found.labels == ["finercut, js", "random, random, seed 0", "blockpruner, perplexity"]
    assert (found.counted, found.overlap.shape) == ([0, 2], (3, 3))
    assert dict(found.units) == dict(compare([ONE, TWO], at=found.at).agreement.units)
    assert found.agreeing("ABC") == (
        "Units on which the runs agree (A, C; random runs do not count)"
    )
    one = compare([ONE, *RANDOM]).agreement
    assert one.counted == [0] and [count for _, count in one.units] == [1] * len(one.units)
    alone = compare(RANDOM).agreement
    assert alone.counted == [0, 1, 2] and "random" not in alone.agreeing(alone.labels)


# ---- what is said beside it ----------------------------------------------------------------------


def searched(run: Trajectory, **text: Any) -> Trajectory:
    return replace(run, provenance=replace(run.provenance, corpus=text))


WIKI = {"name": "wiki", "windows": 8, "length": 256, "sha256": "aa"}


def test_different_search_texts_are_one_sentence() -> None:
    one, two = searched(ONE, **WIKI), searched(TWO, **{**WIKI, "name": "c4"})
    assert compare([one, searched(TWO, **WIKI)]).warning == ""
    found = compare([one, two, replace(one, metric="kl")])
    assert found.warning == (
        "These runs were searched on different texts, so that what sets them apart is not the "
        "method alone: finercut, js; finercut, kl on wiki, 8 x 256 tokens | "
        "blockpruner, perplexity on c4, 8 x 256 tokens."
    )
    assert drawn(found).layout.meta["lines"][0] == found.warning


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"windows": 4}, "on wiki, 4 x 256 tokens."),
        ({"length": 64}, "on wiki, 8 x 64 tokens."),
        ({"sha256": "bb"}, "on wiki, 8 x 256 tokens, sha256 bb."),
        ({"seed": 3}, "on wiki, 8 x 256 tokens, seed 3."),
    ],
)
def test_a_text_differs_in_its_size_its_words_or_its_windows(
    change: dict[str, Any], words: str
) -> None:
    assert compare([searched(ONE, **WIKI), searched(TWO, **{**WIKI, **change})]).warning.endswith(
        words
    )


def test_the_text_that_is_measured_on_is_said_to_favour_its_searches() -> None:
    found = compare([searched(ONE, **TEXT), searched(TWO, **WIKI)]).warning
    assert found.endswith(
        "; the perplexities are on wiki, 4 x 64 tokens, which favours those of it."
    )


def test_a_file_has_no_text_and_some_methods_look_at_none() -> None:
    assert (
        "read, js on a text that is not recorded"
        in compare([searched(ONE, **WIKI), searched(replace(ONE, method="read"))]).warning
    )
    blind = [replace(run, provenance=replace(MADE, corpus=WIKI)) for run in RANDOM]
    last = searched(replace(TWO, method="reverse", metric="from-end"), name="c4")
    assert compare([ONE, last, *blind]).warning == ""
    named = {row.metrics[0] for row in METHODS.values() if row.calibration == NO_TEXT}
    assert named == set(TEXTLESS)


def test_without_a_band_there_is_the_command_that_makes_one() -> None:
    found = compare([ONE, TWO])
    assert found.reference == (
        "inspector prune org/model --method random --method-seed 0 --remove-params 27% "
        "--dtype fp32 --corpus wiki --samples 4 --length 64 -o random-0.json"
    )
    again = compare([ONE, TWO, RANDOM[0]]).reference
    assert "--method-seed 1 " in again and again.endswith("-o random-1.json")
    assert compare([ONE, *RANDOM]).reference == ""
    bare = run_of(["3.attn", "1"], [math.nan] * 3, method="read", check_corpus={})
    assert compare([bare, bare]).reference == ""


@pytest.mark.parametrize(
    ("commands", "budget"),
    [
        (["--remove-params 10%", "--remove-params=10%"], "--remove-params 10% "),
        (["--remove-params 10%", "--remove-params 20%"], "--remove-params 27% "),
        (["--remove-params 10%", "--remove 8"], "--remove-params 27% "),
        (["--remove-params", "'"], "--remove-params 27% "),
        (["--remove-params ;x", "--remove-params ;x"], "--remove-params 27% "),
    ],
)
def test_the_command_has_the_runs_own_budget(commands: list[str], budget: str) -> None:
    asked = [
        replace(run, provenance=replace(MADE, command=f"inspector prune m {words}"))
        for run, words in zip((ONE, TWO), commands, strict=True)
    ]
    assert budget in compare(asked).reference


def test_the_command_names_the_models_commit_and_the_mask_that_runs_start_from() -> None:
    made = replace(MADE, source="org/model@main", weights="revision 1234abcd", dtype="bfloat16")
    late = run_of(["1", "2.attn"], start="0", provenance=made)
    found = compare([late, replace(late, metric="kl")]).reference
    assert found.startswith("inspector prune org/model@1234abcd --method random --method-seed 0 ")
    assert " --remove 1 --mask 0 --dtype bf16 " in found


def test_a_band_between_steps_is_interpolated_in_the_logarithm_and_ends_with_the_first() -> None:
    """One run of layers, one of FFNs: at 9 % the first is three quarters of the way to 12 %."""
    other = random_run(3, ["0.ffn"], [10, 100])
    (band,) = compare([RANDOM[0], other]).bands
    assert band.removed == pytest.approx([0, 9])
    assert band.low == pytest.approx([10, 10 * 2**0.75])
    assert band.high == pytest.approx([10, 100])


def test_the_figure_has_a_marker_a_step_and_a_band() -> None:
    figure = drawn(compare([ONE, *RANDOM]))
    low, high, median, line = figure.data
    assert high.fill == "tonexty" and not low.showlegend
    assert list(median.y) == pytest.approx([10, 30, 90])
    assert line.mode == "lines+markers" and line.name == "finercut, js"
    assert list(line.customdata) == ["", "3.attn", "2-3.attn", "1.ffn,2-3.attn"]
    assert line.hovertext[1] == (
        "step 1: removed layer 3, attention<br>units off: 1, KV cache left: 3,000 B/token"
    )
    assert len({trace.line.color for trace in drawn(compare([ONE, TWO])).data}) == 2
    assert figure.layout.xaxis.title.text == "removed, % of all parameters"


@pytest.mark.parametrize(("last", "kind"), [(100.0, None), (101.0, "log")])
def test_the_axis_is_logarithmic_beyond_a_decade(last: float, kind: str | None) -> None:
    two = [run_of(["0"], [10.0, last]), run_of(["1"], [10.0, 20.0], method="other")]
    assert drawn(compare(two)).layout.yaxis.type == kind


def test_a_legend_of_many_runs_has_room_above_the_axes() -> None:
    few = drawn(compare([ONE, TWO])).layout
    many = drawn(compare([replace(ONE, method=f"method {n}") for n in range(20)])).layout
    rows = math.ceil(20 / (900 // (48 + 6.8 * len("method 19, js"))))
    assert many.margin.t - few.margin.t == many.height - few.height == 26 * (rows - 1) > 0


def test_the_csv_has_every_point() -> None:
    figure = drawn(compare([ONE, TWO]))
    rows = list(csv.DictReader(io.StringIO(figure.layout.meta["csv"])))
    assert len(rows) == 8
    assert rows[6] == {
        "run": "blockpruner, perplexity",
        "step": "2",
        "removed_percent": "15",
        "units_off": "3",
        "kv_bytes_per_token_left": "2000",
        "perplexity": "40",
        "units": "0.attn, 0.ffn",
    }


def test_names_are_escaped() -> None:
    bad = replace(ONE, method="<b>x</b>")
    assert drawn(compare([bad, TWO])).data[0].name == "&lt;b&gt;x&lt;/b&gt;, js"


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("page", ["#ffffff", "#0b0f19"])
def test_lines_stand_out_from_a_light_and_a_dark_page(colour: str, page: str) -> None:
    one, other = sorted([luminance(colour), luminance(page)])
    assert (other + 0.05) / (one + 0.05) >= 3


def test_real_pruned_compare(tiny: LoadedModel, text: Windows) -> None:
    """Shares against the model's own count, and the table's perplexity is that of the step."""
    pruned = [
        prune(tiny, text, tiny.empty(), method=name, remove=count)
        for name, count in (("finercut", 4), ("reverse", 2))
    ]
    found = compare(pruned)
    for line, run in zip(found.lines, pruned, strict=True):
        for share, step in zip(line.removed, run.steps, strict=True):
            left = tiny.parameters_left(tiny.mask(step.mask))
            assert share == pytest.approx(100 * (1 - left / tiny.parameters))
    where = found.agreement
    least = min(max(line.removed) for line in found.lines)
    assert float(100 * where.at) == pytest.approx(least)
    assert all(share >= least - 1e-9 for share in where.removed)
    for run, step, value in zip(pruned, where.steps, where.perplexity, strict=True):
        assert run.steps[step].perplexity == value


# ---- by checks -----------------------------------------------------------------------------------


def bench(mask: str, value: float, *, items: int = 200, **more: Any) -> Benchmark:
    """Two metrics of a task; the untouched model gets 0.6 and 0.7."""
    tasks = [
        TaskScore("arc_easy", "acc", value, 0.03, items, baseline=0.6),
        TaskScore("arc_easy", "acc_norm", value + 0.1, 0.03, items, baseline=0.7),
    ]
    return Benchmark(mask=mask, **{"provenance": MADE, "tasks": tasks, **more})


CHECKED = [bench("2.attn", 0.5), bench("0,2.attn", 0.4), bench("1.ffn,2-3.attn", 0.45)]
ACC = "arc_easy acc, 200 items"


def test_runs_are_compared_by_a_check_of_their_steps_masks() -> None:
    found = compare([ONE, *CHECKED, TWO])
    assert (found.by, found.higher) == (ACC, True)
    assert found.choices == (OWN, ACC, "arc_easy acc_norm, 200 items")
    one, two = found.lines
    assert one.values == pytest.approx([0.6, math.nan, math.nan, 0.45], nan_ok=True)
    assert two.values == pytest.approx([0.6, 0.5, 0.4, math.nan], nan_ok=True)
    assert two.perplexity == compare([ONE, TWO]).lines[1].perplexity
    assert found.agreement.values == [0.45, 0.4]
    assert found.standing[-2:] == (ACC, "muted")
    assert found.agreement.standing(str, own=False)[0][4:] == ["80.0", "0.45", "1.ffn,2-3.attn"]
    figure = drawn(found)
    assert figure.layout.yaxis.title.text == ACC and figure.layout.yaxis.type is None
    assert figure.data[1].connectgaps and list(figure.data[1].y) == [0.6, 0.5, 0.4, None]
    assert figure.layout.meta["lines"][0] == (
        f"{ACC}, by the share of all parameters removed. Higher = better"
    )
    assert ACC in figure.layout.meta["csv"].splitlines()[0]
    assert compare([ONE, *CHECKED, TWO], by="perplexity").own
    assert compare([ONE, *CHECKED, TWO], by="arc_easy acc_norm").agreement.values[0] == 0.55
    assert compare([ONE, *CHECKED, TWO], by="arc_easy acc").by == ACC
    assert compare([ONE, *CHECKED, TWO], by=ACC).by == ACC


def test_a_band_of_checks_is_interpolated_as_it_is() -> None:
    checks = [bench("0", 0.5), bench("0-1", 0.3), bench("2-3", 0.2)]
    (band,) = compare([ONE, *RANDOM[:2], *checks]).bands
    assert band.removed == pytest.approx([0, 12, 24])
    assert band.low == pytest.approx([0.6, 0.4, 0.2])
    assert band.high == pytest.approx([0.6, 0.5, 0.3])


def test_what_else_a_mask_is_checked_by() -> None:
    wiki = {"name": "wiki", "windows": 4, "length": 64}
    on = Perplexity(
        provenance=replace(MADE, corpus=wiki),
        mask="2.attn",
        perplexity=30.0,
        nll=math.log(30),
        tokens=9,
        length=64,
        stride=64,
        baseline={"perplexity": 20.0},
    )
    timed = Speed(
        provenance=MADE,
        mask="0,2.attn",
        prompt_length=512,
        new_tokens=8,
        batch=2,
        rounds=1,
        runs=[SpeedRun(900.0, 7.0)],
        baseline_runs=[SpeedRun(600.0, 10.0)],
    )
    found = measures([on, timed])
    assert {name: (each.higher, each.values) for name, each in found.items()} == {
        "perplexity on wiki, 4 x 64 tokens": (False, {"": 20, "2.attn": 30}),
        "tokens/s of a prompt of 2 x 512 tokens": (True, {"": 600, "0,2.attn": 900}),
        "ms a step after 2 x 512 tokens": (False, {"": 10, "0,2.attn": 7}),
    }
    assert compare([ONE, TWO, on, timed], by="ms").lines[1].values[2] == 7
    text = {**wiki, "stride": 32, "seed": 3}
    (name,) = measures([replace(on, provenance=replace(MADE, corpus=text))])
    assert name == "perplexity on wiki, 4 x 64 tokens, stride 32, seed 3"
    changed = replace(on, provenance=replace(MADE, corpus={**wiki, "sha256": "bb"}))
    with pytest.raises(ResultError, match="on two texts that are called so"):
        measures([on, changed])
    lost = bench("1", 0.5, tasks=[TaskScore("wikitext", "bits_per_byte", 1.2, 0.1, 9)])
    assert not measures([lost])["wikitext bits_per_byte, 9 items"].higher


@pytest.mark.parametrize(
    ("by", "checks", "message"),
    [
        ("arc", CHECKED, "'arc' may be several things: choose one of perplexity; arc_easy acc, "),
        ("piqa", CHECKED, "nothing measured is called 'piqa': choose one of perplexity; arc_"),
        ("piqa", [], "choose one of perplexity \\(a saved result of bench, perplexity or speed"),
        ("", [bench("3", 0.5, tasks=[TaskScore("a", "acc", 0.5, 0, 9)])], "no step of these runs"),
        (
            "",
            [bench("0", 0.5, provenance=replace(MADE, dtype="bfloat16"))],
            "these runs and a benchmark are of different models \\(dtype: float32 and bfloat16",
        ),
    ],
)
def test_what_cannot_be_compared_by(by: str, checks: list[Benchmark], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        compare([ONE, TWO, *checks], by=by)


def test_items_of_another_number_are_another_check() -> None:
    found = compare([ONE, TWO, CHECKED[0], bench("0,2.attn", 0.9, items=50)])
    assert found.lines[1].values[2:] == pytest.approx([math.nan, math.nan], nan_ok=True)
    assert "arc_easy acc, 50 items" in found.choices


def test_the_page_finds_the_checks_of_the_runs_masks(pages: Pages, tmp_path: Path) -> None:
    session = pages.bench.session(request("a"))
    names, other = keep_all([ONE, TWO]), replace(MADE, dtype="bfloat16")
    keep_all([bench("3", 0.9), bench("0,2.attn", 0.9, provenance=other), CHECKED[1]])
    (runs.folder() / "torn.json").write_text('{"kind": "benchmark", "ma')
    file = tmp_path / "arc.json"
    file.write_text(CHECKED[2].dumps())
    for _ in range(2):
        open_file(Wiring(pages.bench), session, str(file))
    assert list(session.uploaded) == ["file: arc.json"]
    updates = pages.fire("run-open", "click", RECORDED)
    offered = [update["choices"] for update in updates if "choices" in (update or {})]
    assert [RECORDED, *sorted(names, reverse=True)] in offered
    *_, standing, _, _, by = pages.fire("compared-go", "click", names, "", OWN)
    assert (by["value"], by["choices"]) == (OWN, [OWN, ACC, "arc_easy acc_norm, 200 items"])
    *_, standing, _, _, by = pages.fire("compared-by", "input", names, "", ACC)
    assert by["value"] == ACC and standing["value"]["headers"][-2] == ACC
    assert [row[-2] for row in standing["value"]["data"]] == ["0.45", "0.4"]
    # Without the runs that were checked it is no choice any more.
    runs.forget(runs.names("benchmark"))
    session.uploaded.clear()
    *_, by = pages.fire("compared-go", "click", names, "", ACC)
    assert (by["value"], by["choices"]) == (OWN, [OWN])


# ---- the page ------------------------------------------------------------------------------------


def keep_all(results: Sequence[Result]) -> list[str]:
    return [runs.keep(result) for result in results]


def test_the_page_compares_saved_runs(pages: Pages) -> None:
    names = keep_all([ONE, TWO, *RANDOM])
    figure, words, standing, units, pairs, by = pages.fire("compared-go", "click", names, "", OWN)
    assert len(figure.data) == 5
    assert words["value"].startswith("At **15 %** of all parameters removed")
    assert by["choices"] == [OWN]
    assert standing["value"]["data"][1] == [
        *("blockpruner, perplexity", "2", "15.00", "3 of 8", "2,000", "40", "0,2.attn")
    ]
    assert units["label"] == "Units on which the runs agree"
    assert units["value"][0] == ["2 of 2", 1, "2.attn"]
    assert pairs["value"]["data"][0] == ["finercut, js", "1", "0.2"]
    found = pages.fire("compared-go", "click", names, "3%", OWN)
    assert found[1]["value"].startswith("At **3 %**")
    session = pages.bench.session(request("a"))
    assert session.comparison is not None and session.comparison.agreement.steps == [1, 1]


def test_the_page_says_what_compare_has_to_say(pages: Pages) -> None:
    names = keep_all([searched(ONE, **WIKI), searched(TWO, name="<b>*c4*"), RANDOM[0]])
    _, words, standing, units, *_ = pages.fire("compared-go", "click", names, "", OWN)
    first, second, command, last = words["value"].split("\n\n")
    assert first.startswith("**These runs were searched on different texts") and "<b>" not in first
    assert "&#60;b&#62;&#42;c4&#42;" in first
    assert second.startswith("No band of random removals")
    assert command.startswith("```sh\ninspector prune org/model --method random --method-seed 1 ")
    assert last.startswith("At **")
    assert len(standing["value"]["data"]) == 3 and units["value"][0][0].endswith(" of 2")
    assert "finercut, js, blockpruner, perplexity; random runs do not count" in units["label"]


@pytest.mark.parametrize(
    ("chosen", "at", "message"),
    [
        ([], "", "two pruning runs or more"),
        (None, None, "two pruning runs or more"),
        (["../x"], "", "no saved run"),
        ([RECORDED], "", "two pruning runs or more"),
        ([RECORDED, RECORDED], "ten", "takes a share such as"),
        ([RECORDED, RECORDED], "100%", "choose a smaller share"),
    ],
)
def test_the_page_says_what_cannot_be_compared(
    pages: Pages, chosen: Any, at: str | None, message: str
) -> None:
    with pytest.raises(gr.Error, match=message):
        pages.fire("compared-go", "click", chosen, at, OWN)
    assert pages.bench.session(request("a")).comparison is None


def test_a_sweep_is_no_pruning_run(pages: Pages, measured: dict[str, Any]) -> None:
    name = runs.keep(measured["sweep"])
    with pytest.raises(gr.Error, match="is no pruning run but a scores"):
        pages.fire("compared-go", "click", [RECORDED, name], "", OWN)


def test_on_a_public_server_only_the_pages_own_runs_are_compared(pages: Pages) -> None:
    names = keep_all([ONE, TWO])
    pages.bench.public = True
    with pytest.raises(gr.Error, match="no saved run"):
        pages.fire("compared-go", "click", names, "", OWN)
    pages.bench.session(request("a")).own_runs.extend(names)
    assert pages.fire("compared-go", "click", names, "", OWN)[0].data


def test_too_many_runs_are_not_cut_short_in_silence(pages: Pages) -> None:
    with pytest.raises(gr.Error, match=r"42 runs .* 40 is the most .* take 2 out"):
        pages.fire("compared-go", "click", [RECORDED] * 42, "", OWN)


def test_uploaded_runs_are_compared_with_saved_ones(pages: Pages, tmp_path: Path) -> None:
    session, wiring = pages.bench.session(request("a")), Wiring(pages.bench)
    (saved,) = keep_all([ONE])
    file = tmp_path / "their run.json"
    file.write_text(TWO.dumps())
    open_file(wiring, session, str(file))
    open_file(wiring, session, str(file))  # the same again is the same
    file.write_text(RANDOM[0].dumps())
    open_file(wiring, session, str(file))
    names = list(session.uploaded)
    assert names == ["file: their run.json", "file: their run.json (2)"]
    updates = pages.fire("run-open", "click", RECORDED)
    offered = [update["choices"] for update in updates if "choices" in (update or {})]
    assert [RECORDED, *reversed(names), saved] in offered
    found = pages.fire("compared-go", "click", [saved, *names], "", OWN)
    assert [line.name for line in found[0].data] == [
        line.label for line in compare([ONE, TWO, RANDOM[0]]).lines
    ]
    assert runs.names() == [saved]  # nothing was written
    path = Path(pages.fire("run-download", "click", names[0])["value"])
    assert path.name == "their run.json" and path.read_text() == TWO.dumps()
    pages.fire("run-delete", "click", names[0])
    assert list(session.uploaded) == names[1:] and runs.names() == [saved]
    other = pages.bench.session(request("b"))
    assert not other.uploaded  # another page's
    other.inherit(session)
    assert list(other.uploaded) == names[1:]


def test_an_order_of_another_tool_is_compared_with_a_run(
    ready_pages: Pages, tiny: LoadedModel, text: Windows, tmp_path: Path
) -> None:
    session = ready_pages.bench.session(request("a"))
    name = runs.keep(prune(tiny, text, tiny.empty(), method="finercut", remove=2))
    file = tmp_path / "order.json"
    file.write_text('{"1": [["mlp", 2]], "2": [["mha", 1], ["mlp", 2]]}')
    open_file(Wiring(ready_pages.bench), session, str(file))
    found = ready_pages.fire("compared-go", "click", [name, "file: order.json"], "", OWN)
    assert found[0] is not None and len(found[2]["value"]["data"]) == 2


def test_only_so_many_uploaded_runs_are_kept(pages: Pages) -> None:
    session = pages.bench.session(request("a"))
    for number in range(UPLOADED + 1):
        session.add_upload(f"file: {number}", ONE)
    assert list(session.uploaded) == [f"file: {number}" for number in range(1, UPLOADED + 1)]


def test_saved_pruning_runs_are_offered(pages: Pages, measured: dict[str, Any]) -> None:
    names = keep_all([ONE, TWO])
    (runs.folder() / "empty.json").write_text("")
    for kind in ("sweep", "similarity"):
        runs.keep(measured[kind])
    updates = pages.fire("run-open", "click", RECORDED)
    offered = [update["choices"] for update in updates if "choices" in (update or {})]
    assert [RECORDED, *sorted(names, reverse=True)] in offered
