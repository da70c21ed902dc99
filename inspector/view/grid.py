"""The layer map: every unit of the model as a switch, one column a layer, one row a kind.

The browser repaints at once and tells Python afterwards; Python checks what it is told. What the
map shows is one JSON value, made by `layer_map_value`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from plotly.colors import hex_to_rgb, unlabel_rgb

from inspector.errors import InspectorError, MaskError
from inspector.units import KINDS, Mask, all_units, unit
from inspector.view.figures.style import ONE_SIDED, SIGNED, limits

LABELS = {"attn": "Attention", "ffn": "FFN"}
"""The names of the rows."""

_STATIC = Path(__file__).resolve().parent / "static"
_CSS = (_STATIC / "grid.css").read_text(encoding="utf-8")

# The stops of the figures' own colour scales as [red, green, blue], so that both look the same.
_SCALES = {
    "one_sided": [list(hex_to_rgb(colour)) for colour in ONE_SIDED],
    "signed": [[round(part) for part in unlabel_rgb(colour)] for colour in SIGNED],
}
# Constants go into the script, since an update may leave a component with no props but its value.
_JS = f"const SCALES = {json.dumps(_SCALES)};\n" + "".join(
    (_STATIC / name).read_text(encoding="utf-8") for name in ("grid_paint.js", "grid.js")
)


class LayerMap(gr.HTML):
    """Shows a value of `layer_map_value`, or the sentence `empty` for None.

    Events:

    - ``toggle``: units were switched, and the browser has repainted already: do not return the map
      from its own handler. Wire it with ``trigger_mode="always_last"``, take the map as an input
      and read the mask with `read_mask`. (Gradio then runs the handler once more after quick
      clicks, with the last value but with the data of an old event.)
    - ``undo`` and ``redo``: Ctrl+Z, and Ctrl+Shift+Z or Ctrl+Y; their handlers return a new value.
    """

    def __init__(
        self,
        value: dict[str, Any] | None = None,
        *,
        empty: str = "Load a model to see its layers here.",
        **more: Any,
    ) -> None:
        """`more` goes to `gr.HTML`: elem_id, visible, and the like."""
        super().__init__(
            value=value,
            html_template=f'<div class="ig-root" data-empty="{escape(empty)}"></div>',
            css_template=_CSS,
            js_on_load=_JS,
            apply_default_css=False,
            **more,
        )

    def api_info(self) -> dict[str, Any]:
        """The value is an object."""
        return {"type": "object", "description": "what layer_map_value returns"}


def measure(
    label: str,
    *,
    unit: str = "",
    direction: str = "lower = safer to remove",
    signed: bool = False,
    stale: str = "",
    mask: Mask | None = None,
    marks: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the colours of the map mean.

    `stale` is the reason for which they no longer hold, or ``""``. With `mask`, the mask that they
    were measured under, the map itself marks them as stale whenever another mask is set, at once.
    `marks` are words that stand before the scores of some units, which are drawn lighter.
    """
    return {
        "label": label,
        "unit": unit,
        "direction": direction,
        "signed": signed,
        "stale": stale,
        "mask": None if mask is None else [str(each) for each in mask],
        "marks": dict(marks or {}),
    }


def layer_map_value(
    mask: Mask,
    *,
    scores: Mapping[str, float] | None = None,
    measure: Mapping[str, Any] | None = None,
    disabled: Mapping[str, str] | None = None,
    costs: Mapping[str, tuple[int, int]] | None = None,
    totals: Mapping[str, float] | None = None,
    details: Mapping[str, Sequence[tuple[str, Any]]] | None = None,
    types: Sequence[str] = (),
    clicks: int = 0,
    drawing: int = 0,
) -> dict[str, Any]:
    """The value of a `LayerMap`, checked and ready for JSON.

    Units are given by their text. `scores` colour the cells and `measure` says what they are (see
    `measure`); `disabled` maps a unit that cannot be switched to the reason; `costs` gives a unit's
    parameters and KV bytes per token; `totals` the model's `parameters`, `kv` (bytes per token)
    and `bytes_per_parameter`; `details` are pairs of label and value; `types` has the type of each
    layer; `clicks` is the count of `read_clicks` that the mask takes in and `drawing` counts the
    values made for a page, so that one that was overtaken on its way is not shown. Scores that are
    not finite become null. `measure.range` are the ends of the colour scale and `measure.clipped`
    says that it stops short of an outlier (see `limits`).

    Raises:
        MaskError: a unit that the model does not have, or types for another number of layers.
    """
    by_unit = {
        "scores": {text: _finite(value) for text, value in (scores or {}).items()},
        "disabled": dict(disabled or {}),
        "costs": {text: list(pair) for text, pair in (costs or {}).items()},
        "details": {
            text: [[str(label), str(value)] for label, value in pairs]
            for text, pairs in (details or {}).items()
        },
    }
    known = {str(each) for each in all_units(mask.depth)}
    for name, values in by_unit.items():
        for text in values:
            if text not in known:
                raise MaskError(f"{name} name the unit {text!r}, which this model does not have.")
    if types and len(types) != mask.depth:
        raise MaskError(f"{len(types)} layer types were given for {mask.depth} layers.")
    return {
        "depth": mask.depth,
        "rows": [{"kind": kind, "label": LABELS[kind]} for kind in KINDS],
        "muted": [str(each) for each in mask],
        **by_unit,
        "measure": _with_range(measure, by_unit["scores"]),
        "totals": dict(totals) if totals else None,
        "types": list(types) or [""] * mask.depth,
        "clicks": clicks,
        "drawing": drawing,
    }


def read_mask(value: Any, *, before: Mask, disabled: Iterable[str] = ()) -> Mask:
    """The mask that the map shows, from its value as the browser sends it; nothing is trusted.

    `before` is the mask that the server holds and `disabled` the units that must not change.

    Raises:
        InspectorError: malformed, an unknown unit, or a disabled unit that would change.
    """
    if not isinstance(value, Mapping):
        raise InspectorError("the layer map is empty: load a model first.")
    if value.get("depth") != before.depth:
        raise MaskError("the layer map shows another model than the server holds: reload the page.")
    return _checked_mask(value.get("muted"), before, disabled)


def read_clicks(value: Any) -> int:
    """How many switches the browser had made when it sent this value; 0 where it does not say."""
    clicks = value.get("clicks") if isinstance(value, Mapping) else 0
    return clicks if type(clicks) is int and clicks > 0 else 0


_UNREADABLE = "the click on the map could not be read: reload the page."


def _checked_mask(texts: Any, before: Mask, disabled: Iterable[str]) -> Mask:
    mask = Mask(before.depth, frozenset(unit(text, before.depth) for text in _texts(texts)))
    refused = {str(each) for each in before.muted ^ mask.muted} & set(disabled)
    if refused:
        raise InspectorError(f"{min(refused)} cannot be switched in this model.")
    return mask


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InspectorError(_UNREADABLE)
    return value


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _with_range(
    measure: Mapping[str, Any] | None, scores: Mapping[str, float | None]
) -> dict[str, Any] | None:
    if measure is None:
        return None
    known = [value for value in scores.values() if value is not None]
    scale = limits(known)
    return {**measure, "range": [scale.low, scale.high], "clipped": scale.clipped}
