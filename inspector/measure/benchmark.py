"""Multiple-choice and other lm-eval tasks on the model under a mask, beside the untouched model.

lm-eval runs in process on the live model: it draws the items, forms the requests and computes the
scores; here are only the mask, progress and cancel, and what keeps two turns comparable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from inspector.errors import OutOfMemory, ResultError, TaskError
from inspector.jobs import Progress, patiently, silent
from inspector.measure.baselines import (
    Shelf,
    key_of,
    provenance_of,
    require_same_items,
    require_same_model,
)
from inspector.measure.harness import Meter, harness, import_lm_eval, listening, quiet
from inspector.measure.scoring import memory_levers
from inspector.measure.tasks import Found, find
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import muted
from inspector.results.checks import Benchmark, Cut, Flip, TaskScore
from inspector.units import Mask

BATCH = 8
"""Requests that go through the model at a time."""

BOOTSTRAPS = 1000
"""Draws behind the standard error of a metric that has no formula for it (a mean has one)."""

Key = tuple[str, str]
"""A task and a metric."""


@dataclass(frozen=True)
class Score:
    """What lm-eval reports of one metric of one task; NaN where it gives no standard error.

    `each` are the items' own scores, empty where the value is not their mean.
    """

    value: float
    stderr: float
    items: int
    each: list[float] = field(default_factory=list)


UNKNOWN = Score(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Item:
    """One multiple-choice item as it was asked, with the index of the right choice."""

    question: str
    choices: list[str]
    gold: int


@dataclass(frozen=True)
class Turn:
    """What one model scored, and which choice it took of each multiple-choice item, by task.

    `cut` has the tasks of which some items were too long.
    """

    scores: dict[Key, Score]
    picks: dict[str, list[int]] = field(default_factory=dict)
    items: dict[str, list[Item]] = field(default_factory=dict)
    cut: dict[str, Cut] = field(default_factory=dict)


def benchmark(
    loaded: LoadedModel,
    tasks: Iterable[str],
    mask: Mask,
    *,
    limit: int | None = None,
    baseline: Benchmark | None = None,
    shelf: Shelf | None = None,
    batch: int = BATCH,
    progress: Progress = silent,
) -> Benchmark:
    """lm-eval's scores of the model under the mask, and of the untouched model on the same items.

    Every metric that a task reports is there: `acc` and `acc_norm` (the share of items whose right
    choice has the largest log-probability, in total and per character of the choice; in [0, 1],
    higher is better) for multiple choice, each with lm-eval's standard error. A metric of a filter
    is written `exact_match (strict-match)`. The mask's scores are always measured.

    Args:
        loaded: the model.
        tasks: specs, see `tasks.find`; `tasks.DEFAULT_TASKS` where nothing else is wanted.
        mask: what is muted.
        limit: the first so many items of each task; all of them if None.
        baseline: the untouched model's result on these very items, where it is known already;
            measured here otherwise.
        shelf: where the untouched model's result on these very items is looked for, and kept once
            it has been measured.
        batch: requests that go through the model at a time.
        progress: told of the requests answered, of both turns where there are two; the partial
            result after the first turn is a `Benchmark` whose baselines are NaN.

    Raises:
        TaskError: an unknown or malformed task, or a limit below 1; see also `tasks.find`.
        ResultError: the baseline is of another model, of other items, or not of the empty mask; or
            the model's logits are no numbers.
        MaskError: the mask does not fit the model.
        OutOfMemory: names the levers.
    """
    started = time.perf_counter()
    loaded.check(mask)
    _check(limit, batch)
    if baseline is not None:
        require_same_model(loaded, baseline, limit)
    patiently(import_lm_eval, partial(progress, 0, 1, "starting lm-eval"))
    with quiet():
        found = find(tasks, progress=progress)
        known = baseline if len(mask) else None
        meter = Meter(progress, "the edited model", 0, 2 if len(mask) and known is None else 1)

        def key() -> str:
            return key_of(loaded, provenance_of(loaded, found), found, limit=limit, batch=batch)

        def ready() -> None:
            nonlocal known
            if baseline is not None:
                require_same_items(found, baseline)
            elif shelf is not None and len(mask):
                known = shelf.find(key())
                meter.turns = 1 if known else 2

        run = partial(take_turn, loaded, found, limit=limit, batch=batch)
        here = run(mask, meter=meter, ready=ready)
        report = partial(compare, loaded, mask, found, limit, started, here)
        if known is not None:
            scores = {(row.task, row.metric): _own_score(row) for row in known.tasks}
            done = report(Turn(scores, known.picks))
            return replace(done, baseline_from=known.provenance.created)
        if not len(mask):
            done = report(here)
        else:
            meter = Meter(progress, "the untouched model", 1, 2, partial=report(Turn({})))
            done = report(run(loaded.empty(), meter=meter))
        if shelf is not None:
            shelf.keep(key(), done.untouched())
        return done


def _check(limit: int | None, batch: int) -> None:
    if limit is not None and limit < 1:
        raise TaskError(f"cannot ask {limit} items: choose a limit of 1 or more, or none for all.")
    if batch < 1:
        raise TaskError(f"cannot ask {batch} requests at a time: choose a batch of 1 or more.")


def _own_score(row: TaskScore) -> Score:
    return Score(row.value, row.stderr, row.items, row.each)


def compare(
    loaded: LoadedModel,
    mask: Mask,
    found: Found,
    limit: int | None,
    started: float,
    here: Turn,
    untouched: Turn,
) -> Benchmark:
    """The result of two models' turns; an empty one is that of a model still to be asked."""
    rows = []
    for (task, metric), score in here.scores.items():
        base = untouched.scores.get((task, metric), UNKNOWN)
        rows.append(
            TaskScore(
                task,
                metric,
                score.value,
                score.stderr,
                score.items,
                base.value,
                base.stderr,
                score.each,
                base.each,
            )
        )
    return Benchmark(
        provenance_of(loaded, found, started=started),
        str(mask),
        rows,
        limit,
        picks=here.picks,
        baseline_picks=untouched.picks,
        flips=_flips(here, untouched),
        cut=list(here.cut.values()),
    )


