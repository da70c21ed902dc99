"""New tokens as text that only ever grows, and where two such texts part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspector.results.checks import Continuation

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder puts for bytes that are no character, or not one yet."""

Written = tuple[str, int]
"""A text, and how many tokens it took, end-of-text excluded."""


class Pen:
    """Turns new tokens into text that only ever grows."""

    def __init__(self, tokenizer: Any, prompt: list[int], ends: set[int]) -> None:
        self.tokenizer = tokenizer
        self.ends = ends
        self.ids: list[int] = []
        self.closed = False  # whether nothing more will come
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

    def written(self) -> Written:
        """The whole text once it is closed, before that what there is so far."""
        return self.whole() if self.closed else self.so_far()

    def beginning(self, tokens: int) -> str:
        """The text of the first tokens, up to the last whole character."""
        return self._decode(self._before + self.ids[:tokens])[self._skip :].rstrip(BROKEN)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def compared(prompt: str, here: Pen, there: Pen | None) -> Continuation:
    """What two pens have written after a prompt, and where they part."""
    text, tokens = here.written()
    if there is None:
        return Continuation(prompt, text, "", tokens, 0)
    baseline_text, baseline_tokens = there.written()
    parted = parting(here.ids, there.ids, ended=here.closed and there.closed)
    alike = min(len(here.ids), len(there.ids)) if parted is None else parted
    begin = here.beginning(alike)
    while not (text.startswith(begin) and baseline_text.startswith(begin)):
        begin = begin[:-1]  # a decoder that looks ahead
    return Continuation(
        prompt, text, baseline_text, tokens, baseline_tokens, parted=parted, shared=len(begin)
    )


def parting(here: Sequence[int], there: Sequence[int], *, ended: bool) -> int | None:
    """The index of the first token in which two texts differ; None where they do not.

    Where both have `ended`, one that is shorter has its end where the other goes on.
    """
    pairs = enumerate(zip(here, there, strict=False))
    found = next((index for index, (one, other) in pairs if one != other), None)
    if found is None and ended and len(here) != len(there):
        return min(len(here), len(there))
    return found
