"""Which measurements belong to an export, and how its model card shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from inspector.model.export.tables import table
from inspector.model.loaded import LoadedModel
from inspector.results.base import Result
from inspector.results.checks import Benchmark, Perplexity, TaskScore
from inspector.units import Mask

CHECKS = (Perplexity, Benchmark)
"""The kinds of result that say what an edit has cost, on a text or on tasks."""


def misfit(loaded: LoadedModel, mask: Mask, result: Result) -> str:
    """Why a result is no check of this model under this mask; empty where it is one."""
    kinds = " or ".join(f"a {kind.kind}" for kind in CHECKS)
    if not isinstance(result, CHECKS):
        return f"it is a {result.kind} result, and a check is {kinds}"
    made = result.provenance
    # Random models of all types have the same words for their weights.
    if (made.weights, made.model_type) != (loaded.weights, loaded.model_type):
        return (
            f"it is of {made.source} ({made.model_type}, {made.weights}), and this model is "
            f"{loaded.source} ({loaded.model_type}, {loaded.weights})"
        )
    if result.mask != str(mask):
        return f"it was measured without {result.mask or 'nothing'}, and this is without {mask}"
    return ""


def fitting(loaded: LoadedModel, mask: Mask, results: Iterable[Result]) -> list[Result]:
    """The checks of this model under this mask among the results, each once."""
    found: list[Result] = []
    for result in results:
        # As they are written: NaN equals nothing.
        if not misfit(loaded, mask, result) and result.dumps() not in map(Result.dumps, found):
            found.append(result)
    return found


def section(results: Sequence[Result]) -> str:
    """What the model card says of them, as Markdown.

    They may come from files that somebody else has written, so their words are taken for letters.
    """
    rows: list[tuple[str, str, str]] = []
    for result in results:
        if isinstance(result, Perplexity):
            rows.append(_perplexity(result))
        elif isinstance(result, Benchmark):
            rows += map(_task, result.tasks)
    dtypes = sorted({_letters(result.provenance.dtype) for result in results})
    return (
        "## What it costs\n\n"
        f"Measured on the source, in {' and '.join(dtypes)}, with those units muted.\n\n"
        + table(["measure", "this model", "source"], rows)
    )


def _perplexity(result: Perplexity) -> tuple[str, str, str]:
    corpus: Any = result.provenance.corpus
    text = _letters(corpus.get("name", "a text") if isinstance(corpus, dict) else "a text")
    here = f"{result.perplexity:,.3f}"
    change = result.change
    if change is not None and math.isfinite(change.low):
        # The windows' mean NLLs are in nats: a difference of them is a ratio of perplexities.
        low, high = (math.exp(min(end, 700.0)) for end in (change.low, change.high))
        here += f" ({low:.4g} to {high:.4g} times the source's, 95 %, {change.items} windows)"
    return (
        f"perplexity, {text}, windows of {result.length} tokens (lower is better)",
        here,
        f"{result.baseline['perplexity']:,.3f}" if "perplexity" in result.baseline else "-",
    )


def _task(task: TaskScore) -> tuple[str, str, str]:
    words = f"{_letters(task.task)}, {_letters(task.metric)}, {_letters(task.items)} items"
    return (
        f"{words} (higher is better)",
        _with_error(task.value, task.stderr),
        _with_error(task.baseline, task.baseline_stderr),
    )


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f} ± {error:.3f}" if math.isfinite(error) else f"{value:.3f}"


def _letters(text: Any) -> str:
    return re.sub(r"[^\w.:, -]+", " ", str(text))
