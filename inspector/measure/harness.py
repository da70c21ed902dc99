"""lm-eval's model class around the live model: progress, cancel and quiet, and nothing cached."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from inspector.errors import TaskError
from inspector.jobs import Progress
from inspector.measure.continuations import log_probabilities
from inspector.model.loaded import LoadedModel
from inspector.results.checks import Benchmark


@dataclass
class Meter:
    """Counts requests answered in one turn of `turns`, and reports; lets Cancelled pass.

    A row is not always a request: lm-eval cuts a long text into several rows. So a block of
    requests is spread evenly over the rows that it takes.
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

    def report(self) -> None:
        """Tell how far the turns are; raises Cancelled."""
        done = self.turn * self.requests + min(self.done, self.requests)
        self.progress(done, self.turns * self.requests, self.note, self.partial)

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

    base: Any = HFLM

    class LiveModel(base):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            meter.requests = meter.requests or built()
            with meter.block(len(requests)):
                return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            meter.requests = meter.requests or built()
            lengths = [len(self.tok_encode(request.args[0])) for request in requests]
            windows = sum(max(1, math.ceil(length / self.max_length)) for length in lengths)
            meter.per_row = len(requests) / windows
            with meter.block(len(requests)):
                return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            meter.requests = meter.requests or built()
            meter.per_row = 1.0
            with meter.block(len(requests)):
                return super().generate_until(requests, disable_tqdm=True)

        def _loglikelihood_tokens(
            self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
        ) -> Any:
            for (_, text), _, continuation in (each for each in requests if each[0]):
                _require_scorable(text, len(continuation), self.max_length)
            if override_bs is None:  # a list of its own, not a batch of somebody's windows
                meter.per_row = 1.0
            pairs = [_cut(context, end, self.max_length) for _, context, end in requests]
            with meter.part() as progress:
                return log_probabilities(loaded, pairs, progress=progress)

        def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
            meter.rows(*inps.shape)
            return super()._model_call(inps, attn_mask, labels)

        def _model_generate(
            self, context: Any, max_length: int, stop: list[str], **kwargs: Any
        ) -> Any:
            meter.rows(len(context), max_length)
            if kwargs.get("num_beams", 1) == 1:  # transformers streams no beams
                kwargs["streamer"] = _Listener(meter.report)
            return super()._model_generate(context, max_length, stop, **kwargs)

    # A copy of the tokenizer: lm-eval gives it a padding token and pads on its left.
    return LiveModel(loaded.model, tokenizer=copy.deepcopy(loaded.tokenizer), batch_size=batch)


@dataclass
class _Listener:
    """A transformers streamer that only notices that a token has come, so as to cancel."""

    heard: Callable[[], None]

    def put(self, value: Any) -> None:
        """A token of every row of the batch."""
        self.heard()

    def end(self) -> None:
        """Nothing is held back."""


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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's log, bars and prints off the terminal, and its work in this process.

    Its bootstrap would fork a process a core, which a process with a CUDA context must not do, and
    print on standard output, which the command line keeps for results.
    """
    import lm_eval.api.metrics
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface
    from datasets.utils import logging as datasets_log

    log = logging.getLogger("lm_eval")
    with ExitStack() as restore:
        for module in (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface):
            restore.enter_context(_patched(module, "tqdm", _no_bar))
        restore.enter_context(_patched(lm_eval.api.metrics, "bootstrap_stderr", _bootstrap))
        restore.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL)
        if datasets_log.is_progress_bar_enabled():
            restore.callback(datasets_log.enable_progress_bar)
            datasets_log.disable_progress_bar()
        yield


@contextmanager
def _patched(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _no_bar(*args: Any, **kwargs: Any) -> Any:
    from tqdm import tqdm

    return tqdm(*args, **{**kwargs, "disable": True})


def _bootstrap(metric: Callable[..., float], values: Any, iters: int) -> float:
    from lm_eval.api.metrics import _bootstrap_internal, sample_stddev

    return sample_stddev(_bootstrap_internal(metric, iters)((0, values)))
