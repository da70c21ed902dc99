"""What a result looks like: pure functions from a result to a plotly figure.

Each works in two steps, numbers and then picture, and needs neither torch nor gradio. Every figure
says its quantity, direction, model, text and mask, and carries in `layout.meta` the stem of a file
name (`name`) and its numbers as CSV text (`csv`). `customdata` of a point is the text of the unit
or mask behind it, so that a click can act on it.
"""

from __future__ import annotations

import plotly.graph_objects as go

from inspector.results.base import Result
from inspector.results.checks import Benchmark, Perplexity, Speed
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Trajectory
from inspector.view.figures.outcomes import benchmark, by_position, perplexity
from inspector.view.figures.scores import sweep
from inspector.view.figures.similarity import angular, stream, units
from inspector.view.figures.speed import speed
from inspector.view.figures.trajectory import curve, step_map


def figures_of(result: Result) -> list[go.Figure]:
    """Every figure of a result of any kind; empty for a text, which has none."""
    match result:
        case Similarity():
            return [
                angular(result),
                angular(result, rescaled=True),
                stream(result),
                units(result, what="turn"),
                units(result, what="growth"),
            ]
        case Scores():
            return [sweep(result)]
        case Trajectory():
            scored = any(step.scores or step.removed for step in result.steps)
            return [step_map(result), curve(result)] if scored else [curve(result)]
        case Perplexity():
            return [perplexity(result), *([by_position(result)] if result.by_position else [])]
        case Benchmark():
            return [benchmark(result)]
        case Speed():
            return [speed(result)]
        case _:
            return []
