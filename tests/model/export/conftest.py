"""A proof takes a fresh process of some seconds, so most tests here do without it."""

from __future__ import annotations

from typing import Any

import pytest

from inspector.model.export import making

PASSED = [{"name": "logits", "what": "all", "passed": True, "exact": True, "difference": 0.0}]


@pytest.fixture
def no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every export passes: for tests of what is around the proof."""

    def prove(*_: Any, **__: Any) -> list[dict[str, Any]]:
        return PASSED

    monkeypatch.setattr(making, "prove", prove)
