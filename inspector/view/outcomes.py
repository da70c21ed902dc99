"""What a finished check leaves on the page: a row of the history, and the live perplexity."""

from __future__ import annotations

from typing import Any

from inspector.results.checks import Benchmark, Perplexity, Speed
from inspector.units import Mask
from inspector.view.figures.style import csv_text
from inspector.view.session import HISTORY, Session

COLUMNS = ("Check", "This mask", "Untouched", "Off", "Parameters", "KV B/token", "Mask")

NOTHING = "nothing"
"""What stands in the table for the empty mask."""


def note(session: Session, kind: str, result: Any) -> None:
    """Take a finished check into the history; other results leave it alone."""
    if kind == "live" and isinstance(result, Perplexity):
        session.live["result"] = result
        session.baselines[text_key(result.provenance.corpus)] = result.untouched
        session.touch("live")
    elif isinstance(result, Perplexity):
        session.baselines[text_key(result.provenance.corpus)] = result.untouched
        text = f"perplexity, {_cut(result)}"
        _row(session, result.mask, text, result.perplexity, result.baseline["perplexity"])
    elif isinstance(result, Benchmark):
        for score in result.tasks:
            text = f"{score.task}, {score.metric}, {score.items} items"
            _row(session, result.mask, text, score.value, score.baseline)
    elif isinstance(result, Speed):
        cut = f"{result.prompt_length} + {result.new_tokens} tokens, batch {result.batch}"
        for name, words in (("decode", "decode, ms/token"), ("prefill", "prefill, tokens/s")):
            here, untouched = result.here(name), result.untouched(name)
            _row(session, result.mask, f"{words}, {cut}", here.median, untouched.median)


def text_key(about: dict[str, Any]) -> str:
    """A text and how it was cut: what the untouched model's perplexity may be reused for."""
    return repr(sorted(about.items()))


def csv_of(session: Session) -> str:
    """The history as CSV, the newest row first."""
    return csv_text(COLUMNS, (tuple(row.values()) for row in session.history))


def _cut(result: Perplexity) -> str:
    made = result.provenance.corpus
    return f"{made.get('name')}, {made.get('windows')} x {result.length}, stride {result.stride}"


def _row(session: Session, mask: str, check: str, value: float, untouched: float) -> None:
    card = session.require_card()
    off = Mask.parse(mask, card.depth)
    parameters = card.parameters - sum(card.units[str(unit)][0] for unit in off)
    kv = card.kv_bytes - sum(card.units[str(unit)][1] for unit in off)
    row = [check, value, untouched, len(off), parameters, kv, mask or NOTHING]
    session.history = [dict(zip(COLUMNS, row, strict=True)), *session.history][:HISTORY]
    session.touch("check")
