"""Every metric against its formula in float64, at its limits, and in pieces of any size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.errors import OutOfMemory, ResultError
from inspector.jobs import Cancelled
from inspector.measure import scoring
from inspector.measure.metrics import METRICS, Metric, metric_named
from inspector.measure.scoring import (
    final_streams,
    groups,
    logit_parts,
    memory_levers,
    predicted,
    stream_parts,
    stream_sums,
    ticker,
    untouched,
    window_sums,
)
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

DIVERGENCES = [name for name, metric in METRICS.items() if metric.against_logits]
TOKENS, VOCABULARY = 9, 301


def pair(seed: int, *, scale: float = 3.0, apart: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one = scale * torch.randn(TOKENS, VOCABULARY, generator=generator)
    return one, one + apart * torch.randn(one.shape, generator=generator)


def measured(metric: Metric, dense: torch.Tensor, pruned: torch.Tensor) -> float:
    """What a window of one variant comes to."""
    total = float(metric.values(pruned[None], metric.prepare(dense))[0].sum(dtype=torch.float64))
    return math.sqrt(total) if metric.windowed else total


@pytest.mark.parametrize("apart", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences(name: str, apart: float) -> None:
    for seed in range(3):
        dense, pruned = pair(seed, apart=apart)
        ours, theirs = measured(METRICS[name], dense, pruned), plain.divergence(name, dense, pruned)
        assert plain.close(ours, theirs, floor=1e-6 * TOKENS), (seed, ours, theirs)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 20), st.floats(0, 20))
def test_limits(seed: int, scale: float, apart: float) -> None:
    dense, pruned = pair(seed, scale=scale, apart=apart)
    values = {name: measured(METRICS[name], dense, pruned) / TOKENS for name in DIVERGENCES}
    assert all(value >= -1e-6 for value in values.values())
    assert values["js"] <= math.log(2) + 1e-6
    assert values["angular"] <= math.pi / 2 + 1e-6
    back = {name: measured(METRICS[name], pruned, dense) / TOKENS for name in DIVERGENCES}
    for name in ("js", "js-reversed", "angular", "norm"):  # symmetric
        assert plain.close(back[name], values[name]), name


@pytest.mark.parametrize("name", DIVERGENCES)
def test_identical_logits_are_no_distance_apart(name: str) -> None:
    for scale in (0.1, 3.0, 30.0):
        dense, _ = pair(1, scale=scale)
        assert measured(METRICS[name], dense, dense.clone()) == pytest.approx(0, abs=1e-12)


def test_far_apart() -> None:
    """Distributions that share nothing, and logits that point the other way."""
    one, other = torch.zeros(1, 50), torch.zeros(1, 50)
    one[0, 3] = other[0, 7] = 200.0
    assert measured(METRICS["js"], one, other) == pytest.approx(math.log(2))
    assert measured(METRICS["kl"], one, other) == pytest.approx(200)
    assert measured(METRICS["angular"], one, -one) == pytest.approx(math.pi / 2)  # cos clamped at 0
    assert measured(METRICS["angular"], one, other) == pytest.approx(math.pi / 2)
    assert measured(METRICS["norm"], one, other) == pytest.approx(math.sqrt(2) * 200)


def test_js_as_in_the_code_is_the_other_one() -> None:
    """The mean's divergence from both, which is never below the textbook's, and has no bound."""
    dense, pruned = pair(2)
    ours = measured(METRICS["js-reversed"], dense, pruned)
    assert plain.close(ours, plain.divergence("js-reversed", dense, pruned))
    assert ours > 1.1 * measured(METRICS["js"], dense, pruned)
    one, other = torch.zeros(1, 2), torch.tensor([[0.0, 60.0]])
    m = ((0.5 + math.exp(-60)) / 2, (0.5 + 1) / 2)
    exact = (m[0] * (60 + math.log(m[0])) + m[1] * math.log(m[1])) / 2
    exact += (m[0] * math.log(m[0] / 0.5) + m[1] * math.log(m[1] / 0.5)) / 2
    assert measured(METRICS["js-reversed"], one, other) == pytest.approx(exact, rel=1e-5)
    assert exact > math.log(2)


def test_kl_is_from_the_untouched_model() -> None:
    dense, pruned = pair(2)
    ours = measured(METRICS["kl"], dense, pruned)
    assert plain.close(ours, plain.divergence("kl", dense, pruned))
    assert not plain.close(ours, plain.divergence("kl", pruned, dense), relative=1e-2)


def test_small_angles_keep_their_digits() -> None:
    """Arccos of a float32 cosine gives 0 or 3.5e-4 here."""
    dense, _ = pair(3)
    sideways = dense.roll(1, -1)
    sideways -= dense * (sideways * dense).sum(-1, keepdim=True) / dense.square().sum(-1, True)
    tilted = dense + 1e-4 * sideways * (dense.norm(dim=-1) / sideways.norm(dim=-1))[:, None]
    assert measured(METRICS["angular"], dense, tilted) / TOKENS == pytest.approx(1e-4, rel=1e-3)


def test_nll() -> None:
    dense, _ = pair(4)
    ids = torch.randint(VOCABULARY, (TOKENS + 1,), generator=torch.Generator().manual_seed(0))
    variants = torch.stack([dense, dense * 2, -dense])
    ours = METRICS["nll"].values(variants, ids[1:]).sum(1, dtype=torch.float64)
    for logits, value in zip(variants, ours.tolist(), strict=True):
        theirs = sum(
            float(logits[at].double().logsumexp(-1) - logits[at].double()[ids[at + 1]])
            for at in range(TOKENS)
        )
        assert plain.close(value, theirs)


@pytest.mark.parametrize("name", METRICS)
def test_variants_do_not_touch_each_other(name: str) -> None:
    metric = METRICS[name]
    dense, pruned = pair(5)
    against = metric.prepare(dense) if metric.against_logits else torch.arange(TOKENS)
    variants = torch.stack([pruned, dense, pruned * 3])
    parts = metric.values(variants, against)
    assert parts.shape == (3, TOKENS)
    together = parts.sum(1, dtype=torch.float64)
    for index, variant in enumerate(variants):
        alone = float(metric.values(variant[None], against)[0].sum(dtype=torch.float64))
        assert plain.close(float(together[index]), alone, relative=1e-6)


def test_every_row_of_the_table_is_filled_in() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert all((metric.label, metric.unit, metric.formula, metric.source))
        assert metric_named(name) is metric
    with pytest.raises(ResultError) as raised:
        metric_named("entropy")
    assert str(raised.value) == (
        "unknown metric 'entropy': choose one of nll, kl, js, js-reversed, angular, norm."
    )


def test_counting() -> None:
    assert predicted(METRICS["nll"], 10) == 9
    assert predicted(METRICS["js"], 10) == 10
    assert METRICS["js"].of_window(6.0, 10) == (6.0, 10)
    assert METRICS["norm"].of_window(16.0, 10) == (4.0, 1)


# In pieces


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_pieces_of_any_size(name: str, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, metric = plain.tiny(model_type), METRICS[name]
    ids = plain.random_ids(loaded, 1, 31)
    masks = [loaded.empty(), loaded.mask("1"), loaded.mask("2.attn")]
    with torch.no_grad():
        streams = torch.cat([final_streams(loaded, ids, mask) for mask in masks])
        logits = torch.cat([plain.logits(loaded, ids, mask) for mask in masks])
    expected = logit_parts(metric, logits, ids[0], logits[:1]).sum(1)
    for size in (1, 5, 30, 31, 64, 1000):
        monkeypatch.setattr(scoring, "HEAD_TOKENS", size)
        ours = stream_sums(loaded, metric, streams, ids[0], streams[:1])
        whole = logit_parts(metric, logits, ids[0], logits[:1]).sum(1)
        for variant in range(len(masks)):
            there = float(expected[variant])
            assert plain.close(float(ours[variant]), there), (size, variant)
            assert plain.close(float(whole[variant]), there, relative=1e-6), (size, variant)


@pytest.mark.parametrize("skip", [0, 1, 17, 29, 30])
def test_skipped_tokens_do_not_count(skip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "HEAD_TOKENS", 4)
    loaded, metric = plain.tiny("llama"), METRICS["nll"]
    ids = plain.random_ids(loaded, 1, 31)
    logits = plain.logits(loaded, ids)
    expected = plain.window_nll(logits[0], ids[0], skip=skip)[0]
    streams = final_streams(loaded, ids, loaded.empty())
    ours = float(stream_parts(loaded, metric, streams, ids[0], skip=skip)[0].sum())
    assert plain.close(ours, expected)
    assert plain.close(float(logit_parts(metric, logits, ids[0], skip=skip)[0].sum()), expected)


@pytest.mark.parametrize("tokens", [1, 40, 10**6])
def test_layers_in_pieces(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LAYER_TOKENS", tokens)
    loaded = plain.tiny("gpt2")
    ids = plain.random_ids(loaded, 5, 20)
    sums = window_sums(loaded, METRICS["nll"], ids, loaded.mask("2"))
    for window, value in zip(ids, sums.tolist(), strict=True):
        logits = plain.logits(loaded, window[None], loaded.mask("2"))[0]
        assert plain.close(value, plain.window_nll(logits, window)[0])


def test_work_is_told_in_full() -> None:
    loaded = plain.tiny("llama")
    ids = plain.random_ids(loaded, 1, 300)
    streams = final_streams(loaded, ids, loaded.empty()).expand(3, -1, -1)
    ticks: list[float] = []
    stream_sums(loaded, METRICS["nll"], streams, ids[0], tick=ticks.append)
    assert sum(ticks) == pytest.approx(3 * scoring.head_work(loaded))


def test_a_ticker_adds_up_and_stops_at_the_total() -> None:
    calls: list[Any] = []
    tick = ticker(lambda done, total, note="", partial=None: calls.append((done, total)), 10, "x")
    for work in (3, 4, 5):
        tick(work)
    assert calls == [(3, 10), (7, 10), (10, 10)]


def test_windows_in_groups() -> None:
    windows = torch.arange(7 * 40).view(7, 40)
    found = list(groups(windows))
    assert [(first, len(ids)) for first, ids in found] == [(0, 6), (6, 1)]
    assert torch.equal(torch.cat([ids for _, ids in found]), windows)
    assert [len(ids) for _, ids in groups(torch.zeros(3, 1000))] == [1, 1, 1]
    assert list(groups(torch.zeros(0, 10))) == []


def test_reference_of_a_model_that_cannot_be_replayed() -> None:
    import dataclasses

    loaded = plain.tiny("llama")
    ids = plain.random_ids(loaded, 3, 12)
    whole = dataclasses.replace(loaded, not_replayable="a test says so")
    for name, metric in METRICS.items():
        ours = window_sums(loaded, metric, ids, loaded.mask("1"), untouched(loaded, ids))
        theirs = window_sums(whole, metric, ids, loaded.mask("1"), untouched(whole, ids))
        assert all(map(plain.close, ours.tolist(), theirs.tolist())), name


def test_running_out_of_memory_names_the_levers() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
    ):
        with pytest.raises(OutOfMemory) as raised, memory_levers(512):
            raise error
        assert str(raised.value) == (
            "out of memory at windows of 512 tokens: use shorter windows (--length), "
            "fewer at a time (--samples), or a smaller dtype (--dtype bf16)."
        )
    for error in (RuntimeError("shapes"), Cancelled(), ZeroDivisionError()):
        with pytest.raises(type(error)), memory_levers(512):
            raise error
