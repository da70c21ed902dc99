"""Speed in turns: the model's own tokens, its cache counted in bytes, nothing left behind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from inspector.errors import InspectorError, MaskError, OutOfMemory
from inspector.jobs import Cancelled
from inspector.measure import memory
from inspector.measure import speed as module
from inspector.measure.memory import peak_memory
from inspector.measure.speed import Pulse, speed, timed
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.surgery import muted, replaced
from inspector.results.checks import Speed, SpeedRun
from inspector.results.files import from_json
from inspector.units import Mask
from tests import plain

SMALL: dict[str, Any] = {"prompt_length": 12, "new_tokens": 3, "rounds": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("tiny:llama", dtype="fp32")


class Heard(list[Any]):
    """A progress that remembers its calls, and cancels at call number `cancel_at`."""

    def __init__(self, cancel_at: int | None = None) -> None:
        super().__init__()
        self.cancel_at = cancel_at

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        self.append((done, total, note, partial))
        if len(self) == self.cancel_at:
            raise Cancelled


def untouched(loaded: LoadedModel) -> bool:
    """Whether no forward and no hook is left on any module."""
    modules = list(loaded.model.modules())
    return not any("forward" in each.__dict__ or each._forward_pre_hooks for each in modules)


# ---- what is run -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["", "0.attn", "1.attn,2.ffn", "0-3.attn"])
@pytest.mark.parametrize("model_type", plain.TYPES)
def test_the_tokens_are_those_of_greedy_generate(model_type: str, mask: str) -> None:
    # 20 and 6 tokens: the sliding layers of some see 16.
    found = plain.tiny(model_type)
    ids = plain.random_ids(found, 2, 20)
    model: Any = found.model
    with muted(found, found.mask(mask)):
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=7,
            min_new_tokens=7,
            eos_token_id=None,
        )
        assert torch.equal(timed(found, ids, 6).tokens, out[:, 20:])


@pytest.mark.parametrize("model_type", plain.TYPES)
def test_the_untouched_cache_holds_what_arithmetic_says(model_type: str) -> None:
    found = plain.tiny(model_type)
    ids = plain.random_ids(found, 3, 15)  # a sliding window of 16 keeps 15
    held = timed(found, ids, 1).cache_bytes
    assert held == ids.numel() * found.kv_bytes_left(found.empty()) > 0


def test_a_sliding_window_holds_no_more_than_itself() -> None:
    found = plain.tiny("mistral")  # 16 in every layer
    held = timed(found, plain.random_ids(found, 1, 60), 1).cache_bytes
    assert held == 15 * found.kv_bytes_left(found.empty())


@pytest.mark.parametrize("mask", ["", "1.attn,2.ffn", "0-3.attn", "0-3"])
def test_a_muted_attention_holds_one_zero_a_token(loaded: LoadedModel, mask: str) -> None:
    found = speed(loaded, loaded.mask(mask), batch=2, **SMALL)
    zeros = sum(unit.kind == "attn" for unit in loaded.mask(mask)) * 2 * loaded.dtype.itemsize
    assert found.kv_computed == loaded.kv_bytes_left(loaded.mask(mask))
    assert found.kv_measured == found.kv_computed + zeros
    assert found.baseline_kv_measured == found.baseline_kv_computed
    assert found.baseline_kv_computed == loaded.kv_bytes_left(loaded.empty())


def test_the_head_is_computed_for_the_last_token_alone(loaded: LoadedModel) -> None:
    seen = []
    head: Any = loaded.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:2])))
    try:
        timed(loaded, plain.random_ids(loaded, 2, 9), 3)
    finally:
        handle.remove()
    assert seen == [(2, 1)] * 4


def test_the_two_take_turns_and_the_first_runs_do_not_count(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    real = module.timed

    def noted(*args: Any, **more: Any) -> Any:
        order.append("mask" if "forward" in loaded.layers[1].self_attn.__dict__ else "untouched")
        return real(*args, **more)

    monkeypatch.setattr(module, "timed", noted)
    found = speed(loaded, loaded.mask("1.attn"), **{**SMALL, "rounds": 3})
    warm, rounds = order[:2], order[2:]
    assert warm == ["untouched", "mask"]
    assert rounds == ["mask", "untouched", "untouched", "mask", "mask", "untouched"]
    assert len(found.runs) == len(found.baseline_runs) == 3


def test_what_took_longer_is_said_to(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the layers move: two ticks an attention, one an FFN."""
    now = 0.0
    monkeypatch.setattr(module, "_clock", lambda _: now)
    handles = []

    def tick(seconds: float) -> Any:
        def hook(*_: Any) -> None:
            nonlocal now
            now += seconds

        return hook

    for unit in loaded.toggleable():
        # On the inside, which a muted unit does not run.
        (part,) = loaded.modules(unit)
        inner: Any = part.q_proj if unit.kind == "attn" else part.gate_proj
        handles.append(inner.register_forward_pre_hook(tick(2 if unit.kind == "attn" else 1)))
    try:
        found = speed(loaded, loaded.mask("1.attn,3"), **SMALL)
    finally:
        for handle in handles:
            handle.remove()
    assert found.untouched("prefill").median == pytest.approx(12 / 12)  # 12 tokens, 4 x 3 ticks
    assert found.here("prefill").median == pytest.approx(12 / 7)
    assert found.untouched("decode").median == pytest.approx(12e3)
    assert found.here("decode").median == pytest.approx(7e3)
    assert found.ratio("decode").median == pytest.approx(7 / 12)
    assert found.ratio("prefill").median == pytest.approx(12 / 7)


