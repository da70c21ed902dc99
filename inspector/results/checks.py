"""What an edit costs, beside the untouched model: perplexity, benchmarks, speed, generated text."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from inspector.errors import ResultError
from inspector.paired import Paired, paired
from inspector.results.base import Result
from inspector.results.jsonable import number, numbers

BUCKETS = 16
"""Into how many parts the positions of a window are divided at most."""

NO_NUMBER = (
    "The model's logits are not numbers (NaN), so it has no perplexity: try another mask, or fp32."
)
"""What is said of a `Perplexity` with `no_number`."""


def buckets(length: int) -> list[range]:
    """The positions of a window that are predicted, 1 to `length` - 1, in parts of equal size.

    A position is the number of tokens before it, from 0. The last part may be shorter.
    """
    size = max(1, math.ceil((length - 1) / BUCKETS))
    return [range(at, min(at + size, length)) for at in range(1, length, size)]


def span(places: range) -> str:
    """``1-32``, or ``1``."""
    return str(places[0]) if len(places) == 1 else f"{places[0]}-{places[-1]}"


@dataclass(frozen=True)
class Untouched:
    """The untouched model on a text: its perplexity, nll and tokens, and its mean NLLs.

    `each` has them window by window, `by_position` for each of the `buckets` of positions.
    """

    summary: dict[str, float]
    each: list[float]
    by_position: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Perplexity(Result):
    """exp(`nll`), where `nll` is the total NLL in nats divided by the `tokens` predicted.

    Windows of `length` tokens start every `stride` tokens; each scores only what no earlier window
    has scored. `baseline` has perplexity, nll and tokens of the untouched model on the same text.
    `each` and `baseline_each` are the mean NLLs of the windows, one by one; empty where they are
    not known. So are `by_position` and `baseline_by_position` for the `buckets` of positions in a
    window, over `position_tokens` predicted tokens each.
    """

    kind: ClassVar[str] = "perplexity"

    perplexity: float
    nll: float
    tokens: int
    length: int
    stride: int
    baseline: dict[str, float] = field(default_factory=dict)
    each: list[float] = field(default_factory=list)
    baseline_each: list[float] = field(default_factory=list)
    by_position: list[float] = field(default_factory=list)
    baseline_by_position: list[float] = field(default_factory=list)
    position_tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read nulls as NaN; refuse NLLs of other positions than the windows have."""
        for name in ("perplexity", "nll"):
            object.__setattr__(self, name, number(getattr(self, name)))
        object.__setattr__(self, "baseline", numbers(self.baseline))
        for name in ("each", "baseline_each", "by_position", "baseline_by_position"):
            object.__setattr__(self, name, [number(value) for value in getattr(self, name)])
        if len(self.by_position) not in (0, len(buckets(self.length))):
            raise ResultError(
                f"windows of {self.length} tokens have {len(buckets(self.length))} parts, not "
                f"{len(self.by_position)}."
            )
        for name in ("baseline_by_position", "position_tokens"):
            if len(getattr(self, name)) != len(self.by_position):
                raise ResultError(f"{name} must have as many entries as by_position.")

    @property
    def change(self) -> Paired | None:
        """The NLL under the mask minus the untouched model's, window by window.

        None where that is not known, or a window has no finite NLL. Windows count alike in it,
        which overlapping ones of other sizes do not in `nll`.
        """
        known = [*self.each, *self.baseline_each]
        return paired(self.each, self.baseline_each) if all(map(math.isfinite, known)) else None

    @property
    def no_number(self) -> bool:
        """Whether the logits were no numbers (NaN): then there is no loss either."""
        return math.isnan(self.nll)

    @property
    def untouched(self) -> Untouched:
        """What the untouched model's turn has given, to be a baseline again."""
        return Untouched(self.baseline, self.baseline_each, self.baseline_by_position)


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task: a mean over `items` in [0, 1] and its standard error.

    `baseline` and `baseline_stderr` are the untouched model's on the same items. `each` and
    `baseline_each` are the scores item by item, in one order; empty where the metric is no mean of
    such (a perplexity), or where there is no baseline yet.
    """

    task: str
    metric: str
    value: float
    stderr: float
    items: int
    baseline: float = math.nan
    baseline_stderr: float = math.nan
    each: list[float] = field(default_factory=list)
    baseline_each: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read nulls as NaN."""
        for name in ("value", "stderr", "baseline", "baseline_stderr"):
            object.__setattr__(self, name, number(getattr(self, name)))

    @property
    def change(self) -> Paired | None:
        """This mask against the untouched model, item by item; None where that is not known."""
        return paired(self.each, self.baseline_each)


