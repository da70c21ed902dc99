"""What each layer's weights are worth to the loss, to first order: one pass forward and one back.

The pass goes layer by layer over all windows, so that the gradients of one layer exist at a time
and are used up at once. A text whose streams would take more than the gradients of all layers comes
in portions, and these gradients are kept in main memory and summed: the peak does not grow with the
text. Everything is in fp32: one layer's weights, and those outside the layers, are put in the place
of narrower ones for as long as they are needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from inspector.jobs import Progress, silent
from inspector.measure.corpus import Windows
from inspector.measure.scoring import groups, head_tokens, memory_levers
from inspector.model import replay
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import mute_units
from inspector.units import Mask

NOTE = "following the loss back through the layers"

# The pieces of the model that `replay` runs, without its no_grad around them.
_run_layer = inspect.unwrap(replay.run_layer)
_head = inspect.unwrap(replay.head)


def taylor(
    loaded: LoadedModel, windows: Windows, mask: Mask, *, progress: Progress = silent
) -> list[float]:
    """For each layer, the sum over its weights of |W * dNLL/dW| under the mask, [L].

    NLL is the mean over all predicted tokens of the text, in nats; the gradient is taken over the
    whole text before the absolute value. Norms and biases count; a muted unit's weights do not.
    Lower = safer to remove. From arXiv 2402.02834 and 2411.15558. The model is left as it was.
    """
    with (
        memory_levers(windows.ids.shape[1]),
        loaded.held(loaded.outside(), whole=True),
        _in_fp32(_outside(loaded)),
        mute_units(loaded, mask),
    ):
        found = [0.0] * loaded.depth
        totals: dict[int, list[torch.Tensor]] = {}
        portions = windows.ids.split(windows_at_once(loaded, windows.ids.shape[1]))
        steps = 2 * loaded.depth + 1
        for number, ids in enumerate(portions, start=1):

            def tick(step: int, before: int = (number - 1) * steps) -> None:
                progress(before + step, len(portions) * steps, NOTE)

            streams, calls = _forward(loaded, ids, tick)
            tick(loaded.depth)
            back = _loss_gradient(loaded, streams.pop(), ids) * (len(ids) / len(windows.ids))
            for layer in reversed(range(loaded.depth)):
                tick(steps - 1 - layer)
                here = loaded.layers[layer]
                with loaded.held(here.modules(), whole=True):
                    weights = layer_parameters(loaded, layer, mask)
                    with _in_fp32(here.parameters(), gradients=weights):
                        back, sums = _layer_gradients(
                            loaded, layer, streams.pop(), back, calls, weights
                        )
                        if len(portions) > 1:
                            sums = _summed(totals, layer, sums)
                        if number == len(portions):
                            found[layer] = _worth(weights, sums)
    return found


def _forward(
    loaded: LoadedModel, ids: torch.Tensor, tick: Callable[[int], None]
) -> tuple[list[torch.Tensor], replay.Calls]:
    """What enters each layer and what leaves the last, [W, T, H] each; `tick` hears the layers."""
    entering, calls = replay.record(loaded, ids)
    streams = [entering]
    for layer in range(loaded.depth):
        tick(layer)
        here = loaded.layers[layer]
        with loaded.held(here.modules(), whole=True), _in_fp32(here.parameters()):
            parts = [
                replay.run_layer(loaded, layer, streams[-1][at : at + len(rows)], calls)
                for at, rows in groups(ids)
            ]
        streams.append(torch.cat(parts))
    return streams, calls


def windows_at_once(loaded: LoadedModel, length: int) -> int:
    """How many windows' streams take no more than the gradients of all layers do, at least 1."""
    weights = sum(weight.numel() for weight in loaded.layers.parameters())
    width = loaded.model.config.get_text_config().hidden_size
    return max(1, weights // ((loaded.depth + 1) * length * width))


def _summed(
    totals: dict[int, list[torch.Tensor]], layer: int, sums: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The layer's gradients over all portions so far, which `totals` keeps in main memory."""
    here = [each.cpu() for each in sums]
    before = totals.get(layer)
    totals[layer] = (
        here if before is None else [a.add_(b) for a, b in zip(before, here, strict=True)]
    )
    return [total.to(each.device) for total, each in zip(totals[layer], sums, strict=True)]


def _worth(weights: list[nn.Parameter], gradients: list[torch.Tensor]) -> float:
    pairs = zip(weights, gradients, strict=True)
    return float(torch.stack([(weight.detach() * by).abs().sum() for weight, by in pairs]).sum())


def layer_parameters(loaded: LoadedModel, layer: int, mask: Mask) -> list[nn.Parameter]:
    """The parameters of a layer but for those of its muted units."""
    off = [unit for unit in mask if unit.layer == layer]
    gone = {
        id(weight)
        for unit in off
        for module in loaded.modules(unit)
        for weight in module.parameters()
    }
    return [weight for weight in loaded.layers[layer].parameters() if id(weight) not in gone]


def _outside(loaded: LoadedModel) -> list[nn.Parameter]:
    inside = {id(weight) for weight in loaded.layers.parameters()}
    return [weight for weight in loaded.model.parameters() if id(weight) not in inside]


@contextmanager
def _in_fp32(
    weights: Iterable[nn.Parameter], *, gradients: Iterable[nn.Parameter] = ()
) -> Iterator[None]:
    """Within the block the weights are fp32, and `gradients` of them take gradients."""
    before = [(weight, weight.data, weight.requires_grad) for weight in weights]
    wanted = {id(weight) for weight in gradients}
    try:
        for weight, data, _ in before:
            weight.data = data.float()  # the very tensor where it is fp32 already
            weight.requires_grad_(id(weight) in wanted)
        yield
    finally:
        for weight, data, required in before:
            weight.data = data
            weight.requires_grad_(required)


def _loss_gradient(loaded: LoadedModel, stream: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The gradient of the mean NLL by what leaves the last layer, [W, T, H]."""
    gradient = torch.zeros_like(stream)
    predictions = ids.shape[1] - 1
    size = head_tokens(stream.dtype)
    for row, window in enumerate(ids.to(stream.device)):
        for first in range(0, predictions, size):
            last = min(first + size, predictions)
            piece = stream[row : row + 1, first:last].detach().requires_grad_()
            with torch.enable_grad():
                logits = _head(loaded, piece)[0]
                loss = functional.cross_entropy(
                    logits, window[first + 1 : last + 1], reduction="sum"
                )
            (here,) = torch.autograd.grad(loss, piece)
            gradient[row, first:last] = here[0] / (len(ids) * predictions)
    return gradient


def _layer_gradients(
    loaded: LoadedModel,
    layer: int,
    entering: torch.Tensor,
    leaving: torch.Tensor,
    calls: replay.Calls,
    weights: list[nn.Parameter],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """From the loss's gradient by what leaves a layer to those by what enters it, and its weights.

    `entering` is the stream and `leaving` the gradient, [W, T, H]; a weight that the layer does
    not use has the gradient 0.
    """
    sums = [torch.zeros_like(weight) for weight in weights]
    by_stream = torch.empty_like(entering)
    for first, ids in groups(entering[..., 0]):
        rows = slice(first, first + len(ids))
        stream = entering[rows].detach().requires_grad_()
        with torch.enable_grad():
            out = _run_layer(loaded, layer, stream, calls)
        by_stream[rows], *found = torch.autograd.grad(
            out, [stream, *weights], leaving[rows], allow_unused=True
        )
        for total, gradient in zip(sums, found, strict=True):
            total += 0 if gradient is None else gradient
    return by_stream, sums
