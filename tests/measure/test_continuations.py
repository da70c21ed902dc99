"""Continuations with what they share computed once equal lm-eval's own scorer, pair by pair."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

from inspector.errors import ResultError
from inspector.jobs import Cancelled
from inspector.measure import continuations
from inspector.measure.continuations import Answer, Pair, log_probabilities
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import muted, replaced
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

MASKS = ("", "0.attn", "1.attn,2", "0-3.attn")


@pytest.fixture(scope="module", params=plain.TYPES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return plain.tiny(request.param)


def silence(done: float, longest: int) -> None:
    """A progress that nobody hears."""


def some_pairs(loaded: LoadedModel) -> list[Pair]:
    """Contexts of 1 to 50 tokens, beyond a sliding window of 16, with 1 to 5 continuations each.

    Some continuations begin alike, some are one token long, and one is the beginning of another.
    """
    tokens = iter(plain.random_ids(loaded, 1, 4000)[0].tolist())

    def take(count: int) -> list[int]:
        return list(itertools.islice(tokens, count))

    pairs: list[Pair] = []
    for at in range(10):
        context, common = take(1 + (at * 7) % 50), take(at % 4)
        pairs += [(context, common + take(1 + (end * 3 + at) % 9)) for end in range(1 + at % 5)]
    context, longer = take(5), take(6)
    return [*pairs, (context, longer), (context, longer[:2]), (take(3), take(1))]


def theirs(loaded: LoadedModel, pairs: list[Pair]) -> list[Answer]:
    """lm-eval's own: every pair a row of its own, without a cache."""
    from lm_eval.models.huggingface import HFLM

    kind: Any = HFLM
    tokenizer = copy.deepcopy(loaded.tokenizer)
    model = kind(pretrained=loaded.model, tokenizer=tokenizer, batch_size=1)
    requests = [(None, list(context), list(end)) for context, end in pairs]
    return model._loglikelihood_tokens(requests, disable_tqdm=True)


@pytest.mark.parametrize("mask", MASKS)
def test_every_family_equals_lm_eval(family: LoadedModel, mask: str) -> None:
    assert family.takes_branches
    pairs = some_pairs(family)
    with muted(family, family.mask(mask)):
        ours = log_probabilities(family, pairs, progress=silence)
        expected = theirs(family, pairs)
    for one, other in zip(ours, expected, strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
        assert one[1] == other[1]
    assert len({round(value, 3) for value, _ in ours}) > len(pairs) / 2


def test_greedy_is_told_from_not() -> None:
    loaded = plain.tiny("llama")
    context = plain.random_ids(loaded, 1, 9)[0].tolist()
    written = list(context)
    for _ in range(4):
        logits = loaded.model(torch.tensor([written])).logits
        written.append(int(logits[0, -1].argmax()))
    greedy, other = written[9:], [*written[9:12], 5]
    assert greedy != other
    answers = log_probabilities(loaded, [(context, greedy), (context, other)], progress=silence)
    assert [best for _, best in answers] == [True, False]
    assert answers[0][0] > answers[1][0]


@pytest.mark.parametrize("tokens", [1, 30, 200])
def test_however_it_is_cut_up(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    loaded = plain.tiny("gemma2")  # sliding layers, and a head that is capped
    pairs = some_pairs(loaded)
    whole = log_probabilities(loaded, pairs, progress=silence)
    monkeypatch.setattr(continuations, "_tokens", lambda _: tokens)
    rows = []
    cut = log_probabilities(loaded, pairs, progress=lambda done, longest: rows.append(done))
    assert [value for value, _ in cut] == pytest.approx([value for value, _ in whole], abs=1e-4)
    assert rows == sorted(rows) and rows[0] == 0 and rows[-1] < len(pairs)
    assert len(set(rows)) > 2 * loaded.depth


def test_what_is_shared_is_computed_once() -> None:
    loaded = plain.tiny("llama")
    tokens = plain.random_ids(loaded, 1, 60)[0].tolist()
    context, common = tokens[:40], tokens[40:43]
    pairs = [(context, [*common, *tokens[43 + at : 46 + at]]) for at in (0, 3, 6, 9)]
    seen = []
    hook = loaded.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    log_probabilities(loaded, pairs, progress=silence)
    hook.remove()
    # The trunk once, and what is left of each but its last token, which is only predicted.
    assert [tuple(each.shape[:2]) for each in seen] == [(1, 43 + 4 * 2)]


def test_without_branches_every_pair_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = copy.copy(plain.tiny("gemma2"))
    pairs = some_pairs(loaded)
    shared = log_probabilities(loaded, pairs, progress=silence)
    monkeypatch.setattr(continuations, "ROW_TOKENS", 60)
    split = log_probabilities(loaded, pairs, progress=silence)
    loaded.takes_branches = False
    widths = []
    alone = log_probabilities(loaded, pairs, progress=lambda _, longest: widths.append(longest))
    assert max(widths) == max(len(context) + len(end) - 1 for context, end in pairs)
    for other in (split, alone):
        assert [best for _, best in other] == [best for _, best in shared]
        assert [value for value, _ in other] == pytest.approx(
            [value for value, _ in shared], abs=1e-4
        )


def test_a_cancel_comes_through_between_two_layers() -> None:
    loaded = plain.tiny("llama")
    heard = 0

    def cancel(done: float, longest: int) -> None:
        nonlocal heard
        heard += 1
        if heard == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        log_probabilities(loaded, some_pairs(loaded), progress=cancel)
    assert heard == 3
    assert not any(layer._forward_pre_hooks for layer in loaded.layers)
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


def test_what_is_no_number_is_no_answer() -> None:
    loaded = plain.tiny("llama")
    output: Any = loaded.model.get_output_embeddings()
    with (
        replaced(output, lambda rows: torch.full((*rows.shape[:2], 300), torch.nan)),
        pytest.raises(ResultError, match=r"logits are not numbers \(NaN\).*try another mask"),
    ):
        log_probabilities(loaded, some_pairs(loaded), progress=silence)
