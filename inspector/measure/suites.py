"""The papers' sets of tasks, by name: lm-eval's own tasks with the number of examples shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """One set: `tasks` are lm-eval's names, each with the examples shown before a question."""

    name: str
    paper: str
    tasks: tuple[tuple[str, int], ...]


def _plain(*names: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, 0) for name in names)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "blockpruner-suite",
            "BlockPruner (2406.10594)",
            _plain("piqa", "winogrande", "hellaswag", "arc_easy", "arc_challenge"),
        ),
        Suite(
            "finercut-suite",
            "FinerCut (2405.18218)",
            (
                *_plain("openbookqa", "piqa", "hellaswag", "winogrande"),
                *_plain("arc_easy", "arc_challenge", "boolq", "lambada_openai"),
                ("mmlu", 5),
            ),
        ),
        Suite("uidl-suite", "UIDL (2403.17887)", (("mmlu", 5), ("boolq", 0))),
        Suite(
            "reassessing-suite",
            "Reassessing Layer Pruning (2411.15558)",
            _plain(
                *("piqa", "hellaswag", "openbookqa", "arc_easy", "arc_challenge"),
                *("mmlu", "cmmlu", "winogrande"),
            ),
        ),
    )
}
