"""One contract that every family keeps, eager and SDPA: exact muting and restoring, the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, GenerationConfig

from inspector.jobs import Cancelled
from inspector.model.families import FAMILIES, TINY_ALIASES, family_of
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import muted
from inspector.units import Mask, Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

NO_SDPA = {"gemma2"}  # transformers refuses it: its attention caps the scores
CASES = [
    (model_type, attention)
    for model_type in FAMILIES
    for attention in ("eager", "sdpa")
    if not (attention == "sdpa" and model_type in NO_SDPA)
]
LENGTH = 24  # longer than the sliding windows of 16


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    model_type, attention = request.param
    return plain.tiny(model_type, attention)


@pytest.fixture(scope="module")
def ids(loaded: LoadedModel) -> torch.Tensor:
    return plain.random_ids(loaded, 2, LENGTH)


@torch.no_grad()
def forward(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    return loaded.model(input_ids=ids, use_cache=False).logits


def instance_forwards(loaded: LoadedModel) -> list[str]:
    return [name for name, each in loaded.model.named_modules() if "forward" in each.__dict__]


def test_the_case_is_what_it_says(loaded: LoadedModel, request: pytest.FixtureRequest) -> None:
    model_type, attention = request.node.callspec.params["loaded"]
    assert loaded.model_type == TINY_ALIASES.get(model_type, model_type)
    assert loaded.model.config._attn_implementation == attention
    assert loaded.dtype == torch.float32


def test_the_probe_passes_every_unit(loaded: LoadedModel) -> None:
    assert [info.problem for info in loaded.units if info.problem] == []
    assert loaded.toggleable() == all_units(loaded.depth)
    assert loaded.not_replayable == ""


def test_unit_costs(loaded: LoadedModel) -> None:
    for info in loaded.units:
        modules = [
            getattr(loaded.layers[info.unit.layer], name)
            for name in loaded.family.modules(info.unit.kind)
        ]
        assert info.parameters == sum(p.numel() for m in modules for p in m.parameters()) > 0
        config = loaded.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        expected = 2 * heads * size * 4 if info.unit.kind == "attn" else 0
        assert info.kv_bytes_per_token == expected


def test_empty_mask_is_bit_identical(loaded: LoadedModel, ids: torch.Tensor) -> None:
    before = forward(loaded, ids)
    with muted(loaded, loaded.empty()):
        within = forward(loaded, ids)
    assert torch.equal(before, within)
    assert torch.equal(before, plain.logits(loaded, ids))


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt, Cancelled, SystemExit])
def test_restored_bit_identical(
    loaded: LoadedModel, ids: torch.Tensor, error: type[BaseException] | None
) -> None:
    before = forward(loaded, ids)
    assert instance_forwards(loaded) == []
    everything = Mask.of(loaded.depth, all_units(loaded.depth))
    try:
        with muted(loaded, everything):
            assert not torch.equal(forward(loaded, ids), before)
            if error is not None:
                raise error
    except BaseException as raised:
        if error is None or not isinstance(raised, error):
            raise
    assert instance_forwards(loaded) == []
    assert torch.equal(forward(loaded, ids), before)


def test_restored_when_the_forward_pass_itself_fails(
    loaded: LoadedModel, ids: torch.Tensor
) -> None:
    before = forward(loaded, ids)

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    handle = loaded.layers[3].register_forward_hook(fails)
    with pytest.raises(ZeroDivisionError), muted(loaded, loaded.mask("1,2.attn")):
        forward(loaded, ids)
    handle.remove()
    assert torch.equal(forward(loaded, ids), before)
    assert instance_forwards(loaded) == []


def test_an_instance_forward_is_put_back(loaded: LoadedModel, ids: torch.Tensor) -> None:
    before = forward(loaded, ids)
    modules = [loaded.modules(Unit(1, kind))[-1] for kind in ("attn", "ffn")]
    wrappers = []
    for module in modules:  # as accelerate's hooks do

        def wrapper(*args: Any, _original: Any = module.forward, **kwargs: Any) -> Any:
            return _original(*args, **kwargs)

        module.forward = wrapper
        wrappers.append(wrapper)
    try:
        with muted(loaded, loaded.mask("1")):
            within = forward(loaded, ids)
        assert torch.equal(within, plain.logits(loaded, ids, Mask.parse("1", loaded.depth)))
        assert [module.forward for module in modules] == wrappers
        assert torch.equal(forward(loaded, ids), before)
    finally:
        for module in modules:
            del module.forward


@torch.no_grad()
def head_of_embedding(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """Head(norm(embedding)), written out from what each architecture's paper or code says."""
    model: Any = loaded.model
    kind = loaded.model_type
    stream = model.get_input_embeddings()(ids)
    if kind == "gpt2":
        stream = stream + model.get_submodule("transformer.wpe")(torch.arange(ids.shape[1]))
    if kind == "opt":  # its position table starts with two rows for padding
        table = model.get_submodule("model.decoder.embed_positions").weight
        stream = stream + table[2 : 2 + ids.shape[1]]
    norm = {
        "gpt2": "transformer.ln_f",
        "gpt_neox": "gpt_neox.final_layer_norm",
        "opt": "model.decoder.final_layer_norm",
        "phi": "model.final_layernorm",
    }.get(kind, "model.norm")
    logits = model.get_output_embeddings()(model.get_submodule(norm)(stream))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def test_all_muted_is_the_head_of_the_embedding(loaded: LoadedModel, ids: torch.Tensor) -> None:
    with muted(loaded, Mask.of(loaded.depth, all_units(loaded.depth))):
        ours = forward(loaded, ids)
    assert torch.equal(ours, head_of_embedding(loaded, ids))


