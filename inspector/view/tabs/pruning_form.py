"""The form of a pruning run: its fields, and how what was filled in is read."""

from __future__ import annotations

from typing import Any

import gradio as gr

from inspector.errors import InspectorError
from inspector.measure.methods import METHODS, Method, evolution, method_named
from inspector.units import KINDS, Mask
from inspector.view.card import Card
from inspector.view.texts import number, whole

SAME = "the search text"
BY_GRAIN = sorted(METHODS.values(), key=lambda row: row.grain == "layer")
"""The methods that remove units, then those that remove whole layers."""
STOPS = ("remove", "remove_params", "remove_kv", "until_perplexity")
FORM = (
    "method", "metric", "amount", "stop", "check", "only", "protect", "bar", "published", "seed",
    "search",
    "generations", "offspring", "starts", "search_tokens",
)  # fmt: skip
"""The fields of the form, in the order in which handlers get them; the text's come after them."""
TEXT = 4
"""Fields of the text: corpus, windows, tokens, seed."""
SEARCHES: dict[str, dict[str, Any]] = {
    "exact": {},
    "exact, every score in full": {"early_exit": False},
    "lazy (an approximation)": {"lazy": True},
    "lazy, last step checked": {"lazy": True, "verify": True},
}
"""How thoroughly candidates are scored, as arguments of `prune`."""


def bounds(form: dict[str, Any]) -> dict[str, Any]:
    """When the run is to stop, as an argument of `prune`.

    Raises:
        InspectorError: no amount, or none that makes sense.
    """
    stop, amount = form["stop"], form["amount"]
    if stop not in STOPS:
        raise InspectorError("choose what to count: removals, parameters, KV cache or perplexity.")
    if amount is None:
        raise InspectorError("say after how much the run is to stop.")
    if stop == "remove":
        return {stop: whole(amount, "how many to remove", 1)}
    return {stop: float(amount) if stop == "until_perplexity" else f"{amount:.12g}%"}


def asked(form: dict[str, Any], card: Card) -> dict[str, Any]:
    """The rest of the form, as arguments of `prune`.

    Raises:
        InspectorError: a field cannot be read.
    """
    row = method_named(form["method"])
    seed = number(form["seed"], "the method's seed")
    if form["search"] not in SEARCHES:
        raise InspectorError(f"choose a search: {', '.join(SEARCHES)}.")
    return {
        "method": row.name,
        "metric": row.metric(form["metric"]),
        "only": form["only"] if form["only"] in KINDS else None,
        "protect": Mask.parse(form["protect"] or "", card.depth),
        "protect_first_until": number(form["bar"], "the share to bar first layers by"),
        "as_published": bool(form["published"]),
        "seed": 0 if seed is None else whole(seed, "the method's seed", 0),
        **SEARCHES[form["search"]],
        "evolution": _evolution(row, form),
    }


def _evolution(row: Method, form: dict[str, Any]) -> evolution.Evolution | None:
    """How long an evolutionary search is to be; other methods' runs leave these fields alone."""
    if row.way != "evolution":
        return None
    counts = {}
    for name in ("generations", "offspring", "starts"):
        value = number(form[name], f"the number of {name}")
        counts[name] = None if value is None else whole(value, f"how many {name}", 0)
    return evolution.asked(row, form["search_tokens"], **counts)


def stops(row: Method) -> list[tuple[str, str]]:
    """What a run of the method can be stopped by: label and name."""
    labels = (f"{row.grain}s", "% of the parameters", "% of the KV cache", "perplexity reached")
    return list(zip(labels, STOPS, strict=True))


def form_fields(first: Method) -> tuple[list[Any], Any]:
    """The form, in the order of `FORM`, and what holds the fields of an evolutionary search."""
    with gr.Row(equal_height=True):
        method = gr.Dropdown(
            [(f"{row.label} · {row.grain}s", row.name) for row in BY_GRAIN],
            value=first.name,
            label="Method",
            min_width=260,
            scale=2,
            elem_id="method",
        )
        metric = gr.Dropdown(
            list(first.metrics), value=first.metrics[0], label="Score", min_width=215
        )
        amount = gr.Number(8, label="Stop after", minimum=0, min_width=80, elem_id="remove")
        stop = gr.Dropdown(
            stops(first), value=STOPS[0], label="Counted in", min_width=150, elem_id="stop"
        )
        check = gr.Dropdown(
            [SAME, "pydoc:check", "wikitext2:validation", "wikitext2:test"],
            value="pydoc:check",
            allow_custom_value=True,
            label="Check perplexity on",
            min_width=170,
        )
    with gr.Accordion("More choices", open=False, elem_id="prune-more"), gr.Row():
        only = gr.Dropdown(
            [("both kinds", "both"), ("attention only", "attn"), ("FFN only", "ffn")],
            value="both",
            label="Units",
            min_width=190,
        )
        protect = gr.Textbox(label="Never remove", placeholder="such as 0,29", min_width=120)
        bar = gr.Textbox(label="Bar first layers by share", placeholder="FinerCut's -x: 0.4")
        seed = gr.Textbox(label="Method's seed", placeholder="0; where it draws", min_width=100)
        published = gr.Checkbox(False, label="As in the authors' code", min_width=150)
        search = gr.Dropdown(list(SEARCHES), value="exact", label="Search", min_width=190)
    first_fields = [method, metric, amount, stop, check, only, protect, bar, published, seed]
    lengths, box = _search_fields(visible=first.way == "evolution")
    return [*first_fields, search, *lengths], box


def _search_fields(*, visible: bool) -> tuple[list[Any], Any]:
    """How long an evolutionary search is to be, as published where empty, and what holds it."""
    length = evolution.PUBLISHED
    tokens = ",".join(map(str, length.search_tokens))
    title = "Length of the search"
    with gr.Accordion(title, open=False, visible=visible, elem_id="prune-search") as box, gr.Row():
        fields = [
            gr.Textbox(label=label, placeholder=placeholder, min_width=width)
            for label, placeholder, width in (
                ("Generations", "k (C - k) / 1.5", 110),
                ("Masks a generation", str(length.offspring), 110),
                ("Random masks at first", str(length.starts), 110),
                ("Tokens for all, for the best", tokens, 160),
            )
        ]
    return fields, box
