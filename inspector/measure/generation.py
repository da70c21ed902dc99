"""What the model writes after a prompt, under a mask and untouched, token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from inspector.errors import InspectorError, OutOfMemory
from inspector.jobs import Progress, silent
from inspector.measure.pen import Pen, compared
from inspector.measure.scoring import memory_levers
from inspector.model.loaded import LoadedModel
from inspector.model.replay import before_layers
from inspector.model.surgery import muted
from inspector.results.checks import Continuation, Generation
from inspector.units import Mask

EVERY = 4
"""A partial result comes after so many new tokens."""

COOLEST, HOTTEST = 0.01, 100.0
"""Temperatures in between: beyond them the scores leave the range of fp32."""


def generate(
    loaded: LoadedModel,
    prompts: str | Sequence[str],
    mask: Mask,
    *,
    tokens: int = 64,
    chat: bool = False,
    temperature: float | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    baseline: bool = True,
    progress: Progress = silent,
) -> Generation:
    """The continuation of each prompt under the mask, then by the untouched model.

    Without a temperature each next token is the most likely one; with one it is drawn, by both
    models after the same seed. The model's own settings for sampling and repetition do not count. A
    text ends at an end-of-text token or after `tokens`. Under the empty mask both texts are one,
    computed once.

    Args:
        loaded: the model.
        prompts: what comes before, one text or several, with the special tokens that the tokenizer
            puts around a text. Each is continued by itself.
        mask: what is muted.
        tokens: the most new tokens in each text.
        chat: put each prompt as a user's turn into the tokenizer's chat template.
        temperature: 0.01 to 100; what the scores are divided by before a token is drawn.
        top_p: above 0, up to 1; the next token is among the likeliest that together have this
            probability (Holtzman et al., arXiv 1904.09751).
        seed: of the draws.
        baseline: whether the untouched model has its turn; its texts stay empty otherwise.
        progress: told of every token, and called before every layer; every few tokens the partial
            result is the `Generation` so far, in which no text breaks off inside a character and
            each continues the one before.

    Raises:
        InspectorError: no prompt or an empty one, fewer than one token, a prompt that leaves too
            little of the model's window, no chat template, settings that are out of range, or
            scores that are no numbers.
        MaskError: the mask does not fit the model.
        OutOfMemory: names the levers.
    """
    started = time.perf_counter()
    loaded.check(mask)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if tokens < 1:
        raise InspectorError(f"cannot write {tokens} tokens: ask for 1 or more.")
    _require_settings(temperature, top_p, seed)
    inputs = _all_inputs(loaded, texts, chat, tokens)
    plan = Plan(_settings_of(loaded, tokens, temperature, top_p), tokens, seed)
    done: list[Continuation] = []
    turns = 2 if baseline and len(mask) else 1
    total = turns * tokens * len(texts)

    def result(latest: Continuation) -> Generation:
        now = loaded.provenance(seed=None if temperature is None else seed, started=started)
        return Generation(now, str(mask), [*done, latest], temperature, top_p, seed)

    for text, ids in zip(texts, inputs, strict=True):

        def report(work: int, note: str, so_far: Continuation | None) -> None:
            before = len(done) * turns * tokens
            progress(before + work, total, note, result(so_far) if so_far else None)

        done.append(_continued(loaded, text, ids, mask, plan, baseline, report))
    return result(done.pop())


@dataclass(frozen=True)
class Plan:
    """How each text is written: transformers' settings, the most tokens, the seed of the draws."""

    settings: GenerationConfig
    tokens: int
    seed: int


def _continued(
    loaded: LoadedModel,
    prompt: str,
    inputs: dict[str, torch.Tensor],
    mask: Mask,
    plan: Plan,
    baseline: bool,
    report: Callable[[int, str, Continuation | None], None],
) -> Continuation:
    """One prompt; `report` is told of tokens done and, now and then, of the texts so far."""
    ends: Any = plan.settings.eos_token_id
    before = inputs["input_ids"][0].tolist()
    here, second = (Pen(loaded.tokenizer, before, set(ends or ())) for _ in range(2))
    there = second if baseline and len(mask) else None
    shown = there or (here if baseline else None)  # under the empty mask, one text for the two

    def heard(pen: Pen, news: bool) -> None:
        note = "the untouched model writes" if pen is second else "the edited model writes"
        fresh = news and (pen.closed or (pen.ids and len(pen.ids) % EVERY == 0))
        work = plan.tokens * (pen is second) + (plan.tokens if pen.closed else len(pen.ids))
        report(work, note, compared(prompt, here, shown) if fresh else None)

    _write(loaded, inputs, mask, plan, here, heard)
    if there is not None:
        _write(loaded, inputs, loaded.empty(), plan, there, heard)
    return compared(prompt, here, shown)


def _require_settings(temperature: float | None, top_p: float, seed: int) -> None:
    if temperature is not None and not COOLEST <= temperature <= HOTTEST:
        raise InspectorError(
            f"a temperature of {temperature:g} is out of range: give {COOLEST:g} to {HOTTEST:g}, "
            "or none for the most likely tokens."
        )
    if not 0 < top_p <= 1:
        raise InspectorError(f"a top-p of {top_p:g} is out of range: above 0, and 1 at most.")
    if temperature is None and top_p != 1:
        raise InspectorError("top-p needs a temperature: without one nothing is drawn.")
    if not 0 <= seed < 1 << 63:
        raise InspectorError(f"a seed of {seed} is out of range: 0 to 2**63 - 1.")


