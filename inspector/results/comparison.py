"""Several pruning runs of one model in numbers: lines, bands of random runs, where they agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from inspector.errors import ResultError
from inspector.results.base import Result, brief
from inspector.results.lines import Band, Line, bands
from inspector.results.measures import CHECKS, OWN, Measure, chosen, measures
from inspector.results.remarks import RANDOM, checked, different_texts, random_command, seed_of
from inspector.results.trajectory import Step, Trajectory
from inspector.units import KINDS, Mask

SEARCHED = ("evopress", "evopress-layer")
"""Methods whose steps are masks of one size, each chosen over the one before."""

MODEL = ("source", "weights", "dtype", "depth")
"""The fields of a provenance that tell one model from another."""


STANDING = ("step", "removed, %", "units off", "KV left, B/token", "perplexity", "muted")
"""What is said of each run at equal parameters."""

NO_BAND = (
    "No band of random removals stands beside these runs: run this, once more with another "
    "--method-seed and -o, and compare again with both files."
)
"""What is said where there is a command for one (`Comparison.reference`)."""


@dataclass(frozen=True)
class Agreement:
    """What the runs have off once each has removed the share `at` of the parameters.

    Of each run, taken at its first step at or above `at`, of a search at its last: its label, the
    step, the share removed in %, the number of units that are `off` and the KV bytes per token that
    are left, the perplexity, the value that the runs are compared by and the mask's text. `units`
    are the units that any of the runs at the places `counted` has off with the number of them that
    have, the most first: chance is no opinion, so random runs count only where there are no others.
    `overlap` is [runs, runs], random ones included: the Jaccard index of two masks in [0, 1],
    shared units over units of either; NaN where both are empty.
    """

    at: Fraction
    depth: int
    labels: list[str]
    steps: list[int]
    removed: list[float]
    off: list[int]
    kv_bytes: list[int]
    perplexity: list[float]
    values: list[float]
    masks: list[str]
    counted: list[int]
    units: list[tuple[str, int]]
    overlap: np.ndarray

    def standing(self, number: Callable[[float], str], own: bool = True) -> list[list[str]]:
        """The cells of `Comparison.standing`, a row a run; `number` puts a value into words."""
        whole = self.depth * len(KINDS)
        numbers = [[number(value) for value in self.perplexity]]
        numbers += [] if own else [[number(value) for value in self.values]]
        columns = (self.steps, self.removed, self.off, self.kv_bytes, self.masks, *numbers)
        return [
            [str(step), f"{gone:.2f}", f"{off} of {whole}", f"{kv:,}", *values, mask or "-"]
            for step, gone, off, kv, mask, *values in zip(*columns, strict=True)
        ]

    def agreeing(self, names: Sequence[str]) -> str:
        """What the table of `by_count` is to be headed with; `names` are the runs' in their order.

        It says which runs count where not all do.
        """
        title = "Units on which the runs agree"
        if len(self.counted) == len(names):
            return title
        return f"{title} ({', '.join(names[n] for n in self.counted)}; random runs do not count)"

    @property
    def by_count(self) -> list[tuple[int, int, str]]:
        """How many runs, how many units just so many have off, and these as a mask's text."""
        groups: dict[int, list[str]] = {}
        for unit, count in self.units:
            groups.setdefault(count, []).append(unit)
        return [
            (count, len(units), str(Mask.of(self.depth, units))) for count, units in groups.items()
        ]


@dataclass(frozen=True)
class Comparison:
    """Runs of one model beside each other.

    `by` is what they are compared by, one of `choices`, and `higher` whether more of it is better.
    `about` is the model, `text` the description of the check text (empty where no run has a
    perplexity), `of` what the shares are shares of. `warning` is a sentence where the runs did not
    search on one text, else empty. `reference` is the command that makes a random run for these to
    be measured against, empty where there is a band of them, or nothing to tell it by.
    """

    about: str
    text: dict[str, Any]
    of: str
    lines: list[Line]
    bands: list[Band]
    agreement: Agreement
    by: str = OWN
    higher: bool = False
    choices: tuple[str, ...] = (OWN,)
    warning: str = ""
    reference: str = ""

    @property
    def own(self) -> bool:
        """Whether it is by the perplexities that the runs bring along."""
        return self.by == OWN

    @property
    def standing(self) -> tuple[str, ...]:
        """The heads of the cells of `Agreement.standing`."""
        return STANDING if self.own else (*STANDING[:-1], self.by, STANDING[-1])


