"""What a result says, as text for a terminal: one summary a kind of result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from inspector.cli.text import number, printable, table
from inspector.measure.methods import METHODS
from inspector.measure.sizes import readable_bytes
from inspector.paired import Paired
from inspector.results.base import Result
from inspector.results.checks import (
    NO_NUMBER,
    Benchmark,
    Continuation,
    Generation,
    Perplexity,
    Speed,
    Spread,
    buckets,
    span,
)
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Step, Trajectory
from inspector.units import KINDS, Mask

Summary = Callable[..., str]


def summary(result: Result, **options: Any) -> str:
    """A headline with model, text and mask, then the numbers; `options` are those of the kind."""
    muted = f"muted: {result.mask}" if result.mask else "nothing muted"
    head = printable(result.provenance.about, lines=False)
    return f"{head}\n{muted}\n\n{SUMMARIES[type(result)](result, **options)}"


def similarity(result: Similarity, *, view: str = "angular") -> str:
    """One of `VIEWS` of a similarity."""
    return VIEWS[view](result)


def angular(result: Similarity) -> str:
    """For every n, the window of n layers whose ends are least apart, by last and all tokens."""
    last, every = result.windows(tokens="last"), result.windows(tokens="all")
    rows = [
        [
            str(n),
            _layers(last[n][0], n),
            f"{last[n][1]:.4f}",
            _layers(every[n][0], n),
            f"{every[n][1]:.4f}",
        ]
        for n in range(1, result.depth + 1)
    ]
    title = "Angular distance across the best window of n layers, 0 to 1, lower = safer to remove"
    header = ["n", "layers (last token)", "distance", "layers (all tokens)", "distance"]
    return f"{title}\n\n{table(header, rows)}"


def stream(result: Similarity) -> str:
    """The cosine of the stream at each unit boundary with the one before, the first and the last.

    The whole matrix is in the JSON.
    """
    cosine = result.stream
    names = ["into layer 0"]
    names += [f"after {layer}.{kind}" for layer in range(result.depth) for kind in KINDS]
    rows = [
        [
            name,
            number(math.nan) if not at else f"{cosine[at - 1, at]:.4f}",
            f"{cosine[0, at]:.4f}",
            f"{cosine[at, -1]:.4f}",
        ]
        for at, name in enumerate(names)
    ]
    title = "Mean cosine of the residual stream between unit boundaries, -1 to 1"
    header = ["boundary", "with the one before", "with the first", "with the last"]
    return f"{title}\n\n{table(header, rows)}"


def units(result: Similarity) -> str:
    """How much each unit turns and grows the stream."""
    rows = [[unit, number(result.turn[unit]), number(result.growth[unit])] for unit in result.turn]
    title = "What each unit does to the stream x that it adds f to, lower = more redundant"
    return f"{title}\n\n{table(['unit', '1 - cos(x, x + f)', '|f| / |x|'], rows)}"


VIEWS: dict[str, Callable[[Similarity], str]] = {
    "angular": angular,
    "stream": stream,
    "unit": units,
}
"""The views of a similarity, by the name of ``--kind``."""


def scores(result: Scores, *, unit: str = "") -> str:
    """The units from the safest to remove to the dearest; `unit` is the metric's."""
    rows = [
        [str(place), name, number(result.scores[name])]
        for place, name in enumerate(result.ranking(), start=1)
    ]
    what = f"{result.metric} ({unit})" if unit else result.metric
    title = f"Cost of muting one more unit, {what}, lower = safer to remove"
    if not result.complete:
        title += f"\nPreliminary: {result.windows_done} of {result.windows} windows measured"
    under = f"under the mask itself: {number(result.reference)}{_held(result)}"
    return f"{title}; {under}\n\n{table(['rank', 'unit', 'cost'], rows, align='<<')}"


def trajectory(result: Trajectory) -> str:
    """What went at each step, and what was left of it."""
    moved = any(step.restored for step in result.steps)
    known = [{*step.score_status.values()} for step in result.steps]
    partly = any("exact" in seen and len(seen) > 1 for seen in known)
    rows = [
        [
            str(step.step),
            _units(step.removed, result.depth),
            *([_units(step.restored, result.depth)] if moved else []),
            _perplexity(step.perplexity),
            f"{step.parameters:,}",
            f"{step.kv_bytes_per_token:,}",
            *([_in_full(step)] if partly else []),
        ]
        for step in result.steps
    ]
    title = f"{result.search} by {result.metric}; {printable(_checked(result), lines=False)}"
    if not result.finished:
        title += "; not finished"
    if partly:
        title += f"\n{_effort(result)}"
    title += _held(result)
    if repeats := result.options.get("repeats"):
        title += f"\nno fresh text: {printable(str(repeats), lines=False)}"
    if result.remark:
        title += f"\n{printable(result.remark, lines=False)}"
    back, full = ["back"] if moved else [], ["scored in full"] if partly else []
    header = ["step", "removed", *back, "perplexity", "parameters", "KV bytes/token", *full]
    end = f"\n\nmask: {result.steps[-1].mask}" if result.steps else ""
    return f"{title}\n\n{table(header, rows, align='<<<' if moved else '<<')}{end}"


