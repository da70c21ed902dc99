"""What a pruning run removed, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from inspector.errors import ResultError
from inspector.results.base import Result
from inspector.results.jsonable import number, numbers

STATUSES = ("exact", "lower_bound", "stale")
"""What a score in a trajectory is: measured on all windows under that step's mask, a lower bound of
it because the candidate was out before the end (its score is above that of what was removed), or
carried over from an earlier step (by a lazy search as `methods.lazily` says)."""


@dataclass(frozen=True)
class Step:
    """One step of a trajectory; step 0 is the baseline, with nothing removed and no scores.

    `mask` is the text of all that is muted after the step, `scores` every candidate's score before
    it (unit text to number, lower = safer to remove) and `score_status` one of `STATUSES` each.
    Where whole layers go, each unit carries its layer's score; where windows of layers go, that of
    the window which begins with its layer; where whole masks are searched, what the step removed
    carries its new mask's, on the windows on which that was chosen. `restored` are units that the
    run had removed and brought back. `perplexity` is that of `mask` on the check text; `parameters`
    (tied weights once) and `kv_bytes_per_token` are what is left. `layers` and `heads` say how many
    candidates' worth of the search text went through the layers, and through the head, for this
    step; NaN where a score does not take candidates one by one, or where it was not counted.
    `stream_bytes` is the most that candidates' streams took at once; 0 where none were held, or it
    was not counted. `weight_bytes` are those of the weights brought to the device for the step and
    its perplexity, in the model's dtype; 0 where they were there.
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
    layers: float = math.nan
    heads: float = math.nan
    stream_bytes: int = 0
    weight_bytes: int = 0

    def __post_init__(self) -> None:
        """Check the statuses, and that every score has one."""
        object.__setattr__(self, "scores", numbers(self.scores))
        for name in ("perplexity", "seconds", "layers", "heads"):
            object.__setattr__(self, name, number(getattr(self, name)))
        unknown = set(self.score_status.values()) - set(STATUSES)
        if unknown or set(self.score_status) != set(self.scores):
            raise ResultError(f"step {self.step}: every score needs a status out of {STATUSES}.")


@dataclass(frozen=True)
class Trajectory(Result):
    """What a method removed, step by step. `mask` is the one that it started from.

    `check_corpus` describes the text of the recorded perplexities; it equals the search text
    (`provenance.corpus`) unless another was asked for, and figures say which. `finished` is False
    for a run that was cancelled or is still going on. `options` are those of `measure.pruning` that
    were not left at their defaults: only, protect, protect_first_until, as_published,
    no_early_exit, lazy, the seed of a method that draws at random, and the numbers of an
    evolutionary search; `repeats` says where such a search drew no fresh text, because there was
    too little. `verified` says, of a lazy run that was to be checked, what an exact search removes
    at its last `step` (`removed`), and whether it is the `same`. `remark` is what has to be said of
    how the run ended, empty where nothing has.
    """

    kind: ClassVar[str] = "trajectory"

    method: str
    metric: str
    steps: list[Step]
    check_corpus: dict[str, Any] = field(default_factory=dict)
    finished: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    remark: str = ""

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        return super()._from_json({**data, "steps": [Step(**step) for step in data["steps"]]})

    @property
    def search(self) -> str:
        """The method; of a lazy search that it is an approximation, and what checking it said."""
        if not self.options.get("lazy"):
            return self.method
        checked = ""
        if self.verified:
            goes = "the same" if self.verified["same"] else ", ".join(self.verified["removed"])
            checked = f"; step {self.verified['step']} searched exactly removes {goes}"
        return f"{self.method}, lazy (an approximation{checked})"

    @property
    def stream_bytes(self) -> int:
        """The most that candidates' streams took at once, over all steps."""
        return max((step.stream_bytes for step in self.steps), default=0)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights brought to the device, over all steps."""
        return sum(step.weight_bytes for step in self.steps)

    @property
    def removed(self) -> list[str]:
        """Unit texts in the order of their removal."""
        return [unit for step in self.steps for unit in step.removed]

    @property
    def checked_on_search_text(self) -> bool:
        """Whether the recorded perplexities are on the very text that the search used."""
        return self.check_corpus == self.provenance.corpus
