"""The layer map and the plot in a real Chromium, on small pages made for the purpose."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import gradio as gr
import numpy as np
import plotly.graph_objects as go
import pytest

from inspector.units import Mask, all_units
from inspector.view.grid import LayerMap, layer_map_value, measure, read_mask
from inspector.view.plot import Plot

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

NASTY = "<img src=x onerror='window.hacked=1'>${window.hacked=2}{{hacked}}`"
DEEP = 126


def value(depth: int, mask: str = "", *, of: str | None = None, **more: Any) -> dict[str, Any]:
    names = [str(unit) for unit in all_units(depth)]
    given: dict[str, Any] = {
        "scores": {name: 0.01 * i for i, name in enumerate(names)},
        "measure": measure("Cost", unit="nats", mask=None if of is None else Mask.parse(of, depth)),
        "disabled": {"0.attn": "it is needed"},
        "costs": dict.fromkeys(names, (1_000_000, 100)),
        "totals": {"parameters": 100_000_000, "kv": 200 * depth, "bytes_per_parameter": 2},
        "details": {name: [("Turn", "0.5")] for name in names},
        "types": ["full attention"] * depth,
    }
    return layer_map_value(Mask.parse(mask, depth), **{**given, **more})


def figure(name: str = "probe", *, shift: float = 0.0, title: str = "A title") -> go.Figure:
    heat = go.Heatmap(
        x=[0, 1, 2],
        y=[1, 2],
        z=np.arange(6.0).reshape(2, 3) + shift,
        customdata=[[[y, f"{x}.attn"] for x in range(3)] for y in (1, 2)],
    )
    meta = {"name": name, "csv": f"x,{name}\n1,2\n", "title": title, "lines": ["lower = safer"]}
    layout = {"meta": meta, "height": 320, "uirevision": name, "margin": {"t": 60, "b": 50}}
    return go.Figure(heat, layout)


def small_page() -> Any:
    """One map and three plots; every event writes what Python got of it into a text box."""

    def toggled(now: dict[str, Any]) -> str:
        time.sleep(0.3)  # quick clicks pile up behind this
        return str(read_mask(now, before=Mask(30), disabled={"0.attn"})) or "nothing"

    def told(event: gr.EventData) -> str:
        data = event._data
        return json.dumps([data["units"], data["muted"], str(Mask.of(30, data["mask"]))])

    with gr.Blocks() as page:
        layers = LayerMap(value(30, "3.ffn", of="3.ffn"), elem_id="map")
        heard = gr.Textbox(elem_id="heard", label="heard")
        event = gr.Textbox(elem_id="event", label="event")
        other = gr.Textbox(elem_id="other", label="other")
        mask = gr.Button("Other mask")
        gone = gr.Button("No model")
        nasty = gr.Button("Nasty")
        late = gr.Button("Late")
        refused = gr.Button("Refused")
        second = gr.Button("Second drawing")
        overtaken = gr.Button("First drawing")
        with gr.Tab("One"):
            first = Plot(figure(), elem_id="first")
            new = gr.Button("New figure")
            none = gr.Button("No figure")
        with gr.Tab("Two"):
            Plot(figure("second"), elem_id="second")
        layers.toggle(toggled, layers, heard, trigger_mode="always_last")
        layers.toggle(told, None, event, trigger_mode="multiple")
        layers.undo(lambda: "undo", None, other)
        layers.redo(lambda: "redo", None, other)

        def pointed(event: gr.EventData) -> str:
            return json.dumps(event.customdata)

        first.point(pointed, None, other)
        mask.click(lambda: value(30, "5-6", of="3.ffn"), None, layers)
        late.click(lambda: value(30, "3.ffn", of="3.ffn"), None, layers)
        refused.click(lambda: value(30, "3.ffn", of="3.ffn", clicks=1), None, layers)
        second.click(lambda: value(30, "5-6", of="3.ffn", drawing=2), None, layers)
        overtaken.click(lambda: value(30, "9", drawing=1), None, layers)
        gone.click(lambda: None, None, layers)
        nasty.click(lambda: [nasty_value(), figure(NASTY, title=NASTY)], None, [layers, first])
        new.click(lambda: figure(shift=5.0), None, first)
        none.click(lambda: None, None, first)
    return page


def nasty_value() -> dict[str, Any]:
    result = value(
        4,
        measure=measure(NASTY, unit=NASTY, direction=NASTY, stale=NASTY),
        disabled={"0.attn": NASTY},
        details={"0.attn": [(NASTY, NASTY)]},
        types=[NASTY] * 4,
    )
    result["rows"][0]["label"] = NASTY
    return result


def deep_page() -> Any:
    with gr.Blocks() as page:
        LayerMap(value(DEEP, "7,100.attn"), elem_id="map")
    return page


@contextmanager
def served(make: Callable[[], Any]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = make()
    page.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, share=False
    )
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        page.close()


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    with served(small_page) as url:
        yield url


@pytest.fixture(scope="module")
def deep() -> Iterator[str]:
    with served(deep_page) as url:
        yield url


class Visit:
    """Opens pages in fresh contexts, and keeps their requests and errors."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.open: list[Any] = []

    def __call__(
        self, url: str, *, theme: str = "light", width: int = 1280, height: int = 900
    ) -> Page:
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True
        )
        self.open.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{url}?__theme={theme}")
        page.wait_for_selector("#map .ig-cell")
        return page


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    visits = Visit(chromium)
    yield visits
    for context in visits.open:
        context.close()
    assert visits.errors == []
    hosts = {urlparse(url).hostname for url in visits.requests}
    assert hosts - {None} == {"127.0.0.1"}  # None: data: and blob: addresses