def test_each_unit_muted_equals_zeroed_output(loaded: LoadedModel, ids: torch.Tensor) -> None:
    dense = forward(loaded, ids)
    for unit in all_units(loaded.depth):
        with muted(loaded, Mask.of(loaded.depth, [unit])):
            ours = forward(loaded, ids)
        assert torch.equal(ours, plain.logits(loaded, ids, [unit])), unit
        assert not torch.equal(ours, dense), unit


def test_masks_equal_zeroed_outputs(loaded: LoadedModel, ids: torch.Tensor) -> None:
    for mask in plain.some_masks(loaded):
        with muted(loaded, mask):
            ours = forward(loaded, ids)
        assert torch.equal(ours, plain.logits(loaded, ids, mask)), str(mask)


def test_blocks_nest(loaded: LoadedModel, ids: torch.Tensor) -> None:
    outer, inner = loaded.mask("0.attn,2"), loaded.mask("2.ffn,3")
    with muted(loaded, outer):
        alone = forward(loaded, ids)
        with muted(loaded, inner):
            both = forward(loaded, ids)
        assert torch.equal(forward(loaded, ids), alone)
    assert torch.equal(both, plain.logits(loaded, ids, outer.mute(inner)))
    assert instance_forwards(loaded) == []


def test_muted_units_compute_nothing(loaded: LoadedModel, ids: torch.Tensor) -> None:
    def work(mask: Mask) -> dict[str, int]:
        counter = FlopCounterMode(display=False)
        with counter, muted(loaded, mask):
            forward(loaded, ids)
        return {
            name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()
        }

    prefix = f"{type(loaded.model).__name__}.{loaded.family.layers}"
    dense = work(loaded.empty())
    for unit in (Unit(0, "attn"), Unit(1, "attn"), Unit(2, "ffn")):
        names = [f"{prefix}.{unit.layer}.{n}" for n in loaded.family.modules(unit.kind)]
        pruned = work(Mask.of(loaded.depth, [unit]))
        spent = sum(dense.get(name, 0) for name in names)
        assert spent > 0, unit
        assert sum(pruned.get(name, 0) for name in names) == 0, unit
        assert dense["Global"] - pruned["Global"] == spent, unit


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@torch.no_grad()
def in_pieces(loaded: LoadedModel, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """The logits of ids fed through one cache in pieces of these sizes."""
    cache = DynamicCache(config=loaded.model.config)
    pieces = [
        loaded.model(input_ids=piece, past_key_values=cache, use_cache=True).logits
        for piece in ids.split(sizes, dim=1)
    ]
    assert cache.get_seq_length() == ids.shape[1]
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize(
    "sizes",
    [[1] * LENGTH, [20, 1, 1, 1, 1], [7, 13, 4], [LENGTH]],
    ids=["token by token", "prefill, then tokens", "chunks", "at once"],
)
def test_cached_equals_uncached(loaded: LoadedModel, ids: torch.Tensor, sizes: list[int]) -> None:
    for mask in plain.some_masks(loaded):
        uncached = plain.logits(loaded, ids, mask)
        with muted(loaded, mask):
            assert near(in_pieces(loaded, ids, sizes), uncached), str(mask)


NEVER = 10**6  # no such token: nothing ends early
GREEDY = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=NEVER, pad_token_id=0)


