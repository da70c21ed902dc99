"""Log-probabilities of continuations, each token that several of them share computed once.

A question with four choices is four pairs of context and continuation. All tokens that the four
begin with, the trunk, go through the model once; its keys and values are kept, and the rest of each
choice goes on from there. The output head is computed only where a token of a continuation is
predicted. What is muted stays muted: its cache slots count along (see `model.surgery`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from inspector.errors import ResultError
from inspector.measure.scoring import head_tokens, layer_tokens
from inspector.model.loaded import LoadedModel
from inspector.model.replay import headless, to_logits

Pair = tuple[Sequence[int], Sequence[int]]
"""The token ids of a context and of its continuation; neither is empty."""

Answer = tuple[float, bool]
"""The log-probability in nats, summed over the continuation's tokens, and whether greedy decoding
would have written it."""


@dataclass(frozen=True)
class Question:
    """Pairs with one context: their indices, and the tokens that all of them begin with.

    `shared` is how many tokens of the continuations are part of the trunk. Each pair's last token
    is only predicted, so it never is.
    """

    trunk: tuple[int, ...]
    shared: int
    pairs: tuple[int, ...]


def _tokens(loaded: LoadedModel) -> int:
    """Tokens that go through the model at a time: by measurement, half of what a layer takes."""
    return layer_tokens(loaded.dtype) // 2


def can_share(loaded: LoadedModel) -> bool:
    """Whether the model can be told where its tokens stand, which padded batches need."""
    known = inspect.signature(loaded.model.forward).parameters
    return {"position_ids", "attention_mask", "past_key_values"} <= set(known)


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
        progress: called before every layer of every batch with how many pairs are answered, part
            of those at work counted in, and the tokens of the longest of these; what it raises
            (Cancelled) passes through.

    Raises:
        ResultError: a log-probability is not a number.
    """
    answers: list[Answer] = [(0.0, True)] * len(pairs)
    done = 0
    for questions in _batches(_questions(pairs), _tokens(loaded)):
        here = sum(len(question.pairs) for question in questions)
        longest = max(len(question.trunk) + _tail(question, pairs) for question in questions)
        tails = [
            _tail(question, pairs, index) for question in questions for index in question.pairs
        ]
        passes = 1 + len(_packed(tails, _tokens(loaded)))

        def share(part: float, first: int = done, size: int = here, most: int = longest) -> None:
            progress(first + size * part, most)

        with _listening(loaded, passes, share):
            for index, answer in _batch(loaded, questions, pairs):
                answers[index] = answer
        done += here
    return answers


def _questions(pairs: Sequence[Pair]) -> list[Question]:
    """The pairs by context, the longest trunks first: running out of memory comes at once."""
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, (context, _) in enumerate(pairs):
        by_context.setdefault(tuple(context), []).append(index)
    found = []
    for context, indices in by_context.items():
        bodies = [tuple(pairs[index][1][:-1]) for index in indices]
        shared = _common(bodies)
        found.append(Question((*context, *bodies[0][:shared]), shared, tuple(indices)))
    return sorted(found, key=lambda question: -len(question.trunk))


def _common(rows: list[tuple[int, ...]]) -> int:
    """How many tokens all rows begin with."""
    first, last = min(rows), max(rows)
    same = (a == b for a, b in zip(first, last, strict=False))
    return next((at for at, equal in enumerate(same) if not equal), min(len(first), len(last)))


def _tail(question: Question, pairs: Sequence[Pair], index: int | None = None) -> int:
    """The tokens that a pair puts in after the trunk; without an index, the most of any."""
    chosen = question.pairs if index is None else (index,)
    return max(len(pairs[each][1]) for each in chosen) - 1 - question.shared


def _batches(questions: list[Question], tokens: int) -> Iterator[list[Question]]:
    """Questions a few at a time, whose trunks have no more than so many tokens, padding included.

    The longest come first, so the first of a batch says how wide it is.
    """
    batch: list[Question] = []
    for question in questions:
        if batch and (len(batch) + 1) * len(batch[0].trunk) > tokens:
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