def cell(page: Page, layer: int, row: int) -> Locator:
    return page.locator(f'#map button[data-layer="{layer}"][data-row="{row}"]')


def attn(page: Page, layer: int) -> Locator:
    return cell(page, layer, 1)


def ffn(page: Page, layer: int) -> Locator:
    return cell(page, layer, 2)


def off(page: Page) -> list[str]:
    """The units that the page shows as off."""
    found = page.eval_on_selector_all(
        "#map button.ig-cell[aria-checked=false]",
        "list => list.map(b => b.dataset.layer + (b.dataset.row === '1' ? '.attn' : '.ffn'))",
    )
    return [str(unit) for unit in Mask.of(DEEP, found)]


def expect(page: Page, box: str, text: str) -> None:
    """Wait until the text box with this id holds the text."""
    page.wait_for_function(
        "([box, text]) => document.querySelector(`#${box} textarea`).value === text",
        arg=[box, text],
    )


def heard(page: Page, mask: str) -> None:
    """Wait until Python has heard of this mask."""
    expect(page, "heard", mask)


def other(page: Page, text: str) -> None:
    expect(page, "other", text)


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') || ''")


def drawn(page: Page, name: str = "first", count: int = 1) -> None:
    page.wait_for_function(
        "([name, count]) => Number(document.querySelector(`#${name} .ip-figure`)"
        "?.dataset.draws || 0) >= count",
        arg=[name, count],
    )


def draws(page: Page) -> int:
    return int(page.get_attribute("#first .ip-figure", "data-draws") or 0)


# ---- the layer map -----------------------------------------------------------------------------


def test_a_click_switches_at_once_and_python_hears_it(visit: Visit, small: str):
    page = visit(small)
    assert off(page) == ["3.ffn"]
    assert attn(page, 5).get_attribute("aria-label") == "Layer 5, attention, on, score 0.1 nats"
    attn(page, 5).click()
    assert attn(page, 5).get_attribute("aria-checked") == "false"  # before Python has answered
    assert "Layer 5, attention, off" in (attn(page, 5).get_attribute("aria-label") or "")
    heard(page, "3.ffn,5.attn")
    expect(page, "event", '[["5.attn"], true, "3.ffn,5.attn"]')
    ffn(page, 3).click()
    heard(page, "5.attn")
    expect(page, "event", '[["3.ffn"], false, "5.attn"]')


def test_the_summary_follows_at_once(visit: Visit, small: str):
    page = visit(small)
    assert page.locator(".ig-summary dd").all_inner_texts() == [
        "59 of 60",
        "99.00 M 99.0 %",
        "5.90 kB 98.3 %",
        "198.0 MB",
    ]
    cell(page, 8, 0).click()
    assert page.locator(".ig-summary dd").first.inner_text() == "57 of 60"
    assert "97.00 M" in page.locator(".ig-summary").inner_text()


def test_shift_click_gives_a_range_the_state_of_its_start(visit: Visit, small: str):
    page = visit(small)
    attn(page, 20).click()
    attn(page, 24).click(modifiers=["Shift"])
    assert off(page) == ["3.ffn", *(f"{layer}.attn" for layer in range(20, 25))]
    heard(page, "3.ffn,20-24.attn")
    attn(page, 22).click()
    attn(page, 10).click(modifiers=["Shift"])
    assert off(page) == ["3.ffn", "23.attn", "24.attn"]


