"""lm-eval's model class around the live model: progress, cancel and quiet, and nothing cached."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from inspector.errors import TaskError
from inspector.jobs import Progress
from inspector.measure.continuations import log_probabilities
from inspector.measure.generation import Numbers
from inspector.model.loaded import LoadedModel
from inspector.model.replay import before_layers
from inspector.results.checks import Benchmark


@dataclass
class Meter:
    """Counts requests answered in one turn of `turns`, and reports; lets Cancelled pass.

    A row is not always a request: lm-eval cuts a long text into several rows. So a block of
    requests is spread evenly over the rows that it takes. `cut` has by task the items that lost
    their beginning, and how many tokens were left.
    """

    progress: Progress
    note: str
    turn: int
    turns: int
    partial: Benchmark | None = None
    requests: int = 0
    done: float = 0.0
    longest: int = 0
    per_row: float = field(default=1.0, init=False)
    cut: dict[str, tuple[set[int], int]] = field(default_factory=dict, init=False)

    def report(self) -> None:
        """Tell how far the turns are; raises Cancelled."""
        done = self.turn * self.requests + min(self.done, self.requests)
        whole = self.turns * self.requests
        if whole:
            self.progress(done, whole, self.note, self.partial)
        else:  # the requests are still being built
            self.progress(self.turn / self.turns, 1, self.note, self.partial)

    def shortened(self, request: Any, tokens: int) -> None:
        """A request did not fit: of its item the last so many tokens are left."""
        items, fewest = self.cut.get(request.task_name, (set(), tokens))
        self.cut[request.task_name] = (items | {request.doc_id}, min(fewest, tokens))

    @contextmanager
    def block(self, requests: int) -> Iterator[None]:
        """The rows reported within the block answer so many requests."""
        end = self.done + requests
        self.report()
        yield
        self.done = end
        self.report()

    @contextmanager
    def part(self) -> Iterator[Callable[[float, int], None]]:
        """Counts up from here: told how many rows are done by now, of how many tokens at most."""
        start = self.done

        def progress(rows: float, length: int) -> None:
            self.longest = max(self.longest, length)
            self.done = start + rows * self.per_row
            self.report()

        yield progress

    def rows(self, rows: int, length: int) -> None:
        """So many rows of so many tokens are about to go through the model."""
        self.longest = max(self.longest, length)
        self.report()
        self.done += rows * self.per_row


def harness(loaded: LoadedModel, batch: int, meter: Meter, built: Callable[[], int]) -> Any:
    """lm-eval's model class around the loaded model; `built` counts all requests once they are."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from transformers import LogitsProcessorList

    base: Any = HFLM

    class LiveModel(base):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            meter.requests = meter.requests or built()
            self.asked = requests  # what `_loglikelihood_tokens` gets as tokens, in this order
            with meter.block(len(requests)):
                return super().loglikelihood(requests)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            meter.requests = meter.requests or built()
            lengths = [
                len(self.tok_encode(request.args[0])) for request in _heard(requests, meter.report)
            ]
            windows = sum(max(1, math.ceil(length / self.max_length)) for length in lengths)
            meter.per_row = len(requests) / windows
            with meter.block(len(requests)):
                return super().loglikelihood_rolling(requests)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            meter.requests = meter.requests or built()
            meter.per_row = 1.0
            for request in _heard(requests, meter.report):
                self._measure_prompt(request)
            with meter.block(len(requests)):
                return super().generate_until(requests, disable_tqdm=True)

        def _measure_prompt(self, request: Any) -> None:
            """Refuse a prompt for which there is no room, and count one that lm-eval will cut."""
            text, settings = request.args
            full: Any = normalize_gen_kwargs(settings, self.max_gen_toks)
            new = full["max_gen_toks"]
            room = self.max_length - new
            if room < 1:
                raise TaskError(
                    f"{request.task_name} asks for {new} new tokens, and this model takes "
                    f"{self.max_length} with the prompt: choose a model with a longer window, or "
                    "another task."
                )
            if self.tok_batch_encode([text], truncation=self.truncation)[0].shape[1] > room:
                meter.shortened(request, room)

        def _loglikelihood_tokens(
            self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
        ) -> Any:
            window = self.max_length
            for (_, text), _, continuation in (each for each in requests if each[0]):
                _require_scorable(text, len(continuation), window)
            if override_bs is None:  # a list of its own, not a batch of somebody's windows
                meter.per_row = 1.0
                for request, (_, context, end) in zip(self.asked, requests, strict=True):
                    if len(context) + len(end) > window + 1:  # the last one is only predicted
                        meter.shortened(request, window)
            pairs = [_cut(context, end, window) for _, context, end in requests]
            with meter.part() as progress:
                return log_probabilities(loaded, pairs, progress=progress)

        def _model_generate(
            self, context: Any, max_length: int, stop: list[str], **kwargs: Any
        ) -> Any:
            meter.rows(len(context), max_length)
            kwargs["logits_processor"] = LogitsProcessorList([Numbers()])
            with before_layers(loaded, lambda _: meter.report()):
                return super()._model_generate(context, max_length, stop, **kwargs)

    # A copy of the tokenizer: lm-eval gives it a padding token and pads on its left.
    return LiveModel(loaded.model, tokenizer=copy.deepcopy(loaded.tokenizer), batch_size=batch)


