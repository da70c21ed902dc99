"""When a run stops: after so many removals, parameters or KV bytes, or at a perplexity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING

from inspector.errors import MaskError

if TYPE_CHECKING:
    from inspector.results.trajectory import Step

Size = tuple[int, int]
"""Parameters, and KV bytes per token."""

Share = str | float | None

_SHARE = re.compile(r"(?P<number>\d{1,9}(\.\d{1,12})?) ?(?P<percent>%?)")
_WHAT = ("parameters", "KV cache")


@dataclass(frozen=True)
class Budget:
    """The first bound that is met ends the run.

    `remove` counts removals in the method's own grain. `shares` are those of all the model's
    parameters (tied ones once) and of its KV cache that the run takes away: the first step at or
    above ends it. `until_perplexity` is passed by the first step above it.
    """

    remove: int | None = None
    shares: tuple[Fraction | None, Fraction | None] = (None, None)
    until_perplexity: float | None = None

    @classmethod
    def of(
        cls,
        *,
        remove: int | None = None,
        remove_params: Share = None,
        remove_kv: Share = None,
        until_perplexity: float | None = None,
    ) -> Budget:
        """The budget; shares are written ``10%`` or 0.1.

        Raises:
            MaskError: no bound is given, or one makes no sense.
        """
        shares = (share(remove_params, "--remove-params"), share(remove_kv, "--remove-kv"))
        if remove is None and until_perplexity is None and shares == (None, None):
            raise MaskError(
                "say when to stop: --remove, --remove-params, --remove-kv or --until-perplexity."
            )
        if remove is not None and remove < 1:
            raise MaskError("remove 1 or more.")
        if until_perplexity is not None and not until_perplexity > 0:
            raise MaskError("the perplexity to stop at must be above 0.")
        return cls(remove, shares, until_perplexity)

    def steps(self, sizes: Sequence[Size], total: Size, *, grain: str) -> int:
        """How many removals it takes at most.

        Args:
            sizes: what each removal that the method could come to takes away.
            total: the whole model's.
            grain: `unit` or `layer`, for the message.

        Raises:
            MaskError: nothing that the method could remove meets a bound.
        """
        most = [len(sizes)]
        if self.remove is not None:
            if self.remove > len(sizes):
                raise MaskError(
                    f"cannot remove {self.remove} {grain}s: {len(sizes)} are left that can be."
                )
            most.append(self.remove)
        for index, wanted in enumerate(self.shares):
            if wanted is not None:
                most.append(_at_most(wanted, [size[index] for size in sizes], total[index], index))
        return min(most)

    def met(self, start: Step, now: Step, total: Size) -> bool:
        """Whether the run ends with the step `now`."""
        gone = (
            start.parameters - now.parameters,
            start.kv_bytes_per_token - now.kv_bytes_per_token,
        )
        return (
            (self.remove is not None and now.step >= self.remove)
            or any(
                wanted is not None and taken >= wanted * whole
                for wanted, taken, whole in zip(self.shares, gone, total, strict=True)
            )
            or self.passed(now.perplexity)
        )

    def passed(self, perplexity: float) -> bool:
        """Whether it is above the bound on it; NaN is, too."""
        return self.until_perplexity is not None and not perplexity <= self.until_perplexity


def share(value: Share, name: str) -> Fraction | None:
    """``10%``, ``0.1`` or 0.1 as an exact fraction; `name` is the option's, for the message.

    Raises:
        MaskError: it is no share above 0 and up to 1.
    """
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else f"{value:.12f}"
    # Of the decimal digits: 0.07 of 100 is then 7, and not a little more.
    match = _SHARE.fullmatch(text)
    found = Fraction(match["number"]) / (100 if match["percent"] else 1) if match else Fraction(0)
    if not 0 < found <= 1:
        raise MaskError(f"{name} takes a share such as 10% or 0.1, above 0 and up to 1.")
    return found


def percent(part: Fraction) -> str:
    """A share in words: ``12.5 %``."""
    return f"{float(100 * part):.4g} %"


def _at_most(wanted: Fraction, sizes: list[int], total: int, index: int) -> int:
    """The number of removals that take the share away even if the smallest go first."""
    if sum(sizes) < wanted * total or not total:
        held = Fraction(sum(sizes), total or 1)
        raise MaskError(
            f"cannot remove {percent(wanted)} of the {_WHAT[index]}: "
            f"what the method may remove holds {percent(held)}."
        )
    return next(n for n, gone in enumerate(accumulate(sorted(sizes)), 1) if gone >= wanted * total)