def test_a_layer_number_switches_the_whole_layer(visit: Visit, small: str):
    page = visit(small)
    cell(page, 3, 0).click()
    heard(page, "3")
    cell(page, 3, 0).click()
    heard(page, "nothing")
    cell(page, 0, 0).click()  # its attention cannot be switched
    heard(page, "0.ffn")


def test_every_one_of_many_quick_clicks_reaches_python(visit: Visit, small: str):
    page = visit(small)
    for layer in range(10, 22):
        ffn(page, layer).click()
    heard(page, "3.ffn,10-21.ffn")


def test_the_keyboard_does_everything(visit: Visit, small: str):
    page = visit(small)
    assert page.locator('#map button[tabindex="0"]').count() == 1
    page.locator('#map button[tabindex="0"]').focus()
    press = page.keyboard.press
    for keys, label in (
        (["ArrowRight", "ArrowDown"], "Layer 1, FFN, on"),
        (["End"], "Layer 29, FFN, on"),
        (["PageUp"], "Layer 19, FFN, on"),
        (["ArrowUp"], "Layer 19, attention, on"),
        (["PageDown", "ArrowRight"], "Layer 29, attention, on"),
        (["Home"], "Layer 0, attention, on, cannot be switched: it is needed"),
        (["ArrowRight", "ArrowUp"], "Layer 1, all on: switch the whole layer"),
    ):
        for each in keys:
            press(each)
        assert focused(page).startswith(label)
    press("Enter")
    heard(page, "1,3.ffn")
    press("ArrowDown")
    press("Space")
    heard(page, "1.ffn,3.ffn")
    press("Control+End")
    press("Space")
    press("Control+z")
    other(page, "undo")
    press("Control+Shift+Z")
    other(page, "redo")
    heard(page, "1.ffn,3.ffn,29.ffn")


def test_a_disabled_cell_stays_on_and_says_why(visit: Visit, small: str):
    page = visit(small)
    assert attn(page, 0).get_attribute("aria-disabled") == "true"
    attn(page, 0).click(force=True)
    assert off(page) == ["3.ffn"]
    assert "Cannot be switched: it is needed" in page.locator(".ig-detail").inner_text()


def test_the_detail_panel_does_not_move_the_page(visit: Visit, small: str):
    page = visit(small)
    heights = set()
    for layer, row in ((0, 1), (5, 1), (5, 0), (3, 2), (29, 2)):
        cell(page, layer, row).hover()
        heights.add(page.locator(".ig-root").bounding_box()["height"])  # pyright: ignore
        if row:
            assert f"Layer {layer}" in page.locator(".ig-detail").inner_text()
    assert len(heights) == 1
    ffn(page, 5).hover()
    facts = page.locator(".ig-facts").inner_text()
    for text in ("0.11 nats", "full attention", "1.00 M, 1.0 %", "100 B", "Turn", "0.5"):
        assert text in facts


def saturation(button: Locator) -> float:
    """How far apart the channels of a cell's colour are."""
    colour = button.evaluate("b => getComputedStyle(b).backgroundColor")
    channels = [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]
    return max(channels) - min(channels)


def test_colours_of_another_mask_are_marked(visit: Visit, small: str):
    page = visit(small)
    note = page.locator(".ig-note")
    fresh = saturation(attn(page, 29))
    assert "Lowest" in note.inner_text()
    attn(page, 5).click()
    assert "belong to another mask" in note.inner_text()
    assert "not of this mask" in (attn(page, 9).get_attribute("aria-label") or "")
    assert saturation(attn(page, 29)) < 0.3 * fresh
    attn(page, 5).click()  # back to the mask that was measured
    assert "Lowest" in note.inner_text()
    assert saturation(attn(page, 29)) == fresh


def test_python_sets_the_mask_and_takes_the_model_away(visit: Visit, small: str):
    page = visit(small)
    page.get_by_role("button", name="Other mask").click()
    page.wait_for_selector('#map button[data-layer="6"][data-row="2"][aria-checked=false]')
    assert off(page) == ["5.attn", "5.ffn", "6.attn", "6.ffn"]
    page.get_by_role("button", name="No model").click()
    page.wait_for_selector("#map .ig-empty")
    assert "Load a model" in page.locator("#map").inner_text()


def test_a_redraw_from_before_the_last_click_does_not_undo_it(visit: Visit, small: str):
    page = visit(small)
    attn(page, 8).click()
    page.get_by_role("button", name="Late").click()
    page.wait_for_timeout(1000)
    assert off(page) == ["3.ffn", "8.attn"]
    page.get_by_role("button", name="Refused").click()  # Python has heard of it and says no
    page.wait_for_selector('#map button[data-layer="8"][data-row="1"][aria-checked=true]')
    assert off(page) == ["3.ffn"]


