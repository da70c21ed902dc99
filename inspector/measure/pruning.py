"""A pruning run: step by step, the method proposes what to remove, and the run records it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from inspector.errors import MaskError, ResultError
from inspector.jobs import Progress, part, silent
from inspector.measure.budget import Budget, Share, Size
from inspector.measure.corpus import Windows
from inspector.measure.kept import Kept
from inspector.measure.methods import (
    check_lazy,
    evopress,
    exchanges,
    method_named,
    one_by_one,
    window,
)
from inspector.measure.methods.choices import Group, choices, reach
from inspector.measure.methods.evolution import Evolution, planned_for
from inspector.measure.methods.scores import SCORERS, scored
from inspector.measure.methods.search import Proposal, Search, check_bars, lowest
from inspector.measure.perplexity import losses, overlapping, summary
from inspector.measure.ranks import ALONE, Ranks
from inspector.model.loaded import LoadedModel
from inspector.results.journal import Journal, discard
from inspector.results.trajectory import Step, Trajectory
from inspector.units import Mask

PROPOSE = {
    "iterative": one_by_one.propose,
    "one-shot": one_by_one.propose,
    "window": window.propose,
    "evolution": evopress.propose,
    "exchanges": exchanges.propose,
}
"""How a method goes from step to step, by its `way`."""


def prune(
    loaded: LoadedModel,
    windows: Windows,
    mask: Mask,
    *,
    method: str,
    remove: int | None = None,
    remove_params: Share = None,
    remove_kv: Share = None,
    until_perplexity: float | None = None,
    metric: str | None = None,
    only: str | None = None,
    protect: Mask | None = None,
    protect_first_until: float | None = None,
    as_published: bool = False,
    seed: int = 0,
    early_exit: bool = True,
    lazy: bool = False,
    verify: bool = False,
    memory: int | None = None,
    evolution: Evolution | None = None,
    check: Windows | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    ranks: Ranks = ALONE,
    progress: Progress = silent,
) -> Trajectory:
    """Let a method remove units, or whole layers, until the first of the bounds is met.

    An evolutionary method goes through masks that all meet it, a step for each change for the
    better; its last step is what it has found.

    Args:
        loaded: the model.
        windows: the text to search on, [W, T] token ids.
        mask: where to start; its units stay muted.
        method: a name in `METHODS`.
        remove: how many removals, in the method's own grain: units, or whole layers.
        remove_params: stop at the first step that has taken this share of all the model's
            parameters (tied ones once): ``10%`` or 0.1.
        remove_kv: the same of the KV cache's bytes.
        until_perplexity: stop after the first step whose perplexity is above this; the trajectory's
            `remark` says so if there is none.
        metric: what to go by, the method's own by default.
        only: `attn` or `ffn`, to remove units of one kind alone.
        protect: units that are never removed; of a method of whole layers, every layer with one.
        protect_first_until: x: the first int(M x / 2) + 1 layers are barred until int(M x) + 1 of
            the model's M units are gone (FinerCut's ``-x``).
        as_published: do as the authors' code does where that differs; `Method.published` says how.
        seed: of methods that draw at random.
        early_exit: where a method goes by a divergence anew at every step, leave a candidate alone
            once it cannot be the lowest: the same units go, the others' scores are lower bounds.
        lazy: score anew at every step only what earlier scores do not rule out (an approximation;
            see `methods.lazily`).
        verify: at the end of a lazy run, search its last step exactly, too.
        memory: bound in bytes on the candidates' streams held at once, as for `sweep`.
        evolution: how long an evolutionary search is to be; as published by default.
        check: the text of the perplexity recorded along the way; the search text by default.
        journal: a file that holds every finished step before the next begins (`results.journal`),
            of an evolutionary search every generation. It is there at the end, too: the caller
            discards it once the result is on the disk.
        resume: go on from the journal's last step.
        ranks: processes that do this together, each with the model and all other arguments alike;
            the units, scores and perplexities are those of one process. The first one alone keeps
            the journal.
        progress: called between pieces of work, with the `Trajectory` so far as `partial`.

    Returns:
        The trajectory; step 0 is the mask at the start.

    Raises:
        MaskError: no bound is given, none can be met, nothing is left that may go, or the
            perplexity is above `until_perplexity` at the start.
        ResultError: unknown method or metric, one that needs a model that runs layer by layer, or
            one that cannot search lazily; `memory` where there is nothing to bound; `evolution`
            for another kind of method; a journal that is in the way, or of another run.
        RankError: the ranks were not asked the same, or do not have the same model or text.
        OutOfMemory: names the levers, or what the bound has to be.
    """
    row = method_named(method)
    budget = Budget.of(
        remove=remove,
        remove_params=remove_params,
        remove_kv=remove_kv,
        until_perplexity=until_perplexity,
    )
    goal = row.metric(metric)
    check_lazy(row, goal, lazy=lazy, verify=verify)
    loaded.check(mask)
    groups = choices(row, loaded.toggleable(), mask, only=only, protect=protect)
    planned = planned_for(
        row,
        groups,
        lambda group: _size(loaded, group),
        _total(loaded),
        budget=budget,
        only=only,
        evolution=evolution,
    )
    bounds = {name: str(value) for name, value in vars(budget).items()}
    if planned:
        steps, budget = planned.steps, Budget()  # every mask of the search meets it
    else:
        sizes = [_size(loaded, group) for group in reach(row, groups, mask)]
        steps = budget.steps(sizes, _total(loaded), grain=row.grain)
    search = Search(
        loaded,
        windows,
        row,
        goal,
        tuple(groups),
        steps=steps,
        as_published=as_published,
        protect_first_until=protect_first_until,
        seed=seed,
        early_exit=early_exit,
        lazy=lazy,
        verify=verify,
        memory=memory,
        plan=planned,
        kept=Kept(tokens=windows.ids.numel()) if memory is None else Kept(0),
        parameters=math.ceil((budget.shares[0] or 0) * loaded.parameters),
        ranks=ranks,
    )
    check_bars(search)
    if memory is not None and (search.metric in SCORERS or row.way == "window"):
        raise ResultError(
            f"{row.name} makes no sweep, whose streams --memory bounds: leave it out, or choose "
            "fewer or shorter windows (--samples, --length)."
        )
    asked = {"only": only, "protect": str(protect or ""), **search.options}
    options = {name: value for name, value in asked.items() if value}
    check = windows if check is None else check
    start = Trajectory(
        provenance=loaded.provenance(corpus=windows.about),
        mask=str(mask),
        method=row.name,
        metric=goal,
        steps=[],
        check_corpus=check.about,
        finished=False,
        options=options,
    )
    about = _identity(start, bounds, windows, check)
    ranks.agree({**about, "verify": verify, "memory": memory, "resume": resume})
    kept = Journal(journal, about, resume=resume) if journal and ranks.first else None
    taken, place = ranks.of_first(
        lambda: ([asdict(step) for step in kept.steps], kept.place) if kept else ([], {})
    )
    start = replace(start, steps=[Step(**step) for step in taken])
    return _run(replace(search, place=place), budget, check, start, kept, progress)


def _identity(
    start: Trajectory, bounds: dict[str, str], windows: Windows, check: Windows
) -> dict[str, Any]:
    """What a run has to have in common with the journal that it is resumed from."""
    made = start.provenance
    return {
        "model": made.source,
        "weights": made.weights,
        "dtype": made.dtype,
        "versions": made.versions,
        "mask": start.mask,
        "method": start.method,
        "metric": start.metric,
        "options": start.options,
        "bounds": bounds,
        "text": {**windows.about, "tokens": _fingerprint(windows)},
        "check": {**check.about, "tokens": _fingerprint(check)},
    }


def _fingerprint(windows: Windows) -> str:
    """Of the token ids themselves: a file may have changed under its name."""
    return hashlib.sha256(windows.ids.contiguous().numpy().tobytes()).hexdigest()[:16]


def _run(
    search: Search,
    budget: Budget,
    check: Windows,
    run: Trajectory,
    journal: Journal | None,
    progress: Progress,
) -> Trajectory:
    """The loop: the method proposes, the mask changes, the step is recorded."""
    loaded, about, count = search.loaded, search.windows.about, search.steps
    taken, begun = run.steps, time.perf_counter()
    started = begun - sum(each.seconds for each in taken)

    def recorded(run: Trajectory, step: Step, found: Proposal | None = None) -> Trajectory:
        if journal:
            journal.add(step, found and found.place)
        stamp = loaded.provenance(corpus=about, started=started)
        return replace(run, steps=[*run.steps, step], provenance=stamp)

    read = loaded.bytes_read
    origin = Mask.parse(run.mask, loaded.depth)
    if not taken:
        progress(0, count, "measuring where it starts")
        value = _perplexity(search, check, origin)
        if budget.passed(value):
            if journal:
                discard(journal.path)
            raise MaskError(
                f"nothing is to be removed: the perplexity at the start, {value:.6g}, is above "
                f"--until-perplexity {budget.until_perplexity:g} already; give a higher one."
            )
        run = recorded(run, _step(loaded, 0, origin, None, value, begun, read))
    proposals = PROPOSE[search.row.way](search, origin, progress, run.steps[1:])
    step, done = run.steps[-1], 0.0 if search.plan else float(run.steps[-1].step)
    while step.step < count and not budget.met(run.steps[0], step, _total(loaded)):
        begun, number, read = time.perf_counter(), step.step + 1, loaded.bytes_read
        words = f"step {number}" if search.plan else f"step {number} of {count}"
        progress(done, count, words, run)
        found = _next(proposals, journal)
        if found is None:  # a search that has found nothing better
            break
        mask = found.applied(Mask.parse(step.mask, loaded.depth))
        done = number if found.done is None else found.done
        value = _known(search, found, check)
        value = _perplexity(search, check, mask) if value is None else value
        step = _step(loaded, number, mask, found, value, begun, read)
        run = recorded(run, step, found)
        gone = Mask(mask.depth, frozenset(found.removed))
        progress(done, count, f"{words}: removed {gone}", run)
    if search.verify and step.step:
        progress(step.step, count, f"searching step {step.step} exactly", run)
        run = replace(run, verified=_exactly(search, run, progress))
    stamp = loaded.provenance(corpus=about, started=started)
    remark = _remark(budget, run, _total(loaded))
    return replace(run, finished=True, provenance=stamp, remark=remark)


def _next(proposals: Iterator[Proposal], journal: Journal | None) -> Proposal | None:
    """What changes the mask next; a proposal that changes nothing only moves the search on."""
    for found in proposals:
        if found.removed or found.restored:
            return found
        if journal:
            journal.add(None, found.place)
    return None


def _remark(budget: Budget, run: Trajectory, total: Size) -> str:
    """Where a run was to end at a perplexity: that it never came to that, if so."""
    bound = budget.until_perplexity
    if bound is None or budget.met(run.steps[0], run.steps[-1], total):
        return ""
    return f"all that may go is gone, and the perplexity was never above {bound:g}"


def _exactly(search: Search, run: Trajectory, progress: Progress) -> dict[str, Any]:
    """What the exact search removes at the last step, and whether it is the same."""
    step, mask = run.steps[-1], Mask.parse(run.steps[-2].mask, run.depth)
    groups = [group for group in search.groups if str(group[0]) in step.scores]
    end = part(progress, search.steps, 0, search.steps)
    chosen = lowest(search, groups, scored(search, mask, groups, end).scores)
    removed = [str(unit) for unit in chosen]
    return {"step": step.step, "removed": removed, "same": removed == step.removed}


def _size(loaded: LoadedModel, group: Group) -> Size:
    infos = [loaded.info(unit) for unit in group]
    return sum(i.parameters for i in infos), sum(i.kv_bytes_per_token for i in infos)


def _total(loaded: LoadedModel) -> Size:
    return loaded.parameters, loaded.kv_bytes_left(loaded.empty())


def _known(search: Search, found: Proposal, check: Windows) -> float | None:
    """The perplexity after a step where the chosen candidate's score is just that."""
    same = check is search.windows and not overlapping(check)
    unit = str(found.removed[0])
    if search.metric == "perplexity" and found.status[unit] == "exact" and same:
        return found.scores[unit]
    return None


def _perplexity(search: Search, check: Windows, mask: Mask) -> float:
    return summary(losses(search.loaded, check, mask, ranks=search.ranks))["perplexity"]


def _step(
    loaded: LoadedModel,
    number: int,
    mask: Mask,
    found: Proposal | None,
    value: float,
    begun: float,
    read: int,
) -> Step:
    return Step(
        step=number,
        mask=str(mask),
        removed=[str(unit) for unit in found.removed] if found else [],
        restored=[str(unit) for unit in found.restored] if found else [],
        scores=found.scores if found else {},
        score_status=found.status if found else {},
        perplexity=value,
        parameters=loaded.parameters_left(mask),
        kv_bytes_per_token=loaded.kv_bytes_left(mask),
        seconds=time.perf_counter() - begun,
        layers=found.layers if found else 0.0,
        heads=found.heads if found else 0.0,
        stream_bytes=found.stream_bytes if found else 0,
        weight_bytes=loaded.bytes_read - read,
    )
