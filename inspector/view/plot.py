"""A figure on the page: plotly that keeps zoom, follows dark mode and sends clicks to Python.

Gradio's own plot component reports no clicks, loses the zoom with every update and stays light.
This one owns its div and draws with the plotly.js that the installed Python package ships, over
the server's own file route.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import plotly
import plotly.graph_objects as go
from gradio.utils import is_static_file

BUNDLE = Path(plotly.__file__).resolve().parent / "package_data" / "plotly.min.js"
"""The plotly.js of the installed package."""

_STATIC = Path(__file__).resolve().parent / "static"
# Constants go into the script, since an update may leave a component with no props but its value.
_JS = f"const BUNDLE = {json.dumps(str(BUNDLE))};\n" + (_STATIC / "plot.js").read_text("utf-8")
_CSS = (_STATIC / "plot.css").read_text(encoding="utf-8")


class Plot(gr.HTML):
    """Shows a `go.Figure`, or the sentence `empty` for None.

    The event ``point`` fires on a click on a point that has customdata, and its handler's
    `gr.EventData` has `customdata` (whatever JSON the figure carries there), `x` and `y`. What a
    browser sends is not to be trusted: read units from it with `Mask.parse`.

    Buttons under the figure save it as PNG or SVG (always light, for paper) and its numbers as CSV,
    from `name` and `csv` in `layout.meta`; `title` and `lines` there are wrapped to the width. In a
    row, put each plot into a column: an HTML component alone does not wrap on a phone.
    """

    def __init__(
        self,
        value: go.Figure | None = None,
        *,
        empty: str = "Nothing to show yet.",
        **more: Any,
    ) -> None:
        """`more` goes to `gr.HTML`: elem_id, visible, and the like."""
        # The list of static paths only ever grows, and each plot would add the same one.
        if not is_static_file(BUNDLE):
            gr.set_static_paths([BUNDLE])
        super().__init__(
            value=value,
            html_template=f'<div class="ip-root" data-empty="{escape(empty)}"></div>',
            css_template=_CSS,
            js_on_load=_JS,
            apply_default_css=False,
            **more,
        )

    def postprocess(self, value: go.Figure | str | None) -> str | None:
        """The figure as plotly's JSON; text is taken for such JSON already."""
        return value.to_json() if isinstance(value, go.Figure) else value
