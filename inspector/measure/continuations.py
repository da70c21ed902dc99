"""Log-probabilities of continuations, each token that several of them share computed once.

A question with four choices is four pairs of context and continuation. All tokens that the four
begin with are the trunk of one row, and what is left of each is a branch (see `model.branches`).
The output head is computed only where a token of a continuation is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from inspector.errors import ResultError
from inspector.measure.scoring import head_tokens, layer_tokens
from inspector.model.branches import Row, run_rows, width
from inspector.model.loaded import LoadedModel
from inspector.model.replay import before_layers, to_logits

Pair = tuple[Sequence[int], Sequence[int]]
"""The token ids of a context and of its continuation; neither is empty."""

Answer = tuple[float, bool]
"""The log-probability in nats, summed over the continuation's tokens, and whether greedy decoding
would have written it."""

ROW_TOKENS = 4096
"""The longest row that branches are put together to: what its attention takes grows with the
square."""


@dataclass(frozen=True)
class Question:
    """Pairs with one context: their row, and the index of the pair that each branch is of.

    `shared` is how many tokens of the continuations are part of the trunk. Each pair's last token
    is only predicted, so it never is.
    """

    row: Row
    shared: int
    pairs: tuple[int, ...]


def _tokens(loaded: LoadedModel) -> int:
    """Tokens that go through the model at a time: by measurement, half of what a layer takes."""
    return layer_tokens(loaded.dtype) // 2


@torch.no_grad()
def log_probabilities(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    *,
    progress: Callable[[float, int], None],
) -> list[Answer]:
    """Log P(continuation | context) of each pair, in their order.

    Args:
        loaded: the model; units that are muted around this call stay so.
        pairs: contexts and continuations, together at most one token longer than the window.
        progress: called before every layer of every batch, and before every piece of the head,
            with how many pairs are answered, part of those at work counted in, and the tokens of
            the longest row of these; what it raises (Cancelled) passes through.

    Raises:
        ResultError: a log-probability is not a number.
    """
    answers: list[Answer] = [(0.0, True)] * len(pairs)
    done = 0
    for questions in _batches(_questions(loaded, pairs), _tokens(loaded)):
        here = sum(len(question.pairs) for question in questions)
        longest = width(questions[0].row)

        def share(part: float, first: int = done, size: int = here, most: int = longest) -> None:
            progress(first + size * part, most)

        for index, answer in _batch(loaded, questions, pairs, share):
            answers[index] = answer
        done += here
    return answers


def _questions(loaded: LoadedModel, pairs: Sequence[Pair]) -> list[Question]:
    """The pairs by context, the longest rows first: running out of memory comes at once."""
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, (context, _) in enumerate(pairs):
        by_context.setdefault(tuple(context), []).append(index)
    found = []
    for context, indices in by_context.items():
        for some in _rows(loaded, len(context), indices, pairs):
            bodies = [tuple(pairs[index][1][:-1]) for index in some]
            shared = _common(bodies)
            row = ((*context, *bodies[0][:shared]), [body[shared:] for body in bodies])
            found.append(Question(row, shared, tuple(some)))
    return sorted(found, key=lambda question: -width(question.row))


def _rows(
    loaded: LoadedModel, context: int, indices: list[int], pairs: Sequence[Pair]
) -> Iterator[list[int]]:
    """Pairs of one context, as many together as may stand in a row."""
    some: list[int] = []
    length = context
    for index in indices:
        more = len(pairs[index][1])
        if some and (not loaded.takes_branches or length + more > ROW_TOKENS):
            yield some
            some, length = [], context
        some.append(index)
        length += more
    yield some


def _common(rows: list[tuple[int, ...]]) -> int:
    """How many tokens all rows begin with."""
    first, last = min(rows), max(rows)
    same = (a == b for a, b in zip(first, last, strict=False))
    return next((at for at, equal in enumerate(same) if not equal), min(len(first), len(last)))


def _batches(questions: list[Question], tokens: int) -> Iterator[list[Question]]:
    """Questions a few at a time, whose rows have no more than so many tokens, padding included.

    The longest come first, so the first of a batch says how wide it is.
    """
    batch: list[Question] = []
    for question in questions:
        if batch and (len(batch) + 1) * width(batch[0].row) > tokens:
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


def _batch(
    loaded: LoadedModel,
    questions: list[Question],
    pairs: Sequence[Pair],
    share: Callable[[float], None],
) -> Iterator[tuple[int, Answer]]:
    """Each pair's index and answer.

    `share` hears before every layer and every piece of the head which part of the batch is done.
    """
    predicted = sum(len(pairs[index][1]) for question in questions for index in question.pairs)
    work = loaded.depth + math.ceil(predicted / head_tokens(loaded.dtype))
    with before_layers(loaded, lambda done: share(done / work)):
        out = run_rows(loaded, [question.row for question in questions])
    ready, wanted = [], []  # what the head takes, and the tokens that it is to predict
    for at, question in enumerate(questions):
        trunk, branches = question.row
        start = len(trunk)
        for index, branch in zip(question.pairs, branches, strict=True):
            before = out[at, len(trunk) - question.shared - 1 : len(trunk)]
            ready.append(torch.cat([before, out[at, start : start + len(branch)]]))
            wanted.append(pairs[index][1])
            start += len(branch)
    indices = (index for question in questions for index in question.pairs)
    answers = _answers(loaded, ready, wanted, lambda done: share((loaded.depth + done) / work))
    yield from zip(indices, answers, strict=True)


def _answers(
    loaded: LoadedModel,
    ready: list[torch.Tensor],
    wanted: list[Sequence[int]],
    heard: Callable[[int], None],
) -> Iterator[Answer]:
    """The sum of log-probabilities of each row of tokens, from what predicts them.

    `heard` is called before every piece with how many came before it.
    """
    values, greedy = [], []
    targets = torch.tensor([token for row in wanted for token in row], device=loaded.device)
    size = head_tokens(loaded.dtype)
    pieces = zip(torch.cat(ready).split(size), targets.split(size), strict=True)
    for number, (rows, tokens) in enumerate(pieces):
        heard(number)
        logits = to_logits(loaded, rows[None])[0] if loaded.plain_head else rows
        found = logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        values.append(found.cpu())
        greedy.append((logits.argmax(-1) == tokens).cpu())
    counts = [len(row) for row in wanted]
    parts = zip(torch.cat(values).split(counts), torch.cat(greedy).split(counts), strict=True)
    for value, best in parts:
        total = float(value.sum())
        if total != total:
            raise ResultError(
                "the model's logits are not numbers (NaN), so it has no accuracy: try another "
                "mask, or fp32."
            )
        yield total, bool(best.all())