def is_greedy(
    loaded: LoadedModel, mask: Mask, prompt: torch.Tensor, new: torch.Tensor, steps: torch.Tensor
) -> bool:
    """Whether uncached forward passes of the unpadded row give these logits and these tokens.

    All steps come from one pass over prompt and new tokens. A token whose logit equals the highest
    up to rounding is as good as the highest.
    """
    whole = torch.cat([prompt, new])
    uncached = plain.logits(loaded, whole[None, :-1], mask)[0, len(prompt) - 1 :]
    best, chosen = uncached.max(-1).values, uncached.gather(-1, new[:, None])[:, 0]
    return near(steps, uncached) and near(chosen, best)


def generate(loaded: LoadedModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """New tokens [n, t] and the logits that each was taken from [n, t, V], with a cache."""
    model: Any = loaded.model
    out = model.generate(
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        generation_config=GREEDY,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, dim=1)


def test_generation_equals_uncached_passes(loaded: LoadedModel, ids: torch.Tensor) -> None:
    for mask in plain.some_masks(loaded)[1::2]:
        with muted(loaded, mask):
            tokens, logits = generate(loaded, ids[:1])
        assert tokens.shape == (1, GREEDY.max_new_tokens)
        assert is_greedy(loaded, mask, ids[0], tokens[0], logits[0]), str(mask)


def test_left_padded_batches(loaded: LoadedModel, ids: torch.Tensor) -> None:
    rows = [ids[0], ids[1, :9], ids[0, 5:8]]
    padded = torch.zeros(len(rows), LENGTH, dtype=torch.long)
    for row, real in enumerate(rows):
        padded[row, LENGTH - len(real) :] = real
    for mask in plain.some_masks(loaded):
        with muted(loaded, mask):
            tokens, logits = generate(loaded, padded)
        for row, real in enumerate(rows):
            assert is_greedy(loaded, mask, real, tokens[row], logits[row]), (str(mask), row)


@pytest.fixture(scope="module")
def composite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """Gemma 3 with its vision tower, as the hub has it: `model_type` gemma3, layers deeper down."""
    yield plain.composite(tmp_path_factory.mktemp("gemma3"))


def test_a_composite_model_has_its_own_row(composite: LoadedModel) -> None:
    assert composite.model_type == "gemma3"
    assert composite.family == FAMILIES["gemma3"]
    assert composite.toggleable() == all_units(4)
    assert composite.not_replayable == ""
    ids = plain.random_ids(composite, 2, LENGTH).clamp(min=10)  # no image tokens
    for mask in plain.some_masks(composite):
        uncached = plain.logits(composite, ids, mask)
        with muted(composite, mask):
            assert torch.equal(forward(composite, ids), uncached)
            assert near(in_pieces(composite, ids, [7, 13, 4]), uncached)


def test_a_type_without_a_row_is_tried_with_the_common_names() -> None:
    assert "granite" not in FAMILIES
    assert family_of("granite").layers == "model.layers"
    loaded = plain.tiny("granite")
    assert loaded.toggleable() == all_units(4)
