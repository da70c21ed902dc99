"""With weights off the device the scores are the same to the last bit, and each comes in once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from inspector.cli import main
from inspector.jobs import Cancelled
from inspector.measure.corpus import Windows
from inspector.measure.methods import METHODS
from inspector.measure.methods.evolution import Evolution
from inspector.measure.metrics import DIVERGENCES, METRICS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import prune
from inspector.measure.racing import race
from inspector.measure.sweep import BESIDES, candidates, sweep, together
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.files import from_json
from inspector.results.trajectory import Trajectory
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 40
"""Six windows make a group, so 13 make three."""

GROUP = 6 * LENGTH * 64 * 4
"""Bytes of one stream of a group."""


@pytest.fixture(scope="module")
def there() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture(scope="module", params=["disk", "cpu"])
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    if request.param == "cpu":
        return plain.in_memory("llama")
    place = str(tmp_path_factory.mktemp("weights"))
    return load("tiny:llama", dtype="fp32", offload=place)


@pytest.fixture(scope="module")
def text(there: LoadedModel) -> Windows:
    return plain.text(there, 13, LENGTH)


def size(loaded: LoadedModel) -> int:
    assert loaded.offloaded is not None
    return loaded.offloaded.bytes


def on_meta(loaded: LoadedModel) -> bool:
    return {weight.device.type for weight in loaded.model.parameters()} == {"meta"}


class Heard:
    """A progress that counts its calls, notes the windows done, and cancels at call `last`."""

    def __init__(self, last: int = 0) -> None:
        self.last, self.calls = last, 0
        self.windows: list[int] = []

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        self.calls += 1
        self.windows += [partial.windows_done] if partial else []
        if self.calls == self.last:
            raise Cancelled("stopped")


@pytest.mark.parametrize("grain", ["unit", "layer"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_sweep(
    there: LoadedModel, here: LoadedModel, text: Windows, metric: str, grain: str
) -> None:
    for mask in (there.empty(), there.mask("1.attn,3.ffn")):
        theirs = sweep(there, text, mask, metric=metric, grain=grain)
        ours = sweep(here, text, mask, metric=metric, grain=grain)
        assert (ours.scores, ours.reference) == (theirs.scores, theirs.reference)
        assert theirs.weight_bytes == 0
        # The untouched model needs all its weights; what is muted is not brought in without it.
        less = 0 if metric in DIVERGENCES else there.parameters - there.parameters_left(mask)
        assert ours.weight_bytes == size(here) - 4 * less
        assert on_meta(here)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "qwen3_moe", "gpt_neox"])
def test_a_sweep_of_other_families(model_type: str) -> None:
    there, here = plain.tiny(model_type), plain.in_memory(model_type)
    windows = plain.text(there, 13, LENGTH)
    for metric in ("nll", "js"):
        theirs, ours = (sweep(each, windows, each.empty(), metric=metric) for each in (there, here))
        assert (ours.scores, ours.reference) == (theirs.scores, theirs.reference)
        assert ours.weight_bytes == size(here) == there.parameters * 4


def test_as_many_windows_in_a_wave_as_fit(there: LoadedModel, here: LoadedModel) -> None:
    text = plain.text(there, 18, LENGTH)  # three whole groups
    expected = sweep(there, text, there.empty(), metric="js")
    for fit, waves in ((1, 3), (2, 2), (3, 1)):
        memory = fit * (8 + BESIDES) * GROUP
        heard = Heard()
        ours = sweep(here, text, here.empty(), metric="js", memory=memory, progress=heard)
        assert (ours.scores, ours.reference) == (expected.scores, expected.reference)
        assert ours.weight_bytes == waves * size(here)
        assert ours.stream_bytes == memory
        assert heard.windows == [[6, 12, 18], [12, 18], [18]][fit - 1]


def test_fewer_candidates_in_a_wave_than_there_are(
    there: LoadedModel, here: LoadedModel, text: Windows
) -> None:
    memory = (3 + BESIDES) * GROUP
    theirs, ours = (sweep(each, text, each.empty(), memory=memory) for each in (there, here))
    assert (ours.scores, ours.reference) == (theirs.scores, theirs.reference)
    assert ours.stream_bytes == theirs.stream_bytes == memory
    # Three waves for each group but the last; the second and third begin further up.
    assert 3 * size(here) < ours.weight_bytes < 9 * size(here)


@pytest.mark.parametrize("metric", sorted(DIVERGENCES))
def test_a_race_measures_all_in_full(
    there: LoadedModel, here: LoadedModel, text: Windows, metric: str
) -> None:
    mask, row = there.mask("1.attn"), METRICS[metric]
    small = (12 * 2 * LENGTH * 64 * 4, (2 + BESIDES) * GROUP) if metric == "js" else ()
    for grain in ("unit", "layer"):
        for memory in (None, *small):
            chosen = together(candidates(there, mask), grain)
            theirs, ours = (
                race(each, text, mask, chosen, metric=row, early_exit=quick, memory=memory)
                for each, quick in ((there, False), (here, True))
            )
            same = dataclasses.replace(ours, stream_bytes=theirs.stream_bytes)
            assert same == theirs
            assert not ours.bounds


@pytest.mark.parametrize("method", [row.name for row in METHODS.values() if sum(row.keep) < 4])
def test_every_method(there: LoadedModel, here: LoadedModel, method: str) -> None:
    text = plain.text(there, 7, LENGTH)
    options: dict[str, Any] = {"method": method, "remove": 2, "early_exit": False}
    if method.startswith("evopress"):
        options["evolution"] = Evolution(2, 2, 2, (80, 160))
    theirs, ours = (prune(each, text, each.empty(), **options) for each in (there, here))
    assert [made(each) for each in ours.steps] == [made(each) for each in theirs.steps]
    assert ours.weight_bytes > 0 == theirs.weight_bytes
    assert on_meta(here)


def made(step: Any) -> Any:
    return dataclasses.replace(step, seconds=0.0, weight_bytes=0, stream_bytes=0)


def test_a_step_says_what_it_brought_in(here: LoadedModel, text: Windows) -> None:
    run = prune(here, text, here.empty(), method="blockpruner", remove=2)
    less = here.parameters - here.parameters_left(here.mask(run.steps[1].mask))
    # What a step scores by is the perplexity it records; the start has one of its own.
    each = [size(here), size(here), size(here) - 4 * less]
    assert [step.weight_bytes for step in run.steps] == each
    again = from_json(run.to_json())
    assert isinstance(again, Trajectory)
    assert again.weight_bytes == sum(each)


def test_perplexity(there: LoadedModel, here: LoadedModel) -> None:
    for stride in (LENGTH, LENGTH // 2):
        text = plain.text(there, 13, LENGTH, stride=stride)
        before = here.bytes_read
        theirs, ours = (perplexity(each, text, each.mask("1.attn")) for each in (there, here))
        assert (ours.each, ours.baseline_each) == (theirs.each, theirs.baseline_each)
        passes = 2 if stride == LENGTH else 4  # the first window goes by itself where they overlap
        less = 4 * here.info(next(iter(here.mask("1.attn")))).parameters * passes // 2
        assert here.bytes_read - before == passes * size(here) - less


def test_a_model_that_cannot_be_replayed(there: LoadedModel, here: LoadedModel) -> None:
    text = plain.text(there, 7, 20)
    theirs, ours = (
        sweep(dataclasses.replace(each, not_replayable="a test says so"), text, each.empty())
        for each in (there, here)
    )
    assert (ours.scores, ours.reference) == (theirs.scores, theirs.reference)
    assert ours.weight_bytes > 8 * size(here)


def test_a_cancel_between_any_two_layers(here: LoadedModel, text: Windows) -> None:
    heard = Heard()
    sweep(here, text, here.empty(), metric="js", progress=heard)
    assert heard.calls > 2 * here.depth
    for last in range(1, heard.calls, 7):
        with pytest.raises(Cancelled):
            sweep(here, text, here.empty(), metric="js", progress=Heard(last))
        assert on_meta(here)
    whole = sweep(here, text, here.empty(), metric="js")
    assert whole.weight_bytes == size(here)


def test_the_command_line_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tiny:llama", "--dtype", "fp32", "--samples", "7", "--length", "40"]
    printed = []
    for extra in ([], ["--offload", str(tmp_path)]):
        assert main(["sweep", *command, "--metric", "js", *extra]) == 0
        printed.append(capsys.readouterr().out.splitlines())
    said = [each for each in printed[1] if each.startswith("Weights brought to the device: ")]
    assert len(said) == 1
    theirs, ours = ([each for each in lines if " at most" not in each] for lines in printed)
    assert [each for each in ours if each not in said] == theirs
    assert main(["sweep", *command, "--offload", str(tmp_path / "missing")]) == 2
    assert "name a folder that is there" in capsys.readouterr().err
