"""Rows in which several branches go on from one trunk, each blind to the others.

The choices of a question share its context. In one row stand the context and then all choices; an
attention mask hides each choice from the others, and positions count on from the context's end for
each. So one forward pass without a cache computes what is shared once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from inspector.model.loaded import LoadedModel
from inspector.model.replay import FAILURES, headless

Row = tuple[Sequence[int], Sequence[Sequence[int]]]
"""The token ids of a trunk, and of the branches that each go on from it."""

_PADDING = -1
_KNOWN_TYPES = {"full_attention", "sliding_attention"}


def width(row: Row) -> int:
    """The number of tokens in a row."""
    trunk, branches = row
    return len(trunk) + sum(map(len, branches))


@torch.no_grad()
def run_rows(loaded: LoadedModel, rows: Sequence[Row]) -> torch.Tensor:
    """What the head takes of each row's tokens, [n, T, H] (or the logits, see `headless`).

    A row's trunk comes first, then its branches in their order, then padding that says nothing.
    Every token's result is that of its trunk and branch by themselves, up to the rounding of
    another batching. Rows with more than one branch need `loaded.takes_branches`.
    """
    most = max(map(width, rows))
    ids = torch.zeros(len(rows), most, dtype=torch.long)
    branch = torch.full_like(ids, _PADDING)  # 0 for the trunk, 1 for the first branch
    place = torch.zeros_like(ids)
    for at, (trunk, branches) in enumerate(rows):
        start = 0
        for number, tokens in enumerate((trunk, *branches)):
            here = slice(start, start + len(tokens))
            first = len(trunk) if number else 0
            ids[at, here] = torch.tensor(tokens, dtype=torch.long)
            branch[at, here] = number
            place[at, here] = torch.arange(first, first + len(tokens))
            start += len(tokens)
    told: dict[str, Any] = {}
    if branch.max() > 1:
        branch, place = branch.to(loaded.device), place.to(loaded.device)
        told = {"attention_mask": _masks(loaded, branch, place), "position_ids": place}
    with headless(loaded):
        return loaded.model(input_ids=ids.to(loaded.device), use_cache=False, **told).logits


def _masks(loaded: LoadedModel, branch: torch.Tensor, place: torch.Tensor) -> Any:
    """What is added to the attention's scores, [n, 1, T, T]; by the layers' type where they differ.

    A token sees what stands before it in its trunk and branch, within the layer's window if it has
    one: as many positions as `config.sliding_window`, its own counted in.
    """
    config = loaded.model.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ())
    reach = getattr(config, "sliding_window", None)
    here, there = branch[:, :, None], branch[:, None, :]
    full = ((there == 0) | (here == there)).tril()
    near = full if reach is None else full & (place[:, :, None] - place[:, None, :] < reach)
    if not types:
        return _added(near, loaded.dtype)
    kinds = {"full_attention": full, "sliding_attention": near}
    masks = {kind: _added(kinds[kind], loaded.dtype) for kind in sorted(types)}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _added(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return hidden.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


@torch.no_grad()
def takes_branches(loaded: LoadedModel, ids: Sequence[int]) -> bool:
    """Whether rows with branches give what each branch gives by itself, tried on these tokens."""
    types = getattr(loaded.model.config.get_text_config(), "layer_types", None) or ()
    if not set(types) <= _KNOWN_TYPES:
        return False  # states that are carried along, or chunks: no mask hides a branch from those
    cut = len(ids) // 3
    trunk, *branches = ids[:cut], ids[cut : 2 * cut], ids[2 * cut :]
    try:
        together = run_rows(loaded, [(trunk, branches)])[0]
        alone = [run_rows(loaded, [(trunk, [branch])])[0] for branch in branches]
    except FAILURES:
        return False
    expected = torch.cat([alone[0], alone[1][cut:]]).float()
    tolerance = max(1e-3, 16 * torch.finfo(loaded.dtype).eps)
    apart = (together.float() - expected).norm(dim=-1)
    return bool((apart <= tolerance * expected.norm(dim=-1)).all())
