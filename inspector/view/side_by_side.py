"""Generated texts beside each other, the common beginning of both in grey."""

from __future__ import annotations

from html import escape

from inspector.results.checks import Continuation, Generation

_GRID = (
    "display: grid; grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); "
    "gap: 0.75rem; margin: 0.25rem 0 1rem"
)
_TEXT = "white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.25rem 0 0"
_GREY = "color: var(--body-text-color-subdued)"
_COMMON = f"{_GREY}; opacity: 0.82"  # paler still, and 4.5:1 against the page


def side_by_side(found: Generation | None) -> str:
    """The texts of every prompt as HTML; nothing in it is taken for markup."""
    if found is None:
        return f'<p style="{_GREY}">Nothing generated yet.</p>'
    # The mask on the page may have changed since.
    label = f"With {found.mask} off" if found.mask else "With nothing off"
    return "".join(_pair(one, label) for one in found.continuations)


def parting_words(one: Continuation) -> str:
    """Where the two texts part, in words; empty where that is not known."""
    if one.parted is not None:
        tokens = "1 token" if one.parted == 1 else f"{one.parted} tokens"
        return f"The two part after {tokens}."
    return "The two are the same." if one.same else ""


def _pair(one: Continuation, label: str) -> str:
    texts = ((label, one.text), ("Untouched", one.baseline_text))
    columns = "".join(_column(title, text, one.shared) for title, text in texts)
    words = parting_words(one)
    said = f'<div style="{_GREY}">{words}</div>' if words else ""
    prompt = f'<div style="{_TEXT}"><strong>{escape(one.prompt)}</strong></div>'
    return f'<section>{prompt}{said}<div style="{_GRID}">{columns}</div></section>'


def _column(title: str, text: str, shared: int) -> str:
    common, rest = escape(text[:shared]), escape(text[shared:])
    begin = f'<span class="common" style="{_COMMON}">{common}</span>' if common else ""
    return (
        f'<div><div style="{_GREY}">{escape(title)}</div>'
        f'<div style="{_TEXT}">{begin}{rest}</div></div>'
    )
