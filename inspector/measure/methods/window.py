"""The best window of neighbouring layers, for every number of them (UIDL, arXiv 2403.17887)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.jobs import Progress, part
from inspector.measure.methods.choices import Group, stretches
from inspector.measure.methods.search import Proposal, Search, by_unit, lowest, need_layers
from inspector.measure.similarity import similarity
from inspector.results.trajectory import Step
from inspector.units import Mask, Unit


def propose(
    search: Search, mask: Mask, progress: Progress, taken: Sequence[Step] = ()
) -> Iterator[Proposal]:
    """At step n the window of n layers with the least angular distance across it.

    It begins after the steps `taken`. d(l, l+n) = arccos(cos(x_l, x_l+n)) / pi of the last token,
    x_l what enters layer l, averaged over samples (equation 7), all from one pass under the mask at
    the start. A window holds candidates alone, and passes over layers that are muted already. Its
    score stands at the units of the layer that it begins with. Of several processes the first one
    alone does this pass.
    """
    need_layers(search.loaded, search.row.name)
    once = part(progress, 0, 1, search.steps)
    distance = search.ranks.of_first(
        lambda: similarity(search.loaded, search.windows, mask, progress=once).angular_last.tolist()
    )
    runs = stretches(search.groups, mask)
    gone: set[Unit] = set()
    for step in taken:
        gone |= set(Mask.of(mask.depth, step.removed))
        gone -= set(Mask.of(mask.depth, step.restored))
    for n in range(len(taken) + 1, search.steps + 1):
        windows = {run[i]: run[i : i + n] for run in runs for i in range(len(run) - n + 1)}
        scores = {start: _across(distance, window) for start, window in windows.items()}
        best = windows[lowest(search, windows, scores)]
        wanted = [unit for group in best for unit in group]
        yield Proposal(
            scores=by_unit(scores),
            status=dict.fromkeys(by_unit(scores), "exact" if n == 1 else "stale"),
            removed=[unit for unit in wanted if unit not in gone],
            restored=sorted(gone - set(wanted)),
        )
        gone = set(wanted)


def _across(distance: list[list[float]], window: list[Group]) -> float:
    return distance[window[0][0].layer][window[-1][0].layer + 1]
