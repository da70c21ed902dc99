"""From streams that left the last layer to sums of a metric, in pieces small enough for the cache.

Logits are the largest tensors by far (a vocabulary a token), so they exist for a few hundred tokens
at a time and are used up at once. This is what keeps memory flat and lets the head's matrix
product, not the memory, set the pace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from inspector.errors import OutOfMemory
from inspector.jobs import Progress
from inspector.measure.metrics import Metric, wide
from inspector.model.loaded import LoadedModel, count_parameters, out_of_memory
from inspector.model.replay import (
    Calls,
    before_head,
    before_layers,
    place_for_logits,
    record,
    run_layer,
    to_logits,
)
from inspector.model.surgery import mute_units
from inspector.units import Mask

Tick = Callable[[float], None]
"""Told of work done, in windows gone through one layer; raises Cancelled like a `Progress`."""

HEAD_TOKENS = 256
"""Tokens whose logits exist at a time in a two-byte dtype; half as many in fp32, `PLACED` times as
many where a sweep goes `steadily`. For a vocabulary of 49,152 that is 24 MiB: glibc's malloc gives
blocks from 32 MiB on back to the system at once, and taking their pages anew costs more than the
arithmetic on them."""

PLACED = 2
"""So many times as many tokens go through the head at a time where their logits can be put into the
same memory one after another (`place_for_logits`): the matrix is read half as often."""

LOSS_BYTES = 1 << 20
"""Logits in fp32 that a metric works on at a time. A divergence takes about ten passes over them:
within a core's own cache these cost a fifth of what they cost over a whole block."""

LAYER_TOKENS = 4096
"""Tokens that go through a layer at a time in a two-byte dtype; a quarter in fp32. Measured on a
CPU with bf16 matrix units: those want long products, fp32 wants its activations in the cache."""


STEADY_TOKENS = 512
"""Tokens in every pass through a layer where each has to have the same shape, filled up with
copies. How a product rounds a row depends on how many rows it has, so that only then a candidate's
numbers do not depend on who goes with it. Half as many in fp32 on a single thread, where a long
product gains less than filling it up costs."""


def idle(work: float) -> None:
    """A tick that nobody hears."""


def ticker(progress: Progress, total: float, note: str) -> Tick:
    """A tick that adds work up and reports it out of `total`."""
    done = 0.0

    def tick(work: float) -> None:
        nonlocal done
        done = min(total, done + work)
        progress(done, total, note)

    return tick


def head_work(loaded: LoadedModel) -> float:
    """The cost of the head on one window, in windows gone through one layer."""
    config = loaded.model.config.get_text_config()
    layer = max(1, count_parameters(loaded.layers[0]))
    return config.vocab_size * config.hidden_size / layer