def compare(results: Sequence[Result], *, at: Fraction | None = None, by: str = "") -> Comparison:
    """The runs in numbers; random runs with several seeds become a band.

    `results` are trajectories and, besides, checks of masks of their steps; `by` says by what the
    runs are compared (`measures.chosen`). `at` is a share of the parameters in (0, 1], by default
    the largest that all runs reach. The agreement is that of the runs that are no part of a band,
    or of all where these are not two; random runs do not count in its units where there are others.

    Raises:
        ResultError: fewer than two runs, results of different models, runs with different check
            texts, a run that does not reach `at`, or nothing that is called `by`.
    """
    runs = [each for each in results if isinstance(each, Trajectory)]
    known = measures([each for each in results if not isinstance(each, Trajectory)])
    _require_alike(runs, results)
    measure = chosen(known, by)
    whole, of = _whole(runs)
    labels = _labels(runs)
    pairs = zip(runs, labels, strict=True)
    lines = [_line(run, label, whole, measure) for run, label in pairs]
    known_at_all = any(math.isfinite(value) for line in lines for value in line.values)
    if measure is not None and not known_at_all:
        raise ResultError(
            f"no step of these runs has a mask of which {measure.name} was measured: check the "
            "masks of their steps, of the same model, and add the saved results."
        )
    higher = measure is not None and measure.higher
    drawn, alone = bands(runs, lines, higher)
    several = alone if len(alone) > 1 else list(range(len(runs)))
    agreement = _agreement([runs[i] for i in several], [lines[i] for i in several], whole, at)
    made = runs[0].provenance
    furthest = max(share for line in lines for share in line.removed)
    return Comparison(
        about=" · ".join(part for part in (made.source, brief(made.weights), made.dtype) if part),
        text=next((run.check_corpus for run in runs if checked(run)), {}),
        of=of,
        lines=[lines[i] for i in alone],
        bands=drawn,
        agreement=agreement,
        by=OWN if measure is None else measure.name,
        higher=higher,
        choices=(OWN, *known),
        warning=different_texts(runs, labels),
        reference="" if drawn else random_command(runs, furthest),
    )


def comparable(result: Result, name: str) -> Result:
    """The result of that name, if `compare` takes it.

    Raises:
        ResultError: it is neither a run nor a check.
    """
    if result.kind not in (Trajectory.kind, *CHECKS):
        raise ResultError(
            f"{name} is no pruning run and no check of a mask but a {result.kind}: leave it out."
        )
    return result


def fits(check: Result, runs: Sequence[Trajectory]) -> bool:
    """Whether it is of the first run's model, and of the mask of a step of any of the runs."""
    if not runs or _apart(check, runs[0]):
        return False
    return any(step.mask == check.mask for run in runs for step in run.steps)


def _apart(one: Result, other: Result) -> str:
    """The first field of `MODEL` in which two results' models differ; empty for one model."""
    for field in MODEL:
        if getattr(one.provenance, field) != getattr(other.provenance, field):
            return field
    return ""


def overlap(mask: str, other: str, depth: int) -> float:
    """The Jaccard index of two masks: shared units over the units of either; NaN for none."""
    here, there = Mask.parse(mask, depth).muted, Mask.parse(other, depth).muted
    return len(here & there) / len(here | there) if here or there else math.nan


def _require_alike(runs: Sequence[Trajectory], results: Sequence[Result]) -> None:
    if len(runs) < 2:
        raise ResultError("choose two pruning runs or more to compare.")
    if not all(run.steps for run in runs):
        raise ResultError("a run without a step cannot be compared: leave it out.")
    for each in results:
        if field := _apart(runs[0], each):
            one, other = getattr(runs[0].provenance, field), getattr(each.provenance, field)
            kind = "runs" if isinstance(each, Trajectory) else f"runs and a {each.kind}"
            raise ResultError(
                f"these {kind} are of different models ({field}: {one} and {other}): "
                "compare what is of one model."
            )
    texts = [run.check_corpus for run in runs if checked(run)]
    for text in texts[1:]:
        if text != texts[0]:
            names = sorted({*text, *texts[0]})
            field = next(name for name in names if text.get(name) != texts[0].get(name))
            raise ResultError(
                "the perplexities of these runs are on different texts "
                f"({field}: {texts[0].get(field)} and {text.get(field)}): "
                "prune again with one --check-corpus, --samples and --length."
            )


