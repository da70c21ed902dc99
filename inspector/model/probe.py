"""The numeric check at load: which units can be muted, and what they return and cost.

Names of modules are only a guess; this runs the model on a few tokens and believes the numbers. The
cost is about that of four forward passes over 2 x 24 tokens.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from inspector.model.branches import takes_branches
from inspector.model.loaded import LoadedModel, UnitInfo, count_parameters
from inspector.model.replay import (
    FAILURES,
    Calls,
    before_head,
    head,
    record,
    run_layer,
    to_logits,
)
from inspector.model.surgery import mute_units
from inspector.units import KINDS, Unit

PROBE_SHAPE = (2, 24)


@torch.no_grad()
def probe(loaded: LoadedModel) -> LoadedModel:
    """The model with all that is known only from running it filled in."""
    vocabulary = loaded.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, PROBE_SHAPE, generator=generator).to(loaded.device)
    seen = _Observer(loaded)
    with seen:
        out = loaded.model(input_ids=ids, use_cache=True)
    loaded.returns = seen.returns
    kv = _cache_bytes(getattr(out, "past_key_values", None), loaded.depth)
    types = getattr(loaded.model.config.get_text_config(), "layer_types", None)
    infos = []
    for layer in range(loaded.depth):
        for kind in KINDS:
            unit = Unit(layer, kind)
            here = unit in loaded.returns
            infos.append(
                UnitInfo(
                    unit,
                    parameters=sum(map(count_parameters, loaded.modules(unit))) if here else 0,
                    kv_bytes_per_token=kv[layer] if kind == "attn" else 0,
                    layer_type=types[layer] if types else "",
                    problem="" if here else _missing(loaded, unit),
                )
            )
    loaded.units = tuple(infos)
    _judge(loaded, ids, seen.streams, out.logits)
    loaded.takes_branches = takes_branches(loaded, ids[0].tolist())
    return loaded


class _Observer:
    """Within its block, notes what each unit returns and the stream between layers."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.returns: dict[Unit, int] = {}
        self.streams: list[torch.Tensor] = []
        self._hooks = ExitStack()

    def __enter__(self) -> None:
        for layer, module in enumerate(self.loaded.layers):
            for kind in KINDS:
                names = self.loaded.family.modules(kind)
                # Some types set what a layer lacks to None.
                if all(isinstance(getattr(module, name, None), nn.Module) for name in names):
                    self._on_output(Unit(layer, kind))
            self._on_input(module)
        self._on_last_output(self.loaded.layers[-1])

    def __exit__(self, *_: Any) -> None:
        self._hooks.close()

    def _on_output(self, unit: Unit) -> None:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self.returns[unit] = len(output) if isinstance(output, tuple) else 0

        handle = self.loaded.modules(unit)[-1].register_forward_hook(hook)
        self._hooks.callback(handle.remove)

    def _on_input(self, module: nn.Module) -> None:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            stream = args[0] if args else kwargs["hidden_states"]
            self.streams.append(stream.to(self.loaded.device))

        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        self._hooks.callback(handle.remove)

    def _on_last_output(self, module: nn.Module) -> None:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            self.streams.append(stream.to(self.loaded.device))

        self._hooks.callback(module.register_forward_hook(hook).remove)


def _judge(
    loaded: LoadedModel, ids: torch.Tensor, streams: list[torch.Tensor], logits: torch.Tensor
) -> None:
    """Fill in `problem` of each unit, and `not_replayable`."""
    problems: dict[Unit, str] = {}
    try:
        entering, calls = record(loaded, ids)
    except FAILURES as error:
        reason = f"its layers cannot be run one by one ({type(error).__name__})"
        problems = dict.fromkeys((info.unit for info in loaded.units), reason)
    else:
        if not torch.equal(entering, streams[0]):
            loaded.not_replayable = "the stream that enters its first layer cannot be captured"
        for index in range(loaded.depth):
            x, y = streams[index], streams[index + 1]
            with loaded.held(loaded.layers[index].modules()):
                problems |= _judge_layer(loaded, index, x, y, calls)
        if not loaded.not_replayable and not _head_matches(loaded, streams[-1], logits):
            loaded.not_replayable = "its head run by itself gives another result"
        loaded.plain_head = not loaded.not_replayable and _is_plain_head(
            loaded, streams[-1], logits
        )
    loaded.units = tuple(
        replace(info, problem=info.problem or problems.get(info.unit, "")) for info in loaded.units
    )


def _head_matches(loaded: LoadedModel, stream: torch.Tensor, logits: torch.Tensor) -> bool:
    try:
        return _close(head(loaded, stream), logits)
    except FAILURES:
        return False


def _is_plain_head(loaded: LoadedModel, stream: torch.Tensor, logits: torch.Tensor) -> bool:
    """To the last bit: a cap on small logits is within the rounding of bf16."""
    loaded.plain_head = True
    try:
        return torch.equal(to_logits(loaded, before_head(loaded, stream)), logits)
    except FAILURES:
        return False


def _judge_layer(
    loaded: LoadedModel, index: int, x: torch.Tensor, y: torch.Tensor, calls: Calls
) -> dict[Unit, str]:
    """Why units of this layer, which turns x into y, cannot be muted; empty where they can."""
    units = [Unit(index, kind) for kind in KINDS if Unit(index, kind) in loaded.returns]
    whole = None
    try:
        whole = run_layer(loaded, index, x, calls)
        if not _close(whole, y):
            loaded.not_replayable = f"layer {index} run by itself gives another result"
        with mute_units(loaded, units):
            identity = torch.equal(run_layer(loaded, index, x, calls), x)
        without = {}
        for unit in units:
            with mute_units(loaded, [unit]):
                without[unit] = run_layer(loaded, index, x, calls)
    except FAILURES as error:
        if whole is None:
            loaded.not_replayable = f"layer {index} does not run by itself"
        reason = f"layer {index} does not run with it muted ({type(error).__name__})"
        return dict.fromkeys(units, reason)
    if not identity:  # also where only one of the two was found: it may not be all that adds
        what = "both units" if len(units) == len(KINDS) else "all that is known"
        reason = f"muting {what} of layer {index} does not leave the residual stream as it was"
        return dict.fromkeys(units, reason)
    return {
        unit: "muting it changes nothing"
        for unit, out in without.items()
        if torch.equal(out, whole)
    }


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal up to the rounding of another batching, each token by its own length.

    Some tokens' streams are hundreds of times longer than the others', which would hide them.
    """
    apart = (ours.float() - theirs.float()).norm(dim=-1)
    tolerance = max(1e-5, 4 * torch.finfo(theirs.dtype).eps)
    return bool((apart <= tolerance * theirs.float().norm(dim=-1)).all())


def _cache_bytes(cache: Any, depth: int) -> list[int]:
    """Bytes of one token of one sequence in each layer's keys and values."""
    if not isinstance(cache, Cache):
        return [0] * depth
    sizes = []
    for slot in cache.layers[:depth]:
        tensors = [getattr(slot, name, None) for name in ("keys", "values")]
        here = [t for t in tensors if isinstance(t, torch.Tensor) and t.dim() == 4]
        sizes.append(sum(t.shape[1] * t.shape[3] * t.element_size() for t in here))
    return sizes + [0] * (depth - len(sizes))


def _missing(loaded: LoadedModel, unit: Unit) -> str:
    names = " and ".join(loaded.family.modules(unit.kind))
    return f"layer {unit.layer} has no module {names} that the forward pass runs"
