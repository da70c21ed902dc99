"""How far logits are from the truth, or from the untouched model's: one table of metrics.

Every metric is a sum of non-negative parts per token (per window for `norm`), so sums and counts
are kept apart and divided once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from inspector.errors import ResultError

Values = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

TINY = torch.finfo(torch.float32).tiny
"""Probabilities are no smaller than that, so that each has a logarithm."""

NEAR = 1e-4
"""Tokens whose divergence is below it, in nats, are measured by a form that does not cancel."""


def _as_is(logits: torch.Tensor) -> torch.Tensor:
    return logits


def _directions(logits: torch.Tensor) -> torch.Tensor:
    return functional.normalize(logits, dim=-1)


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1).clamp_(min=TINY)


def _with_entropies(logits: torch.Tensor) -> torch.Tensor:
    """The probabilities p, and p log p: [t, 2, V]."""
    p = _probabilities(logits)
    known = torch.stack((p, p), dim=-2)
    known[..., 1, :].log_().mul_(p)
    return known


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1)


@dataclass(frozen=True)
class Metric:
    """One row of the table; lower always means safer to remove.

    `values` takes logits [n, t, V] in fp32 and what they are measured against: for `nll` the token
    ids [t] that they predict, else what `prepare` makes of the untouched model's logits [t, V] in
    fp32. It gives each token's part, [n, t] in fp32; those of a divergence are never below 0.
    `windowed` metrics take the square root of a window's sum and average over windows; the others
    average over tokens.
    """

    name: str
    label: str
    unit: str
    formula: str
    source: str
    values: Values
    against_logits: bool = True
    windowed: bool = False
    prepare: Callable[[torch.Tensor], torch.Tensor] = _as_is

    def sums(self, logits: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
        """The sums of `values` over the tokens, [n] in float64 on the CPU."""
        return wide(self.values(logits, against)).sum(1)

    def of_window(self, total: float, tokens: int) -> tuple[float, int]:
        """What a window adds to the sum and to the count, from its sum over tokens."""
        return (math.sqrt(total), 1) if self.windowed else (total, tokens)


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    wanted = targets.expand(logits.shape[:2])
    losses = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return losses.view(logits.shape[:2])


def _kl(logits: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    terms = log_p.exp() * (log_p - logits.log_softmax(-1))
    return terms.sum(-1).clamp(min=0)  # a sum of rounded terms may be a little below


def _js(logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    # As p log p + q log q - 2 m log m, term by term, a third of the time of the exact form. Each
    # term is rounded: together by some 1e-8, which a token whose divergence is small cannot bear.
    p, p_log_p = known.unbind(-2)
    q = _probabilities(logits)
    m = torch.lerp(p.expand_as(q), q, 0.5)
    terms = q.log().mul_(q).add_(p_log_p)
    values = 0.5 * terms.addcmul_(m, torch.log(m, out=q), value=-2).sum(-1)
    # One at a time: how a sum is rounded depends on how many there are.
    for row, token in (values < NEAR).nonzero().tolist():
        values[row, token] = _js_near(_probabilities(logits[row, token]), p[token])
    return values


def _js_near(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    # From d = log q - log p, in which log m - log p = log((1 + e^d) / 2) is exact near d = 0: a
    # difference of entropies, or of rounded log m, would cancel where p and q are close.
    d = q.log() - p.log()
    common = torch.log1p(torch.expm1(-d.abs()) / 2)
    terms = p * (common + d.clamp(min=0)) + q * (common - d.clamp(max=0))
    return (-0.5 * terms.sum(-1)).clamp(min=0)


def _js_reversed(logits: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    # (KL(M || P) + KL(M || P')) / 2 = sum of m log cosh(d / 2), d = log q - log p. Below half = 1
    # log cosh goes by sinh: the other form cancels where p and q are close, this one overflows far
    # apart.
    log_q = logits.log_softmax(-1)
    half = (log_q - log_p).abs() / 2
    near = torch.log1p(half.clamp(max=1).sinh().square()) / 2
    far = half + torch.log1p(torch.expm1(-2 * half) / 2)
    terms = (log_p.exp() + log_q.exp()) * torch.where(half < 1, near, far)
    return 0.5 * terms.sum(-1)


def _angular(logits: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    # Half the angle from the two diagonals: arccos of a cosine near 1 loses half its digits.
    here = _directions(logits)
    half = torch.atan2((here - direction).norm(dim=-1), (here + direction).norm(dim=-1))
    return (2 * half).clamp(max=math.pi / 2)


def _norm(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return (logits - reference).square().sum(-1)


def wide(values: torch.Tensor) -> torch.Tensor:
    """In float64 on the CPU: not every device has that type."""
    return values.cpu().double()


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "nll",
            "loss added",
            "nats per token",
            "NLL - NLL under the current mask",
            "BlockPruner (2406.10594), as exp(NLL)",
            _nll,
            against_logits=False,
        ),
        Metric(
            "kl",
            "KL divergence",
            "nats per token",
            "KL(P || P'), P the untouched model",
            "FinerCut (2405.18218)",
            _kl,
            prepare=_log_probabilities,
        ),
        Metric(
            "js",
            "Jensen-Shannon divergence",
            "nats per token",
            "(KL(P || M) + KL(P' || M)) / 2, M the mean of P and P'",
            "FinerCut (2405.18218); its code computes the reverse",
            _js,
            prepare=_with_entropies,
        ),
        Metric(
            "js-reversed",
            "reversed JS divergence",
            "nats per token",
            "(KL(M || P) + KL(M || P')) / 2",
            "FinerCut's code",
            _js_reversed,
            prepare=_log_probabilities,
        ),
        Metric(
            "angular",
            "angle between logits",
            "radians per token",
            "arccos(clamp(cos(z, z'), 0, 1))",
            "FinerCut (2405.18218)",
            _angular,
            prepare=_directions,
        ),
        Metric(
            "norm",
            "distance of logits",
            "Frobenius norm per window",
            "|Z - Z'|",
            "FinerCut (2405.18218)",
            _norm,
            windowed=True,
        ),
    )
}

DIVERGENCES = frozenset(name for name, metric in METRICS.items() if metric.against_logits)


def metric_named(name: str) -> Metric:
    """The row of that name.

    Raises:
        ResultError: there is none.
    """
    if name not in METRICS:
        raise ResultError(f"unknown metric {name!r}: choose one of {', '.join(METRICS)}.")
    return METRICS[name]
