"""Similarity against a slow reference from forward hooks on the true residual stream."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inspector.errors import MaskError, ResultError
from inspector.measure import similarity as module
from inspector.measure.similarity import similarity
from inspector.model.families import FAMILIES
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.units import Mask, Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 24
SANDWICH = {"gemma2", "gemma3_text", "olmo2"}  # a norm follows the attention
PARALLEL = {"gpt_neox", "phi"}  # attention and FFN read the same stream


@torch.no_grad()
def boundaries(loaded: LoadedModel, ids: torch.Tensor, mask: Mask) -> torch.Tensor:
    """The stream of one window [T] at 2L+1 boundaries, [2L+1, T, H] in float64.

    What a layer gets and what the last one gives come from hooks; the stream between attention and
    FFN is what the layer got plus what its attention gave, after the norm that follows it if any.
    """
    entering, given, leaving = [], [], []
    with plain.hooked(loaded, mask):
        handles = []
        for layer in loaded.layers:

            def before(_: Any, args: Any, kwargs: Any) -> None:
                entering.append(args[0] if args else kwargs["hidden_states"])

            def after(_: Any, __: Any, output: Any) -> None:
                given.append(output[0] if isinstance(output, tuple) else output)

            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            name = loaded.family.attn[-1]
            if loaded.model_type in SANDWICH:
                name = "post_attention_layernorm"
            handles.append(getattr(layer, name).register_forward_hook(after))

        def last(_: Any, __: Any, output: Any) -> None:
            leaving.append(output[0] if isinstance(output, tuple) else output)

        handles.append(loaded.layers[-1].register_forward_hook(last))
        loaded.model(input_ids=ids[None], use_cache=False)
        for handle in handles:
            handle.remove()
    points = []
    for x, f in zip(entering, given, strict=True):
        points += [x, x + f]
    return torch.cat([*points, leaving[0]]).double()


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=-1, eps=0.0)


def reference(loaded: LoadedModel, ids: torch.Tensor, mask: Mask) -> dict[str, Any]:
    depth = loaded.depth
    last, every = np.full((depth + 1,) * 2, np.nan), np.full((depth + 1,) * 2, np.nan)
    stream = np.zeros((2 * depth + 1,) * 2)
    windows = [boundaries(loaded, window, mask) for window in ids]
    for i in range(2 * depth + 1):
        for j in range(2 * depth + 1):
            cosines = torch.stack([cosine(points[i], points[j]) for points in windows])
            stream[i, j] = float(cosines.mean())
            if i % 2 == 0 and j % 2 == 0 and i < j:
                angles = cosines.clamp(-1, 1).arccos() / math.pi
                every[i // 2, j // 2] = float(angles.mean())
                last[i // 2, j // 2] = float(angles[:, -1].mean())
    turn, growth = {}, {}
    for index, unit in enumerate(all_units(depth)):
        if unit not in mask:
            steps = [(points[index + 1] - points[index]).norm(dim=-1) for points in windows]
            sizes = [points[index].norm(dim=-1) for points in windows]
            growth[str(unit)] = float((torch.stack(steps) / torch.stack(sizes)).mean())
            turn[str(unit)] = 1 - stream[index, index + 1]
    return {
        "angular_last": last,
        "angular_all": every,
        "stream": stream,
        "turn": turn,
        "growth": growth,
    }


def check(loaded: LoadedModel, windows: Any, mask: Mask) -> None:
    ours, theirs = similarity(loaded, windows, mask), reference(loaded, windows.ids, mask)
    for name in ("angular_last", "angular_all", "stream"):
        np.testing.assert_allclose(getattr(ours, name), theirs[name], atol=2e-6, err_msg=name)
    assert plain.differences(ours.turn, theirs["turn"], floor=2e-6) == []
    assert plain.differences(ours.growth, theirs["growth"], floor=2e-6) == []


@pytest.mark.parametrize("mask", ["", "1.attn,2.ffn", "2", "0-3.ffn"])
@pytest.mark.parametrize("model_type", plain.TYPES)
def test_every_family(model_type: str, mask: str) -> None:
    loaded = plain.tiny(model_type)
    check(loaded, plain.text(loaded, 3, LENGTH), loaded.mask(mask))


def test_the_families_named_here_are_what_they_are_taken_for() -> None:
    for name in SANDWICH | PARALLEL:
        assert name in FAMILIES
    loaded = plain.tiny("gpt_neox")
    assert loaded.model.config.use_parallel_residual


@pytest.mark.parametrize("tokens", [1, 7, 10**6])
def test_pieces_of_any_size(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPARED_TOKENS", tokens)
    loaded = plain.tiny("llama")
    check(loaded, plain.text(loaded, 13, LENGTH), loaded.mask("1.attn"))


def test_the_last_output_is_not_normed() -> None:
    loaded = load("tiny:llama", dtype="fp32")  # transformers leaves hooks for hidden states behind
    windows = plain.text(loaded, 2, LENGTH)
    with torch.no_grad():
        normed = loaded.model(
            input_ids=windows.ids, use_cache=False, output_hidden_states=True
        ).hidden_states[-1]
    true = torch.stack([boundaries(loaded, ids, loaded.empty())[-1] for ids in windows.ids])
    assert not torch.allclose(normed.double(), true, rtol=1e-2)
    first = torch.stack([boundaries(loaded, ids, loaded.empty())[0] for ids in windows.ids])
    ours = similarity(loaded, windows, loaded.empty()).stream[0, -1]
    assert float(cosine(first, true).mean()) == pytest.approx(ours, abs=1e-6)
    assert float(cosine(first, normed.double()).mean()) != pytest.approx(ours, abs=1e-4)


def test_shapes_and_ranges() -> None:
    loaded = plain.tiny("gpt2")
    ours = similarity(loaded, plain.text(loaded, 3, LENGTH), loaded.empty())
    for distance in (ours.angular_last, ours.angular_all):
        assert distance.shape == (5, 5)
        above = np.triu(np.ones((5, 5), bool), 1)
        assert np.isnan(distance[~above]).all()
        assert ((distance[above] > 0) & (distance[above] < 1)).all()
    assert ours.stream.shape == (9, 9)
    np.testing.assert_allclose(np.diagonal(ours.stream), 1, atol=1e-6)
    np.testing.assert_allclose(ours.stream, ours.stream.T, atol=1e-6)
    assert list(ours.turn) == list(ours.growth) == [str(unit) for unit in all_units(4)]
    assert all(0 < value < 2 for value in ours.turn.values())
    assert all(value > 0 for value in ours.growth.values())
    assert set(ours.windows()) == {1, 2, 3, 4}


def test_a_muted_layer_is_no_distance_at_all() -> None:
    """A cosine in float32 would put it at 1e-4, above layers that do something."""
    loaded = plain.tiny("llama")
    ours = similarity(loaded, plain.text(loaded, 3, LENGTH), loaded.mask("2,3.ffn"))
    assert ours.angular_last[2, 3] == pytest.approx(0, abs=1e-7)
    assert ours.angular_all[2, 3] == pytest.approx(0, abs=1e-7)
    assert ours.windows()[1] == (2, pytest.approx(0, abs=1e-7))
    np.testing.assert_allclose(ours.stream[4:7, 4:7], 1, atol=1e-7)
    assert "2.attn" not in ours.turn
    assert "3.ffn" not in ours.growth
    assert "3.attn" in ours.turn
    assert ours.mask == "2,3.ffn"


def test_everything_muted() -> None:
    loaded = plain.tiny("llama")
    ours = similarity(loaded, plain.text(loaded, 2, LENGTH), loaded.mask("0-3"))
    np.testing.assert_allclose(ours.stream, 1, atol=1e-7)
    assert ours.turn == ours.growth == {}


def test_layers_without_an_ffn_that_can_be_muted() -> None:
    """Their middle is unknown; the rest is as ever."""

    def change(model: Any) -> None:
        layer = model.model.layers[3]

        def attention_alone(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            out, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
            return hidden_states + out

        layer.forward = attention_alone
        del layer.mlp
        other = model.model.layers[1]
        inner = other.forward
        other.forward = lambda *args, **kwargs: inner(*args, **kwargs) + 0.25

    loaded = plain.doctored(change)
    assert {str(info.unit) for info in loaded.units if info.problem} == {"1.attn", "1.ffn", "3.ffn"}
    ours = similarity(loaded, plain.text(loaded, 2, LENGTH), loaded.mask("0.ffn"))
    unknown = np.zeros((9, 9), bool)
    unknown[[3, 7]] = unknown[:, [3, 7]] = True
    assert (np.isnan(ours.stream) == unknown).all()
    assert set(ours.turn) == set(ours.growth) == {"0.attn", "2.attn", "2.ffn"}
    assert not np.isnan(ours.angular_all[np.triu_indices(5, 1)]).any()
    assert "NaN" not in ours.dumps()


def test_a_unit_that_changes_nothing() -> None:
    def change(model: Any) -> None:
        nn.init.zeros_(model.model.layers[1].self_attn.o_proj.weight)
        nn.init.zeros_(model.model.layers[2].mlp.down_proj.weight)

    loaded = plain.doctored(change)
    ours = similarity(loaded, plain.text(loaded, 2, LENGTH), loaded.empty())
    assert ours.growth["1.attn"] == ours.growth["2.ffn"] == 0
    assert ours.turn["1.attn"] == pytest.approx(0, abs=1e-12)
    assert ours.growth["2.attn"] > 0
    assert Unit(1, "attn") not in loaded.toggleable()


def test_progress_rises_to_the_whole() -> None:
    loaded = plain.tiny("llama")
    shares: list[float] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        shares.append(done / total)

    similarity(loaded, plain.text(loaded, 4, 200), loaded.empty(), progress=progress)
    assert shares == [0.25, 0.5, 0.75, 1]  # a layer at a time


def test_refusals() -> None:
    loaded = plain.tiny("llama")
    windows = plain.text(loaded, 2, LENGTH)
    with pytest.raises(MaskError, match="a model of 9 layers"):
        similarity(loaded, windows, Mask(9))
    whole = dataclasses.replace(loaded, not_replayable="a test says so")
    with pytest.raises(ResultError) as raised:
        similarity(whole, windows, loaded.empty())
    assert str(raised.value) == (
        "similarity needs a model that runs layer by layer, and here a test says so: "
        "use a sweep instead."
    )
