"""Running a model piece by piece equals running it whole, and the probe that finds out where."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from inspector.errors import LoadError, MaskError
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.probe import probe
from inspector.model.replay import (
    before_head,
    head,
    place_for_logits,
    record,
    run_layer,
    to_logits,
)
from inspector.model.surgery import muted
from inspector.model.tiny import tiny_config, tiny_tokenizer
from inspector.units import Mask, Unit
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=plain.TYPES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return plain.tiny(request.param)


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@torch.no_grad()
def streams(loaded: LoadedModel, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What enters each layer and leaves the last one in a plain forward pass, and the logits."""
    seen: list[torch.Tensor] = []

    def entering(_: Any, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    def leaving(_: Any, __: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in loaded.layers]
    hooks.append(loaded.layers[-1].register_forward_hook(leaving))
    logits = loaded.model(input_ids=ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return seen, logits


@pytest.mark.parametrize(("rows", "length"), [(1, 7), (3, 33)])
def test_pieces_make_the_whole(family: LoadedModel, rows: int, length: int) -> None:
    ids = plain.random_ids(family, rows, length)
    expected, logits = streams(family, ids)
    stream, calls = record(family, ids)
    assert torch.equal(stream, expected[0])
    assert calls.length == length
    for layer in range(family.depth):
        stream = run_layer(family, layer, stream, calls)
        assert near(stream, expected[layer + 1]), layer
    assert near(head(family, stream), logits)
    assert near(head(family, stream[-1:, 2:5]), logits[-1:, 2:5])


def test_calls_of_one_window_serve_any_number_of_rows(family: LoadedModel) -> None:
    ids = plain.random_ids(family, 5, 20)
    _, calls = record(family, ids[:1])
    stream, _ = record(family, ids)
    for layer in range(family.depth):
        stream = run_layer(family, layer, stream, calls)
    assert near(head(family, stream), plain.logits(family, ids))


def test_nothing_is_left_behind(family: LoadedModel) -> None:
    ids = plain.random_ids(family, 2, 20)
    before = plain.logits(family, ids)
    stream, _ = record(family, ids)
    head(family, stream)
    assert not any("forward" in module.__dict__ for module in family.model.modules())
    assert torch.equal(plain.logits(family, ids), before)


def test_recording_and_the_head_run_no_layer(family: LoadedModel) -> None:
    ran: list[Any] = []
    hooks = [
        module.register_forward_hook(lambda *_: ran.append(1))
        for layer in family.layers
        for module in layer.modules()
        if module is not layer
    ]
    stream, _ = record(family, plain.random_ids(family, 2, 20))
    head(family, stream)
    for hook in hooks:
        hook.remove()
    assert ran == []


# The probe, on models that are not what their names say.


def problems(loaded: LoadedModel) -> dict[str, str]:
    return {str(info.unit): info.problem for info in loaded.units if info.problem}


def test_the_probe_leaves_no_trace() -> None:
    loaded = load("tiny:llama", dtype="fp32")
    ids = plain.random_ids(loaded, 1, 8)
    before = plain.logits(loaded, ids)
    again = probe(dataclasses.replace(loaded, units=(), returns={}))
    assert again.units == loaded.units
    assert again.returns == loaded.returns
    assert torch.equal(plain.logits(loaded, ids), before)
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())
    assert not any(module._forward_hooks for module in loaded.model.modules())
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_a_layer_that_adds_something_of_its_own() -> None:
    def change(model: Any) -> None:
        plain.wrap(model.model.layers[2], lambda out, *_, **__: out + 0.25)

    loaded = plain.doctored(change)
    reason = "muting both units of layer 2 does not leave the residual stream as it was"
    assert problems(loaded) == {"2.attn": reason, "2.ffn": reason}
    assert loaded.not_replayable == ""
    for text in ("2.attn", "2", "0-3.ffn"):
        with pytest.raises(MaskError, match=rf"^2\.(attn|ffn) cannot be muted: {reason}\.$"):
            loaded.mask(text)
        with pytest.raises(MaskError, match=reason), muted(loaded, Mask.parse(text, 4)):
            pytest.fail("the block was entered")
    loaded.mask("0-1,3")


def test_an_ffn_that_scales_the_stream_as_well() -> None:
    def change(model: Any) -> None:
        plain.wrap(model.model.layers[1], lambda out, *_, **__: out * (1 + 2**-20))

    assert set(problems(plain.doctored(change))) == {"1.attn", "1.ffn"}


@pytest.mark.parametrize(
    ("unit", "projection"), [("1.attn", "self_attn.o_proj"), ("3.ffn", "mlp.down_proj")]
)
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_unit_that_changes_nothing(unit: str, projection: str, model_type: str) -> None:
    layer = int(unit[0])

    def change(model: Any) -> None:
        nn.init.zeros_(model.model.layers[layer].get_submodule(projection).weight)

    loaded = plain.doctored(change, model_type)
    assert problems(loaded) == {unit: "muting it changes nothing"}
    with pytest.raises(MaskError, match="cannot be muted: muting it changes nothing"):
        loaded.mask(unit)


@pytest.mark.parametrize("gone", ["deleted", "None", "never called"])
def test_a_layer_without_ffn(gone: str) -> None:
    def change(model: Any) -> None:
        layer = model.model.layers[3]

        def attention_alone(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            out, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
            return hidden_states + out

        layer.forward = attention_alone
        if gone == "None":
            layer.mlp = None
        elif gone == "deleted":
            del layer.mlp

    loaded = plain.doctored(change)
    assert problems(loaded) == {"3.ffn": "layer 3 has no module mlp that the forward pass runs"}
    assert loaded.info(Unit(3, "ffn")).parameters == 0
    assert Unit(3, "attn") in loaded.toggleable()
    with pytest.raises(MaskError, match=r"3\.ffn cannot be muted: layer 3 has no module mlp"):
        loaded.mask("3")


def test_a_layer_that_does_not_run_with_a_unit_muted() -> None:
    def refuse_zeros(out: Any, *_: Any, **__: Any) -> Any:
        if not out.any():
            raise ValueError("zeros")
        return out

    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return refuse_zeros(x)

    def change(model: Any) -> None:
        layer = model.model.layers[0]
        layer.after = Picky()
        mlp = layer.mlp

        def forward(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            out, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
            stream = hidden_states + layer.after(out)
            return stream + mlp(layer.post_attention_layernorm(stream))

        layer.forward = forward

    loaded = plain.doctored(change)
    reason = "layer 0 does not run with it muted (ValueError)"
    assert problems(loaded) == {"0.attn": reason, "0.ffn": reason}
    assert loaded.not_replayable == ""


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_layer_arguments_that_depend_on_the_text(dtype: str) -> None:
    loaded = plain.doctored(
        lambda model: plain.wrap(model.model.rotary_emb, plain.scaled_by_data), dtype=dtype
    )
    assert loaded.not_replayable.endswith("run by itself gives another result")
    assert loaded.toggleable()


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_head_in_two_pieces(family: LoadedModel, dtype: str) -> None:
    """Where it is the output matrix alone; a cap on the logits must not go unnoticed."""
    loaded = load(f"tiny:{family.model_type}", dtype=dtype)
    assert loaded.not_replayable == ""
    assert loaded.plain_head == (loaded.model_type != "gemma2")
    ids = plain.random_ids(loaded, 3, 20)
    entering, logits = streams(loaded, ids)
    assert torch.equal(to_logits(loaded, before_head(loaded, entering[-1])), logits)
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


def test_a_scaled_head_in_two_pieces() -> None:
    for model_type in ("cohere", "granite"):
        loaded = plain.tiny(model_type)
        entering, logits = streams(loaded, plain.random_ids(loaded, 2, 20))
        assert near(to_logits(loaded, before_head(loaded, entering[-1])), logits)


def test_a_head_that_looks_at_the_text() -> None:
    def shift(out: Any, *_: Any, input_ids: torch.Tensor, **__: Any) -> Any:
        out.logits = out.logits + input_ids.float().mean()
        return out

    loaded = plain.doctored(lambda model: plain.wrap(model, shift))
    assert loaded.not_replayable == "its head run by itself gives another result"
    assert not loaded.plain_head
    assert len(loaded.toggleable()) == 8


def saved(folder: Path, config: Any) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_norms_after_the_residual_are_refused(tmp_path: Path) -> None:
    config = tiny_config("opt")
    config.do_layer_norm_before = False
    with pytest.raises(LoadError) as raised:
        load(saved(tmp_path, config))
    assert str(raised.value) == (
        "the architecture opt is not supported: muting both units of layer 0 does not leave the "
        "residual stream as it was."
    )


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bert", "it has no layers at model.layers"),
        ("xglm", "layer 0 does not run with it muted"),
        ("doge", "muting both units of layer 0 does not leave"),
        ("mamba", "it has no layers at model.layers"),
        ("recurrent_gemma", "layer 0 has no module self_attn that the forward pass runs"),
    ],
)
def test_architectures_that_do_not_fit_are_refused(model_type: str, reason: str) -> None:
    with pytest.raises(LoadError, match=f"^the architecture {model_type} is not supported: ") as e:
        load(f"tiny:{model_type}", dtype="fp32")
    assert reason in str(e.value)


def test_logits_in_a_place_of_their_own_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = plain.tiny("llama")
    ready = before_head(loaded, torch.randn(3, 5, loaded.model.config.hidden_size))
    place = place_for_logits(loaded, 20)
    assert place is not None
    for rows in (ready, ready[:, 1:3]):
        logits = to_logits(loaded, rows, place)
        assert torch.equal(logits, to_logits(loaded, rows))
        assert logits.data_ptr() == place.data_ptr()
    head: Any = loaded.model.get_output_embeddings()
    with monkeypatch.context() as patch:
        patch.setattr(head, "forward", head.forward)  # as whoever wraps it does
        assert place_for_logits(loaded, 20) is None
    handle = head.register_forward_hook(lambda *_: None)
    assert place_for_logits(loaded, 20) is None
    handle.remove()
    with monkeypatch.context() as patch:
        patch.setitem(head._parameters, "bias", torch.nn.Parameter(torch.zeros(len(head.weight))))
        assert place_for_logits(loaded, 20) is None
    assert place_for_logits(plain.in_memory("llama"), 20) is None
    assert place_for_logits(dataclasses.replace(loaded, plain_head=False), 20) is None
    assert place_for_logits(loaded, 20) is not None