@dataclass(frozen=True)
class Flip:
    """An item of a task that the two models answer otherwise.

    `gold`, `here` and `untouched` are indices of `choices`: the right answer, the one under the
    mask, and the untouched model's; `item` is the item's place in the task.
    """

    task: str
    item: int
    question: str
    choices: list[str]
    gold: int
    here: int
    untouched: int


@dataclass(frozen=True)
class Cut:
    """How many of the items `of` a task did not fit the model, and lost their beginning.

    Of the longest ones, the last `tokens` were left.
    """

    task: str
    items: int
    of: int
    tokens: int

    @property
    def sentence(self) -> str:
        """``3 of 200 items of own were cut to the last 2048 tokens``."""
        were = "was" if self.items == 1 else "were"
        return (
            f"{self.items} of {self.of} items of {self.task} {were} cut to the last {self.tokens} "
            "tokens"
        )


@dataclass(frozen=True)
class Benchmark(Result):
    """Scores of lm-eval tasks on the model under `mask`, beside the untouched model.

    `picks` maps a multiple-choice task to the index of the choice with the largest log-probability,
    item by item, and `baseline_picks` to the untouched model's; `flips` are the items where these
    differ. `stopped` says why a run that asks no more items than it needs has ended. `cut` counts
    the items that were too long, for tasks that have such. `baseline_from` is when the untouched
    model's scores were measured (ISO 8601), where that was an earlier run; else empty.
    """

    kind: ClassVar[str] = "benchmark"

    tasks: list[TaskScore]
    limit: int | None = None
    picks: dict[str, list[int]] = field(default_factory=dict)
    baseline_picks: dict[str, list[int]] = field(default_factory=dict)
    flips: list[Flip] = field(default_factory=list)
    stopped: str = ""
    cut: list[Cut] = field(default_factory=list)
    baseline_from: str = ""

    @property
    def remarks(self) -> list[str]:
        """Sentences on what the scores rest on, without full stops; each may have a task's name."""
        day, _, clock = self.baseline_from.partition("T")
        when = f"the untouched model was measured in an earlier run, on {day} at {clock[:5]} UTC"
        found = [self.stopped, *(each.sentence for each in self.cut), when if day else ""]
        return [each for each in found if each]

    def untouched(self) -> Benchmark:
        """The untouched model's own result on the same items, to be a baseline again."""
        tasks = [
            replace(
                row, value=row.baseline, stderr=row.baseline_stderr, each=list(row.baseline_each)
            )
            for row in self.tasks
        ]
        return replace(self, mask="", tasks=tasks, picks=self.baseline_picks, flips=[])

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        tasks = [TaskScore(**task) for task in data["tasks"]]
        flips = [Flip(**flip) for flip in data.get("flips", [])]
        cut = [Cut(**each) for each in data.get("cut", [])]
        return super()._from_json({**data, "tasks": tasks, "flips": flips, "cut": cut})


@dataclass(frozen=True)
class SpeedRun:
    """One run of a prompt and of the tokens after it, as measured.

    `prefill` is in prompt tokens a second, `decode` in milliseconds a step, of which each sequence
    of the batch gets one token. `memory` is the peak in bytes above what was in use before the run
    (the weights, for the most part); NaN where it cannot be measured.
    """

    prefill: float
    decode: float
    memory: float = math.nan

    def __post_init__(self) -> None:
        """Read nulls as NaN."""
        for name in ("prefill", "decode", "memory"):
            object.__setattr__(self, name, number(getattr(self, name)))


