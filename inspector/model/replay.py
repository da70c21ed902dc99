"""Running a model piece by piece: up to its first layer, one decoder layer, from the last layer on.

The pieces are the model's own forward with the layers' `forward` replaced for the moment, so masks,
position embeddings, scaled embeddings, final norms and soft-capped heads need no case of their own.
What a layer is called with besides the stream is recorded once for a single window; its batch of
one broadcasts over any number of rows, all of which are whole, unpadded windows of the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from inspector.model.surgery import replaced

if TYPE_CHECKING:
    from inspector.model.loaded import LoadedModel


FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError)
"""What a model, a layer or a head raises when it is called in a way that it was not made for."""


class _Stop(Exception):
    """Ends a forward pass once what was wanted of it is there."""


@dataclass
class Calls:
    """What each layer is called with besides the stream, for windows of one length.

    `keyword` tells that the stream goes in as `hidden_states=`, not as the first argument.
    """

    length: int
    arguments: list[tuple[tuple[Any, ...], dict[str, Any], bool]]


@torch.no_grad()
def record(loaded: LoadedModel, ids: torch.Tensor) -> tuple[torch.Tensor, Calls]:
    """The stream that enters layer 0, [rows, T, H], and how the layers are called.

    Neither a layer nor the head is computed. The calls are those of the first row alone.
    """
    ids = ids.to(loaded.device)
    entering, calls = _enter(loaded, ids[:1])
    if len(ids) > 1:
        entering, _ = _enter(loaded, ids)
    return entering, calls


def _enter(loaded: LoadedModel, ids: torch.Tensor) -> tuple[torch.Tensor, Calls]:
    calls = Calls(ids.shape[1], [])
    entering: list[torch.Tensor] = []

    def layer(*args: Any, **kwargs: Any) -> Any:
        keyword = not args
        stream = kwargs.pop("hidden_states") if keyword else args[0]
        entering.append(stream)
        calls.arguments.append((args[1:], kwargs, keyword))
        if len(calls.arguments) == loaded.depth:
            raise _Stop
        return stream

    with ExitStack() as restore:
        for module in loaded.layers:
            restore.enter_context(replaced(module, layer))
        with suppress(_Stop):
            loaded.model(input_ids=ids, use_cache=False)
    return entering[0], calls


@contextmanager
def before_layers(loaded: LoadedModel, heard: Callable[[int], None]) -> Iterator[None]:
    """Within the block, `heard` is called before every layer with how many came before it.

    What it raises (Cancelled) ends the pass.
    """
    count = 0

    def hook(*_: Any) -> None:
        nonlocal count
        heard(count)
        count += 1

    with ExitStack() as handles:
        for layer in loaded.layers:
            handles.callback(layer.register_forward_pre_hook(hook).remove)
        yield


@torch.no_grad()
def run_layer(loaded: LoadedModel, index: int, stream: torch.Tensor, calls: Calls) -> torch.Tensor:
    """One decoder layer on [n, T, H]: the stream that leaves it, on the device of that."""
    args, kwargs, keyword = calls.arguments[index]
    layer = loaded.layers[index]
    out = layer(hidden_states=stream, **kwargs) if keyword else layer(stream, *args, **kwargs)
    out = out[0] if isinstance(out, tuple) else out
    return out.to(stream.device)  # elsewhere only where layers are spread over several GPUs


@torch.no_grad()
def before_head(loaded: LoadedModel, stream: torch.Tensor) -> torch.Tensor:
    """What `to_logits` takes, [n, T, H], of a stream [n, T, H] that left the last layer.

    Where the head is nothing but the output matrix (`plain_head`), that is the normed stream, so
    that logits can be had a few tokens at a time without the model's own forward around them; where
    the logits are capped or the like, it is the stream as it is.
    """
    if not loaded.plain_head:
        return stream
    with headless(loaded):
        return head(loaded, stream)


@contextmanager
def headless(loaded: LoadedModel) -> Iterator[None]:
    """Within the block, the model gives the normed stream in the place of its logits.

    Only where the head is nothing but the output matrix (`plain_head`); else nothing is changed.
    """
    with ExitStack() as restore:
        if loaded.plain_head:
            restore.enter_context(replaced(_output_matrix(loaded), lambda normed: normed))
        yield


def place_for_logits(loaded: LoadedModel, tokens: int) -> torch.Tensor | None:
    """Memory for the logits of so many tokens, [tokens, V], for `to_logits` to use again and again.

    None where that saves nothing: it is on a CPU that taking such large blocks anew for every
    product costs as much as the product.
    """
    if loaded.device.type != "cpu" or loaded.offloaded or not loaded.plain_head:
        return None
    matrix = _output_matrix(loaded)
    hooks = [*matrix._forward_hooks, *matrix._forward_pre_hooks]
    if type(matrix) is not torch.nn.Linear or "forward" in vars(matrix) or hooks:
        return None  # it does more than to multiply
    if matrix.bias is not None or type(matrix.weight) is not torch.nn.Parameter:
        return None
    return matrix.weight.new_empty(tokens, matrix.out_features)


@torch.no_grad()
def to_logits(
    loaded: LoadedModel, ready: torch.Tensor, place: torch.Tensor | None = None
) -> torch.Tensor:
    """The logits [n, T, V] of what `before_head` gave.

    With a `place_for_logits` they are there, until that is used again.
    """
    if place is not None:
        rows = ready.flatten(0, 1)
        logits = place[: len(rows)]
        torch.mm(rows, _output_matrix(loaded).get_parameter("weight").t(), out=logits)
        return logits.unflatten(0, ready.shape[:2])
    if loaded.plain_head:
        # oneDNN takes rows with gaps between them twenty times as long in bf16, for the same bits.
        return _output_matrix(loaded)(ready.contiguous()).to(ready.device)
    return head(loaded, ready)


def _output_matrix(loaded: LoadedModel) -> torch.nn.Module:
    found: Any = loaded.model.get_output_embeddings()
    return found


@torch.no_grad()
def head(loaded: LoadedModel, stream: torch.Tensor) -> torch.Tensor:
    """The logits [n, T, V] of a stream [n, T, H] that left the last layer: final norm and head."""

    def first(*_: Any, **__: Any) -> torch.Tensor:
        return stream

    def pass_on(*args: Any, **kwargs: Any) -> torch.Tensor:
        return args[0] if args else kwargs["hidden_states"]

    dummy = torch.zeros(stream.shape[:2], dtype=torch.long, device=loaded.device)
    with ExitStack() as restore:
        for index, module in enumerate(loaded.layers):
            restore.enter_context(replaced(module, pass_on if index else first))
        if loaded.offloaded:  # spare reading the embeddings, whose output nothing takes
            restore.enter_context(replaced(loaded.model.get_input_embeddings(), _zeros(loaded)))
        return loaded.model(input_ids=dummy, use_cache=False).logits


def _zeros(loaded: LoadedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """What stands in for the embeddings: [n, T] token ids to [n, T, E] zeros."""
    embeddings: Any = loaded.model.get_input_embeddings()
    width, where = embeddings.embedding_dim, {"device": loaded.device, "dtype": loaded.dtype}
    return lambda ids: torch.zeros(*ids.shape, width, **where)
