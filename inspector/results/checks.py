"""What an edit costs, beside the untouched model: perplexity, benchmarks, generated text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from inspector.paired import Paired, paired
from inspector.results.base import Result
from inspector.results.jsonable import number, numbers


@dataclass(frozen=True)
class Untouched:
    """The untouched model on a text: its perplexity, nll and tokens, and each window's mean NLL."""

    summary: dict[str, float]
    each: list[float]


@dataclass(frozen=True)
class Perplexity(Result):
    """exp(`nll`), where `nll` is the total NLL in nats divided by the `tokens` predicted.

    Windows of `length` tokens start every `stride` tokens; each scores only what no earlier window
    has scored. `baseline` has perplexity, nll and tokens of the untouched model on the same text.
    `each` and `baseline_each` are the mean NLLs of the windows, one by one; empty where they are
    not known.
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

    def __post_init__(self) -> None:
        """Read nulls as NaN."""
        for name in ("perplexity", "nll"):
            object.__setattr__(self, name, number(getattr(self, name)))
        object.__setattr__(self, "baseline", numbers(self.baseline))
        for name in ("each", "baseline_each"):
            object.__setattr__(self, name, [number(value) for value in getattr(self, name)])

    @property
    def change(self) -> Paired | None:
        """The NLL under the mask minus the untouched model's, window by window.

        None where that is not known, or a window has no finite NLL. Windows count alike in it,
        which overlapping ones of other sizes do not in `nll`.
        """
        known = [*self.each, *self.baseline_each]
        return paired(self.each, self.baseline_each) if all(map(math.isfinite, known)) else None

    @property
    def untouched(self) -> Untouched:
        """What the untouched model's turn has given, to be a baseline again."""
        return Untouched(self.baseline, self.baseline_each)


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
class Benchmark(Result):
    """Scores of lm-eval tasks on the model under `mask`, beside the untouched model.

    `picks` maps a multiple-choice task to the index of the choice with the largest log-probability,
    item by item, and `baseline_picks` to the untouched model's; `flips` are the items where these
    differ. `stopped` says why a run that asks no more items than it needs has ended.
    """

    kind: ClassVar[str] = "benchmark"

    tasks: list[TaskScore]
    limit: int | None = None
    picks: dict[str, list[int]] = field(default_factory=dict)
    baseline_picks: dict[str, list[int]] = field(default_factory=dict)
    flips: list[Flip] = field(default_factory=list)
    stopped: str = ""

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
        return super()._from_json({**data, "tasks": tasks, "flips": flips})


@dataclass(frozen=True)
class Generation(Result):
    """The continuation of one prompt by the model under `mask` and by the untouched one.

    `baseline_text` is empty until the untouched model has had its turn; `tokens` and
    `baseline_tokens` count what each wrote, end-of-text excluded.
    """

    kind: ClassVar[str] = "generation"

    prompt: str
    text: str
    baseline_text: str
    tokens: int
    baseline_tokens: int