def _whole(runs: Sequence[Trajectory]) -> tuple[int, str]:
    """The parameters that shares are taken of, and what they are.

    A run records what is left at its steps: the whole model is known from any that starts with
    nothing muted.
    """
    full = [run.steps[0].parameters for run in runs if not run.steps[0].mask]
    if full:
        return full[0], "all parameters"
    if len({run.steps[0].mask for run in runs}) > 1:
        raise ResultError(
            "these runs start from different masks, and none from the whole model: add a run that "
            "starts with nothing muted."
        )
    return runs[0].steps[0].parameters, "the parameters under the mask that the runs start from"


def _labels(runs: Sequence[Trajectory]) -> list[str]:
    """Method, metric and options; the search text, then a number, where that is not enough."""
    labels = [f"{run.method}, {run.metric}{_options(run)}" for run in runs]
    twice = Counter(labels)
    labels = [
        f"{label}, on {run.provenance.corpus.get('name', 'no text')}" if twice[label] > 1 else label
        for label, run in zip(labels, runs, strict=True)
    ]
    twice, seen = Counter(labels), Counter[str]()
    for place, label in enumerate(labels):
        seen[label] += 1
        if twice[label] > 1:
            labels[place] = f"{label} ({seen[label]})"
    return labels


def _options(run: Trajectory) -> str:
    options = {name: value for name, value in run.options.items() if name != "repeats"}
    if run.method == RANDOM:
        options["seed"] = seed_of(run)
    return "".join(
        f", {name.replace('_', ' ')}" + ("" if value is True else f" {value}")
        for name, value in options.items()
        if name != "no_early_exit"  # it changes nothing in what goes
    )


def _line(run: Trajectory, label: str, whole: int, measure: Measure | None) -> Line:
    steps = run.steps
    return Line(
        label=label,
        steps=[step.step for step in steps],
        removed=[_percent(step, whole) for step in steps],
        off=[len(Mask.parse(step.mask, run.depth)) for step in steps],
        kv_bytes=[step.kv_bytes_per_token for step in steps],
        perplexity=[step.perplexity for step in steps],
        values=[_value(step, measure) for step in steps],
        units=[", ".join(step.removed) for step in steps],
        masks=[step.mask for step in steps],
    )


def _value(step: Step, measure: Measure | None) -> float:
    return step.perplexity if measure is None else measure.values.get(step.mask, math.nan)


def _percent(step: Step, whole: int) -> float:
    return 100 * (whole - step.parameters) / whole if whole else math.nan


def _agreement(
    runs: Sequence[Trajectory], lines: Sequence[Line], whole: int, at: Fraction | None
) -> Agreement:
    labels = [line.label for line in lines]
    if at is None:
        gone = min(max(whole - step.parameters for step in run.steps) for run in runs)
        at = Fraction(gone, whole) if whole else Fraction(0)
    steps = [_reached(run, label, whole, at) for run, label in zip(runs, labels, strict=True)]
    depth = runs[0].depth
    masks = [step.mask for step in steps]
    places = range(len(runs))
    counted = [place for place in places if runs[place].method != RANDOM] or list(places)
    parsed = [Mask.parse(mask, depth) for mask in masks]
    counts = Counter(unit for place in counted for unit in parsed[place])
    forward = list(Mask(depth, frozenset(counts)))
    forward.sort(key=lambda unit: -counts[unit])  # stable: forward order among equals
    return Agreement(
        at=at,
        depth=depth,
        labels=labels,
        steps=[step.step for step in steps],
        removed=[_percent(step, whole) for step in steps],
        off=[len(mask) for mask in parsed],
        kv_bytes=[step.kv_bytes_per_token for step in steps],
        perplexity=[step.perplexity for step in steps],
        values=[
            line.values[run.steps.index(step)]
            for run, line, step in zip(runs, lines, steps, strict=True)
        ],
        masks=masks,
        counted=counted,
        units=[(str(unit), counts[unit]) for unit in forward],
        overlap=np.array([[overlap(a, b, depth) for b in masks] for a in masks]),
    )


def _reached(run: Trajectory, label: str, whole: int, at: Fraction) -> Step:
    """The run's first step that has removed the share, of a search the last; exact."""
    for step in reversed(run.steps) if run.method in SEARCHED else run.steps:
        if whole - step.parameters >= at * whole:
            return step
    most = max(_percent(step, whole) for step in run.steps)
    raise ResultError(
        f"{label} removes {most:.4g} % of the parameters and not {float(100 * at):.4g} %: "
        "choose a smaller share, or leave that run out."
    )
