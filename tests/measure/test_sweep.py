"""The sweep equals muting each unit and running the plain forward pass, however it is cut up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from inspector.errors import InspectorError, MaskError, OutOfMemory, ResultError
from inspector.jobs import Cancelled
from inspector.measure import racing, scoring
from inspector.measure import sweep as sweep_module
from inspector.measure.corpus import Windows
from inspector.measure.kept import Room
from inspector.measure.metrics import METRICS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import prune
from inspector.measure.similarity import similarity
from inspector.measure.sizes import byte_size, readable_bytes
from inspector.measure.sweep import BESIDES, STREAM_BYTES, candidates, sweep
from inspector.model.loaded import LoadedModel
from inspector.results.scores import Scores
from inspector.units import Mask, Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 40  # six windows make a group, so seven make two
MASKS = ["", "0,2.ffn", "0-3.attn"]


@pytest.fixture(scope="module", params=plain.TYPES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return plain.tiny(request.param)


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture(scope="module")
def text(llama: LoadedModel) -> Windows:
    return plain.text(llama, 7, LENGTH)


def free_units(loaded: LoadedModel, mask: Mask) -> list[Unit]:
    return [unit for unit in all_units(loaded.depth) if unit not in mask]


@pytest.mark.parametrize("mask_text", MASKS)
def test_every_family_and_metric_equals_the_plain_way(family: LoadedModel, mask_text: str) -> None:
    windows, mask = plain.text(family, 7, LENGTH), family.mask(mask_text)
    units = free_units(family, mask)
    references, scores = plain.sweep(family, windows.ids, mask, units, rows=7)
    for metric in METRICS:
        ours = sweep(family, windows, mask, metric=metric)
        assert plain.close(ours.reference, references[metric]), metric
        assert plain.differences(ours.scores, scores[metric]) == [], metric


def test_what_a_result_says(llama: LoadedModel, text: Windows) -> None:
    mask = llama.mask("1.attn,1.ffn,3.ffn")
    scores = sweep(llama, text, mask, metric="js")
    assert (scores.mask, scores.metric) == ("1,3.ffn", "js")
    assert (scores.windows_done, scores.windows, scores.complete) == (7, 7, True)
    assert list(scores.scores) == [str(unit) for unit in free_units(llama, mask)]
    assert scores.provenance.corpus == text.about
    assert (scores.provenance.source, scores.provenance.dtype) == ("tiny:llama", "float32")
    assert scores.provenance.seconds > 0


def test_under_the_empty_mask_divergences_start_at_nought(
    llama: LoadedModel, text: Windows
) -> None:
    for metric in ("kl", "js", "angular", "norm"):
        scores = sweep(llama, text, llama.empty(), metric=metric)
        assert scores.reference == pytest.approx(0, abs=1e-6)
        assert min(scores.scores.values()) > 0


@pytest.mark.parametrize(
    ("model_type", "metric"),
    [*(("llama", metric) for metric in METRICS), ("gpt_neox", "nll"), ("gemma3_text", "js")],
)
def test_waves_and_chunks_change_nothing(
    model_type: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = plain.tiny(model_type)
    windows, mask = plain.text(loaded, 3, 20), loaded.mask("1.attn")
    expected = sweep(loaded, windows, mask, metric=metric)
    one_stream = 3 * 20 * 64 * 4  # of a group of three windows, in bytes
    for wave, head_tokens, layer_tokens in (
        (1, 128, 4096),
        (2, 7, 1),
        (3, 128, 50),
        (4, 1000, 100),
        (100, 3, 4096),
    ):
        monkeypatch.setattr(scoring, "HEAD_TOKENS", head_tokens)
        monkeypatch.setattr(scoring, "LAYER_TOKENS", layer_tokens)
        memory = (wave + BESIDES) * one_stream
        ours = sweep(loaded, windows, mask, metric=metric, memory=memory)
        assert ours.stream_bytes == (min(wave, 7) + BESIDES) * one_stream
        assert plain.close(ours.reference, expected.reference)
        assert plain.differences(ours.scores, expected.scores) == []


@pytest.mark.parametrize("metric", METRICS)
def test_a_model_that_cannot_be_replayed(llama: LoadedModel, text: Windows, metric: str) -> None:
    whole = dataclasses.replace(llama, not_replayable="a test says so")
    mask = llama.mask("2.attn")
    ours, theirs = (sweep(each, text, mask, metric=metric) for each in (whole, llama))
    assert plain.close(ours.reference, theirs.reference)
    assert plain.differences(ours.scores, theirs.scores) == []


def test_a_model_whose_layers_look_at_the_text() -> None:
    """Replaying it with another row's arguments would be wrong; the plain way is right."""
    loaded = plain.doctored(lambda model: plain.wrap(model.model.rotary_emb, plain.scaled_by_data))
    assert loaded.not_replayable
    windows = plain.text(loaded, 3, LENGTH)
    references, scores = plain.sweep(loaded, windows.ids, [], all_units(4))
    for metric in METRICS:
        ours = sweep(loaded, windows, loaded.empty(), metric=metric)
        assert plain.close(ours.reference, references[metric])
        assert plain.differences(ours.scores, scores[metric]) == []
    total, tokens = plain.perplexity(loaded, windows.ids, LENGTH)
    assert plain.close(perplexity(loaded, windows, loaded.empty()).nll, total / tokens)
    replayed = dataclasses.replace(loaded, not_replayable="")
    wrong = sweep(replayed, windows, loaded.empty())
    assert plain.differences(wrong.scores, scores["nll"])


