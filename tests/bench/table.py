"""Every method on one model, at equal shares of parameters removed: the README's table.

`python tests/bench/table.py --data DIR`, where DIR holds wikitext2_valid.txt, wikitext2_test.txt,
arc_easy.jsonl and piqa.jsonl (objects with query, choices and gold). Every method searches on the
same windows of the first text, with the constraints that it has by default, by its own score or,
as METHOD:METRIC, by another one that it can go by. What is left at the first step at or above each
share is measured on windows of the second text and on the first items of both tasks. Of methods
that draw at random the seed is 0.

What has been measured is written to the output file at once, and a mask that two methods come to is
measured once. Started again, it goes on where it was stopped, in the middle of a search, too;
`tests/write_readme.py` makes the table from the file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from inspector.measure.baselines import Shelf
from inspector.measure.benchmark import benchmark
from inspector.measure.corpus import Windows, windows
from inspector.measure.methods import METHODS, Method, method_named
from inspector.measure.methods.choices import choices
from inspector.measure.methods.evolution import Evolution
from inspector.measure.perplexity import losses, summary
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.files import load as read_result
from inspector.results.files import save
from inspector.results.journal import discard
from inspector.results.trajectory import Step, Trajectory
from inspector.units import Mask

OUTPUT = Path(__file__).with_name("table.json")
SHARES = (5, 10, 20, 30)
TASKS = ("arc_easy", "piqa")
BUDGET = Evolution(generations=30, offspring=16, starts=32, search_tokens=(512, 2048))
"""Of the evolutionary searches, the authors' length being out of reach here."""

Record = dict[str, Any]
Options = argparse.Namespace


def main() -> None:
    options = _options()
    loaded = load(options.model, dtype=options.dtype)
    texts = {
        part: windows(loaded.tokenizer, f"file:{options.data / name}", length=length, samples=count)
        for part, name, count, length in (
            ("search", "wikitext2_valid.txt", options.samples, options.length),
            ("check", "wikitext2_test.txt", options.check_samples, options.check_length),
        )
    }
    about = {
        "model": options.model,
        "weights": loaded.provenance().weights,
        "dtype": options.dtype,
        "parameters": loaded.parameters,
        "threads": torch.get_num_threads(),
        "versions": loaded.provenance().versions,
        "items": options.items,
        **{part: {**text.about, "name": _name(text)} for part, text in texts.items()},
        "evolution": BUDGET.options,
    }
    record = _opened(options.output, about)
    options.work.mkdir(parents=True, exist_ok=True)

    def measured(mask: Mask) -> None:
        """Measure what the mask leaves, unless it has been, and write it down."""
        if str(mask) not in record["measures"]:
            record["measures"][str(mask)] = _measures(loaded, mask, texts["check"], options)
            _write(options.output, record)

    measured(loaded.empty())
    for name in options.methods or METHODS:
        method, _, metric = name.partition(":")
        row = method_named(method)
        goal = row.metric(metric or None)
        for share in SHARES:
            key = f"{share}"
            known = record["methods"].setdefault(name, {})
            if key not in known:
                known[key] = _chosen(loaded, row, goal, texts["search"], share, options.work)
                _write(options.output, record)
            if known[key]["mask"] is not None:
                measured(Mask.parse(known[key]["mask"], loaded.depth))
                print(name, share, record["measures"][known[key]["mask"]], flush=True)


def _name(text: Windows) -> str:
    """The text's file, without its folder."""
    return Path(text.about["name"].partition(":")[2]).name


def _opened(path: Path, about: Record) -> Record:
    """What the file holds already, if it is of these conditions."""
    if not path.exists():
        return {"about": about, "methods": {}, "measures": {}}
    found: Record = json.loads(path.read_text(encoding="utf-8"))
    apart = [name for name in about if found["about"].get(name) != about[name]]
    if apart:
        raise SystemExit(f"{path} was measured with other {', '.join(apart)}: choose another -o.")
    return found


def _write(path: Path, record: Record) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _chosen(
    loaded: LoadedModel, row: Method, goal: str, text: Windows, share: int, work: Path
) -> Record:
    """The mask of the first step at or above the share, and how long it took to get there."""
    if _most(loaded, row) < share / 100 * loaded.parameters:
        return {"mask": None, "why": "what it may remove holds less"}
    # Methods that look at the whole budget search for every share; others pass through all of them.
    apart = row.way in ("evolution", "exchanges")
    wanted = share if apart else _furthest(loaded, row)
    run = _run(loaded, row, goal, text, wanted, work / f"{row.name}-{goal}-{wanted}.json")
    if row.way == "evolution":  # every step is at the share, and betters the one before it
        step, seconds = run.steps[-1], run.provenance.seconds
    else:
        step = _reached(run, share)
        seconds = sum(each.seconds for each in run.steps[: step.step + 1])
    removed = run.steps[0].parameters - step.parameters
    return {"mask": step.mask, "removed": removed, "seconds": seconds}


def _reached(run: Trajectory, share: int) -> Step:
    dense = run.steps[0].parameters
    return next(step for step in run.steps if 100 * (dense - step.parameters) >= share * dense)


def _furthest(loaded: LoadedModel, row: Method) -> int:
    return max(share for share in SHARES if _most(loaded, row) >= share / 100 * loaded.parameters)


def _most(loaded: LoadedModel, row: Method) -> int:
    """The parameters of all that a method may remove."""
    groups = choices(row, loaded.toggleable(), loaded.empty(), only=None, protect=None)
    return sum(loaded.info(unit).parameters for group in groups for unit in group)


def _run(
    loaded: LoadedModel, row: Method, goal: str, text: Windows, share: int, path: Path
) -> Trajectory:
    """The method's run up to the share, from the file where it has been made already."""
    if path.exists():
        found = read_result(path)
        if not isinstance(found, Trajectory):
            raise SystemExit(f"{path} is no pruning run.")
        return found
    journal = path.with_suffix(".journal")
    run = prune(
        loaded,
        text,
        loaded.empty(),
        method=row.name,
        metric=goal,
        remove_params=f"{share}%",
        evolution=BUDGET if row.way == "evolution" else None,
        journal=journal,
        resume=journal.exists(),
    )
    save(run, path)
    discard(journal)
    return run


def _measures(loaded: LoadedModel, mask: Mask, check: Windows, options: Options) -> Record:
    """Perplexity, each task's accuracy with its standard error, and the `seconds` it all took."""
    begun = time.perf_counter()
    found = {"perplexity": summary(losses(loaded, check, mask))["perplexity"]}
    asked = benchmark(
        loaded,
        [str(options.data / f"{name}.jsonl") for name in TASKS],
        mask,
        limit=options.items,
        shelf=Shelf(options.work / "baselines"),
    )
    for row in asked.tasks:
        if row.metric == "acc":
            found |= {row.task: row.value, f"{row.task}_stderr": row.stderr}
    return {**found, "seconds": time.perf_counter() - begun}


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--samples", type=int, default=8, help="windows to search on")
    parser.add_argument("--length", type=int, default=256, help="tokens in each of them")
    parser.add_argument("--check-samples", type=int, default=32)
    parser.add_argument("--check-length", type=int, default=2048)
    parser.add_argument("--items", type=int, default=200, help="of each task")
    parser.add_argument(
        "--methods", nargs="*", help="METHOD or METHOD:METRIC; default: all methods"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/table"), help="journals and runs")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