def _held(result: Scores | Trajectory) -> str:
    held, read = result.stream_bytes, result.weight_bytes
    text = f"\nStreams held at once: {readable_bytes(held)} at most" if held else ""
    return f"{text}\nWeights brought to the device: {readable_bytes(read)}" if read else text


def _in_full(step: Step) -> str:
    """How many units' scores were measured on the whole text, out of all candidates'."""
    known = list(step.score_status.values())
    return f"{known.count('exact')} of {len(known)}" if known else ""


def _effort(result: Trajectory) -> str:
    """What the search took, against one that scores every candidate in full."""
    steps = [step for step in result.steps if step.scores]
    whole = sum(len(step.scores) for step in steps)
    if result.method in METHODS and METHODS[result.method].grain == "layer":
        whole //= len(KINDS)
    taken = (number(sum(getattr(step, name) for step in steps)) for name in ("layers", "heads"))
    return "Evaluations of the text: {} through the layers, {} through the head, of {}".format(
        *taken, whole
    )


def perplexity(result: Perplexity, *, by_position: bool = False) -> str:
    """The mask beside the untouched model, how many times worse it is, and where in a window."""
    rows = [_perplexity_row("this mask", vars(result))]
    baseline = result.baseline
    end = ""
    if baseline:
        rows.append(_perplexity_row("untouched model", baseline))
        end = f"\n\nratio: {number(result.perplexity / baseline['perplexity'])}{_ratios(result)}"
    title = f"Perplexity, windows of {result.length} tokens every {result.stride}, lower = better"
    header = ["", "perplexity", "NLL (nats/token)", "tokens predicted"]
    end += f"\n\n{NO_NUMBER}" if result.no_number else ""
    end += f"\n\n{_by_position(result)}" if by_position and result.by_position else ""
    return f"{title}\n\n{table(header, rows)}{end}"


def _by_position(result: Perplexity) -> str:
    values = zip(
        result.by_position, result.baseline_by_position, result.position_tokens, strict=True
    )
    rows = [
        [
            span(place),
            f"{here:.4f}",
            f"{untouched:.4f}",
            f"{here - untouched:+.4f}",
            f"{tokens:,}",
        ]
        for place, (here, untouched, tokens) in zip(buckets(result.length), values, strict=True)
    ]
    header = ["tokens before", "this mask", "untouched model", "difference", "tokens predicted"]
    return f"NLL (nats/token) by position in the window\n\n{table(header, rows)}"


def benchmark(result: Benchmark) -> str:
    """Every task's scores beside the untouched model's."""
    rows = [
        [
            printable(task.task, lines=False),
            task.metric,
            _with_error(task.value, task.stderr),
            _with_error(task.baseline, task.baseline_stderr),
            _change(task.change),
            str(task.items),
        ]
        for task in result.tasks
    ]
    first = f", the first {result.limit} items of each task" if result.limit else ""
    title = f"Mean ± standard error, 0 to 1, higher = better{first}"
    header = ["task", "metric", "this mask", "untouched model", "difference (95 %)", "items"]
    lines = [title, "", table(header, rows, align="<<")]
    if result.remarks:
        lines += ["", *(printable(each, lines=False) for each in result.remarks)]
    if result.flips:
        count = len(result.flips)
        items = "1 item is" if count == 1 else f"{count} items are"
        lines += ["", f"{items} answered otherwise by the untouched model: `flips` in the JSON."]
    return "\n".join(lines)


