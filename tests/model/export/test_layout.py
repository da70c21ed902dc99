"""Which weights an export has: exactly the model's own, by name, number and bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file
from torch import nn

from inspector.model.export import layout
from inspector.model.export.shards import write_weights
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.units import Mask, Unit, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=plain.TYPES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return plain.tiny(request.param)


def read(weight: layout.Weight) -> torch.Tensor:
    assert weight.module is not None
    return getattr(weight.module, weight.key)


def test_all_weights_are_the_state_without_what_is_tied(loaded: LoadedModel) -> None:
    state = loaded.model.state_dict()
    found = {weight.name: weight for weight in layout.all_weights(loaded)}
    assert all(torch.equal(read(weight), state[name]) for name, weight in found.items())
    kept = {state[name].data_ptr() for name in found}
    assert all(state[name].data_ptr() in kept for name in state.keys() - found.keys())
    assert layout.total_bytes(list(found.values())) == 4 * loaded.parameters


def test_every_unit_has_its_weights(loaded: LoadedModel) -> None:
    weights = layout.all_weights(loaded)
    for info in loaded.units:
        own = [weight for weight in weights if weight.unit == info.unit]
        assert layout.total_bytes(own) == 4 * info.parameters, info.unit
        assert {weight.layer for weight in own} == {info.unit.layer}


def test_whole_layers_are_cut_and_the_rest_numbered_anew(loaded: LoadedModel) -> None:
    prefix = loaded.family.layers
    cut = {weight.name: read(weight) for weight in layout.blocks(loaded, loaded.mask("0,2"))}
    state = loaded.model.state_dict()
    here = {name for name in cut if name.startswith(prefix + ".")}
    assert here == {
        name.replace(f"{prefix}.{old}.", f"{prefix}.{new}.")
        for new, old in enumerate((1, 3))
        for name in state
        if name.startswith(f"{prefix}.{old}.")
    }
    for name in here:
        number = int(name.removeprefix(prefix + ".").partition(".")[0])
        old = name.replace(f"{prefix}.{number}.", f"{prefix}.{(1, 3)[number]}.")
        assert torch.equal(cut[name], state[old])


def test_compact_leaves_out_the_removed_units_and_nothing_else(loaded: LoadedModel) -> None:
    mask = loaded.mask("0.attn,1.ffn,3.attn")
    names = {weight.name for weight in layout.compact(loaded, mask)}
    all_names = {weight.name for weight in layout.all_weights(loaded)}
    gone = [
        f"{loaded.family.layers}.{unit.layer}.{module}."
        for unit in mask
        for module in loaded.family.modules(unit.kind)
    ]
    assert all_names - names == {n for n in all_names if n.startswith(tuple(gone))}
    assert names < all_names
    size = layout.total_bytes(layout.compact(loaded, mask))
    assert size == 4 * loaded.parameters_left(mask)


def test_zeroed_has_every_weight_and_zeros_for_the_removed_units(loaded: LoadedModel) -> None:
    mask = loaded.mask("0.attn,2")
    weights = layout.zeroed(loaded, mask)
    assert [w.name for w in weights] == [w.name for w in layout.all_weights(loaded)]
    assert {w.unit for w in weights if w.module is None} == set(mask)
    assert all(w.module is None for w in weights if w.unit in mask.muted)


def test_a_layer_is_left_where_everything_is_off(loaded: LoadedModel) -> None:
    assert layout.kept_layers(Mask.of(4, all_units(4))) == [0]
    assert layout.kept_layers(Mask.parse("0,1.attn,3", 4)) == [1, 2]


def test_offloaded_weights_are_brought_back(tmp_path: Path) -> None:
    loaded = load("tiny:llama", dtype="fp32", device="cpu")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    cpu_offload(loaded.model, execution_device=torch.device("cpu"), offload_buffers=False)
    assert next(loaded.model.parameters()).device.type == "meta"
    weights = layout.compact(loaded, loaded.mask("1.ffn"))
    assert any(weight.unit == Unit(1, "attn") for weight in weights)
    write_weights(loaded, weights, tmp_path, native=False)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == {n for n in before if not n.startswith("model.layers.1.mlp.")}
    assert all(torch.equal(saved[name], before[name]) for name in saved)
    assert isinstance(loaded.model.get_submodule("model.norm"), nn.Module)