def _flips(here: Turn, untouched: Turn) -> list[Flip]:
    """The items that the two answer otherwise, with what was asked."""
    return [
        Flip(task, at, item.question, item.choices, item.gold, mine, theirs)
        for task, items in here.items.items()
        for at, (item, mine, theirs) in enumerate(
            zip(items, here.picks[task], untouched.picks.get(task, here.picks[task]), strict=True)
        )
        if mine != theirs
    ]


def take_turn(
    loaded: LoadedModel,
    found: Found,
    mask: Mask,
    *,
    limit: int | None = None,
    items: range | None = None,
    batch: int = BATCH,
    meter: Meter,
    ready: Callable[[], None] = lambda: None,
) -> Turn:
    """Ask everything of the model under one mask: the first `limit` items, or just `items`.

    `ready` is called once, when the requests are built and before the model gets the first.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.evaluator import evaluate

    for task in found.tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        # Each turn anew, or the second would draw other examples and not ask the same.
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)

    def built() -> int:
        ready()
        return sum(len(task.instances) * task.config.repeats for task in found.tasks.values())

    model = harness(loaded, batch, meter, built)
    try:
        with memory_levers(0), muted(loaded, mask), listening(meter.report, found.tasks.values()):
            results: Any = evaluate(
                lm=model,
                task_dict={"tasks": found.tasks, "groups": found.groups},
                limit=limit,
                samples={name: list(items) for name in found.tasks} if items else None,
                bootstrap_iters=BOOTSTRAPS,
                log_samples=True,
            )
    except OutOfMemory as error:
        raise OutOfMemory(
            f"out of memory with {batch} requests of up to {meter.longest} tokens at a time: use a "
            "smaller batch, a task with shorter texts, or a smaller dtype (--dtype bf16)."
        ) from error.__cause__
    except OverflowError as error:  # lm-eval takes exp of a mean NLL
        raise ResultError(
            "a perplexity of these tasks is beyond all numbers: the text is as good as impossible "
            "to this model; try another mask, or another task."
        ) from error
    picks, asked = {}, {}
    for name, task in found.tasks.items():
        if task.OUTPUT_TYPE == "multiple_choice":
            rows = _in_order(results["samples"].get(name, []))
            picks[name] = [_pick(row) for row in rows]
            asked[name] = [_item(row) for row in rows]
    cut = {}
    for name, (ids, tokens) in meter.cut.items():
        of = len({request.doc_id for request in found.tasks[name].instances})
        cut[name] = Cut(name, len(ids), of, tokens)
    return Turn(_scores(results), picks, asked, cut)


def _in_order(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items in the task's order, each once: every filter repeats them."""
    return list({row["doc_id"]: row for row in sorted(samples, key=_place)}.values())


def _place(sample: dict[str, Any]) -> int:
    return sample["doc_id"]


def _pick(sample: dict[str, Any]) -> int:
    """The choice with the largest log-probability, the first where several have it."""
    answers = [float(answer[0]) for answer in sample["filtered_resps"]]
    return max(range(len(answers)), key=lambda at: answers[at])


def _item(sample: dict[str, Any]) -> Item:
    """What was asked; where the choices differ in the question's place, these are the choices."""
    contexts, ends = zip(*(pair[:2] for pair in _arguments(sample)), strict=True)
    if len(set(contexts)) == 1:
        question, choices = contexts[0], [end.strip() for end in ends]
    else:
        question, choices = ends[0].strip(), list(contexts)
    gold = sample["target"]
    return Item(question, choices, int(gold) if isinstance(gold, int | np.integer) else -1)


def _arguments(sample: dict[str, Any]) -> list[tuple[str, str]]:
    found = sample["arguments"]
    return list(found.values()) if isinstance(found, dict) else list(found)


def _each(samples: list[dict[str, Any]], metric: str, chosen: str, mean: float) -> list[float]:
    """The items' own scores by one metric and filter, if their mean is what is reported."""
    rows = [row for row in samples if row.get("filter", "none") == chosen and metric in row]
    values = [row[metric] for row in sorted(rows, key=_place)]
    if not values or not all(_is_number(value) or isinstance(value, bool) for value in values):
        return []
    each = [float(value) for value in values]
    return each if math.isclose(math.fsum(each) / len(each), mean, abs_tol=1e-9) else []


def _scores(results: dict[str, Any]) -> dict[Key, Score]:
    """lm-eval's table: `acc,none` beside `acc_stderr,none`, a filter's name after the comma."""
    scores = {}
    for task, row in results["results"].items():
        samples = results["samples"].get(task, [])
        for name, value in row.items():
            metric, comma, chosen = name.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            stderr = row.get(f"{metric}_stderr,{chosen}")
            label = metric if chosen == "none" else f"{metric} ({chosen})"
            scores[task, label] = Score(
                float(value),
                float(stderr) if _is_number(stderr) else math.nan,
                int(row.get("sample_len", 0)),
                _each(samples, metric, chosen, float(value)),
            )
    return scores


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
