"""An order that was read from another tool's file, as a pruning run."""

from __future__ import annotations

import math
from collections.abc import Callable

from inspector.measure.foreign import Found
from inspector.results.base import Provenance
from inspector.results.trajectory import Step, Trajectory
from inspector.units import Mask


def as_run(
    found: Found, made: Provenance, left: Callable[[Mask], tuple[int, int]]
) -> Trajectory | None:
    """The file's order as a pruning run without scores and perplexities; None where it has none.

    `left` gives the parameters and the KV bytes per token that the model has left under a mask.
    """
    if not found.order:
        return None
    masks = [Mask(found.mask.depth), *found.order]
    steps = [
        Step(
            step=number,
            mask=str(mask),
            removed=[str(unit) for unit in mask if number and unit not in masks[number - 1]],
            restored=[],
            scores={},
            score_status={},
            perplexity=math.nan,
            parameters=left(mask)[0],
            kv_bytes_per_token=left(mask)[1],
        )
        for number, mask in enumerate(masks)
    ]
    return Trajectory(
        provenance=made,
        mask="",
        method=found.form.name,
        metric="perplexity",
        steps=steps,
        options={"read_from": "a file"},
    )