def _packed(lengths: list[int], tokens: int) -> list[list[int]]:
    """Indices of rows that have a length, like lengths together, in packs of so many tokens."""
    order = sorted((at for at, length in enumerate(lengths) if length), key=lambda at: -lengths[at])
    packs: list[list[int]] = []
    for at in order:
        if not packs or (len(packs[-1]) + 1) * lengths[packs[-1][0]] > tokens:
            packs.append([])
        packs[-1].append(at)
    return packs


def _batch(
    loaded: LoadedModel, questions: list[Question], pairs: Sequence[Pair]
) -> Iterator[tuple[int, Answer]]:
    """Each pair's index and answer."""
    rows = [(row, index) for row, q in enumerate(questions) for index in q.pairs]
    bodies = [pairs[index][1][questions[row].shared : -1] for row, index in rows]
    packs = _packed([len(body) for body in bodies], _tokens(loaded))
    mask, ids = _left_padded([q.trunk for q in questions], loaded.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    out, cache = _run(loaded, ids, mask, places, None, keep=bool(packs))

    ready, wanted = [], []  # what the head takes, and the token that it is to predict
    for row, index in rows:
        shared = questions[row].shared + 1
        ready.append(out[row, -shared:])
        wanted.append(pairs[index][1][:shared])
    for pack in packs:
        at = torch.tensor([rows[each][0] for each in pack], device=loaded.device)
        rest = [bodies[each] for each in pack]
        tails = _right_padded(rest, loaded.device)
        steps = torch.arange(tails.shape[1], device=loaded.device)
        after = torch.cat([mask[at], mask.new_ones(tails.shape)], 1)
        places = mask[at].sum(1, keepdim=True) + steps
        out, _ = _run(loaded, tails, after, places, _rows_of(cache, at), keep=True)
        for place, each in enumerate(pack):
            row, index = rows[each]
            ready[each] = torch.cat([ready[each], out[place, : len(rest[place])]])
            wanted[each] = pairs[index][1]
    yield from zip((index for _, index in rows), _answers(loaded, ready, wanted), strict=True)


def _rows_of(cache: Any, rows: torch.Tensor) -> Any:
    """A cache with these rows of another, which stays as it is."""
    picked = copy.copy(cache)
    picked.layers = [copy.copy(layer) for layer in cache.layers]
    picked.batch_select_indices(rows)
    return picked


def _run(
    loaded: LoadedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    places: torch.Tensor,
    cache: Any,
    *,
    keep: bool,
) -> tuple[torch.Tensor, Any]:
    """What the head takes, [n, T, H] (or the logits, see `headless`), and the cache."""
    with headless(loaded):
        found = loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=keep,
        )
    return found.logits, found.past_key_values if keep else None


def _answers(
    loaded: LoadedModel, ready: list[torch.Tensor], wanted: list[Sequence[int]]
) -> Iterator[Answer]:
    """The sum of log-probabilities of each row of tokens, from what predicts them."""
    values, greedy = [], []
    targets = torch.tensor([token for row in wanted for token in row], device=loaded.device)
    size = head_tokens(loaded.dtype)
    for rows, tokens in zip(torch.cat(ready).split(size), targets.split(size), strict=True):
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


def _left_padded(
    rows: list[tuple[int, ...]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention mask and the ids, [n, T]."""
    width = max(map(len, rows))
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    ids = [[row[0]] * (width - len(row)) + list(row) for row in rows]
    return torch.tensor(mask, device=device), torch.tensor(ids, device=device)


def _right_padded(rows: list[Sequence[int]], device: torch.device) -> torch.Tensor:
    """The ids [n, T]; nothing real comes after the padding, so it needs no mask."""
    width = max(map(len, rows))
    ids = [[*row, *[row[-1]] * (width - len(row))] for row in rows]
    return torch.tensor(ids, device=device)


@contextmanager
def _listening(loaded: LoadedModel, passes: int, share: Callable[[float], None]) -> Iterator[None]:
    """Within the block, `share` hears before every layer which part of so many passes is done."""
    layers = 0

    def hook(_: nn.Module, __: Any) -> None:
        nonlocal layers
        share(layers / (passes * loaded.depth))
        layers += 1

    with ExitStack() as handles:
        for layer in loaded.layers:
            handles.callback(layer.register_forward_pre_hook(hook).remove)
        yield
