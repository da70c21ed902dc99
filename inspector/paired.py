"""Two models on the same items: how much they differ, and whether that can be chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959964
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True)
class Paired:
    """The mean of one model minus that of the other, over `items` items that both answered.

    `low` and `high` bound its 95 % confidence interval. `gained` and `lost` count the items on
    which the first scores higher and lower. `p` is the probability that so uneven a split of these
    comes about when either side is as likely (two-sided, exact: the sign test, which for right and
    wrong answers is McNemar's).
    """

    difference: float
    low: float
    high: float
    items: int
    gained: int
    lost: int
    p: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired(here: Sequence[float], there: Sequence[float], *, z: float = Z) -> Paired | None:
    """Compare two lists of scores, item by item; None where there are none, or not the same number.

    `z` is how many standard errors the interval reaches to each side.

    For scores of 0 and 1 the interval is Agresti and Min's (Statistics in Medicine 2005, the
    adjusted Wald interval: half an item more in each cell of the 2 x 2 table), which holds its
    level also where few items flip; otherwise it is the normal one of the mean difference.
    """
    if not here or len(here) != len(there):
        return None
    steps = [a - b for a, b in zip(here, there, strict=True)]
    count, mean = len(steps), statistics.fmean(steps)
    gained, lost = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
    yes_or_no = set(here) | set(there) <= {0, 1}
    if yes_or_no:
        total, up, down = count + 2, gained + 0.5, lost + 0.5
        middle = (up - down) / total
        error = math.sqrt(up + down - (up - down) ** 2 / total) / total
    else:
        middle = mean
        error = statistics.stdev(steps) / math.sqrt(count) if count > 1 else math.nan
    low, high = middle - z * error, middle + z * error
    if yes_or_no:
        low, high = max(-1.0, low), min(1.0, high)
    return Paired(mean, low, high, count, gained, lost, _sign_test(gained, lost))


def _sign_test(gained: int, lost: int) -> float:
    flips = gained + lost
    tail = sum(math.comb(flips, each) for each in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**flips)
