"""What the edited model really takes: prefill, decoding, memory and cache, measured in turns."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from inspector.errors import InspectorError, OutOfMemory
from inspector.jobs import Progress, silent
from inspector.measure.generation import require_room
from inspector.measure.memory import peak_memory
from inspector.measure.scoring import memory_levers
from inspector.model.loaded import LoadedModel
from inspector.model.replay import before_layers
from inspector.model.surgery import muted
from inspector.results.checks import Speed, SpeedRun
from inspector.units import Mask

PROMPT, TOKENS, ROUNDS = 256, 32, 5

PULSE = 0.1
"""Seconds between two calls of the progress: often enough to cancel, too seldom to be timed."""


@dataclass(frozen=True)
class Timed:
    """One run in seconds, what its cache held after the prompt, and the tokens it wrote.

    `tokens` are [B, 1 + steps]: the first comes from the prompt, each step gives one more.
    """

    prefill: float
    decode: float
    cache_bytes: int
    tokens: torch.Tensor


def speed(
    loaded: LoadedModel,
    mask: Mask,
    *,
    prompt_length: int = PROMPT,
    new_tokens: int = TOKENS,
    batch: int = 1,
    rounds: int = ROUNDS,
    progress: Progress = silent,
) -> Speed:
    """Time a prompt and the tokens after it under the mask and in the untouched model, in turns.

    Every round runs both, the one that came second first in the next round, so that a machine that
    slows down slows both. One run of each comes before and is not counted. The prompt is random;
    its logits are computed for its last token alone, and each new token is the most likely one.
    Under the empty mask both are the same model, and the ratio shows the noise of the measurement.

    The weights stay in memory whatever is muted, so memory is told above them. A muted attention
    costs here one zero a token in each of its layer's keys and values (see `surgery.muted`), which
    `kv_measured` includes; an exported model would have no such slot, and `kv_computed` bytes. A
    sliding window keeps its own length at most, so that `kv_measured` is less than `kv_computed`
    where the prompt is longer.

    Args:
        loaded: the model.
        mask: what is muted.
        prompt_length: tokens of the prompt.
        new_tokens: steps of one token after it.
        batch: sequences at once.
        rounds: how many times both are run.
        progress: told within every run; after every round the partial result is the `Speed` so far.

    Raises:
        InspectorError: a number below 1, more tokens than the model takes, or a model without a
            cache or without a way to leave out the prompt's other logits.
        MaskError: the mask does not fit the model.
        OutOfMemory: names the levers.
    """
    started = time.perf_counter()
    loaded.check(mask)
    _require(loaded, prompt_length, new_tokens, batch, rounds)
    ids = _random_ids(loaded, batch, prompt_length)
    # The untouched model's first, as in `sides`.
    sides, runs, held = (loaded.empty(), mask), ([], []), [0.0, 0.0]
    pulse = Pulse(progress, 2 * (rounds + 1), "warming up")

    def so_far() -> Speed:
        return Speed(
            provenance=loaded.provenance(started=started),
            mask=str(mask),
            prompt_length=prompt_length,
            new_tokens=new_tokens,
            batch=batch,
            rounds=rounds,
            runs=list(runs[1]),
            baseline_runs=list(runs[0]),
            kv_measured=held[1],
            baseline_kv_measured=held[0],
            kv_computed=loaded.kv_bytes_left(mask),
            baseline_kv_computed=loaded.kv_bytes_left(loaded.empty()),
        )

    gc.collect()  # what goes during a run would be missing from its peak of memory
    with _levers(prompt_length, new_tokens, batch), before_layers(loaded, lambda _: pulse.beat()):
        for each in sides:
            _turn(loaded, ids, each, new_tokens, pulse)
        for number in range(rounds):
            pulse.note = f"round {number + 1} of {rounds}"
            for side in (1, 0) if number % 2 == 0 else (0, 1):
                run, cached = _turn(loaded, ids, sides[side], new_tokens, pulse)
                runs[side].append(run)
                held[side] = cached / (batch * prompt_length)
            progress(pulse.done, pulse.total, pulse.note, so_far())
    return so_far()


def _turn(
    loaded: LoadedModel, ids: torch.Tensor, mask: Mask, steps: int, pulse: Pulse
) -> tuple[SpeedRun, int]:
    """One run under the mask, and the bytes of its cache."""
    whole = int(pulse.done) + 1
    with muted(loaded, mask), peak_memory(loaded.device) as peak:
        found = timed(loaded, ids, steps, step=lambda: pulse.add(1 / (steps + 1)))
    pulse.done = whole
    run = SpeedRun(
        prefill=ids.numel() / found.prefill,
        decode=1e3 * found.decode / steps,
        memory=peak.bytes,
    )
    return run, found.cache_bytes


@torch.no_grad()
def timed(
    loaded: LoadedModel, ids: torch.Tensor, steps: int, *, step: Callable[[], None] = lambda: None
) -> Timed:
    """Run a prompt [B, T] and then `steps` tokens one by one, with the model's own cache.

    `step` is called after the prompt and after every token.

    Raises:
        InspectorError: the model gives no cache.
    """
    model: Any = loaded.model
    begun = _clock(loaded.device)
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    tokens = [out.logits[:, -1:].argmax(-1)]
    read = _clock(loaded.device)
    cache = getattr(out, "past_key_values", None)
    if not isinstance(cache, Cache):
        raise InspectorError(
            f"{loaded.source} keeps no cache of keys and values: its decoding cannot be timed."
        )
    held = cache_bytes(cache)
    step()
    resumed = _clock(loaded.device)
    for _ in range(steps):
        out = model(input_ids=tokens[-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens.append(out.logits[:, -1:].argmax(-1))
        step()
    ended = _clock(loaded.device)
    return Timed(read - begun, ended - resumed, held, torch.cat(tokens, dim=1))


def cache_bytes(cache: Cache) -> int:
    """Bytes of the keys and values that the cache holds."""
    held = [getattr(slot, name, None) for slot in cache.layers for name in ("keys", "values")]
    return sum(each.nbytes for each in held if isinstance(each, torch.Tensor))


def _clock(device: torch.device) -> float:
    """The time once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