def speed(result: Speed) -> str:
    """Every quantity under the mask and of the untouched model, and how many times as much."""
    rows = [_speed_row(result, *row) for row in SPEED]
    rows.append(
        ["KV cache as measured (B/token)"]
        + [number(each) for each in (result.kv_measured, result.baseline_kv_measured)]
        + [_over(result.kv_measured, result.baseline_kv_measured)]
    )
    rows.append(
        ["KV cache of the units that are on, computed (B/token)"]
        + [f"{each:,}" for each in (result.kv_computed, result.baseline_kv_computed)]
        + [_over(result.kv_computed, result.baseline_kv_computed)]
    )
    done = len(result.runs)
    rounds = "1 round" if result.rounds == 1 else f"{result.rounds} rounds"
    rounds = rounds if done == result.rounds else f"{done} of {rounds}"
    title = (
        f"A prompt of {result.prompt_length} tokens, then {result.new_tokens} one by one, batch "
        f"{result.batch}; both models in turns, {rounds}: median (least to greatest)"
    )
    header = ["", "this mask", "untouched model", "ratio"]
    return f"{title}\n\n{table(header, rows)}"


SPEED = (
    ("prefill", "prefill (tokens/s), higher = better", 1.0),
    ("decode", "decode (ms/token), lower = better", 1.0),
    ("memory", "peak memory above the weights (MiB), lower = better", float(1 << 20)),
)
"""Quantity, words and the divisor to the unit that is shown."""


def generation(result: Generation) -> str:
    """Each prompt, what each model made of it, and where the two part."""
    drawn = ""
    if result.temperature is not None:
        drawn = (
            f"drawn at temperature {result.temperature:g}, top-p {result.top_p:g}, seed "
            f"{result.seed}\n\n"
        )
    return drawn + "\n\n".join(map(_continuation, result.continuations))


def _continuation(one: Continuation) -> str:
    parts = [
        ("prompt", one.prompt),
        (f"this mask, {one.tokens} tokens", one.text),
        (f"untouched model, {one.baseline_tokens} tokens", one.baseline_text),
    ]
    texts = [f"--- {title}\n{printable(text)}" for title, text in parts]
    if one.parted is not None:
        tokens = "1 token" if one.parted == 1 else f"{one.parted} tokens"
        texts.append(f"--- the two part after {tokens}")
    elif one.same:
        texts.append("--- the two are the same")
    return "\n\n".join(texts)


SUMMARIES: dict[type[Result], Summary] = {
    Similarity: similarity,
    Scores: scores,
    Trajectory: trajectory,
    Perplexity: perplexity,
    Benchmark: benchmark,
    Speed: speed,
    Generation: generation,
}


def _units(units: list[str], depth: int) -> str:
    return str(Mask.of(depth, units)) or "-"


def _checked(result: Trajectory) -> str:
    if not any(math.isfinite(step.perplexity) for step in result.steps):
        return "no perplexity measured"
    on = "the search text" if result.checked_on_search_text else _text(result.check_corpus)
    return f"perplexity on {on}"


def _layers(start: int, n: int) -> str:
    return str(start) if n == 1 else f"{start}-{start + n - 1}"


def _text(corpus: dict[str, Any]) -> str:
    return f"{corpus.get('name')}, {corpus.get('windows')} x {corpus.get('length')} tokens"


def _perplexity_row(name: str, values: dict[str, Any]) -> list[str]:
    tokens = f"{int(values['tokens']):,}"
    return [name, _perplexity(values["perplexity"]), f"{values['nll']:.4f}", tokens]


def _perplexity(value: float) -> str:
    return f"{value:,.2f}" if value < 1e9 else number(value)


def _ratios(result: Perplexity) -> str:
    """The 95 % interval of the ratio of the perplexities, from the windows' NLLs."""
    change = result.change
    if change is None or not result.mask or not math.isfinite(change.low):
        return ""
    low, high = (number(_exp(end)) for end in (change.low, change.high))
    return f" (95 %: {low} to {high}, over {change.items} windows)"


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _speed_row(result: Speed, name: str, words: str, divisor: float) -> list[str]:
    here, untouched = result.here(name), result.untouched(name)
    return [words, _spread(here, divisor), _spread(untouched, divisor), _spread(result.ratio(name))]


def _spread(spread: Spread, divisor: float = 1.0) -> str:
    if math.isnan(spread.median):
        return "not measured"
    median, low, high = (
        number(each / divisor) for each in (spread.median, spread.low, spread.high)
    )
    return f"{median} ({low} to {high})"


def _over(one: float, other: float) -> str:
    return number(one / other if other else math.nan)


def _change(change: Paired | None) -> str:
    if change is None:
        return "-"
    return f"{change.difference:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return number(value)
    return f"{value:.3f} ± {error:.3f}" if math.isfinite(error) else f"{value:.3f}"
