"""Record the run that fills the page on a first visit; takes minutes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.measure.corpus import windows
from inspector.measure.pruning import prune
from inspector.measure.similarity import similarity
from inspector.measure.sweep import sweep
from inspector.model.loading import load
from inspector.results.base import Result
from inspector.results.files import save
from inspector.view.card import Card
from inspector.view.commands import command

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "recorded"
SAMPLES, LENGTH, STEPS = 4, 256, 16


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    loaded = load("smollm2", dtype="bf16")
    card = Card.of(loaded)
    (FOLDER / "model.json").write_text(json.dumps(card.to_json(), indent=1), encoding="utf-8")
    text = {"corpus": "pydoc:search", "samples": SAMPLES, "length": LENGTH}
    search = windows(loaded.tokenizer, "pydoc:search", length=LENGTH, samples=SAMPLES)
    check = windows(loaded.tokenizer, "pydoc:check", length=LENGTH, samples=SAMPLES)
    empty = loaded.empty()

    def keep(name: str, result: Result, line: str) -> None:
        made = replace(result.provenance, command=line)
        save(replace(result, provenance=made), FOLDER / f"{name}.json")

    found = similarity(loaded, search, empty, progress=say)
    keep("similarity", found, command("similarity", card, "", kind="angular", **text))
    scores = sweep(loaded, search, empty, metric="nll", progress=say)
    keep("sweep", scores, command("sweep", card, "", metric="nll", **text))
    run = prune(
        loaded, search, empty, method="finercut", remove=STEPS, check=check, early_exit=False,
        progress=say,
    )  # fmt: skip
    line = command(
        "prune",
        card,
        "",
        method="finercut",
        metric="js",
        remove=STEPS,
        check_corpus="pydoc:check",
        no_early_exit=True,
        **text,
    )
    keep("pruning", run, line)


def say(done: float, total: float, note: str = "", partial: Any = None) -> None:
    print(f"{done:.1f} of {total:g} {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
