"""Take the README's two pictures of the page: `python tests/browser/write_screenshots.py`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent.parent / "assets"


def main() -> None:
    os.environ["INSPECTOR_RUNS"] = tempfile.mkdtemp()
    from playwright.sync_api import sync_playwright

    from inspector.view.page import serve

    page, address = serve(port=None, block=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for theme in ("light", "dark"):
            view = browser.new_page(viewport={"width": 1360, "height": 1700})
            view.goto(f"{address}?__theme={theme}")
            view.wait_for_selector("#step-map .main-svg", timeout=120_000)
            view.locator("#step input[type=number]").fill("6")
            view.locator("#step input[type=number]").press("Enter")
            view.evaluate("document.activeElement.blur()")
            view.wait_for_timeout(4000)
            view.mouse.move(5, 900)
            view.screenshot(path=str(ASSETS / f"screenshot-{theme}.png"))
        browser.close()
    page.close()


if __name__ == "__main__":
    main()
