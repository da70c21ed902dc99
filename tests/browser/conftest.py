"""The real page, served in process on a free port with runs in a temporary folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is served."""
    os.environ["INSPECTOR_RUNS"] = str(tmp_path_factory.mktemp("runs"))
    from inspector.view.page import serve

    page, url = serve(port=None, block=False)
    yield url
    page.close()


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Any]:
    """A function that opens the page in a context of its own and notes what it asks for."""
    contexts = []

    def open_page(*, width: int = 1400, height: int = 950, dark: bool = False) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.asked = []
        page.faults = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(address + ("?__theme=dark" if dark else "?__theme=light"))
        page.wait_for_selector("#map [role=grid]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Any]:
    """A served workbench with the tiny model; its address is in `bench.url`."""
    monkeypatch.setenv("INSPECTOR_RUNS", str(tmp_path))
    from inspector.view import page
    from inspector.view.workbench import Workbench

    made: list[Workbench] = []

    class Known(Workbench):
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            made.append(self)

    monkeypatch.setattr(page, "Workbench", Known)
    served, url = page.serve(port=None, block=False)
    found: Any = made[0]
    request: Any = SimpleNamespace(session_hash="loader")
    assert found.load(found.session(request), "tiny:llama", "cpu", "fp32").wait(60)
    found.url = url
    yield found
    served.close()
