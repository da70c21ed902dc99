"""The one place that changes a forward pass: muting units for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from inspector.units import Mask, Unit

if TYPE_CHECKING:
    from inspector.model.loading import LoadedModel


@contextmanager
def muted(loaded: LoadedModel, mask: Mask) -> Iterator[None]:
    """Within the block, the model runs without the units of `mask`, which compute nothing.

    A muted unit adds exactly zero to the residual stream. After the block, also after an error or a
    cancel, every module is as it was before. Blocks nest. The KV cache stays right in every state:
    see `_skip`.

    Raises:
        MaskError: the mask is for another depth, or names a unit that cannot be muted.
    """
    loaded.check(mask)
    with mute_units(loaded, mask):
        yield


@contextmanager
def mute_units(loaded: LoadedModel, units: Iterable[Unit]) -> Iterator[None]:
    """`muted` for units that have been checked already."""
    with ExitStack() as restore:
        for module, forward in _muting(loaded, units):
            restore.enter_context(replaced(module, forward))
        yield


def mute_for_good(loaded: LoadedModel, units: Iterable[Unit]) -> None:
    """Have the units of a model compute nothing for as long as it lives."""
    for module, forward in _muting(loaded, units):
        module.forward = forward


def _muting(
    loaded: LoadedModel, units: Iterable[Unit]
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """The modules of the units, each with the forward that it has while its unit is muted."""
    for unit in units:
        *inner, last = loaded.modules(unit)
        yield from ((module, _input) for module in inner)
        index = getattr(last, "layer_idx", None) if unit.kind == "attn" else None
        index = unit.layer if index is None else index
        yield last, _skip(loaded.returns[unit], index)


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the block, `module.forward` on this instance is `forward`.

    An instance may already carry a `forward` of its own (accelerate's offload sets one), so what
    was there is saved and put back; the class is never touched.
    """
    had = "forward" in module.__dict__
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if had:
            module.forward = before  # pyright: ignore[reportAttributeAccessIssue]
        else:
            del module.forward


def _input(*args: Any, **kwargs: Any) -> torch.Tensor:
    """The stream that a module is called with."""
    return args[0] if args else kwargs["hidden_states"]


def _skip(returns: int, layer_idx: int) -> Callable[..., Any]:
    """A forward that gives zeros in the module's own return shape and keeps the cache counting.

    transformers asks the first slot of each cache type how many tokens have been seen; an attention
    that leaves its slot empty breaks positions and masks of chunked, padded and eager decoding. A
    muted attention therefore stores one zero a token there, which nobody reads, so that every slot
    has the right length whichever attentions are muted, all of them included.

    Args:
        returns: length of the tuple that the module returns; 0 for a bare tensor.
        layer_idx: the cache slot of the layer.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        stream = _input(*args, **kwargs)
        for value in (*args, *kwargs.values()):
            if isinstance(value, Cache):
                token = stream.new_zeros((stream.shape[0], 1, stream.shape[1], 1))
                value.update(token, token, layer_idx)
        zeros = stream.new_zeros(()).expand(stream.shape)
        return (zeros, *[None] * (returns - 1)) if returns else zeros

    return forward