def test_it_is_a_measurement_of_every_run(loaded: LoadedModel) -> None:
    found = speed(loaded, loaded.mask("1"), **SMALL)
    for run in (*found.runs, *found.baseline_runs):
        assert 0 < run.prefill < math.inf
        assert 0 < run.decode < math.inf
    assert (found.mask, found.batch, found.rounds) == ("1", 1, 2)
    assert (found.prompt_length, found.new_tokens) == (12, 3)
    assert found.provenance.source == "tiny:llama"
    assert found.provenance.seconds > 0
    assert from_json(found.to_json()).to_json() == found.to_json()


# ---- memory ------------------------------------------------------------------------------------

KEPT = memory._reset_resident() is not None


@pytest.mark.skipif(not KEPT, reason="this system keeps no peak of the resident memory")
def test_the_peak_is_what_the_work_took_also_where_it_is_freed_again() -> None:
    pins = []
    for _ in range(2):  # the second time, the first one's pieces are free but not given back
        with peak_memory(torch.device("cpu")) as peak:
            small = [torch.ones(1 << 14) for _ in range(1024)]  # 64 MiB
            pins.append(torch.ones(1 << 12))  # behind them, so that the heap cannot shrink
            del small
        assert (60 << 20) < peak.bytes < (90 << 20)
    with peak_memory(torch.device("cpu")) as peak:
        torch.ones(16 << 20)  # 64 MiB in one piece
    assert (60 << 20) < peak.bytes < (90 << 20)


@pytest.mark.skipif(not KEPT, reason="this system keeps no peak of the resident memory")
def test_memory_is_measured_in_every_run(loaded: LoadedModel) -> None:
    found = speed(loaded, loaded.empty(), **SMALL)
    assert all(run.memory >= 0 for run in (*found.runs, *found.baseline_runs))


