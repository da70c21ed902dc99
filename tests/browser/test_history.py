"""The table of what was tried in a real browser: it sorts by numbers, and its rows act."""

from __future__ import annotations

from typing import Any

import pytest

from inspector.results.base import Provenance
from inspector.results.checks import Perplexity
from inspector.view import outcomes
from inspector.view.session import Session

pytestmark = pytest.mark.browser

VALUES = {"1.attn": 1234.5, "2.ffn": 99.0, "0-1": 310.0}
UNTOUCHED = 95.0


def noted(session: Session) -> None:
    card = session.require_card()
    made = Provenance(card.source, card.weights, "llama", card.dtype, "cpu", card.depth)
    baseline = {"perplexity": UNTOUCHED, "nll": 4.0, "tokens": 9}
    with session.lock:
        for mask, value in VALUES.items():
            outcomes.note(
                session, "perplexity", Perplexity(made, mask, value, 4.0, 9, 8, 8, baseline)
            )


def column(shown: Any, number: int) -> list[str]:
    cells = shown.locator(f"#history [role=gridcell][aria-colindex='{number}']")
    return [text.strip() for text in cells.all_inner_texts() if text.strip()]


def wait_column(shown: Any, number: int, expected: list[str]) -> None:
    for _ in range(100):
        if column(shown, number) == expected:
            return
        shown.wait_for_timeout(100)
    assert column(shown, number) == expected


def test_it_sorts_by_number_and_its_rows_act(chromium: Any, bench: Any) -> None:
    context = chromium.new_context(viewport={"width": 1400, "height": 950})
    shown = context.new_page()
    shown.goto(bench.url)
    shown.wait_for_selector("#map [role=grid]", timeout=60_000)
    (session,) = [each for key, each in bench._sessions.items() if key != "loader"]
    shown.get_by_role("tab", name="Check").click()
    noted(session)
    wait_column(shown, 1, ["0-1", "nothing", "2.ffn", "1.attn"])
    assert column(shown, 3) == ["310", "95", "99", "1,234"]  # as people read them
    header = shown.locator("#history [role=columnheader][aria-colindex='3']")
    header.hover()
    header.get_by_role("button", name="Open cell menu").click()
    shown.get_by_role("menuitem", name="Sort ascending").click()
    wait_column(shown, 3, ["95", "99", "310", "1,234"])  # as numbers sort
    assert column(shown, 1) == ["nothing", "2.ffn", "0-1", "1.attn"]
    shown.locator("#history [role=gridcell]", has_text="2.ffn").click()
    for _ in range(100):
        if str(session.require_mask()) == "2.ffn":
            break
        shown.wait_for_timeout(100)
    assert str(session.require_mask()) == "2.ffn"  # of the row that is shown there
    shown.locator("#history-delete").click()
    wait_column(shown, 1, ["nothing", "0-1", "1.attn"])  # still sorted
    context.close()
