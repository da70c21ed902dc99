"""What every test runs under: no hub, no telemetry, and one Chromium for the browser tests."""

from __future__ import annotations

import os

# Before anything imports transformers, datasets or gradio: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests run last.

    They are the slowest, and Playwright's sync API leaves an event loop running in the main
    thread for as long as its browser lives, under which `asyncio.run` refuses to work.
    """
    browser = ROOT / "tests" / "browser"
    items.sort(
        key=lambda item: bool(item.get_closest_marker("browser")) or browser in item.path.parents
    )


@pytest.fixture(scope="session", autouse=True)
def own_baselines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept of untouched models goes to a folder of this run's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSPECTOR_BASELINES", str(tmp_path_factory.mktemp("baselines")))
        yield


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium under Playwright, one for the whole run; close your own contexts."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        reason = f"no browser on PATH; looked for {', '.join(CHROMIUM_NAMES)}"
        if os.environ.get("INSPECTOR_REQUIRE_BROWSER") == "1":
            pytest.fail(f"INSPECTOR_REQUIRE_BROWSER=1, but {reason}")
        pytest.skip(reason)

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The larger corpora, kept beside the checkout and not in it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data folder beside the checkout")
    return folder
