"""What a visitor does with the keyboard alone, and with files that are dropped on the page."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser

DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name));
  for (const type of ['dragover', 'drop']) {
    const event = new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true});
    document.getElementById('map').dispatchEvent(event);
    if (!event.defaultPrevented) throw new Error('the browser would leave the page for the file');
  }
}"""


@pytest.fixture
def shown(chromium: Any, bench: Any) -> Any:
    """The page over the tiny model."""
    page = chromium.new_page(viewport={"width": 1400, "height": 950})
    page.goto(bench.url)
    page.wait_for_selector("#map [role=grid]", timeout=60_000)
    page.wait_for_function("document.querySelectorAll('#map [role=switch]').length === 8")
    yield page
    page.close()


def wait_mask(page: Any, text: str) -> None:
    page.wait_for_function(
        "want => document.querySelector('#mask-text textarea, #mask-text input').value === want",
        arg=text,
        timeout=20_000,
    )


@pytest.mark.timeout(300)
def test_files_that_are_dropped_are_opened(shown: Any) -> None:
    shown.evaluate(DROP, ["layer_drop_config.txt", "none\nattn\nmlp\nattn+mlp\n"])
    wait_mask(shown, "1.attn,2.ffn,3")
    shown.evaluate(DROP, ["config.json", "hello"])
    shown.wait_for_selector("text=This file is of no known form", timeout=20_000)
    shown.evaluate(DROP, ["order.json", '{"1": [["mlp", 2]], "2": [["mha", 1], ["mlp", 2]]}'])
    shown.wait_for_function(
        "document.querySelector('#step input[type=range]')?.max === '2'", timeout=20_000
    )
    wait_mask(shown, "1.attn,2.ffn,3")


FOCUS = """() => {
  const found = document.activeElement;
  if (!found || found === document.body) return null;
  const marks = node => {
    const style = getComputedStyle(node);
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  };
  const around = found.closest('label, .wrap') || found;
  return [found.closest('[id]')?.id || found.tagName, marks(found) || marks(around)];
}"""


def tab_to(page: Any, element: str, *, most: int = 80) -> None:
    """Press Tab until the focus is in the element; everything on the way has to show it."""
    for _ in range(most):
        page.keyboard.press("Tab")
        name, marked = page.evaluate(FOCUS) or ("", True)
        assert marked, f"{name} has the focus and does not show it"
        if page.evaluate("id => !!document.activeElement.closest('#' + id)", element):
            return
    raise AssertionError(f"{element} cannot be reached with the Tab key")


@pytest.mark.timeout(300)
def test_the_keyboard_alone_switches_units_undoes_it_and_starts_a_run(shown: Any) -> None:
    shown.locator("#source input").focus()
    tab_to(shown, "map")
    shown.keyboard.press("Space")
    wait_mask(shown, "0.attn")
    for key in ("ArrowRight", "ArrowDown", "Space"):
        shown.keyboard.press(key)
    wait_mask(shown, "0.attn,1.ffn")
    shown.keyboard.press("Control+z")
    wait_mask(shown, "0.attn")
    tab_to(shown, "undo")
    shown.keyboard.press("Enter")
    wait_mask(shown, "")
    tab_to(shown, "prune-go")
    # Each list was closed when the focus left it.
    shown.wait_for_function("!document.querySelector('[role=listbox]')", timeout=10_000)
    shown.keyboard.press("Enter")
    shown.wait_for_function(  # the field is there once there are steps
        "document.querySelector('#step input[type=range]')?.max === '8'", timeout=120_000
    )
    tab_to(shown, "step")
    shown.keyboard.press("ArrowUp")  # in the field beside the slider
    shown.wait_for_function(
        "document.querySelector('#mask-text textarea, #mask-text input').value !== ''"
    )


@pytest.mark.timeout(300)
def test_a_run_that_the_keyboard_cancels_can_go_on(shown: Any, bench: Any) -> None:
    shown.locator("#text-search button").first.click()
    shown.locator("#text-search input[type=number]").nth(0).fill("400")  # long enough to be caught
    shown.locator("#prune-go").focus()
    shown.keyboard.press("Enter")
    shown.wait_for_function(
        "document.querySelector('#status .job-words')?.innerText.includes('step 2 of')",
        timeout=120_000,
    )
    tab_to(shown, "prune-cancel")
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#status .job", state="detached", timeout=60_000)
    shown.get_by_role("tab", name="Runs").click()
    assert shown.locator("#cut-off-run input").input_value().startswith("20")
    shown.locator("#cut-off-go").click()
    shown.wait_for_function(
        "document.querySelector('#status .job-words')?.innerText.includes('step')",
        timeout=60_000,
    )
    shown.locator("#cancel").click()
    shown.wait_for_selector("#status .job", state="detached", timeout=60_000)