@dataclass
class Pulse:
    """Reports progress, and so lets a cancel in, every `PULSE` seconds at most."""

    progress: Progress
    total: float
    note: str
    done: float = 0.0
    last: float = float("-inf")

    def add(self, work: float) -> None:
        """Some of the work is done."""
        self.done += work
        self.beat()

    def beat(self) -> None:
        """Report, unless that was only just done."""
        now = time.perf_counter()
        if now - self.last >= PULSE:
            self.last = now
            self.progress(min(self.done, self.total), self.total, self.note)


@contextmanager
def _levers(prompt: int, tokens: int, batch: int) -> Iterator[None]:
    try:
        with memory_levers(prompt + tokens):
            yield
    except OutOfMemory as error:
        raise OutOfMemory(
            f"out of memory at a prompt of {prompt} tokens, {tokens} new ones and a batch of "
            f"{batch}: use a shorter prompt (--prompt-tokens), or load a smaller dtype "
            "(--dtype bf16)."
        ) from error.__cause__


def _require(loaded: LoadedModel, prompt: int, tokens: int, batch: int, rounds: int) -> None:
    named = {"prompt tokens": prompt, "new tokens": tokens, "sequences": batch, "rounds": rounds}
    for name, count in named.items():
        if count < 1:
            raise InspectorError(f"cannot measure speed with {count} {name}: ask for 1 or more.")
    require_room(loaded, prompt, tokens)
    if "logits_to_keep" not in inspect.signature(loaded.model.forward).parameters:
        raise InspectorError(
            f"{loaded.source} computes its head on every token of a prompt and cannot leave that "
            "out: its prefill cannot be timed."
        )


def _random_ids(loaded: LoadedModel, batch: int, length: int) -> torch.Tensor:
    vocabulary = loaded.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (batch, length), generator=generator)
    return ids.to(loaded.device)