@pytest.mark.parametrize("metric", ["nll", "js"])
@pytest.mark.parametrize("method", ["sweep", "prune", "lazy"])
def test_no_more_streams_are_held_than_the_bound_allows(
    llama: LoadedModel, metric: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in the waves; and what is held does not grow with the number of windows."""
    held: list[int] = []
    real = sweep_module.waves

    def waves(*args: Any, **more: Any) -> Any:
        for names, streams in real(*args, **more):
            held.append((len(streams) + BESIDES) * streams[0].numel() * streams.element_size())
            yield names, streams

    for module in (sweep_module, racing):
        monkeypatch.setattr(module, "waves", waves)

    def run(count: int, memory: int | None) -> Any:
        held.clear()
        windows = plain.text(llama, count, 256)  # one window a group
        if method == "sweep":
            return sweep(llama, windows, llama.empty(), metric=metric, memory=memory)
        return prune(
            llama, windows, llama.empty(), method="finercut", metric=metric, remove=2,
            lazy=method == "lazy", memory=memory,
        )  # fmt: skip

    stream = 256 * 64 * 4
    for memory in (4 * stream, 6 * stream + 5, 10**9, None):
        for count in (2, 5):
            found = run(count, memory)
            # What steps leave to each other, where no bound is given: the streams before and behind
            # the four layers, the untouched model's, and those of the four candidates of the first
            # two layers before the third.
            windows = count if method != "sweep" and memory is None else 0
            kept = windows * (5 + (metric == "js") + 4) * stream
            assert max(held) + kept // 2 <= found.stream_bytes <= max(held) + kept
            room = (memory or STREAM_BYTES) // stream
            assert max(held) == min(room, 8 + BESIDES) * stream
    monkeypatch.setattr(Room, "take", lambda *_: False)  # as where the bound on it is reached
    assert run(5, None).stream_bytes == max(held) <= STREAM_BYTES
    with pytest.raises(OutOfMemory) as raised:
        run(2, 4 * stream - 1)
    assert str(raised.value) == (
        "256 KiB do not hold the streams of one candidate at a time: use --memory 262144B or more, "
        "or shorter windows (--length)."
    )


def test_a_candidate_that_is_larger_than_the_default_bound(
    llama: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sweep(llama, text, llama.empty())
    monkeypatch.setattr(sweep_module, "STREAM_BYTES", 1)
    ours = sweep(llama, text, llama.empty())
    assert ours.stream_bytes == (1 + BESIDES) * 6 * LENGTH * 64 * 4
    assert plain.differences(ours.scores, expected.scores) == []
    with pytest.raises(OutOfMemory, match="do not hold the streams"):
        sweep(llama, text, llama.empty(), memory=1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4 GiB", 4 << 30),
        (" 1.5MiB ", 3 << 19),
        ("512kB", 512_000),
        ("1B", 1),
        ("0.5KiB", 512),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "4", "GB", "-1GB", "4Gb", "4 GB B", "1iB", "1e3MB", "nan", "0B", "0.1B", "4PB"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(InspectorError, match=r"^--memory takes a size"):
        byte_size(text)


def test_sizes_for_people() -> None:
    sizes = {1: "1 B", 1023: "1023 B", 1024: "1 KiB", 3 << 19: "1.5 MiB", 1 << 30: "1 GiB"}
    assert {size: readable_bytes(size) for size in sizes} == sizes
    assert readable_bytes(5 << 50) == "5120 TiB"


def test_some_units_only(llama: LoadedModel, text: Windows) -> None:
    everything = sweep(llama, text, llama.empty())
    some = [Unit(3, "attn"), Unit(0, "ffn"), Unit(3, "ffn")]
    ours = sweep(llama, text, llama.empty(), units=iter(some))
    assert list(ours.scores) == ["0.ffn", "3.attn", "3.ffn"]
    assert plain.differences(ours.scores, {u: everything.scores[u] for u in ours.scores}) == []


def test_units_that_cannot_be_muted_are_left_out(llama: LoadedModel, text: Windows) -> None:
    problem = {"1.attn": "it is holy"}
    units = tuple(
        dataclasses.replace(info, problem=problem.get(str(info.unit), "")) for info in llama.units
    )
    doctored = dataclasses.replace(llama, units=units)
    assert "1.attn" not in sweep(doctored, text, llama.empty()).scores
    with pytest.raises(MaskError, match=r"^1\.attn cannot be scored: it is holy\.$"):
        sweep(doctored, text, llama.empty(), units=[Unit(1, "attn")])


def test_refusals(llama: LoadedModel, text: Windows) -> None:
    with pytest.raises(MaskError, match=r"^2\.ffn cannot be scored: it is muted already\.$"):
        sweep(llama, text, llama.mask("2"), units=[Unit(2, "ffn")])
    with pytest.raises(MaskError, match=r"^this model has no unit 9\.ffn\.$"):
        sweep(llama, text, llama.empty(), units=[Unit(9, "ffn")])
    with pytest.raises(MaskError, match=r"^no unit is left to score: everything that can be muted"):
        sweep(llama, text, llama.mask("0-3"))
    with pytest.raises(MaskError, match="a model of 9 layers, the loaded model has 4"):
        sweep(llama, text, Mask(9))
    with pytest.raises(ResultError, match="unknown metric 'loss'"):
        sweep(llama, text, llama.empty(), metric="loss")
    with pytest.raises(MaskError, match="there is no window of text"):
        sweep(llama, Windows(text.ids[:0], LENGTH, {}), llama.empty())
    assert candidates(llama, llama.mask("0-2")) == [Unit(3, "attn"), Unit(3, "ffn")]


def test_partial_results_refine_window_by_window(llama: LoadedModel) -> None:
    windows = plain.text(llama, 5, 150)  # one window a group
    partials: list[Scores] = []
    shares: list[float] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        shares.append(done / total)
        if partial is not None:
            partials.append(partial)

    final = sweep(llama, windows, llama.empty(), metric="kl", progress=progress)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) > 20
    assert [each.windows_done for each in partials] == [1, 2, 3, 4, 5]
    assert [each.complete for each in partials] == [False] * 4 + [True]
    assert partials[-1] is final
    for each in partials:
        some = Windows(windows.ids[: each.windows_done], 150, windows.about)
        alone = sweep(llama, some, llama.empty(), metric="kl")
        assert plain.differences(each.scores, alone.scores, relative=1e-9) == []


def test_a_score_does_not_depend_on_what_is_measured_with_it(
    llama: LoadedModel, text: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: every pass through a layer and the head has the same number of rows."""
    rows: dict[str, set[int]] = {"run_layer": set(), "to_logits": set()}

    def recorded(name: str, real: Any, place: int) -> Any:
        def call(*args: Any) -> Any:
            rows[name].add(args[place].shape[:2].numel())
            return real(*args)

        return call

    for name, place in (("run_layer", 2), ("to_logits", 1)):
        monkeypatch.setattr(scoring, name, recorded(name, getattr(scoring, name), place))
    mask = llama.mask("2.ffn")
    whole = sweep(llama, text, mask)
    for units in (["0.attn"], ["3.ffn"], ["0.ffn", "1.attn", "3.attn"]):
        some = sweep(llama, text, mask, units=llama.mask(",".join(units)))
        assert some.reference == whole.reference
        assert some.scores == {each: whole.scores[each] for each in units}
    passes = scoring.steady_rows(llama.dtype, LENGTH) * LENGTH
    assert rows["run_layer"] == {passes, 6 * LENGTH, LENGTH}  # the candidates', and two groups
    assert rows["to_logits"] == {2 * scoring.head_tokens(torch.float32)}


def test_one_window_and_many_give_one_mean(llama: LoadedModel, text: Windows) -> None:
    """Sums and counts are kept apart: the mean of all is the mean of the windows' means."""
    whole = sweep(llama, text, llama.empty(), metric="norm")
    each = [
        sweep(llama, Windows(text.ids[w : w + 1], LENGTH, {}), llama.empty(), metric="norm")
        for w in range(7)
    ]
    for unit, score in whole.scores.items():
        assert plain.close(score, sum(one.scores[unit] for one in each) / 7)


WORK: dict[str, Callable[..., Any]] = {
    "sweep": lambda loaded, text, mask, progress: sweep(
        loaded, text, mask, metric="js", progress=progress
    ),
    "perplexity": lambda loaded, text, mask, progress: perplexity(
        loaded, text, mask, progress=progress
    ),
    "prune": lambda loaded, text, mask, progress: prune(
        loaded, text, mask, method="blockpruner", remove=2, progress=progress
    ),
    "similarity": lambda loaded, text, mask, progress: similarity(
        loaded, text, mask, progress=progress
    ),
    "taylor": lambda loaded, text, mask, progress: prune(
        loaded, text, mask, method="taylor", remove=1, progress=progress
    ),
    "shortgpt": lambda loaded, text, mask, progress: prune(
        loaded, text, mask, method="shortgpt", remove=1, progress=progress
    ),
    "sleb": lambda loaded, text, mask, progress: prune(
        loaded, text, mask, method="sleb", remove=1, progress=progress
    ),
}
LAYER_BY_LAYER = ("similarity", "taylor", "shortgpt")


@pytest.mark.parametrize(
    ("work", "whole"),
    [
        *((work, False) for work in WORK),
        *((work, True) for work in WORK if work not in LAYER_BY_LAYER),
    ],
)
def test_cancelling_anywhere_restores_the_model(work: str, whole: bool) -> None:
    loaded = plain.tiny("gpt_neox")
    if whole:
        loaded = dataclasses.replace(loaded, not_replayable="a test says so")
    windows, mask = plain.text(loaded, 3, 20), loaded.mask("1.ffn")
    before = plain.logits(loaded, windows.ids)
    calls, limit = 0, 0

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise Cancelled

    WORK[work](loaded, windows, mask, progress)
    count = calls
    assert count > 1
    for place in {*range(1, count + 1, max(1, count // 12)), count}:
        calls, limit = 0, place
        with pytest.raises(Cancelled):
            WORK[work](loaded, windows, mask, progress)
        assert not any("forward" in module.__dict__ for module in loaded.model.modules())
        assert not any(weight.requires_grad for weight in loaded.model.parameters())
        assert torch.equal(plain.logits(loaded, windows.ids), before)


@pytest.mark.parametrize("work", WORK)
def test_out_of_memory_names_the_levers(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = plain.tiny("llama")
    windows = plain.text(loaded, 3, 20)
    before = plain.logits(loaded, windows.ids)
    head = loaded.layers[2]
    silent: Any = lambda *_, **__: None  # noqa: E731

    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = head.register_forward_pre_hook(fails)
    with pytest.raises(OutOfMemory, match=r"^out of memory at windows of 20 tokens: use shorter"):
        WORK[work](loaded, windows, loaded.empty(), silent)
    handle.remove()
    assert torch.equal(plain.logits(loaded, windows.ids), before)