def head_tokens(dtype: torch.dtype) -> int:
    """How many tokens' logits exist at a time in a dtype."""
    return max(1, HEAD_TOKENS * 2 // dtype.itemsize)


def layer_tokens(dtype: torch.dtype) -> int:
    """How many tokens go through a layer at a time in a dtype."""
    return LAYER_TOKENS if dtype.itemsize <= 2 else LAYER_TOKENS // 4


def steady_rows(dtype: torch.dtype, length: int) -> int:
    """Windows of so many tokens in every pass of the same shape."""
    alone = dtype.itemsize > 2 and torch.get_num_threads() == 1
    return max(1, (STEADY_TOKENS // 2 if alone else STEADY_TOKENS) // length)


def filled(rows: torch.Tensor, size: int) -> torch.Tensor:
    """The rows, and copies of the last one up to `size` of them."""
    return rows[torch.arange(size, device=rows.device).clamp(max=len(rows) - 1)]


def predicted(metric: Metric, length: int) -> int:
    """How many tokens of a window count: all but the last where the next token is the measure."""
    return length if metric.against_logits else length - 1


def stream_sums(
    loaded: LoadedModel,
    metric: Metric,
    streams: torch.Tensor,
    ids: torch.Tensor,
    reference: torch.Tensor | None = None,
    *,
    spent: bool = False,
    tick: Tick = idle,
) -> torch.Tensor:
    """The sums of `stream_parts` over the tokens: [n] in float64 on the CPU."""
    return stream_parts(loaded, metric, streams, ids, reference, spent=spent, tick=tick).sum(1)


def steadily(loaded: LoadedModel, metric: Metric) -> bool:
    """Whether all passes of a sweep have the same shape, so that its streams may be kept.

    Not on a GPU, where long passes are worth more; nor where the head takes windows as they are. By
    a divergence, searches go by `race`, which has its own passes.
    """
    return loaded.device.type == "cpu" and loaded.plain_head and not metric.against_logits


def sums_by_window(
    loaded: LoadedModel,
    metric: Metric,
    streams: torch.Tensor,
    ids: torch.Tensor,
    reference: torch.Tensor | None,
    tick: Tick = idle,
) -> torch.Tensor:
    """`stream_sums` of windows [w, T] for n variants' streams [n, w, T, H], which it uses up.

    `reference` is [w, T, H]; the sums are [n, w], in float64 on the CPU.
    """
    if steadily(loaded, metric):
        return _steady_sums(loaded, metric, streams, ids, tick)
    sums = []
    for index, window in enumerate(ids):
        against = None if reference is None else reference[index : index + 1]
        some = streams[:, index]
        sums.append(stream_sums(loaded, metric, some, window, against, spent=True, tick=tick))
    return torch.stack(sums, dim=1)


@torch.no_grad()
def _steady_sums(
    loaded: LoadedModel, metric: Metric, streams: torch.Tensor, ids: torch.Tensor, tick: Tick
) -> torch.Tensor:
    """`sums_by_window` by the next token alone, in passes of the same shape through the head."""
    variants, count, length = streams.shape[:3]
    here = ready(loaded, streams.flatten(0, 1), spent=True).flatten(0, 1)
    targets = ids[:, 1:].flatten()
    end, size = length - 1, PLACED * head_tokens(loaded.dtype)
    place = place_for_logits(loaded, size)
    values = torch.zeros(variants * count * end, dtype=torch.float64)
    for some in torch.arange(len(values)).split(size):
        places = filled(some, size)
        # A window's last token predicts none, so that each window before takes a row more.
        logits = to_logits(loaded, here[places + places // end].unsqueeze(0), place)
        found = token_values(metric, logits, targets[places % len(targets)])
        values[some] = found[0, : len(some)]
        tick(head_work(loaded) * len(some) / end)
    return values.view(variants, count, end).sum(2)


@torch.no_grad()
def stream_parts(
    loaded: LoadedModel,
    metric: Metric,
    streams: torch.Tensor,
    ids: torch.Tensor,
    reference: torch.Tensor | None = None,
    *,
    skip: int = 0,
    spent: bool = False,
    tick: Tick = idle,
) -> torch.Tensor:
    """The metric's parts, token by token, of one window, for n streams at once.

    Args:
        loaded: the model whose final norm and head are used.
        metric: a row of `METRICS`.
        streams: [n, T, H], what left the last layer for n variants of the model.
        ids: [T], the window's token ids.
        reference: [1, T, H], what left the untouched model's last layer; unused by `nll`.
        skip: tokens at the window's beginning that do not count.
        spent: the streams are of no more use, and may be written over.
        tick: told of the work done.

    Returns:
        [n, tokens that count] in float64 on the CPU.
    """
    end = predicted(metric, len(ids))
    found = torch.zeros(len(streams), end - skip, dtype=torch.float64)
    here = ready(loaded, streams, spent=spent)
    known = None if reference is None else ready(loaded, reference)
    size = head_tokens(loaded.dtype)
    for first in range(skip, end, size):
        last = min(first + size, end)
        against = ids[first + 1 : last + 1].to(loaded.device)
        if metric.against_logits and known is not None:
            against = metric.prepare(to_logits(loaded, known[:, first:last])[0].float())
        rows = max(1, size // (last - first))
        for row in range(0, len(streams), rows):
            logits = to_logits(loaded, here[row : row + rows, first:last])
            values = token_values(metric, logits, against)
            found[row : row + rows, first - skip : last - skip] = values
            tick(head_work(loaded) * len(logits) * (last - first) / end)
    return found


def token_values(metric: Metric, logits: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    """The metric's parts of logits [n, t, V], a few tokens at a time: [n, t] in float64."""
    fit = max(1, LOSS_BYTES // (4 * logits.shape[-1] * len(logits)))
    at_a_time = 1 << (fit.bit_length() - 1)  # a power of two: threads share rows evenly
    pieces = zip(logits.split(at_a_time, dim=1), against.split(at_a_time), strict=True)
    return wide(torch.cat([metric.values(part.float(), known) for part, known in pieces], dim=1))


def ready(loaded: LoadedModel, streams: torch.Tensor, *, spent: bool = False) -> torch.Tensor:
    """`before_head` of [n, T, H], a bounded number of tokens at a time.

    With `spent` it takes the place of the streams themselves.
    """
    parts = streams.split(max(1, LAYER_TOKENS // streams.shape[1]))
    if not spent:
        return torch.cat([before_head(loaded, rows) for rows in parts])
    for rows in parts:
        rows.copy_(before_head(loaded, rows))
    return streams


@torch.no_grad()
def logit_parts(
    metric: Metric,
    logits: torch.Tensor,
    ids: torch.Tensor,
    reference: torch.Tensor | None = None,
    *,
    skip: int = 0,
) -> torch.Tensor:
    """`stream_parts` from whole logits [n, T, V], for a model that cannot be run in pieces."""
    end = predicted(metric, len(ids))
    found = torch.zeros(len(logits), end - skip, dtype=torch.float64)
    size = head_tokens(logits.dtype)
    for first in range(skip, end, size):
        last = min(first + size, end)
        against = ids[first + 1 : last + 1].to(logits.device)
        if metric.against_logits and reference is not None:
            against = metric.prepare(reference[0, first:last].float())
        values = token_values(metric, logits[:, first:last], against)
        found[:, first - skip : last - skip] = values
    return found


@torch.no_grad()
def final_streams(
    loaded: LoadedModel, ids: torch.Tensor, mask: Mask, *, tick: Tick = idle
) -> torch.Tensor:
    """What leaves the last layer under the mask, [n, T, H], for windows [n, T]."""
    stream, calls = record(loaded, ids)
    with mute_units(loaded, mask):
        for layer in range(loaded.depth):
            stream = through(loaded, layer, stream, calls, tick=tick)
    return stream


def through(
    loaded: LoadedModel, layer: int, stream: torch.Tensor, calls: Calls, *, tick: Tick = idle
) -> torch.Tensor:
    """One layer on [n, T, H], a bounded number of tokens at a time."""
    parts = []
    for rows in stream.split(max(1, layer_tokens(stream.dtype) // calls.length)):
        parts.append(run_layer(loaded, layer, rows, calls))
        tick(len(rows))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def through_in_place(
    loaded: LoadedModel,
    layer: int,
    rows: torch.Tensor,
    calls: Calls,
    *,
    steady: bool = False,
    tick: Tick = idle,
) -> None:
    """`through` that puts what leaves the layer in the place of what enters it.

    With `steady` all passes have the same shape, so that a row's numbers are its own.
    """
    size = max(1, layer_tokens(rows.dtype) // calls.length)
    size = steady_rows(rows.dtype, calls.length) if steady else size
    for some in rows.split(size):
        out = run_layer(loaded, layer, filled(some, size) if steady else some, calls)
        some.copy_(out[: len(some)])
        tick(len(some))


def window_sums(
    loaded: LoadedModel,
    metric: Metric,
    ids: torch.Tensor,
    mask: Mask,
    reference: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sums of `window_parts` over the tokens: [n] in float64."""
    return window_parts(loaded, metric, ids, mask, reference).sum(1)


def window_parts(
    loaded: LoadedModel,
    metric: Metric,
    ids: torch.Tensor,
    mask: Mask,
    reference: torch.Tensor | None = None,
    *,
    streams: torch.Tensor | None = None,
    skip: int = 0,
    tick: Tick = idle,
) -> torch.Tensor:
    """The metric's parts, token by token, of windows [n, T]: [n, tokens that count] in float64.

    `reference` is `final_streams` of the untouched model, [n, T, H]; where the model cannot be run
    piece by piece, its logits [n, T, V]. `streams` are `final_streams` under the mask, where they
    are known already; the first `skip` tokens of a window do not count.
    """
    found = []
    if streams is not None:
        outputs = streams
    elif loaded.not_replayable:
        with (
            mute_units(loaded, mask),
            before_layers(loaded, lambda _: tick(len(ids))),
            torch.no_grad(),
        ):
            outputs = loaded.model(input_ids=ids.to(loaded.device), use_cache=False).logits
    else:
        outputs = final_streams(loaded, ids, mask, tick=tick)
    for index, window in enumerate(ids):
        against = None if reference is None else reference[index : index + 1]
        one = outputs[index : index + 1]
        if loaded.not_replayable:
            found.append(logit_parts(metric, one, window, against, skip=skip))
            tick(head_work(loaded))
        else:
            found.append(stream_parts(loaded, metric, one, window, against, skip=skip, tick=tick))
    return torch.cat(found)


def untouched(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """The `reference` of `window_sums`: the untouched model's streams, or its logits."""
    if loaded.not_replayable:
        with torch.no_grad():
            return loaded.model(input_ids=ids.to(loaded.device), use_cache=False).logits
    return final_streams(loaded, ids, loaded.empty())


def groups(windows: torch.Tensor, *, tokens: int = 256) -> Iterator[tuple[int, torch.Tensor]]:
    """Windows [W, T] a few at a time, about `tokens` tokens each: (index of the first, [w, T])."""
    size = max(1, tokens // windows.shape[1])
    for first in range(0, len(windows), size):
        yield first, windows[first : first + size]


@contextmanager
def memory_levers(length: int) -> Iterator[None]:
    """Turn running out of memory into a sentence that names what can be done.

    Raises:
        OutOfMemory: instead of torch's own error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory at windows of {length} tokens: use shorter windows (--length), "
            "fewer at a time (--samples), or a smaller dtype (--dtype bf16)."
        ) from error
