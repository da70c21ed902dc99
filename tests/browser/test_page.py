"""The main job on the real model in a real browser."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlparse

import pytest

from inspector.model.sources import bundled_file

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bundled_file() is None, reason="the bundled model is not installed"),
]

SLOW = 240_000


def cell(page: Any, unit: str) -> Any:
    layer, kind = unit.split(".")
    words = {"attn": "attention", "ffn": "FFN"}[kind]
    return page.locator(f'#map [role=switch][aria-label^="Layer {layer}, {words},"]')


def mask(page: Any) -> str:
    return page.locator("#mask-text textarea, #mask-text input").input_value()


def wait_mask(page: Any, text: str) -> None:
    page.wait_for_function(
        "want => document.querySelector('#mask-text textarea, #mask-text input').value === want",
        arg=text,
        timeout=20_000,
    )


def live(page: Any, *, not_like: str = "") -> float:
    """The perplexity on the page, once it is there and not `not_like`."""
    page.wait_for_function(
        "old => { const v = document.querySelector('#live .card-value').textContent;"
        " return /^[0-9.]+$/.test(v) && v !== old }",
        arg=not_like,
        timeout=SLOW,
    )
    return float(page.locator("#live .card-value").inner_text())


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


@pytest.mark.timeout(1200)
def test_the_main_job(visit: Any) -> None:
    page = visit()
    # What one sees before loading anything: the recorded run, marked as such.
    assert "recorded" in page.locator("#model-now").inner_text()
    page.wait_for_selector("#step-map .main-svg", timeout=30_000)
    cell(page, "5.attn").click()
    wait_mask(page, "5.attn")
    assert "load the model" in page.locator("#live").inner_text()
    page.locator("#reset").click()
    wait_mask(page, "")

    page.locator("#load-now").click()
    page.wait_for_function(
        "document.querySelector('#model-now').innerText.startsWith('In memory: smollm2')",
        timeout=SLOW,
    )
    assert not page.locator("#load-now").is_visible()
    untouched = live(page)
    assert 5 < untouched < 200
    cell(page, "0.ffn").click()
    wait_mask(page, "0.ffn")
    edited = live(page, not_like=f"{untouched:.2f}")
    assert edited > 2 * untouched  # the first FFN matters most of all
    page.locator("#undo").click()
    wait_mask(page, "")
    assert live(page, not_like=f"{edited:.2f}") == untouched

    # Two pruning steps on little text, then a third that is cancelled.
    page.locator("#text-search button").first.click()
    page.locator("#text-search input[type=number]").nth(0).fill("1")
    page.locator("#text-search input[type=number]").nth(1).fill("64")
    open_tab(page, "Pruning run")
    page.locator("#remove input").fill("2")
    page.locator("#prune-go").click()
    page.wait_for_selector("#status .job", timeout=20_000)
    page.wait_for_selector("#status .job", state="detached", timeout=SLOW)
    slider = page.locator("#step input[type=range]")
    assert slider.get_attribute("max") == "2"
    page.locator("#remove input").fill("58")
    page.locator("#prune-go").click()
    page.wait_for_function(
        "document.querySelector('#status .job-words')?.innerText.includes('step 2 of')",
        timeout=SLOW,
    )
    page.locator("#prune-cancel").click()
    page.wait_for_selector("#status .job", state="detached", timeout=30_000)
    done = int(slider.get_attribute("max"))
    assert 1 <= done < 58  # what was finished before the cancel is kept

    slider.focus()
    slider.evaluate(
        "e => { e.value = 1; e.dispatchEvent(new Event('input', {bubbles: true}));"
        " e.dispatchEvent(new Event('change', {bubbles: true}));"
        " e.dispatchEvent(new Event('pointerup', {bubbles: true})) }"
    )
    page.wait_for_function(
        "/^\\d+\\.(attn|ffn)$/.test("
        "document.querySelector('#mask-text textarea, #mask-text input').value)",
        timeout=20_000,
    )
    assert re.fullmatch(r"\d+\.(attn|ffn)", mask(page))

    # The recorded run can be opened again, and a saved one has its command line.
    open_tab(page, "Runs")
    page.locator("#run-open").click()
    page.wait_for_function(
        "document.querySelector('#run-command textarea').value.startsWith('inspector prune')",
        timeout=20_000,
    )
    open_tab(page, "Pruning run")
    page.wait_for_function(
        "document.querySelector('#step input[type=range]').max > 10", timeout=20_000
    )
    assert not page.faults
    hosts = {urlparse(url).hostname for url in page.asked if url.startswith("http")}
    assert hosts <= {"127.0.0.1", "localhost"}


@pytest.mark.timeout(300)
def test_two_pages_do_not_see_each_others_mask(visit: Any) -> None:
    one, two = visit(), visit()
    cell(one, "7.attn").click()
    wait_mask(one, "7.attn")
    cell(two, "9.ffn").click()
    wait_mask(two, "9.ffn")
    one.wait_for_timeout(3000)
    wait_mask(one, "7.attn")
    wait_mask(two, "9.ffn")
    assert cell(one, "9.ffn").get_attribute("aria-checked") == "true"


@pytest.mark.timeout(300)
def test_a_reloaded_page_has_its_mask_and_its_way_back(visit: Any) -> None:
    page = visit()
    cell(page, "7.attn").click()
    wait_mask(page, "7.attn")
    cell(page, "9.ffn").click()
    wait_mask(page, "7.attn,9.ffn")
    page.reload()
    page.wait_for_selector("#map [role=grid]", timeout=60_000)
    wait_mask(page, "7.attn,9.ffn")
    page.wait_for_timeout(3000)  # until all that opening draws has arrived
    assert cell(page, "7.attn").get_attribute("aria-checked") == "false"
    page.locator("#undo").click()
    wait_mask(page, "7.attn")
    page.wait_for_timeout(1500)
    cell(page, "9.ffn").click()  # the count of clicks begins anew and is believed
    wait_mask(page, "7.attn,9.ffn")


@pytest.mark.timeout(300)
def test_bad_input_is_one_sentence_and_nothing_is_lost(visit: Any) -> None:
    page = visit()
    cell(page, "3.ffn").click()
    wait_mask(page, "3.ffn")
    box = page.locator("#mask-text textarea, #mask-text input")
    box.fill("99.attn")
    page.wait_for_timeout(1500)  # redrawing leaves alone what somebody is typing
    box.press("Enter")
    page.wait_for_selector("text=Layer 99 is out of range", timeout=20_000)
    assert box.input_value() == "99.attn"  # to be put right, not typed again
    assert cell(page, "3.ffn").get_attribute("aria-checked") == "false"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(visit: Any, dark: bool) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(dark=dark)
    for name in ("Pruning run", "Similarity", "What next", "Check", "Runs"):
        open_tab(page, name)
        page.wait_for_timeout(1500)
        found = Axe().run(page).response["violations"]
        serious = [
            (each["id"], [node["html"][:200] for node in each["nodes"]][:3])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert not serious, (name, serious)


@pytest.mark.timeout(300)
def test_a_phone_needs_no_sideways_scrolling(visit: Any) -> None:
    page = visit(width=390, height=844)
    page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.locator(".sidebar.open").count()
