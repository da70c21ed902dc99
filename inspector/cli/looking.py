"""`similarity`, `sweep` and `prune`: where the model is redundant, and what to remove."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from inspector.cli.inputs import check_text, loaded_model, search_text
from inspector.cli.output import emit
from inspector.errors import ResultError
from inspector.measure.budget import Budget
from inspector.measure.methods import check_lazy, method_named
from inspector.measure.methods.evolution import asked
from inspector.measure.sizes import byte_size
from inspector.units import Mask

if TYPE_CHECKING:
    from inspector.cli.progress import Meter


def similarity(args: argparse.Namespace, meter: Meter) -> None:
    """Compare the residual stream between layers and units."""
    loaded, mask = loaded_model(args, meter)
    from inspector.measure.similarity import similarity as measure

    windows = search_text(args, loaded, meter)
    result = measure(loaded, windows, mask, progress=meter.phase("comparing layers"))
    meter.clear()
    emit(result, args, view=args.kind)


def sweep(args: argparse.Namespace, meter: Meter) -> None:
    """Measure what muting each remaining unit would cost."""
    from inspector.measure.metrics import metric_named
    from inspector.measure.sweep import sweep as measure

    metric, memory = metric_named(args.metric), _memory(args)  # before a long load
    loaded, mask = loaded_model(args, meter)
    windows = search_text(args, loaded, meter)
    progress = meter.phase("sweeping")
    result = measure(loaded, windows, mask, metric=metric.name, memory=memory, progress=progress)
    meter.clear()
    emit(result, args, unit=metric.unit)


def prune(args: argparse.Namespace, meter: Meter) -> None:
    """Let a method remove units, or whole layers, step by step."""
    bounds = {
        "remove": args.remove,
        "remove_params": args.remove_params,
        "remove_kv": args.remove_kv,
        "until_perplexity": args.until_perplexity,
    }
    Budget.of(**bounds)  # these before a long load
    journal = _journal(args)
    row = method_named(args.method)
    metric, lazy = row.metric(args.metric), args.search == "lazy"
    memory = _memory(args)
    check_lazy(row, metric, lazy=lazy, verify=args.verify)
    evolution = asked(
        row,
        args.search_tokens,
        generations=args.generations,
        offspring=args.offspring,
        starts=args.starts,
    )
    loaded, mask = loaded_model(args, meter)
    from inspector.measure.pruning import prune as run

    check = None
    if args.check_corpus:
        check = check_text(args, loaded, meter, spec=args.check_corpus)
    result = run(
        loaded,
        search_text(args, loaded, meter),
        mask,
        method=args.method,
        **bounds,
        metric=metric,
        only=args.only,
        protect=Mask.parse(args.protect, loaded.depth),
        protect_first_until=args.protect_first_until,
        as_published=args.as_published,
        seed=args.method_seed,
        early_exit=args.early_exit,
        lazy=lazy,
        verify=args.verify,
        evolution=evolution,
        memory=memory,
        check=check,
        journal=journal,
        resume=args.resume,
        ranks=args.ranks,
        progress=meter.phase("pruning"),
    )
    meter.clear()
    if args.ranks.first:
        emit(result, args, journal=journal)


def _journal(args: argparse.Namespace) -> Path | None:
    """Where the run's journal stands, beside the file of ``-o``; None without one.

    Raises:
        ResultError: it is in the way, or to be resumed and not there.
    """
    from inspector.results.journal import SUFFIX, refuse_unfinished, require_unfinished

    if not args.output:
        if args.resume:
            raise ResultError("--resume needs the -o FILE of the run: its journal is beside it.")
        return None
    journal = Path(args.output + SUFFIX)
    if args.ranks.first and args.resume:
        require_unfinished(journal, args.output)
    elif args.ranks.first:
        refuse_unfinished(journal)
    return journal


def _memory(args: argparse.Namespace) -> int | None:
    return None if args.memory is None else byte_size(args.memory)
