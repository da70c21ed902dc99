"""What a measurement returns: numbers with their meaning, and what made them.

Each result is a frozen dataclass that checks itself on construction, knows its `kind`, and goes to
and from JSON; NaN and infinity stand as null there. A result never holds tensors or models.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from inspector.errors import ResultError
from inspector.jsonable import array, number, numbers, plain
from inspector.paired import Paired, paired

FORMAT = 1
"""Grows when a field of a saved result changes its meaning."""

STATUSES = ("exact", "lower_bound", "stale")
"""What a score in a trajectory is: measured on all windows under that step's mask, a lower bound of
it because the search broke off early, or carried over from an earlier step."""


def brief(weights: str) -> str:
    """`Provenance.weights` for people: of a hub's commit, the first twelve digits."""
    kind, _, digits = weights.partition(" ")
    return f"{kind} {digits[:12]}" if kind == "revision" else weights


@dataclass(frozen=True)
class Provenance:
    """What made a result: enough to repeat it and to tell two results apart.

    `source` is what was loaded, `weights` its revision or the hash of its file, `corpus` the text
    and how it was cut (see `measure.corpus.Windows.about`), `command` the command line that
    reproduces it, `seconds` the wall-clock time that it took.
    """

    source: str
    weights: str
    model_type: str
    dtype: str
    device: str
    depth: int
    corpus: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    command: str = ""
    created: str = ""
    seconds: float = math.nan
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read null as NaN."""
        object.__setattr__(self, "seconds", number(self.seconds))

    @property
    def about(self) -> str:
        """One line for a figure: model, weights, dtype, and the text that was used."""
        parts = [self.source, brief(self.weights), self.dtype]
        if self.corpus:
            cut = f"{self.corpus.get('windows')} x {self.corpus.get('length')} tokens"
            parts.append(f"{self.corpus.get('name')}, {cut}")
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True)
class Result:
    """What all results share. `mask` is the canonical text of the mask that was measured."""

    kind: ClassVar[str] = ""

    provenance: Provenance
    mask: str

    @property
    def depth(self) -> int:
        """The number of layers of the model."""
        return self.provenance.depth

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, with `kind` and `format` in front."""
        return {"kind": self.kind, "format": FORMAT, **plain(dataclasses.asdict(self))}

    def dumps(self) -> str:
        """The JSON as text, strictly valid (no NaN)."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False)

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "provenance": Provenance(**data["provenance"])})


@dataclass(frozen=True)
class Similarity(Result):
    """How alike the residual stream is at different depths, from one forward pass.

    `angular_last` and `angular_all` are [L+1, L+1]: entry (i, j), i < j, is the angular distance
    arccos(cos(x_i, x_j)) / pi in [0, 1] between the stream entering layer i and the stream entering
    layer j (j = L: leaving the last layer, before the final norm), averaged over samples of the
    last token, or over all tokens; NaN where i >= j. Lower means that layers i to j-1 are safer to
    remove together (UIDL, arXiv 2403.17887, equation 7, with n = j - i).

    `stream` is [2L+1, 2L+1]: mean cosine in [-1, 1] between the stream at unit boundaries x, x +
    attn, x + attn + ffn of every layer.

    `turn` maps unit text to 1 - mean cos(x, x + f), in [0, 2]; `growth` to the mean of |f| / |x|; x
    is the stream that the unit adds to, f what it adds, after any norm that follows it. Lower means
    more redundant.
    """

    kind: ClassVar[str] = "similarity"

    angular_last: np.ndarray
    angular_all: np.ndarray
    stream: np.ndarray
    turn: dict[str, float]
    growth: dict[str, float]

    def __post_init__(self) -> None:
        """Check the shapes."""
        for name, size in (
            ("angular_last", self.depth + 1),
            ("angular_all", self.depth + 1),
            ("stream", 2 * self.depth + 1),
        ):
            values = array(getattr(self, name))
            object.__setattr__(self, name, values)
            if values.shape != (size, size):
                raise ResultError(f"{name} has shape {values.shape}, not {(size, size)}.")
        object.__setattr__(self, "turn", numbers(self.turn))
        object.__setattr__(self, "growth", numbers(self.growth))

    def windows(self, *, tokens: str = "last") -> dict[int, tuple[int, float]]:
        """For every n, the start of the best window of n layers and its angular distance.

        `tokens` is `last` (as UIDL does) or `all`.
        """
        distance = self.angular_last if tokens == "last" else self.angular_all
        best = {}
        for n in range(1, self.depth + 1):
            diagonal = np.diagonal(distance, n)
            start = int(np.argmin(diagonal))
            best[n] = (start, float(diagonal[start]))
        return best


@dataclass(frozen=True)
class Scores(Result):
    """What muting each remaining unit would cost under `mask`: the "what next?" map.

    `scores` maps unit text to the cost in `metric` units; lower means safer to remove. For `nll` it
    is the mean NLL per predicted token in nats minus that under `mask` (`reference`), and may be
    negative; for kl, js (nats per token), angular (radians per token) and norm (Frobenius norm per
    window) it is the divergence of the logits from the untouched model's, and `reference` is that
    of `mask` itself. `windows_done` of `windows` text windows have been measured.
    """

    kind: ClassVar[str] = "scores"

    metric: str
    reference: float
    scores: dict[str, float]
    windows_done: int
    windows: int

    def __post_init__(self) -> None:
        """Read nulls as NaN."""
        object.__setattr__(self, "scores", numbers(self.scores))
        object.__setattr__(self, "reference", number(self.reference))

    @property
    def complete(self) -> bool:
        """Whether every window has been measured."""
        return self.windows_done == self.windows

    def ranking(self) -> list[str]:
        """Unit texts from the safest to remove to the dearest."""
        return sorted(self.scores, key=lambda unit: self.scores[unit])


@dataclass(frozen=True)
class Step:
    """One step of a trajectory; step 0 is the baseline, with nothing removed and no scores.

    `mask` is the text of all that is muted after the step, `scores` every candidate's score before
    it (unit text to number, lower = safer to remove) and `score_status` one of `STATUSES` each.
    Where whole layers go, each unit carries its layer's score; where windows of layers go, that of
    the window which begins with its layer. `restored` are units that the run had removed and
    brought back. `perplexity` is that of `mask` on the check text; `parameters` (tied weights once)
    and `kv_bytes_per_token` are what is left.
    """

    step: int
    mask: str
    removed: list[str]
    restored: list[str]
    scores: dict[str, float]
    score_status: dict[str, str]
    perplexity: float
    parameters: int
    kv_bytes_per_token: int
    seconds: float = math.nan

    def __post_init__(self) -> None:
        """Check the statuses, and that every score has one."""
        object.__setattr__(self, "scores", numbers(self.scores))
        object.__setattr__(self, "perplexity", number(self.perplexity))
        object.__setattr__(self, "seconds", number(self.seconds))
        unknown = set(self.score_status.values()) - set(STATUSES)
        if unknown or set(self.score_status) != set(self.scores):
            raise ResultError(f"step {self.step}: every score needs a status out of {STATUSES}.")


@dataclass(frozen=True)
class Trajectory(Result):
    """What a method removed, step by step. `mask` is the one that it started from.

    `check_corpus` describes the text of the recorded perplexities; it equals the search text
    (`provenance.corpus`) unless another was asked for, and figures say which. `finished` is False
    for a run that was cancelled or is still going on. `options` are those of `measure.pruning` that
    were not left at their defaults: only, protect, protect_first_until, as_published, and the seed
    of a method that draws at random.
    """

    kind: ClassVar[str] = "trajectory"

    method: str
    metric: str
    steps: list[Step]
    check_corpus: dict[str, Any] = field(default_factory=dict)
    finished: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        return super()._from_json({**data, "steps": [Step(**step) for step in data["steps"]]})

    @property
    def removed(self) -> list[str]:
        """Unit texts in the order of their removal."""
        return [unit for step in self.steps for unit in step.removed]

    @property
    def checked_on_search_text(self) -> bool:
        """Whether the recorded perplexities are on the very text that the search used."""
        return self.check_corpus == self.provenance.corpus


@dataclass(frozen=True)
class Perplexity(Result):
    """exp(`nll`), where `nll` is the total NLL in nats divided by the `tokens` predicted.

    Windows of `length` tokens start every `stride` tokens; each scores only what no earlier window
    has scored. `baseline` has perplexity, nll and tokens of the untouched model on the same text.
    """

    kind: ClassVar[str] = "perplexity"

    perplexity: float
    nll: float
    tokens: int
    length: int
    stride: int
    baseline: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read nulls as NaN."""
        for name in ("perplexity", "nll"):
            object.__setattr__(self, name, number(getattr(self, name)))
        object.__setattr__(self, "baseline", numbers(self.baseline))


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
    differ.
    """

    kind: ClassVar[str] = "benchmark"

    tasks: list[TaskScore]
    limit: int | None = None
    picks: dict[str, list[int]] = field(default_factory=dict)
    baseline_picks: dict[str, list[int]] = field(default_factory=dict)
    flips: list[Flip] = field(default_factory=list)

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


KINDS: dict[str, type[Result]] = {
    cls.kind: cls for cls in (Similarity, Scores, Trajectory, Perplexity, Benchmark, Generation)
}


def from_json(data: Any) -> Result:
    """The result that `to_json` wrote.

    Raises:
        ResultError: not a saved result, of a newer format, or damaged.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in KINDS:
        raise ResultError(f"not a saved result: its kind is none of {', '.join(KINDS)}.")
    if data.get("format") != FORMAT:
        raise ResultError(
            f"this result has format {data.get('format')}, this version reads {FORMAT}: "
            "open it with the version that wrote it."
        )
    fields = {name: value for name, value in data.items() if name not in ("kind", "format")}
    try:
        return KINDS[kind]._from_json(fields)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ResultError(f"this {kind} result is damaged: {error}.") from error


def load(path: str | Path) -> Result:
    """Read a result from a JSON file.

    Raises:
        ResultError: the file cannot be read, is not JSON, or holds no result.
    """
    try:
        return from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ResultError(f"{path} is not a JSON result: {error}.") from error


def save(result: Result, path: str | Path) -> None:
    """Write a result as JSON, whole or not at all (a temporary sibling is renamed)."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(result.dumps(), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}.") from error