def test_where_the_system_keeps_no_peak_memory_is_not_measured(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_reset_resident", lambda: None)
    found = speed(loaded, loaded.mask("1"), **SMALL)
    assert all(math.isnan(run.memory) for run in (*found.runs, *found.baseline_runs))
    assert math.isnan(found.here("memory").median)
    assert math.isnan(found.ratio("memory").median)


# ---- progress, cancel, errors ------------------------------------------------------------------


def test_partial_results_have_whole_rounds(loaded: LoadedModel) -> None:
    heard = Heard()
    found = speed(loaded, loaded.mask("1"), **SMALL, progress=heard)
    done = [each[0] for each in heard]
    assert done == sorted(done)
    assert {each[1] for each in heard} == {6}
    assert done[-1] == 6
    partials = [each[3] for each in heard if each[3] is not None]
    assert [len(each.runs) for each in partials] == [1, 2]
    assert partials[0].runs == found.runs[:1]
    assert partials[0].rounds == 2


def test_the_pulse_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    heard = Heard()
    pulse = Pulse(heard, 4, "x")
    for _ in range(100):
        now += module.PULSE / 8
        pulse.beat()
    assert len(heard) in (12, 13, 14)


@pytest.mark.parametrize("at", [1, 3, 7, 30, 60])
def test_a_cancel_between_layers_or_tokens_restores_the_model(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(module, "PULSE", 0.0)
    ids = plain.random_ids(loaded, 1, 9)
    before = loaded.model(ids).logits
    heard = Heard(cancel_at=at)
    with pytest.raises(Cancelled):
        speed(loaded, loaded.mask("0.attn,2"), **SMALL, progress=heard)
    assert len(heard) == at
    assert untouched(loaded)
    assert torch.equal(loaded.model(ids).logits, before)


def test_it_can_be_cancelled_before_every_layer_and_after_every_token(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PULSE", 0.0)
    heard = Heard()
    speed(loaded, loaded.mask("0.attn,2"), **SMALL, progress=heard)
    # Six runs: four layers and an end for the prompt and for each of three tokens; two rounds.
    assert len(heard) == 6 * (4 + 1) * 4 + 2
    assert untouched(loaded)


def says(call: Any) -> str:
    with pytest.raises(InspectorError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"prompt_length": 0}, "0 prompt tokens"),
        ({"new_tokens": 0}, "0 new tokens"),
        ({"new_tokens": -2}, "-2 new tokens"),
        ({"batch": 0}, "0 sequences"),
        ({"rounds": 0}, "0 rounds"),
    ],
)
def test_numbers_below_one_are_refused(
    loaded: LoadedModel, change: dict[str, int], name: str
) -> None:
    said = says(lambda: speed(loaded, loaded.empty(), **{**SMALL, **change}))
    assert said == f"cannot measure speed with {name}: ask for 1 or more."


def test_what_does_not_fit_the_window_is_refused(loaded: LoadedModel) -> None:
    said = says(lambda: speed(loaded, loaded.empty(), prompt_length=510, new_tokens=3))
    assert "make 513, more than the 512 that this model takes: ask for 2 tokens or fewer" in said
    speed(loaded, loaded.empty(), prompt_length=510, new_tokens=2, rounds=1)


def test_a_mask_for_another_depth_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(MaskError):
        speed(loaded, Mask(30), **SMALL)


def test_a_model_without_a_cache_is_refused(loaded: LoadedModel) -> None:
    forward = loaded.model.forward

    def bare(input_ids: Any, logits_to_keep: int = 0, **_: Any) -> Any:
        return forward(input_ids=input_ids, logits_to_keep=logits_to_keep, use_cache=False)

    with replaced(loaded.model, bare):
        said = says(lambda: speed(loaded, loaded.empty(), **SMALL))
    assert said == "tiny:llama keeps no cache of keys and values: its decoding cannot be timed."
    with replaced(loaded.model, lambda input_ids, **more: forward(input_ids, **more)):
        said = says(lambda: speed(loaded, loaded.empty(), **SMALL))
    assert said.startswith("tiny:llama computes its head on every token of a prompt")
    assert untouched(loaded)


def test_running_out_of_memory_names_the_levers(loaded: LoadedModel) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with replaced(loaded.layers[2], full), pytest.raises(OutOfMemory) as caught:
        speed(loaded, loaded.mask("1"), **SMALL)
    assert "a prompt of 12 tokens, 3 new ones and a batch of 1" in str(caught.value)
    assert "--prompt-tokens" in str(caught.value)
    assert untouched(loaded)


# ---- the result --------------------------------------------------------------------------------


def test_the_spread_is_median_least_and_greatest(loaded: LoadedModel) -> None:
    runs = [SpeedRun(100.0, 5.0), SpeedRun(300.0, 4.0), SpeedRun(120.0, 9.0)]
    base = [SpeedRun(50.0, 10.0), SpeedRun(100.0, 10.0), SpeedRun(120.0, 10.0)]
    found = Speed(loaded.provenance(), "1", 8, 2, 1, 3, runs, base)
    here, ratio = found.here("prefill"), found.ratio("prefill")
    assert (here.median, here.low, here.high) == (120.0, 100.0, 300.0)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.0, 3.0)
    ratio = found.ratio("decode")
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.4, 0.9)