def _cut(context: list[int], end: list[int], window: int) -> tuple[list[int], list[int]]:
    """The pair without what the window cannot hold, cut from the left as lm-eval cuts it."""
    return (context + end)[-(window + 1) : -len(end)], end


def _require_scorable(text: str, tokens: int, window: int) -> None:
    if not tokens:
        raise TaskError(
            f"the choice {text[:40]!r} has no token of its own after its question with this "
            "model's tokenizer: change the task."
        )
    if tokens > window:
        raise TaskError(
            f"the choice {text[:40]!r} has {tokens} tokens and this model takes {window}: shorten "
            "it, or choose a model with a longer window."
        )


def import_lm_eval() -> None:
    """Import it, which takes seconds the first time."""
    import lm_eval.evaluator
    import lm_eval.models.huggingface  # noqa: F401


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's log and bars, and those of the libraries under it, off the terminal."""
    from datasets.utils import logging as datasets_log

    log = logging.getLogger("lm_eval")
    with ExitStack() as restore:
        restore.enter_context(listening(lambda: None, ()))
        restore.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL)
        if datasets_log.is_progress_bar_enabled():
            restore.callback(datasets_log.enable_progress_bar)
            datasets_log.disable_progress_bar()
        yield


@contextmanager
def listening(tick: Callable[[], None], tasks: Iterable[Any]) -> Iterator[None]:
    """Call `tick` for every item that lm-eval prepares or scores, and for every bootstrap draw.

    Its bars show nothing and its work stays in this process: its bootstrap would fork a process a
    core, which a process with a CUDA context must not do, and print on standard output, which the
    command line keeps for results.
    """
    import lm_eval.api.metrics
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def __iter__(self) -> Iterator[Any]:
            yield from _heard(self.iterable or (), tick)

    def bootstrap(metric: Callable[..., float], values: Any, iters: int) -> float:
        def one(draw: Any) -> float:
            tick()
            return metric(draw)

        internal = lm_eval.api.metrics._bootstrap_internal(one, iters)
        return lm_eval.api.metrics.sample_stddev(internal((0, values)))

    def items(docs: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: _heard(docs(*args, **kwargs), tick)

    with ExitStack() as restore:
        for module in (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface):
            restore.enter_context(_patched(module, "tqdm", Bar))
        restore.enter_context(_patched(lm_eval.api.metrics, "bootstrap_stderr", bootstrap))
        for task in tasks:
            restore.enter_context(_patched(task, "doc_iterator", items(task.doc_iterator)))
        yield


def _heard(found: Iterable[Any], tick: Callable[[], None]) -> Iterator[Any]:
    for each in found:
        tick()
        yield each


@contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
