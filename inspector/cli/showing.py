"""`plot` and `serve`: saved results as a file with their figures, and the page."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from inspector.cli.output import note, write
from inspector.errors import InspectorError, ResultError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from inspector.cli.progress import Meter

HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Layer inspector</title>
<style>
body { margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem; background: #fff; color: #1f2937; }
.figure { margin-bottom: 2rem; }
</style>
</head>
<body>
"""
TAIL = "</body>\n</html>\n"


def plot(args: argparse.Namespace, meter: Meter) -> None:
    """Write every figure of saved results into one HTML file that needs nothing else."""
    from inspector.results.files import load
    from inspector.view.figures import figures_of

    results = [load(path) for path in args.results]
    figures = [figure for result in results for figure in figures_of(result)]
    if not figures:
        kinds = ", ".join(sorted({result.kind for result in results}))
        raise ResultError(f"there is nothing to draw: {kinds} has no figure.")
    write(args.output, page(figures))
    note(f"{len(figures)} figures written to {args.output}")


def page(figures: list[go.Figure]) -> str:
    """The figures one under another in a page that carries plotly.js.

    Names of models and files reach the page only inside plotly's JSON, in which it writes ``<``,
    ``>`` and ``/`` as escapes.
    """
    parts = [
        figure.to_html(
            full_html=False,
            include_plotlyjs=not number,  # True: the whole of plotly.js, once
            config={"displaylogo": False, "responsive": True},
        )
        for number, figure in enumerate(figures)
    ]
    return HEAD + "".join(f'<div class="figure">{part}</div>\n' for part in parts) + TAIL


def serve(args: argparse.Namespace, meter: Meter) -> None:
    """Serve the page until it is interrupted."""
    from inspector.view.page import serve as run

    try:
        run(host=args.host, port=args.port, open_browser=args.open)
    except OSError as error:
        raise InspectorError(
            f"cannot serve on {args.host}:{args.port} ({error}): choose another --port or --host."
        ) from error