def test_a_drawing_that_was_overtaken_is_not_shown(visit: Visit, small: str):
    page = visit(small)
    page.get_by_role("button", name="Second drawing").click()
    page.wait_for_selector('#map button[data-layer="5"][data-row="1"][aria-checked=false]')
    page.get_by_role("button", name="First drawing").click()
    page.wait_for_timeout(1000)
    assert off(page) == ["5.attn", "5.ffn", "6.attn", "6.ffn"]
    attn(page, 9).click()
    heard(page, "5-6,9.attn")  # Python is sent what the screen shows


def test_names_never_run(visit: Visit, small: str):
    page = visit(small)
    drawn(page)
    page.get_by_role("button", name="Nasty").click()
    page.wait_for_function("document.querySelectorAll('#map .ig-cell').length === 8")
    page.wait_for_function("document.querySelector('#first').innerText.includes('<img')")
    attn(page, 0).hover()
    assert page.locator(".ig-detail").inner_text().count("<img src=x") >= 3
    assert "<img src=x" in page.locator(".ig-legend").inner_text()
    assert "<img src=x" in page.locator("#first").inner_text()
    assert page.locator("#map img, #first img").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Visit, small: str, theme: str):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(small, theme=theme)
    drawn(page)
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    attn(page, 9).click()  # stale colours, a muted cell, facts in the panel
    context: Any = {"include": [["#map"], ["#first"]]}
    found = Axe().run(page, context=context).response["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in grave] == []


CONTRAST = """([selector, focus]) => {
  const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const page = getComputedStyle(document.body).backgroundColor;
  const paint = (...colours) => {
    for (const colour of colours) { probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1); }
    return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => {
      const c = part / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
  };
  const light = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
  const style = getComputedStyle(document.querySelector(selector));
  const own = focus ? style.outlineColor : style.color;
  const under = [page];
  let n = document.querySelector(selector);
  if (focus) n = n.parentElement;  // the ring stands off its cell, on what the cell lies on
  for (const stack = []; n; n = n.parentElement) {
    stack.unshift(getComputedStyle(n).backgroundColor);
    if (n === document.body) under.push(...stack);
  }
  const [a, b] = [light(paint(...under, own)), light(paint(...under))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_focus_rings_stand_out(visit: Visit, small: str, theme: str):
    page = visit(small, theme=theme)
    drawn(page)
    attn(page, 9).click()
    page.keyboard.press("ArrowRight")
    for selector in (
        ".ig-number",
        ".ig-label",
        ".ig-corner",
        ".ig-legend span",
        ".ig-note",
        ".ig-summary dt",
        ".ig-summary small",
        ".ig-facts dt",
        "#first .ip-tools button",
    ):
        assert page.evaluate(CONTRAST, [selector, False]) >= 4.5, selector
    assert page.evaluate(CONTRAST, ["#map button:focus-visible", True]) >= 3


@pytest.mark.parametrize(
    ("which", "width"), [("deep", 1280), ("deep", 390), ("small", 1280), ("small", 390)]
)
def test_the_map_wraps_instead_of_overflowing(
    visit: Visit, request: pytest.FixtureRequest, which: str, width: int
):
    page = visit(request.getfixturevalue(which), width=width)
    page.wait_for_function("document.querySelector('.ig-cell').offsetWidth >= 24")
    depth = DEEP if which == "deep" else 30
    widths = page.eval_on_selector_all(".ig-cell", "l => l.map(b => b.offsetWidth)")
    assert len(widths) == 2 * depth
    assert min(widths) >= 24
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    cut = "l => l.filter(b => b.scrollWidth > b.clientWidth).length"
    assert page.eval_on_selector_all(".ig-number, .ig-label", cut) == 0
    last = cell(page, depth - 1, 2).bounding_box()
    assert last is not None and last["x"] + last["width"] <= width


def test_the_map_follows_the_width_and_keeps_the_focus(visit: Visit, deep: str):
    page = visit(deep)
    bands = page.locator(".ig-band").count()
    attn(page, 60).focus()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("n => document.querySelectorAll('.ig-band').length > n", arg=bands)
    assert focused(page).startswith("Layer 60, attention")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")  # over the edge of the band, into the next one
    columns = page.locator(".ig-band").first.locator(".ig-number").count()
    assert focused(page).startswith(f"Layer {60 + columns}, all on")


# ---- the plot ----------------------------------------------------------------------------------


def click_cell(page: Page, x: float, y: float) -> None:
    """Click on the plotted point (x, y) of the first plot."""
    spot = page.evaluate(
        """([x, y]) => {
          const box = document.querySelector('#first .ip-figure');
          const {xaxis, yaxis} = box._fullLayout;
          const at = box.getBoundingClientRect();
          return [at.left + xaxis._offset + xaxis.d2p(x), at.top + yaxis._offset + yaxis.d2p(y)];
        }""",
        [x, y],
    )
    page.mouse.move(*spot)
    page.wait_for_selector("#first .hoverlayer .hovertext")
    page.mouse.click(*spot)


def test_a_click_on_a_point_reaches_python(visit: Visit, small: str):
    page = visit(small, height=1600)
    drawn(page)
    click_cell(page, 2, 1)
    other(page, '[1, "2.attn"]')
    page.get_by_role("button", name="New figure").click()
    drawn(page, count=2)
    click_cell(page, 0, 2)  # still wired, and once only
    other(page, '[2, "0.attn"]')


def test_the_zoom_survives_an_update(visit: Visit, small: str):
    page = visit(small)
    drawn(page)
    axis = "document.querySelector('#first .ip-figure')._fullLayout.xaxis.range"
    page.evaluate("Plotly.relayout(document.querySelector('#first .ip-figure'),"
                  " {'xaxis.range': [0.25, 1.25]})")  # fmt: skip
    page.get_by_role("button", name="New figure").click()
    page.wait_for_function(
        "document.querySelector('#first .ip-figure').calcdata[0][0].z[0][0] === 5"
    )
    assert page.evaluate(axis) == [0.25, 1.25]
    page.get_by_role("button", name="Reset zoom").click()
    page.wait_for_function(f"{axis}[0] === -0.5")
    assert page.get_by_role("button", name="Reset zoom").count() == 0


def test_no_figure_is_a_sentence(visit: Visit, small: str):
    page = visit(small)
    drawn(page)
    page.get_by_role("button", name="No figure").click()
    page.wait_for_selector("#first .ip-empty:visible")
    assert page.locator("#first").inner_text() == "Nothing to show yet."
    page.get_by_role("button", name="New figure").click()
    page.wait_for_selector("#first .ip-figure:visible")


def test_the_plot_follows_dark_mode(visit: Visit, small: str):
    page = visit(small)
    drawn(page)
    ink = "getComputedStyle(document.querySelector('#first .gtitle')).fill"
    before, count = page.evaluate(ink), draws(page)
    page.evaluate("document.body.classList.add('dark')")
    drawn(page, count=count + 1)
    assert page.evaluate(ink) != before
    page_ink = "getComputedStyle(document.querySelector('#first .ip-root')).color"
    assert page.evaluate(ink) == page.evaluate(page_ink)


def test_a_plot_in_a_hidden_tab_fills_the_tab_once_it_is_shown(visit: Visit, small: str):
    page = visit(small)
    drawn(page)
    page.get_by_role("tab", name="Two").click()
    drawn(page, "second")
    shown = page.locator("#second .ip-figure").bounding_box()
    plot = page.locator("#second .main-svg").first.bounding_box()
    assert shown is not None and plot is not None
    assert abs(shown["width"] - plot["width"]) < 2 and plot["width"] > 600
    bundles = [url for url in visit.requests if url.endswith("plotly.min.js")]
    assert len(bundles) == 1  # one download for all plots


def test_the_plot_fits_a_phone(visit: Visit, small: str):
    page = visit(small, width=390)
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    plot = page.locator("#first .main-svg").first.bounding_box()
    assert plot is not None and plot["width"] <= 390


@pytest.mark.parametrize(
    ("name", "start"), [("CSV", b"x,probe\n1,2\n"), ("PNG", b"\x89PNG"), ("SVG", b"<svg")]
)
def test_downloads(visit: Visit, small: str, name: str, start: bytes):
    page = visit(small, theme="dark")
    drawn(page)
    button = page.locator("#first").get_by_role("button", name=f"Save as {name}: A title")
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == f"probe.{name.lower()}"
    content = Path(download.value.path()).read_bytes()
    assert content.startswith(start)
    assert name == "PNG" or len(content) == len(start) or b"A title" in content


def test_the_figure_has_a_name_for_a_screen_reader(visit: Visit, small: str):
    page = visit(small)
    drawn(page)
    image = page.get_by_role("img", name="A title. lower = safer")
    assert image.count() == 1
