"""The methods that choose units to remove: one table for page, CLI and README."""

from __future__ import annotations

from dataclasses import dataclass

from inspector.errors import ResultError


@dataclass(frozen=True)
class Method:
    """One row: a greedy search that removes, step by step, the unit with the lowest score.

    `metrics` are the scores that it can go by, the default first. `order` breaks ties: candidates
    stand in `forward` order, or `attn_first` (all attentions, then all FFNs), and the first of the
    lowest goes. `calibration` is the authors' text; the default here is one that needs no hub.
    """

    name: str
    label: str
    paper: str
    metrics: tuple[str, ...]
    order: str
    calibration: str
    note: str
    cost: str = "k M - k (k - 1) / 2 candidates for k of M units"

    def metric(self, name: str | None) -> str:
        """The metric to go by: the default for None.

        Raises:
            ResultError: the method does not know it.
        """
        if name is None:
            return self.metrics[0]
        if name not in self.metrics:
            choices = ", ".join(self.metrics)
            raise ResultError(f"{self.name} goes by {choices}, not by {name!r}.")
        return name


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "finercut",
            "FinerCut",
            "arXiv 2405.18218",
            metrics=("js", "kl", "angular", "norm", "nll"),
            order="forward",
            calibration="wikitext2:train, 10 windows of 256 tokens",
            note=(
                "Greedy over attention and FFN units by how far the logits move from the untouched "
                "model's. Follows the paper: any unit may go first (the authors' code bars layer 0 "
                "from the first removal), and js is the textbook divergence (the code computes the "
                "reverse)."
            ),
        ),
        Method(
            "blockpruner",
            "BlockPruner",
            "arXiv 2406.10594",
            metrics=("perplexity",),
            order="attn_first",
            calibration="alpaca, 256 rows in windows of 2048 tokens",
            note=(
                "Greedy over attention and FFN units by perplexity; ties go to the earliest "
                "attention, then the earliest FFN, as in the authors' code. Attention only and FFN "
                "only are its mha and mlp types."
            ),
        ),
    )
}


def method_named(name: str) -> Method:
    """The row of that name.

    Raises:
        ResultError: there is none.
    """
    if name not in METHODS:
        raise ResultError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}.")
    return METHODS[name]
