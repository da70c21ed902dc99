"""The numbers behind the figures, and that every figure says what it shows."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from inspector.errors import ResultError
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS, window
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.results.base import Provenance, Result
from inspector.results.checks import (
    Benchmark,
    Continuation,
    Cut,
    Generation,
    Perplexity,
    Speed,
    SpeedRun,
    TaskScore,
)
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Step, Trajectory
from inspector.units import KINDS, Mask, all_units
from inspector.view.figures import angular, curve, figures_of, step_map, stream, sweep, units
from inspector.view.figures.scores import safest
from inspector.view.figures.similarity import boundaries, window_distances
from inspector.view.figures.style import METRICS, limits
from inspector.view.figures.trajectory_numbers import course, runs, shades, step_grid
from inspector.view.tabs.runs import require_drawable

DEPTHS = (1, 3, 30, 126)
SEARCH_TEXT = {"name": "wiki <b>", "windows": 10, "length": 256}


def provenance(depth: int) -> Provenance:
    return Provenance(
        source="org/<b>model</b>",
        weights="abc",
        model_type="llama",
        dtype="float32",
        device="cpu",
        depth=depth,
        corpus=SEARCH_TEXT,
    )


def similarity(depth: int, *, seed: int = 0) -> Similarity:
    """Angles and cosines of a random walk, so that they are consistent with one another."""
    random = np.random.default_rng(seed)
    states = np.cumsum(random.normal(size=(2 * depth + 1, 8)) + 0.5, axis=0)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    cosine = np.clip(states @ states.T, -1, 1)
    angle = np.arccos(cosine[::2, ::2]) / np.pi
    angle[np.tril_indices(depth + 1)] = np.nan
    names = [str(unit) for unit in all_units(depth)]
    turn = {name: float(1 - cosine[i, i + 1]) for i, name in enumerate(names)}
    return Similarity(
        provenance=provenance(depth),
        mask="",
        angular_last=angle,
        angular_all=angle / 2,
        stream=cosine,
        turn=turn,
        growth={name: 1.0 + i for i, name in enumerate(names)},
    )


def scores(depth: int, *, mask: str = "", metric: str = "nll", done: int = 10) -> Scores:
    muted = Mask.parse(mask, depth)
    costs = {str(u): 0.01 * i - 0.02 for i, u in enumerate(all_units(depth)) if u not in muted}
    return Scores(
        provenance=provenance(depth),
        mask=mask,
        metric=metric,
        reference=3.0,
        scores=costs,
        windows_done=done,
        windows=10,
    )


def trajectory(depth: int, count: int, **more: Any) -> Trajectory:
    """Removes the units in the order of the forward pass; every second score is not exact."""
    order = [str(unit) for unit in all_units(depth)]
    steps = [Step(0, "", [], [], {}, {}, 10.0, 1000, 100)]
    for n in range(1, count + 1):
        candidates = order[n - 1 :]
        steps.append(
            Step(
                step=n,
                mask=str(Mask.of(depth, order[:n])),
                removed=[order[n - 1]],
                restored=[],
                scores={unit: n * (1.0 + i) for i, unit in enumerate(candidates)},
                score_status={
                    unit: ("exact", "lower_bound", "exact", "stale")[i % 4]
                    for i, unit in enumerate(candidates)
                },
                perplexity=10.0 * 1.2**n,
                parameters=1000 - n,
                kv_bytes_per_token=100 - n // 2,
            )
        )
    more = {"check_corpus": SEARCH_TEXT, **more}
    return Trajectory(
        provenance=provenance(depth), mask="", method="greedy", metric="js", steps=steps, **more
    )


def perplexity() -> Perplexity:
    baseline = {"perplexity": 15.0, "nll": math.log(15), "tokens": 99.0}
    return Perplexity(
        provenance=provenance(3),
        mask="1",
        perplexity=20.0,
        nll=math.log(20),
        tokens=99,
        length=64,
        stride=32,
        baseline=baseline,
    )


def positioned(mask: str) -> Perplexity:
    places = [float(at) for at in range(16)]
    untouched = [math.nan, *places[1:]]
    return replace(
        perplexity(),
        mask=mask,
        length=33,
        by_position=places,
        baseline_by_position=untouched,
        position_tokens=[2] * 16,
    )


def benchmark() -> Benchmark:
    tasks = [TaskScore("arc", "acc", 0.5, 0.02, 100, 0.6, 0.03), TaskScore("<i>", "acc", 1, 0, 4)]
    return Benchmark(provenance=provenance(3), mask="1", tasks=tasks, limit=100)


def speed(*, memory: float = math.nan, rounds: int = 2) -> Speed:
    runs = [SpeedRun(60.0, 10.0, memory), SpeedRun(80.0, 14.0, memory)]
    base = [SpeedRun(40.0, 20.0, memory), SpeedRun(40.0, 28.0, memory)]
    return Speed(provenance(3), "1", 512, 32, 1, rounds, runs, base, 68.0, 128.0, 64, 128)


def layout_of(figure: go.Figure) -> Any:
    return figure.layout


def data_of(figure: go.Figure) -> list[Any]:
    return list(figure.data)


def x_titles(figure: go.Figure) -> list[str]:
    axes: list[Any] = list(figure.select_xaxes())
    return [axis.title.text for axis in axes if axis.title.text]


def rows_of(figure: go.Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(layout_of(figure).meta["csv"])))


def shapes(figure: go.Figure, name: str) -> list[Any]:
    return [shape for shape in layout_of(figure).shapes if shape.name == name]


def traces(figure: go.Figure, kind: str) -> list[Any]:
    return [trace for trace in data_of(figure) if trace.type == kind]


def every_result() -> list[Result]:
    by_depth: list[Result] = []
    for depth in DEPTHS:
        by_depth += [similarity(depth), scores(depth), trajectory(depth, min(2 * depth - 1, 40))]
    return [*by_depth, perplexity(), positioned("1"), benchmark(), speed(), speed(memory=2.0**20)]


@pytest.mark.parametrize("result", every_result(), ids=lambda r: f"{r.kind}-{r.depth}")
def test_every_figure_says_what_it_shows(result: Result):
    figures = figures_of(result)
    assert figures
    assert len({layout_of(figure).meta["name"] for figure in figures}) == len(figures)
    for figure in figures:
        meta, layout = layout_of(figure).meta, layout_of(figure)
        assert result.provenance.about in meta["lines"][-1]
        assert meta["lines"][-1].endswith(f"muted: {result.mask}" if result.mask else "muted")
        assert rows_of(figure)
        assert layout.title.text.startswith(f"<b>{meta['title']}</b>")
        # A name of the user's stays text: plotly reads markup in titles.
        assert "org/&lt;b&gt;model" in layout.title.text
        assert "org/<b>model" not in layout.title.text
        assert x_titles(figure)
        assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
        plot_height = layout.height - layout.margin.t - layout.margin.b
        assert plot_height >= 90
        assert all(trace.hoverongaps is False for trace in traces(figure, "heatmap"))
        figure.to_json()


def test_a_text_has_no_figure():
    text = Generation(provenance(3), "", [Continuation("prompt", "text", "base", 1, 1)])
    assert figures_of(text) == []


# ---- similarity --------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_windows_are_the_diagonals(depth: int):
    result = similarity(depth)
    grid = window_distances(result)
    assert grid.shape == (depth, depth)
    for n in range(1, depth + 1):
        for start in range(depth):
            fits = start + n <= depth
            assert np.isfinite(grid[n - 1, start]) == fits
            if fits:
                assert grid[n - 1, start] == result.angular_last[start, start + n]


def test_rescaled_rows_run_from_0_to_1():
    grid = window_distances(similarity(12), rescaled=True)
    assert np.nanmin(grid, axis=1) == pytest.approx(np.zeros(12))
    assert np.nanmax(grid[:-1], axis=1) == pytest.approx(np.ones(11))
    assert grid[-1, 0] == 0  # one window only


def test_angular_carries_windows_and_marks_the_best():
    result = similarity(30)
    figure = angular(result)
    cells, best = data_of(figure)
    assert cells.customdata[7][21] == "21-28"
    assert cells.customdata[0][5] == "5"
    assert cells.z[7][21] == pytest.approx(float(result.angular_last[21, 29]))
    for n, start, text in zip(best.y, best.x, best.customdata, strict=True):
        assert (start, n) == (result.windows()[n][0], n)
        assert len(Mask.parse(text, 30)) == 2 * n
        assert cells.z[n - 1][start] == np.nanmin(cells.z[n - 1])
    rows = rows_of(figure)
    assert len(rows) == 30 * 31 // 2
    assert sum(int(row["best"]) for row in rows) == 30


def test_angular_of_all_tokens_is_another_figure():
    result = similarity(5)
    last, every = angular(result), angular(result, tokens="all")
    assert data_of(every)[0].z[0][0] == pytest.approx(data_of(last)[0].z[0][0] / 2)
    assert layout_of(every).meta["name"] != layout_of(last).meta["name"]
    with pytest.raises(ResultError, match="last"):
        angular(result, tokens="first")


def test_stream_names_the_boundaries():
    assert boundaries(2) == ["in 0", "0.attn", "in 1", "1.attn", "out"]
    figure = stream(similarity(3))
    (cells,) = data_of(figure)
    assert list(cells.x[:3]) == [
        "entering layer 0",
        "after the attention of layer 0",
        "entering layer 1",
    ]
    assert cells.z.shape == (7, 7)
    assert float(rows_of(figure)[2]["1.attn"]) == pytest.approx(float(cells.z[2][3]), rel=1e-5)


def test_a_negative_cosine_turns_the_scale_into_a_diverging_one():
    result = similarity(3)
    assert data_of(stream(result))[0].zmin > -1
    result.stream[0, 1] = -0.5
    cells = data_of(stream(result))[0]
    assert (cells.zmin, cells.zmax) == (-1, 1)


@pytest.mark.parametrize("what", ["turn", "growth"])
def test_units_has_a_bar_a_unit(what: str):
    result = similarity(4)
    figure = units(result, what=what)
    attention, ffn = traces(figure, "bar")
    assert list(attention.customdata) == [f"{layer}.attn" for layer in range(4)]
    assert list(ffn.y) == [getattr(result, what)[f"{layer}.ffn"] for layer in range(4)]
    assert {row["unit"] for row in rows_of(figure)} == {str(unit) for unit in all_units(4)}
    with pytest.raises(ResultError):
        units(result, what="weight")


# ---- scales ------------------------------------------------------------------------------------


def test_one_outlier_does_not_flatten_the_scale():
    values = [float(v) for v in range(20)]
    assert limits(values) == limits([*values, math.nan, math.inf])
    assert not limits(values).clipped and limits(values).high == 19
    clipped = limits([*values, 5000.0])
    assert clipped.clipped and 15 < clipped.high < 20
    assert limits([-2.0, 1.0]).reach == 2
    assert (limits([]).low, limits([]).high) == (0, 1)
    assert limits([4.0]).high > 4


def test_bars_that_run_off_the_scale_say_their_value():
    result = scores(20)
    result.scores["7.ffn"] = 80.0
    figure = sweep(result)
    assert "80" in [note.text for note in layout_of(figure).annotations]
    assert layout_of(figure).yaxis.range[1] < 1
    assert 80.0 in traces(figure, "bar")[1].y  # the bar itself is whole


# ---- sweep -------------------------------------------------------------------------------------


def test_sweep_marks_the_safest_and_the_muted():
    result = scores(6, mask="0.attn,3")
    figure = sweep(result)
    assert safest(result) == ["0.ffn", "1.attn", "1.ffn"]
    marked = {t for trace in traces(figure, "scatter") if trace.text for t in trace.customdata}
    assert marked == set(safest(result))
    crossed = {
        text
        for trace in traces(figure, "scatter")
        if trace.name == "muted already"
        for text in trace.customdata
    }
    assert crossed == {"0.attn", "3.attn", "3.ffn"}
    bars = [text for trace in traces(figure, "bar") for text in trace.customdata]
    assert set(bars) == set(result.scores)
    assert [row["rank"] for row in rows_of(figure) if row["unit"] == "0.ffn"] == ["1"]


@pytest.mark.parametrize(
    ("off", "cheap"), [("0.attn", "attn"), ("0.ffn", "ffn"), ("3.ffn", "attn")]
)
def test_sweep_explains_its_marks_wherever_they_stand(off: str, cheap: str):
    result = scores(6, mask=off)
    values = {unit: float(not unit.endswith(cheap)) for unit in result.scores}
    figure = sweep(replace(result, scores=values))
    for name in ("safest to remove next", "muted already"):
        # Plotly leaves a trace without points out of the legend.
        shown = [
            trace
            for trace in traces(figure, "scatter")
            if trace.name == name and trace.showlegend and len(trace.x)
        ]
        assert len(shown) == 1, name


def test_sweep_keeps_a_zero_line_for_costs_below_zero():
    figure = sweep(scores(6))
    assert layout_of(figure).yaxis.range[0] < 0 < layout_of(figure).yaxis.range[1]
    assert layout_of(figure).yaxis.zeroline


def test_sweep_says_how_much_has_been_measured():
    assert "3 of 10 windows" in layout_of(sweep(scores(6, done=3))).meta["lines"][0]
    assert "windows" not in layout_of(sweep(scores(6))).meta["lines"][0]


def test_sweep_survives_scores_that_are_not_known():
    result = scores(3)
    result.scores["0.attn"] = math.nan
    assert "0.attn" not in safest(result)
    assert data_of(sweep(result))[0].y[0] is None
    assert rows_of(sweep(result))[0]["nll"] == ""


# ---- trajectory --------------------------------------------------------------------------------


def test_shades_place_a_score_within_its_step():
    placed = shades({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 9000.0, "f": math.nan})
    assert placed["a"] == 0
    assert placed["d"] == placed["e"] == 1
    assert 0 < placed["b"] < placed["c"] < 1
    assert math.isnan(placed["f"])
    assert set(shades({"a": 2.0, "b": 2.0}).values()) == {0.0}


def test_shades_do_not_depend_on_the_scale_of_the_step():
    early = {str(i): 1.0 + i for i in range(9)}
    late = {unit: 100 * score for unit, score in early.items()}
    assert shades(late) == pytest.approx(shades(early))


def test_step_grid_knows_what_is_gone():
    grid = step_grid(trajectory(3, 4))
    assert grid.steps == [1, 2, 3, 4]
    assert not grid.gone["attn"][0].any()
    assert grid.gone["attn"].tolist() == [[False] * 3, [True, False, False],
                                          [True, False, False], [True, True, False]]  # fmt: skip
    assert [unit for _, unit in grid.removed] == ["0.attn", "0.ffn", "1.attn", "1.ffn"]
    for kind in KINDS:
        assert np.isfinite(grid.score[kind])[~grid.gone[kind]].all()
        assert (grid.status[kind] >= 0).sum() == np.isfinite(grid.score[kind]).sum()
    assert list(runs(grid.gone["attn"])) == [(0, 1, 3), (1, 3, 1)]


def test_a_unit_that_comes_back_is_no_longer_gone():
    base = trajectory(3, 2)
    back = Step(3, "0.ffn", [], ["0.attn"], {}, {}, 9.0, 990, 90)
    last = Step(4, "0.ffn,1.attn", ["1.attn"], [], {"0.attn": 1.0}, {"0.attn": "exact"}, 9, 1, 1)
    result = trajectory(3, 0)
    result.steps.extend([*base.steps[1:], back, last])
    grid = step_grid(result)
    assert grid.gone["attn"][:, 0].tolist() == [False, True, True, False]
    assert grid.restored == [(2, "0.attn")]
    assert any(trace.name == "brought back" for trace in data_of(step_map(result)))


@pytest.mark.parametrize("depth", [3, 126])
def test_step_map_cells(depth: int):
    figure = step_map(trajectory(depth, 5), step=4)
    every = [trace for trace in traces(figure, "heatmap") if trace.text is not None]
    cells, pale = every[::2], every[1::2]
    assert [trace.opacity for trace in cells + pale] == [1, 1, 0.4, 0.4]
    for trace, bounds in zip(cells, pale, strict=True):  # a bound is never drawn as a score
        drawn = [np.isfinite(np.array(each.z, dtype=float)) for each in (trace, bounds)]
        assert drawn[0].any() and drawn[1].any() and not (drawn[0] & drawn[1]).any()
        assert all("at least" in bounds.text[row][at] for row, at in np.argwhere(drawn[1]))
        assert not any("at least" in trace.text[row][at] for row, at in np.argwhere(drawn[0]))
    for trace, kind in zip(cells, KINDS, strict=True):
        assert np.array(trace.z).shape == (5, depth)
        assert list(trace.customdata[3][2]) == [4, f"2.{kind}"]
        assert np.nanmin(trace.z) >= 0 and np.nanmax(trace.z) <= 1
    assert math.isnan(cells[0].z[4][0])  # 0.attn was removed at step 1 ...
    gone = [trace for trace in traces(figure, "heatmap") if trace.text is None]
    assert gone[0].z[4][0] == 0  # ... and shows as gone, with a click of its own
    assert list(gone[0].customdata[4][0]) == [5, "0.attn"]
    assert "at least" in cells[1].text[0][0] and "carried over" in cells[1].text[0][1]
    removed = [list(point) for trace in data_of(figure) if trace.name == "removed at this step"
               for point in trace.customdata]  # fmt: skip
    assert [1, "0.attn"] in removed and len(removed) == 5
    assert {trace.name for trace in data_of(figure)} >= {"lower bound", "carried over"}


def test_step_map_of_a_search_says_what_its_scores_are(tiny: LoadedModel, text: Windows):
    found = prune(tiny, text, tiny.empty(), method="evopress", remove=4)
    figure = step_map(found)
    assert figure.layout.meta["title"] == "How the search went from mask to mask"
    repeats = "32 tokens of text for stages of 2,048 and 32,768"
    assert figure.layout.meta["lines"][0].endswith(f" of each new mask; no fresh text: {repeats}")
    assert len([1 for row in rows_of(figure) if row["step"] == "1"]) == 4
    require_drawable(found)


def test_step_map_says_how_a_run_ended(tiny: LoadedModel, text: Windows):
    found = prune(tiny, text, tiny.empty(), method="reverse", until_perplexity=1e9)
    (line,) = step_map(found).layout.meta["lines"][:1]
    assert line.endswith("; all that may go is gone, and the perplexity was never above 1e+09")


def test_step_map_frames_the_chosen_step():
    result = trajectory(3, 5)
    frames = shapes(step_map(result, step=4), "chosen step")
    assert {(frame.y0, frame.y1) for frame in frames} == {(3.5, 4.5)}
    assert len(frames) == 2  # one a panel
    assert not shapes(step_map(result), "chosen step")
    assert not shapes(step_map(result, step=99), "chosen step")


def test_step_map_marks_every_score_that_is_not_exact():
    result = trajectory(3, 2)
    figure = step_map(result)
    for name, status in (("lower bound", "lower_bound"), ("carried over", "stale")):
        expected = {
            (f"{unit.split('.')[0]}", step.step)
            for step in result.steps
            for unit, what in step.score_status.items()
            if what == status and unit not in step.removed
        }
        drawn = [mark for shape in shapes(figure, name) for mark in shape.path.split("M")[1:]]
        assert len(drawn) == sum(
            what == status and unit not in step.removed
            for step in result.steps
            for unit, what in step.score_status.items()
        )
        centres = [
            (str(round(float(x))), round(float(y)))
            for x, y in (mark.split("L")[0].split(",") for mark in drawn)
        ]
        assert set(centres) == expected


def test_step_map_csv_has_every_candidate():
    rows = rows_of(step_map(trajectory(3, 4)))
    assert len(rows) == 6 + 5 + 4 + 3
    first = rows[0]
    assert (first["step"], first["unit"], first["js"], first["removed"]) == (
        "1",
        "0.attn",
        "1",
        "1",
    )
    assert {row["status"] for row in rows} == {"exact", "lower_bound", "stale"}


def test_step_map_leaves_out_a_kind_that_the_method_never_looked_at():
    result = trajectory(3, 0)
    only = {"0.attn": 1.0, "1.attn": 2.0}
    status = dict.fromkeys(only, "exact")
    result.steps.append(Step(1, "0.attn", ["0.attn"], [], only, status, 11.0, 9, 9))
    figure = step_map(result)
    assert x_titles(figure) == ["attention, layer"]


def test_every_score_of_a_method_has_words():
    assert {metric for row in METHODS.values() for metric in row.metrics} <= set(METRICS)


@pytest.mark.parametrize("method", ["sleb", "random", "angular", "llm-drop-joint-iterative"])
def test_runs_of_every_way_are_drawn(tiny: LoadedModel, text: Windows, method: str):
    run = prune(tiny, text, tiny.empty(), method=method, remove=2)
    figure = step_map(run, step=1)
    crosses = [
        point
        for trace in traces(figure, "scatter")
        if trace.name == "removed at this step"
        for point in trace.customdata
    ]
    assert sorted(map(tuple, crosses)) == sorted(
        (step.step, unit) for step in run.steps for unit in step.removed
    )
    assert x_titles(figure) == ["attention, layer", "FFN, layer"]
    rows = [row for row in rows_of(figure) if row["removed"] == "1"]
    assert {row["unit"] for row in rows} == set(run.removed)
    assert METRICS[run.metric][0] in layout_of(figure).meta["lines"][0]
    require_drawable(run)
    assert layout_of(curve(run)).meta["csv"]


def test_windows_that_jump_bring_layers_back(
    tiny: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
):
    distance = np.full((5, 5), 0.9, dtype=np.float32)
    distance[3, 4], distance[0, 2] = 0.1, 0.2  # layer 3 alone, then layers 0 and 1
    found = SimpleNamespace(angular_last=distance)
    monkeypatch.setattr(window, "similarity", lambda *_, **__: found)
    run = prune(tiny, text, tiny.empty(), method="angular", remove=3)
    figure = step_map(run)
    rings = [trace for trace in traces(figure, "scatter") if trace.name == "brought back"]
    assert [list(point) for trace in rings for point in trace.customdata] == [
        [2, "3.attn"],
        [2, "3.ffn"],
    ]
    pale = [t for t in traces(figure, "heatmap") if "removed before" in t.hovertemplate]
    assert pale[0].text[1][3] == ""  # no window of two layers begins at the last one
    assert pale[0].text[2][0] == "<br>score: 0.9"  # one of three begins at layer 0, gone by then
    assert pale[0].text[2][2] == ""
    require_drawable(run)


def test_course_is_in_percent_of_the_first_step():
    numbers = course(trajectory(3, 4))
    assert numbers.parameters == pytest.approx([100, 99.9, 99.8, 99.7, 99.6])
    assert numbers.kv[0] == 100 and numbers.kv[4] == 98
    assert numbers.removed[:2] == ["", "0.attn"]


def test_curve_says_on_which_text():
    own = layout_of(curve(trajectory(3, 4))).meta["lines"][0]
    assert "wiki <b>" in own and "the very text" in own
    other = {"name": "held out", "windows": 4, "length": 512}
    line = layout_of(curve(trajectory(3, 4, check_corpus=other))).meta["lines"][0]
    assert "held out, 4 x 512 tokens" in line and "not the text" in line


def test_curve_goes_logarithmic_only_when_it_must():
    short, long = curve(trajectory(3, 4)), curve(trajectory(30, 40))
    assert layout_of(short).yaxis.type != "log"
    assert layout_of(long).yaxis.type == "log"


def test_curve_points_carry_their_step():
    figure = curve(trajectory(3, 4), step=2)
    assert [list(point) for point in data_of(figure)[0].customdata][2] == [2, "0.ffn"]
    assert list(data_of(figure)[0].marker.size) == [6, 6, 11, 6, 6]
    unknown = trajectory(3, 0)
    unknown.steps.append(Step(1, "0.attn", ["0.attn"], [], {}, {}, math.nan, 9, 9))
    assert list(data_of(curve(unknown))[0].y) == [10.0, None]


# ---- outcomes ----------------------------------------------------------------------------------


def test_perplexity_stands_beside_the_untouched_model():
    (figure,) = figures_of(perplexity())
    assert dict(zip(data_of(figure)[0].y, data_of(figure)[0].x, strict=True)) == {
        "this mask": 20.0,
        "untouched": 15.0,
    }
    assert [row["perplexity"] for row in rows_of(figure)] == ["20", "15"]


def test_nll_by_position_has_a_line_a_model():
    _, figure = figures_of(positioned("1"))
    untouched, masked = data_of(figure)
    assert list(masked.x) == [2 * at + 1.5 for at in range(16)]
    assert list(masked.y) == list(range(16)) and untouched.y[0] is None
    assert masked.hovertext[0] == "1-2" and masked.hovertext[15] == "31-32"
    first = rows_of(figure)[0]
    assert (first["tokens_before"], first["nll_nats"], first["baseline_nll_nats"]) == (
        "1-2",
        "0",
        "",
    )
    _, alone = figures_of(positioned(""))
    assert len(data_of(alone)) == 1


def test_logits_that_are_no_numbers_are_said():
    (figure,) = figures_of(replace(perplexity(), perplexity=math.nan, nll=math.nan))
    assert "not numbers (NaN)" in " ".join(layout_of(figure).meta["lines"])


def test_a_benchmark_says_what_was_cut_and_what_was_kept():
    made = replace(
        benchmark(),
        stopped="<b>: decided",
        cut=[Cut("<i>", 3, 200, 2048)],
        baseline_from="2026-01-02T03:04:05+00:00",
    )
    (figure,) = figures_of(made)
    assert layout_of(figure).meta["lines"][1] == (
        "<b>: decided; 3 of 200 items of <i> were cut to the last 2048 tokens; the untouched model "
        "was measured in an earlier run, on 2026-01-02 at 03:04 UTC"
    )
    assert "of &lt;i&gt; were" in layout_of(figure).title.text


def test_a_benchmark_shows_the_paired_difference():
    here, untouched = [1.0] * 30 + [0.0] * 10, [1.0] * 40
    row = TaskScore("arc", "acc", 0.75, 0.07, 40, 1.0, 0.0, each=here, baseline_each=untouched)
    (figure,) = figures_of(Benchmark(provenance(3), "1", [row, TaskScore("x", "f1", 0.5, 0.1, 4)]))
    change = row.change
    assert change is not None and change.decided
    dots = data_of(figure)[-1]
    assert (list(dots.x), list(dots.y)) == ([change.difference], ["arc, acc"])
    assert dots.error_x.array[0] == pytest.approx(change.high - change.difference)
    assert dots.error_x.arrayminus[0] == pytest.approx(change.difference - change.low)
    assert list(dots.marker.symbol) == ["circle"]
    assert "difference" in x_titles(figure)
    first, second = rows_of(figure)
    assert (first["gained"], first["lost"]) == ("0", "10")
    assert float(first["low95"]) == pytest.approx(change.low, rel=1e-4)
    assert second["low95"] == ""


def test_benchmark_has_error_bars_and_escapes_names():
    (figure,) = figures_of(benchmark())
    untouched, masked = data_of(figure)
    assert list(masked.x) == [0.5, 1.0] and list(masked.error_x.array) == [0.02, 0.0]
    assert list(untouched.x) == [0.6, None]
    assert list(masked.y) == ["arc, acc", "&lt;i&gt;, acc"]
    assert rows_of(figure)[1]["task"] == "<i>"


def test_speed_has_medians_with_the_least_and_the_greatest_run():
    (figure,) = figures_of(speed(memory=3.0 * 2**20))
    bars = [trace for trace in data_of(figure) if trace.type == "bar"]
    assert [list(bar.x) for bar in bars] == [[40, 70], [24, 12], [3, 3], [128, 68]]
    assert all(list(bar.y) == ["untouched", "this mask"] for bar in bars)
    assert list(bars[0].error_x.array) == [0, 10] and list(bars[0].error_x.arrayminus) == [0, 10]
    assert [title.split(" (")[0] for title in x_titles(figure)] == [
        "prefill",
        "decode",
        "peak above weights",
        "KV cache",
    ]
    words = layout_of(figure).meta["lines"]
    assert "prefill 1.75 (1.5 to 2), decode 0.5 (0.5 to 0.5), memory 1" in words[1]
    assert words[2] == "KV cache of the units that are on, computed: 64 of 128 B/token"
    assert [row["model"] for row in rows_of(figure)] == ["this mask"] * 2 + ["untouched"] * 2
    assert rows_of(figure)[1]["decode_ms_per_token"] == "14"


def test_speed_says_what_is_not_measured_and_what_is_not_done():
    (figure,) = figures_of(speed(rounds=5))
    words = " ".join(layout_of(figure).meta["lines"])
    assert "2 rounds of 5" in words and "peak memory is not measured here" in words
    assert not any("weights" in title for title in x_titles(figure))
    (figure,) = figures_of(Speed(provenance(3), "1", 512, 32, 1, 5, [], []))
    assert rows_of(figure) == []
