"""`perplexity`, `bench`, `speed`, `generate`: what an edit has cost, beside the untouched model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from inspector.cli.inputs import check_text, loaded_model
from inspector.cli.output import emit
from inspector.errors import TaskError

if TYPE_CHECKING:
    from inspector.cli.progress import Meter


def perplexity(args: argparse.Namespace, meter: Meter) -> None:
    """Measure perplexity under the mask and of the untouched model."""
    loaded, mask = loaded_model(args, meter)
    from inspector.measure.perplexity import perplexity as measure

    windows = check_text(args, loaded, meter, spec=args.corpus, stride=args.stride)
    result = measure(loaded, windows, mask, progress=meter.phase("measuring perplexity"))
    meter.clear()
    emit(result, args, by_position=args.by_position)


def bench(args: argparse.Namespace, meter: Meter) -> None:
    """Run benchmark tasks under the mask and on the untouched model."""
    tasks = [name.strip() for name in args.tasks.split(",") if name.strip()]
    if not tasks:
        raise TaskError("no task is named: give --tasks names, a folder or a .jsonl file.")
    loaded, mask = loaded_model(args, meter)
    progress = meter.phase("running tasks")
    if args.until_decided or args.width is not None:
        from inspector.measure.sequential import until_decided

        result = until_decided(
            loaded, tasks, mask, width=args.width, limit=args.limit, progress=progress
        )
    else:
        from inspector.measure.baselines import shelf
        from inspector.measure.benchmark import benchmark

        kept = shelf(fresh=args.fresh_baseline)
        result = benchmark(loaded, tasks, mask, limit=args.limit, shelf=kept, progress=progress)
    meter.clear()
    emit(result, args)


def speed(args: argparse.Namespace, meter: Meter) -> None:
    """Time the model under the mask and the untouched one, in turns."""
    loaded, mask = loaded_model(args, meter)
    from inspector.measure.speed import speed as measure

    result = measure(
        loaded,
        mask,
        prompt_length=args.prompt_tokens,
        new_tokens=args.tokens,
        rounds=args.rounds,
        progress=meter.phase("measuring speed"),
    )
    meter.clear()
    emit(result, args)


def generate(args: argparse.Namespace, meter: Meter) -> None:
    """Continue prompts under the mask and with the untouched model."""
    loaded, mask = loaded_model(args, meter)
    from inspector.measure.generation import generate as continued

    result = continued(
        loaded,
        args.prompt,
        mask,
        tokens=args.tokens,
        chat=args.chat,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed or 0,
        progress=meter.phase("writing"),
    )
    meter.clear()
    emit(result, args)
