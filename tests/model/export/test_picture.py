"""The picture of the layer map: each unit has its cell, wherever the model is wide or deep."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from inspector.model.export.llamacpp import reading
from inspector.model.export.making import export
from inspector.model.export.picture import CELL, LEFT, MARGIN, PER_ROW, PITCH, alternative, picture
from inspector.units import KINDS, Mask, Unit
from tests import plain

SPACE = "{http://www.w3.org/2000/svg}"
COLUMN = 720
"""About how wide a card is on the hub, in CSS pixels."""
MASKS = [
    Mask.parse(text, depth)
    for text, depth in (("1.attn", 2), ("0", 1), ("5,17.ffn,29", 30), ("0,31.attn,32.ffn,125", 126))
]


def parsed(mask: Mask) -> ElementTree.Element:
    return ElementTree.fromstring(picture(mask))


def corners(svg: ElementTree.Element, name: str) -> set[tuple[int, int]]:
    (path,) = [each for each in svg.iter(f"{SPACE}path") if each.get("class") == name]
    found = re.findall(r"M(\d+) (\d+)h16v16h-16z(m16 0l-16 16)?", path.get("d", ""))
    assert all(bool(stroke) == (name == "removed") for _, _, stroke in found)
    assert len(found) == path.get("d", "").count("M")
    return {(int(x), int(y)) for x, y, _ in found}


def words(svg: ElementTree.Element) -> list[tuple[str, int, int]]:
    return [
        (each.text or "", int(each.get("x", "")), int(each.get("y", "")))
        for each in svg.iter(f"{SPACE}text")
    ]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: str(mask.depth))
def test_each_unit_has_its_cell_under_the_number_of_its_layer(mask: Mask) -> None:
    svg = parsed(mask)
    there, removed = corners(svg, "there"), corners(svg, "removed")
    assert not there & removed
    numbers = {int(text): (x, y) for text, x, y in words(svg) if text.isdecimal()}
    assert sorted(numbers) == list(range(0, mask.depth, 4))
    for layer in range(mask.depth):
        x, y = numbers[layer - layer % 4]
        for line, kind in enumerate(KINDS):
            cell = (x - CELL // 2 + layer % 4 * PITCH, y + 6 + line * PITCH)
            assert cell in (removed if Unit(layer, kind) in mask else there)
            there.discard(cell)
            removed.discard(cell)
    assert len(there) == len(removed) == 1  # the key to the signs
    rows = -(-mask.depth // PER_ROW)
    assert [text for text, _, _ in words(svg)].count("attn") == rows


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: str(mask.depth))
def test_it_fits_a_column_and_nothing_lies_outside(mask: Mask) -> None:
    svg = parsed(mask)
    wide, high = int(svg.get("width", "")), int(svg.get("height", ""))
    assert svg.get("viewBox") == f"0 0 {wide} {high}"
    assert wide <= COLUMN
    cells = corners(svg, "there") | corners(svg, "removed")
    assert min(x for x, _ in cells) == MARGIN + LEFT
    assert max(x for x, _ in cells) + CELL <= wide - MARGIN
    assert max(y for _, y in cells) + CELL <= high - MARGIN
    assert all(0 < x < wide - MARGIN and MARGIN < y < high for _, x, y in words(svg))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_it_brings_its_own_ground_and_stands_out_from_it() -> None:
    text = picture(MASKS[0])
    style = text[text.index("<style>") : text.index("</style>")]
    dark = dict(re.findall(r"\.(\w+) \{ (?:fill|stroke): (#\w{6})", style))
    light = dict(re.findall(r'class="(\w+)"[^>]*? (?:fill|stroke)="(#\w{6})"', text))
    assert set(dark) == set(light) == {"ground", "text", "there", "removed"}
    for colours in (light, dark):
        assert contrast(colours["text"], colours["ground"]) >= 7  # AAA
        assert contrast(colours["there"], colours["ground"]) >= 3  # graphics, WCAG 1.4.11
        assert contrast(colours["removed"], colours["ground"]) >= 3


@pytest.mark.usefixtures("one_thread", "no_proof")
@pytest.mark.parametrize(
    ("form", "text"),
    [("blocks", "2"), ("moe-stub", "1.ffn"), ("compact", "0.attn"), ("zeroed", "2"), ("gguf", "2")],
)
def test_every_card_shows_it(
    form: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READER", "no_such_module")
    loaded = plain.tiny("llama")
    mask = loaded.mask(text)
    export(loaded, mask, tmp_path / "out", form=form)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    ((words, file),) = re.findall(r"!\[(.*)\]\((.*)\)", card)
    assert words == alternative(mask)
    assert words.endswith(f"Removed: {text}")
    assert (tmp_path / "out" / file).read_text(encoding="utf-8") == picture(mask)
