"""A cancel comes through at every progress call, and little work lies between any two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector import jobs
from inspector.jobs import Cancelled, Progress
from inspector.measure import continuations, scoring
from inspector.measure.benchmark import benchmark
from inspector.measure.generation import generate
from inspector.measure.perplexity import perplexity
from inspector.measure.sequential import until_decided
from inspector.measure.warm import Warm
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from tests import plain
from tests.measure.test_benchmark import (
    ITEMS,
    other_kinds,
    same_as_before,
    write_folder,
    write_items,
)

pytestmark = pytest.mark.usefixtures("one_thread")

MASK = "1.attn,2"
TOKENS = 32
"""What goes through a layer, or the head, between two calls at most, where it can be set."""

Work = Callable[[LoadedModel, Progress], Any]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("tiny:llama", dtype="fp32")


def measured(loaded: LoadedModel, progress: Progress) -> Any:
    """Overlapping windows, each longer than a piece of the head."""
    windows = plain.text(loaded, 3, 2 * TOKENS, stride=TOKENS)
    return perplexity(loaded, windows, loaded.mask(MASK), progress=progress)


def measured_plainly(loaded: LoadedModel, progress: Progress) -> Any:
    return measured(replace(loaded, not_replayable="a test says so"), progress)


def measured_warm(loaded: LoadedModel, progress: Progress) -> Any:
    windows = plain.text(loaded, 3, TOKENS)
    warm, mask = Warm(loaded, windows), loaded.mask(MASK)
    known = perplexity(loaded, windows, mask, warm=warm, progress=progress).untouched
    return perplexity(
        loaded, windows, loaded.mask("3"), baseline=known, warm=warm, progress=progress
    )


def written(loaded: LoadedModel, progress: Progress) -> Any:
    return generate(loaded, "once upon", loaded.mask(MASK), tokens=5, progress=progress)


def kinds(folder: Path) -> dict[str, Work]:
    """One piece of work for each way through the model, with what it needs in a folder."""
    items = write_items(folder / "mine.jsonl", ITEMS[3:])
    tasks = write_folder(folder / "tasks", *other_kinds(items)[:3])

    def asked(loaded: LoadedModel, progress: Progress) -> Any:
        return benchmark(loaded, [str(items)], loaded.mask(MASK), progress=progress)

    def other(loaded: LoadedModel, progress: Progress) -> Any:
        return benchmark(loaded, [str(tasks)], loaded.mask(MASK), limit=1, progress=progress)

    def decided(loaded: LoadedModel, progress: Progress) -> Any:
        return until_decided(loaded, [str(items)], loaded.mask(MASK), progress=progress)

    return {
        "perplexity": measured,
        "perplexity, plainly": measured_plainly,
        "perplexity, warm": measured_warm,
        "generation": written,
        "benchmark": asked,
        "other tasks": other,
        "until decided": decided,
    }


NAMES = (
    *("perplexity", "perplexity, plainly", "perplexity, warm", "generation"),
    *("benchmark", "other tasks", "until decided"),
)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are as small as the test's texts want them, and no call depends on the clock."""
    monkeypatch.setattr(jobs, "PATIENCE", 60)
    for module in (scoring, continuations):
        monkeypatch.setattr(module, "head_tokens", lambda _: TOKENS)
        monkeypatch.setattr(module, "layer_tokens", lambda _: TOKENS)
    monkeypatch.setattr(continuations, "_tokens", lambda _: TOKENS)


class Count:
    """A progress that counts its calls and cancels at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.calls, self.at = 0, at

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise Cancelled


def test_every_kind_of_work_is_named(tmp_path: Path) -> None:
    assert tuple(kinds(tmp_path)) == NAMES


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", NAMES)
def test_a_cancel_at_every_call_in_turn(loaded: LoadedModel, tmp_path: Path, name: str) -> None:
    work = kinds(tmp_path)[name]
    ids = loaded.tokenizer("the same forward pass", return_tensors="pt").input_ids
    before, whole = loaded.model(ids).logits, Count()
    work(loaded, whole)
    assert whole.calls > 2 * loaded.depth
    for at in range(1, whole.calls + 1, 5 if name in ("other tasks", "until decided") else 1):
        count = Count(at)
        with pytest.raises(Cancelled):
            work(loaded, count)
            pytest.fail(f"call {at} of {whole.calls} was not heard")
        assert count.calls == at
        assert same_as_before(loaded, ids, before)
        assert not any(layer._forward_pre_hooks for layer in loaded.layers)


class Between:
    """A progress that knows how many tokens went through any one kind of module since its call."""

    def __init__(self) -> None:
        self.layers = self.head = self.most_layers = self.most_head = 0

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        self.layers = self.head = 0

    @contextmanager
    def watching(self, loaded: LoadedModel) -> Iterator[None]:
        """Count what goes through the layers and through the output matrix."""

        def layer(module: Any, args: Any, kwargs: Any) -> None:
            if "forward" in module.__dict__:  # replaced, see `model.replay`: nothing is computed
                return
            rows = args[0] if args else kwargs["hidden_states"]
            self.layers += rows.shape[0] * rows.shape[1]
            self.most_layers = max(self.most_layers, self.layers)

        def head(_: Any, args: Any, out: torch.Tensor) -> None:
            if out.shape[-1] == loaded.model.config.vocab_size:  # not left out, as in `headless`
                self.head += out[..., 0].numel()
                self.most_head = max(self.most_head, self.head)

        output: Any = loaded.model.get_output_embeddings()
        with ExitStack() as handles:
            for each in loaded.layers:
                handle = each.register_forward_pre_hook(layer, with_kwargs=True)
                handles.callback(handle.remove)
            handles.callback(output.register_forward_hook(head).remove)
            yield


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", NAMES)
def test_between_two_calls_lies_a_layer_or_a_piece_of_the_head(
    loaded: LoadedModel, tmp_path: Path, name: str
) -> None:
    between = Between()
    with between.watching(loaded):
        kinds(tmp_path)[name](loaded, between)
    # A window that is longer than a piece goes through a layer whole; and a model that cannot be
    # run in pieces, a group of windows and all their logits.
    whole = {"perplexity": 2 * TOKENS, "perplexity, plainly": 4 * TOKENS, "other tasks": 512}
    head = 4 * TOKENS if name == "perplexity, plainly" else TOKENS
    assert 0 < between.most_layers <= whole.get(name, TOKENS)
    assert 0 < between.most_head <= head
