"""What the model writes after a prompt, under a mask and untouched, token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig

from inspector.errors import InspectorError, OutOfMemory
from inspector.jobs import Progress, silent
from inspector.measure.scoring import memory_levers
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import muted
from inspector.results.checks import Generation
from inspector.units import Mask

EVERY = 4
"""A partial result comes after so many new tokens."""

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder puts for bytes that are no character, or not one yet."""

Written = tuple[str, int]
"""A text, and how many tokens it took, end-of-text excluded."""

NOTHING: Written = ("", 0)


def generate(
    loaded: LoadedModel,
    prompt: str,
    mask: Mask,
    *,
    tokens: int = 64,
    chat: bool = False,
    baseline: bool = True,
    progress: Progress = silent,
) -> Generation:
    """The greedy continuation of the prompt under the mask, then by the untouched model.

    Each next token is the most likely one, whatever the model's own settings for sampling and
    repetition; it ends at an end-of-text token or after `tokens`. Under the empty mask both texts
    are one, computed once.

    Args:
        loaded: the model.
        prompt: what comes before, with the special tokens that the tokenizer puts around a text.
        mask: what is muted.
        tokens: the most new tokens in each text.
        chat: put the prompt as a user's turn into the tokenizer's chat template.
        baseline: whether the untouched model has its turn; its text stays empty otherwise.
        progress: told of every token; every few tokens the partial result is the `Generation` so
            far, in which no text breaks off inside a character and each continues the one before.

    Raises:
        InspectorError: an empty prompt, fewer than one token, a prompt that leaves too little of
            the model's window, or no chat template.
        MaskError: the mask does not fit the model.
        OutOfMemory: names the levers.
    """
    started = time.perf_counter()
    loaded.check(mask)
    if tokens < 1:
        raise InspectorError(f"cannot write {tokens} tokens: ask for 1 or more.")
    inputs = _inputs(loaded, prompt, chat)
    require_room(loaded, inputs["input_ids"].shape[1], tokens)
    begun = Generation(loaded.provenance(), str(mask), prompt, "", "", 0, 0)
    both = baseline and not len(mask)  # one text for the two
    turns = 2 if baseline and len(mask) else 1

    def result(here: Written, untouched: Written = NOTHING) -> Generation:
        now = replace(begun.provenance, seconds=time.perf_counter() - started)
        untouched = here if both else untouched
        return replace(
            begun,
            provenance=now,
            text=here[0],
            tokens=here[1],
            baseline_text=untouched[0],
            baseline_tokens=untouched[1],
        )

    def edited(done: int, so_far: Written | None) -> None:
        partial = result(so_far) if so_far else None
        progress(done, turns * tokens, "the edited model writes", partial)

    def untouched(done: int, so_far: Written | None) -> None:
        partial = result(here, so_far) if so_far else None
        progress(tokens + done, turns * tokens, "the untouched model writes", partial)

    here = _write(loaded, inputs, mask, tokens, edited)
    if turns == 1:
        return result(here)
    return result(here, _write(loaded, inputs, loaded.empty(), tokens, untouched))


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
    tokens: int,
    report: Callable[[int, Written | None], None],
) -> Written:
    """One turn; `report` is told how many tokens are done and, now and then, of the text so far."""
    plain = _greedy(loaded, tokens)
    pen = Pen(loaded.tokenizer, inputs["input_ids"][0].tolist(), set(plain.eos_token_id or ()))

    def token() -> None:
        report(len(pen.ids), pen.so_far() if len(pen.ids) % EVERY == 0 else None)

    report(0, None)
    prompt = inputs["input_ids"].shape[1]
    try:
        with memory_levers(prompt + tokens), muted(loaded, mask), _settings(loaded, plain):
            model: Any = loaded.model
            model.generate(**inputs, generation_config=plain, streamer=_Streamer(pen, token))
    except OutOfMemory as error:
        raise OutOfMemory(
            f"out of memory at a prompt of {prompt} tokens and {tokens} new ones, a batch of one: "
            "shorten the prompt, ask for fewer tokens (--tokens), or load a smaller dtype "
            "(--dtype bf16)."
        ) from error.__cause__
    report(tokens, pen.whole())
    return pen.whole()


def _greedy(loaded: LoadedModel, tokens: int) -> GenerationConfig:
    """Settings for the most likely tokens alone; of the model's own, the special tokens stay."""
    own: Any = loaded.model.generation_config
    end = own.eos_token_id if own.eos_token_id is not None else loaded.tokenizer.eos_token_id
    ends = [] if end is None else [end] if isinstance(end, int) else list(end)
    pads = (own.pad_token_id, loaded.tokenizer.pad_token_id, *ends, 0)
    return GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        use_cache=True,
        bos_token_id=own.bos_token_id,
        eos_token_id=ends or None,
        pad_token_id=next(pad for pad in pads if pad is not None),
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


class Pen:
    """Turns new tokens into text that only ever grows."""

    def __init__(self, tokenizer: Any, prompt: list[int], ends: set[int]) -> None:
        self.tokenizer = tokenizer
        self.ends = ends
        self.ids: list[int] = []
        # Decoded after the prompt's last token: some tokenizers drop the space of a first word.
        self._before = prompt[-1:]
        self._skip = len(self._decode(self._before))

    def add(self, ids: list[int]) -> None:
        """Take new tokens; an end-of-text token is not one of the text's."""
        self.ids += [each for each in ids if each not in self.ends]

    def whole(self) -> Written:
        """The text of all tokens."""
        return self._decode(self._before + self.ids)[self._skip :], len(self.ids)

    def so_far(self) -> Written:
        """The text up to the last whole character; the rest may yet become one."""
        text, tokens = self.whole()
        return text.rstrip(BROKEN), tokens

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
