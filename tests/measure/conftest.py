"""What the tests of measurements share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import plain


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """See `plain.one_thread`."""
    with plain.one_thread():
        yield
