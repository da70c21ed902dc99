"""The angular distance of every window of n layers, out of a result, for files that hold these."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from inspector.errors import MaskError, ResultError
from inspector.results.base import Result
from inspector.results.scores import Similarity
from inspector.results.trajectory import Trajectory
from inspector.units import KINDS

METHOD = "angular"
"""The method whose runs hold them."""

ASK = "`inspector similarity MODEL -o FILE` makes a result with them"


@dataclass(frozen=True)
class Distances:
    """Of a model of `depth` layers, for every window of one size by its first layer, from 0.

    A value is the angular distance of the last token across the window, averaged over samples, in
    [0, 1], lower = safer to remove; NaN where it is not known.
    """

    depth: int
    values: tuple[float, ...]

    @property
    def size(self) -> int:
        """How many layers a window has."""
        return self.depth + 1 - len(self.values)


def distances(result: Result, size: int | None) -> Distances:
    """Those of windows of `size` layers, out of a similarity or a run of `angular`.

    A run has them for the sizes that it passed through, its last by default, and for the windows
    that it might have removed; a similarity for every size and window.

    Raises:
        ResultError: another result, or one that was measured under a mask: what is muted there
            counts as layers here.
        MaskError: no size is given, or there are no windows of it.
    """
    run = result if isinstance(result, Trajectory) else None
    name = result.kind if run is None else run.method
    if name not in (METHOD, Similarity.kind):
        raise ResultError(f"no distances of windows are in a result of {name}: {ASK}.")
    if result.mask:
        raise ResultError(
            f"these distances were measured with {result.mask} muted, and the file is of the whole "
            "model: measure again without a mask."
        )
    depth, most = result.depth, result.depth
    if run is not None:
        most = len(run.steps) - 1
        size = most if size is None else size
    if size is None or not 1 <= size <= most:
        raise MaskError(f"say how many layers a window has, 1 to {most}: --window N.")
    if isinstance(result, Similarity):
        return Distances(depth, tuple(np.diagonal(result.angular_last, size).tolist()))
    scores = run.steps[size].scores if run is not None else {}
    firsts = (f"{start}.{KINDS[0]}" for start in range(depth - size + 1))
    return Distances(depth, tuple(scores.get(first, math.nan) for first in firsts))
