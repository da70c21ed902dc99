"""What is known of the units under one mask: similarity of the stream, and what muting costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from inspector.errors import ResultError
from inspector.results.base import Result
from inspector.results.jsonable import array, number, numbers


@dataclass(frozen=True)
class Similarity(Result):
    """How alike the residual stream is at different depths, from one forward pass.

    `angular_last` and `angular_all` are [L+1, L+1]: entry (i, j), i < j, is the angular distance
    arccos(cos(x_i, x_j)) / pi in [0, 1] between the stream entering layer i and the stream entering
    layer j (j = L: leaving the last layer, before the final norm), averaged over samples of the
    last token, or over all tokens; NaN where i >= j. Lower means that layers i to j-1 are safer to
    remove together (UIDL, arXiv 2403.17887, equation 7, with n = j - i).

    `stream` is [2L+1, 2L+1]: mean cosine in [-1, 1] between the stream at unit boundaries x, x +
    attn, x + attn + ffn of every layer.

    `turn` maps unit text to 1 - mean cos(x, x + f), in [0, 2]; `growth` to the mean of |f| / |x|; x
    is the stream that the unit adds to, f what it adds, after any norm that follows it. Lower means
    more redundant.
    """

    kind: ClassVar[str] = "similarity"

    angular_last: np.ndarray
    angular_all: np.ndarray
    stream: np.ndarray
    turn: dict[str, float]
    growth: dict[str, float]

    def __post_init__(self) -> None:
        """Check the shapes."""
        for name, size in (
            ("angular_last", self.depth + 1),
            ("angular_all", self.depth + 1),
            ("stream", 2 * self.depth + 1),
        ):
            values = array(getattr(self, name))
            object.__setattr__(self, name, values)
            if values.shape != (size, size):
                raise ResultError(f"{name} has shape {values.shape}, not {(size, size)}.")
        object.__setattr__(self, "turn", numbers(self.turn))
        object.__setattr__(self, "growth", numbers(self.growth))

    def windows(self, *, tokens: str = "last") -> dict[int, tuple[int, float]]:
        """For every n, the start of the best window of n layers and its angular distance.

        `tokens` is `last` (as UIDL does) or `all`.
        """
        distance = self.angular_last if tokens == "last" else self.angular_all
        best = {}
        for n in range(1, self.depth + 1):
            diagonal = np.diagonal(distance, n)
            start = int(np.argmin(diagonal))
            best[n] = (start, float(diagonal[start]))
        return best


@dataclass(frozen=True)
class Scores(Result):
    """What muting each remaining unit would cost under `mask`: the "what next?" map.

    `scores` maps unit text to the cost in `metric` units; lower means safer to remove. For `nll` it
    is the mean NLL per predicted token in nats minus that under `mask` (`reference`), and may be
    negative; for kl, js (nats per token), angular (radians per token) and norm (Frobenius norm per
    window) it is the divergence of the logits from the untouched model's, and `reference` is that
    of `mask` itself. `windows_done` of `windows` text windows have been measured. `stream_bytes` is
    the most that the candidates' streams took at once; 0 where it was not counted. `weight_bytes`
    are those of the weights brought to the device, in the model's dtype; 0 where they were there.
    """

    kind: ClassVar[str] = "scores"

    metric: str
    reference: float
    scores: dict[str, float]
    windows_done: int
    windows: int
    stream_bytes: int = 0
    weight_bytes: int = 0

    def __post_init__(self) -> None:
        """Read nulls as NaN."""
        object.__setattr__(self, "scores", numbers(self.scores))
        object.__setattr__(self, "reference", number(self.reference))

    @property
    def complete(self) -> bool:
        """Whether every window has been measured."""
        return self.windows_done == self.windows

    def ranking(self) -> list[str]:
        """Unit texts from the safest to remove to the dearest."""
        return sorted(self.scores, key=lambda unit: self.scores[unit])
