"""Branches of a row are blind to each other, and the probe finds models that cannot have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inspector.model.branches import run_rows, takes_branches
from inspector.model.surgery import replaced
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "gpt2", "opt"])
def test_a_branch_is_what_it_is_by_itself(model_type: str) -> None:
    loaded = plain.tiny(model_type)  # windows of 16 tokens in mistral, and in half of gemma2
    tokens = plain.random_ids(loaded, 1, 60)[0].tolist()
    trunk, branches = tokens[:20], [tokens[20:40], [], tokens[40:43], tokens[43:60]]
    together = run_rows(loaded, [(trunk, branches), (tokens[:7], [tokens[7:9], tokens[9:10]])])
    start = len(trunk)
    for branch in branches:
        alone = run_rows(loaded, [([*trunk, *branch], [])])[0]
        torch.testing.assert_close(together[0, :20], alone[:20], rtol=1e-4, atol=1e-4)
        here = together[0, start : start + len(branch)]
        torch.testing.assert_close(here, alone[20:], rtol=1e-4, atol=1e-4)
        start += len(branch)
    alone = run_rows(loaded, [([*tokens[:7], tokens[9]], [])])[0]
    torch.testing.assert_close(together[1, 9], alone[7], rtol=1e-4, atol=1e-4)


def test_the_probe_sees_a_model_that_lets_branches_see_each_other() -> None:
    loaded = plain.tiny("llama")
    ids = plain.random_ids(loaded, 1, 24)[0].tolist()
    assert takes_branches(loaded, ids)
    forward: Any = loaded.model.model.forward

    def deaf(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, "attention_mask": None})

    with replaced(loaded.model.model, deaf):
        assert not takes_branches(loaded, ids)

    def placeless(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, "position_ids": None})

    with replaced(loaded.model.model, placeless):
        assert not takes_branches(loaded, ids)

    def refusing(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("position_ids") is not None:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        return forward(*args, **kwargs)

    with replaced(loaded.model.model, refusing):
        assert not takes_branches(loaded, ids)


def test_states_that_are_carried_along_take_no_branches() -> None:
    loaded = plain.tiny("llama")
    ids = plain.random_ids(loaded, 1, 24)[0].tolist()
    loaded.model.config.layer_types = ["linear_attention", *["full_attention"] * 3]
    try:
        assert not takes_branches(loaded, ids)
    finally:
        delattr(loaded.model.config, "layer_types")
