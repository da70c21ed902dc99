"""What methods go by besides the metrics of a sweep, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What methods go by besides the metrics of a sweep (`measure.metrics`); lower goes first."""

    name: str
    label: str
    unit: str
    formula: str


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("perplexity", "perplexity", "", "exp(NLL) of the search text without the candidate"),
        Score(
            "kl-per-parameter",
            "KL divergence per parameter",
            "nats per token and million parameters",
            "(KL(P || P') - KL under the current mask) / parameters of the candidate",
        ),
        Score(
            "loss-per-parameter",
            "loss per parameter",
            "nats per token and million parameters",
            "(NLL - NLL under the current mask) / parameters of the candidate",
        ),
        Score("turn", "turn of the stream", "", "1 - mean over tokens of cos(x, x + f)"),
        Score("influence", "Block Influence", "", "1 - mean over tokens of cos(x_i, x_i+1)"),
        Score("influence-flat", "flat Block Influence", "", "1 - cos(X_i, X_i+1), all tokens flat"),
        Score("distance", "angular distance", "of pi", "arccos(cos(x_l, x_l+n)) / pi, last token"),
        Score("l1", "l1 magnitude", "", "sum over the layer's tensors of |W|_1"),
        Score("l2", "l2 magnitude", "", "sum over the layer's tensors of |W|_2"),
        Score("taylor", "Taylor importance", "nats per token", "sum of |W dNLL/dW| of the layer"),
        Score("random", "random number", "", "drawn by the method's seed"),
        Score("from-end", "layers after it", "", "the number of layers behind the layer"),
    )
}
"""x is the stream that enters, f what a unit adds to it, x_i what enters layer i."""

SWEPT = {"perplexity": "nll", "kl-per-parameter": "kl", "loss-per-parameter": "nll"}
"""Scores that are had from a metric of a sweep, and from which."""