@dataclass(frozen=True)
class Spread:
    """The median of a quantity over the runs, its least and its greatest value; NaN for none."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """NaN also where a run could not measure it."""
        if not values or not all(map(math.isfinite, values)):
            return cls(math.nan, math.nan, math.nan)
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Speed(Result):
    """What a forward pass really takes under `mask` and in the untouched model, run by run.

    A prompt of `prompt_length` tokens, then `new_tokens` steps of one token, `batch` sequences at
    once. `runs[i]` and `baseline_runs[i]` are the two of round i; `rounds` were asked for, and
    fewer are there where the measurement was stopped.

    `kv_measured` is what the cache held after the prompt, in bytes over the tokens of the prompt;
    `kv_computed` is the arithmetic of the units that are on, in bytes a token without any window.
    """

    kind: ClassVar[str] = "speed"

    prompt_length: int
    new_tokens: int
    batch: int
    rounds: int
    runs: list[SpeedRun]
    baseline_runs: list[SpeedRun]
    kv_measured: float = math.nan
    baseline_kv_measured: float = math.nan
    kv_computed: int = 0
    baseline_kv_computed: int = 0

    def __post_init__(self) -> None:
        """Read nulls as NaN; refuse runs that do not pair up."""
        if len(self.runs) != len(self.baseline_runs):
            raise ResultError("a speed needs as many runs of the untouched model as of the mask.")
        for name in ("kv_measured", "baseline_kv_measured"):
            object.__setattr__(self, name, number(getattr(self, name)))

    def here(self, quantity: str) -> Spread:
        """`prefill`, `decode` or `memory` under the mask."""
        return Spread.of([getattr(run, quantity) for run in self.runs])

    def untouched(self, quantity: str) -> Spread:
        """The same of the untouched model."""
        return Spread.of([getattr(run, quantity) for run in self.baseline_runs])

    def ratio(self, quantity: str) -> Spread:
        """The mask's over the untouched model's, round by round."""
        pairs = zip(self.runs, self.baseline_runs, strict=True)
        both = [(getattr(one, quantity), getattr(other, quantity)) for one, other in pairs]
        return Spread.of([one / other if other else math.nan for one, other in both])

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        runs = {name: [SpeedRun(**run) for run in data[name]] for name in ("runs", "baseline_runs")}
        return super()._from_json({**data, **runs})


@dataclass(frozen=True)
class Continuation:
    """What the model under the mask and the untouched one wrote after one prompt.

    `baseline_text` is empty until the untouched model has had its turn; `tokens` and
    `baseline_tokens` count what each wrote, end-of-text excluded. `parted` is the index, from 0, of
    the first new token in which the two differ (an end of the text counts as one); None where they
    do not, or where that is not known. `shared` is how many characters both begin with that come
    from the tokens before it.
    """

    prompt: str
    text: str
    baseline_text: str
    tokens: int
    baseline_tokens: int
    parted: int | None = None
    shared: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no text, and a common beginning that is none."""
        texts = (self.prompt, self.text, self.baseline_text)
        if not all(isinstance(each, str) for each in texts):
            raise ResultError("a continuation needs a prompt and two texts.")
        if self.text[: self.shared] != self.baseline_text[: self.shared]:
            raise ResultError("the two texts of a continuation do not begin alike.")

    @property
    def same(self) -> bool:
        """Whether both models wrote the same."""
        mine, theirs = (self.text, self.tokens), (self.baseline_text, self.baseline_tokens)
        return self.parted is None and mine == theirs


@dataclass(frozen=True)
class Generation(Result):
    """What the model under `mask` and the untouched one write after each of some prompts.

    Each token is the most likely one where `temperature` is None; otherwise it is drawn with that
    temperature from the likeliest tokens that together have the probability `top_p`, after `seed`,
    the same for both models and for every prompt.
    """

    kind: ClassVar[str] = "generation"

    continuations: list[Continuation]
    temperature: float | None = None
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        if "continuations" not in data:  # of a time with one prompt a result
            one = {name: value for name, value in data.items() if name in _ONE_PROMPT}
            data = {name: value for name, value in data.items() if name not in _ONE_PROMPT}
            data["continuations"] = [one]
        rows = [Continuation(**row) for row in data["continuations"]]
        return super()._from_json({**data, "continuations": rows})


_ONE_PROMPT = ("prompt", "text", "baseline_text", "tokens", "baseline_tokens")
