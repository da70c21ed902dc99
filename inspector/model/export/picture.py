"""The layer map of an export as a picture for its model card, drawn from the mask alone."""

from __future__ import annotations

from inspector.units import KINDS, Mask, Unit

PICTURE = "layers.svg"
"""SVG: sharp at any size, letters without a font of ours, and the same bytes on every machine,
which a PNG is not (they hang on the version of zlib). The hub and GitHub show one beside a card as
they show any picture; the hub's own course is illustrated so."""
PER_ROW = 32
"""Layers side by side: deeper models go on below, so that cells keep their size. The picture is
then 700 wide, which is about a card's column on the hub."""
PITCH, CELL = 20, 16
"""From cell to cell, and the side of one, in CSS pixels."""
MARGIN, LEFT, ABOVE = 12, 40, 20
"""Around everything, for the names of the kinds, and for the numbers of the layers."""
LEGEND = 170
LABELS = {"attn": "attn", "ffn": "FFN"}
SHOWN = {True: "there", False: "removed"}

# Colours are attributes, and the picture has a ground of its own, so that it can be read on light
# and dark pages. Only who asks for dark gets the style: the hub's dark page does not reach into it.
STYLE = """\
<style>@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; stroke: #3d444d } .text { fill: #e6edf3 }
.there { fill: #6ea8e6 } .removed { stroke: #9198a1 } }</style>
"""


def alternative(mask: Mask) -> str:
    """What the picture shows, in words."""
    return f"Layer map of {mask.depth} layers, attention above FFN. Removed: {mask}"


def picture(mask: Mask) -> str:
    """The SVG: a cell a unit, layer 0 first; removed ones are hollow with a stroke through them.

    It holds fixed words and numbers only.
    """
    layers = range(mask.depth)
    rows = [layers[first : first + PER_ROW] for first in layers[::PER_ROW]]
    height = ABOVE + len(KINDS) * PITCH + MARGIN
    texts, cells = [], {True: "", False: ""}
    for number, row in enumerate(rows):
        top = MARGIN + number * height + ABOVE
        for layer in row[::4]:
            texts.append(_text(_left(layer) + CELL // 2, top - 6, str(layer), "middle"))
        for line, kind in enumerate(KINDS):
            texts.append(_text(MARGIN, top + line * PITCH + 12, LABELS[kind]))
            for layer in row:
                there = Unit(layer, kind) not in mask
                cells[there] += _cell(_left(layer), top + line * PITCH, there=there)
    bottom = MARGIN + len(rows) * height
    for number, (there, word) in enumerate(SHOWN.items()):
        left = MARGIN + LEFT + number * LEGEND // 2
        cells[there] += _cell(left, bottom, there=there)
        texts.append(_text(left + PITCH + 2, bottom + 12, word))
    wide = max(LEGEND, min(mask.depth, PER_ROW) * PITCH) + LEFT + 2 * MARGIN
    high = bottom + PITCH + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{wide}" height="{high}" '
        f'viewBox="0 0 {wide} {high}">\n<title>Layer map</title>\n{STYLE}'
        f'<rect class="ground" x="0.5" y="0.5" width="{wide - 1}" height="{high - 1}" rx="6" '
        'fill="#ffffff" stroke="#d0d7de"/>\n'
        f'<path class="there" fill="#3b74b8" d="{cells[True]}"/>\n'
        f'<path class="removed" fill="none" stroke="#6e7781" stroke-width="1.5" '
        f'd="{cells[False]}"/>\n'
        '<g class="text" fill="#1f2328" font-family="sans-serif" font-size="12">\n'
        + "".join(texts)
        + "</g>\n</svg>\n"
    )


def _left(layer: int) -> int:
    """Where the column of a layer begins."""
    return MARGIN + LEFT + layer % PER_ROW * PITCH


def _cell(x: int, y: int, *, there: bool) -> str:
    """A square as a piece of a path."""
    stroke = "" if there else f"m{CELL} 0l-{CELL} {CELL}"
    return f"M{x} {y}h{CELL}v{CELL}h-{CELL}z{stroke}"


def _text(x: int, y: int, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>\n'