def _all_inputs(
    loaded: LoadedModel, prompts: Sequence[str], chat: bool, tokens: int
) -> list[dict[str, torch.Tensor]]:
    """`_inputs` of every prompt, before anything is written; of several, errors say which."""
    found = []
    for number, prompt in enumerate(prompts or [""], start=1):
        try:
            found.append(_inputs(loaded, prompt, chat))
            require_room(loaded, found[-1]["input_ids"].shape[1], tokens)
        except InspectorError as error:
            if len(prompts) < 2:
                raise
            raise InspectorError(f"prompt {number}: {error}") from error
    return found


def _inputs(loaded: LoadedModel, prompt: str, chat: bool) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, [1, T] each."""
    tokenizer = loaded.tokenizer
    if not prompt:
        raise InspectorError("the prompt is empty: write what the model is to continue.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InspectorError(
            f"the prompt has half a surrogate pair at character {error.start}: remove it."
        ) from error
    if chat and not getattr(tokenizer, "chat_template", None):
        raise InspectorError(
            f"{loaded.source} has no chat template: leave chat off and write the whole prompt."
        )
    if chat:
        turns = [{"role": "user", "content": prompt}]
        try:
            inputs = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        except TemplateError as error:
            raise InspectorError(
                f"the chat template of {loaded.source} cannot take the prompt ({error}): leave "
                "chat off."
            ) from error
    else:
        inputs = tokenizer(prompt, return_tensors="pt", verbose=False)
    if not inputs["input_ids"].shape[1]:
        raise InspectorError(
            "the prompt has no token with this model's tokenizer: write something else."
        )
    return {name: inputs[name].to(loaded.device) for name in ("input_ids", "attention_mask")}


def require_room(loaded: LoadedModel, prompt: int, tokens: int) -> None:
    """Refuse a prompt of so many tokens and so many new ones that the window cannot hold.

    Raises:
        InspectorError: they are more than the model takes; says how many would fit.
    """
    window = loaded.max_length
    if window is None or prompt + tokens <= window:
        return
    most = f"ask for {window - prompt} tokens or fewer, or " if prompt < window else ""
    raise InspectorError(
        f"a prompt of {prompt} tokens and {tokens} new ones make {prompt + tokens}, more than the "
        f"{window} that this model takes: {most}shorten the prompt."
    )


def _write(
    loaded: LoadedModel,
    inputs: dict[str, torch.Tensor],
    mask: Mask,
    plan: Plan,
    pen: Pen,
    heard: Callable[[Pen, bool], None],
) -> None:
    """One turn; `heard` is called at the beginning, after every token and at the end.

    It is called before every layer as well, then with False: there is nothing new.
    """
    heard(pen, True)
    prompt = inputs["input_ids"].shape[1]
    try:
        with (
            memory_levers(prompt + plan.tokens),
            muted(loaded, mask),
            _settings(loaded, plan.settings),
            _seeded(loaded, plan.seed),
            before_layers(loaded, lambda _: heard(pen, False)),
        ):
            model: Any = loaded.model
            model.generate(
                **inputs,
                generation_config=plan.settings,
                logits_processor=LogitsProcessorList([Numbers()]),
                streamer=_Streamer(pen, lambda: heard(pen, True)),
            )
    except OutOfMemory as error:
        raise OutOfMemory(
            f"out of memory at a prompt of {prompt} tokens and {plan.tokens} new ones, a batch of "
            "one: shorten the prompt, ask for fewer tokens (--tokens), or load a smaller dtype "
            "(--dtype bf16)."
        ) from error.__cause__
    pen.closed = True
    heard(pen, True)


class Numbers(LogitsProcessor):
    """Refuses scores that are no numbers: the most likely token of those means nothing."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores [1, V] of the next token, as they are."""
        if bool(scores.isnan().any()):
            raise InspectorError(
                "the model's scores are no numbers (NaN): load it with --dtype fp32."
            )
        return scores


@contextmanager
def _seeded(loaded: LoadedModel, seed: int) -> Iterator[None]:
    """Within the block, draws begin after this seed; the random state is put back after it."""
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _settings_of(
    loaded: LoadedModel, tokens: int, temperature: float | None, top_p: float
) -> GenerationConfig:
    """Greedy, or drawn with these settings alone; of the model's own, the special tokens stay."""
    own: Any = loaded.model.generation_config
    end = own.eos_token_id if own.eos_token_id is not None else loaded.tokenizer.eos_token_id
    ends = [] if end is None else [end] if isinstance(end, int) else list(end)
    pads = (own.pad_token_id, loaded.tokenizer.pad_token_id, *ends, 0)
    drawn: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=tokens,
        use_cache=True,
        bos_token_id=own.bos_token_id,
        eos_token_id=ends or None,
        pad_token_id=next(pad for pad in pads if pad is not None),
        **drawn,
    )


@contextmanager
def _settings(loaded: LoadedModel, settings: GenerationConfig) -> Iterator[None]:
    """Within the block, these are the model's own settings.

    What is passed as an argument is filled up from the model's own, among them penalties that
    change what is greedy, and sampling flags that warn.
    """
    model: Any = loaded.model
    before = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = before


@dataclass
class _Streamer:
    """What transformers hands the prompt and then every new token to."""

    pen: Pen
    heard: Callable[[], None]
    begun: bool = False

    def put(self, value: torch.Tensor) -> None:
        """The prompt [1, T] the first time, then one token [1] at a time."""
        if self.begun:
            self.pen.add(value.tolist())
            self.heard()
        self.begun = True

    def end(self) -> None:
        """Nothing is held back."""
