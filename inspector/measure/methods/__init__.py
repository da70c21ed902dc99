"""The methods that choose what to remove: one table for page, CLI and README.

The table is data and imports nothing heavy. What a method goes by is computed in `scores` and
`taylor`; how it goes, step by step, in `one_by_one`, `window`, `evopress` and `exchanges`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inspector.errors import ResultError
from inspector.measure.methods.goals import SCORES, SWEPT
from inspector.units import KINDS

WAYS = {
    "iterative": "scores what is left anew at every step",
    "one-shot": "scores once and removes in that order",
    "window": "one window of neighbouring layers, a layer longer at every step",
    "evolution": "searches whole masks of one size, a step whenever it has found a better one",
    "exchanges": "scores what is left lazily at every step, then exchanges what has been removed",
}
"""How a method goes from step to step."""

GREEDY = "k C - k (k - 1) / 2 candidates for k removals out of C"
ONE_SWEEP = "C candidates, once"
ONE_PASS = "one forward pass without the head"
THERE_AND_BACK = "two forward passes and one backward pass in fp32"
NO_PASS = "no pass"
EVOLVED = (
    "64 masks on 2,048 tokens, then in each of k (C - k) / 1.5 generations 32 masks on 2,048 and 3 "
    "on 32,768, k out of C of a kind"
)


@dataclass(frozen=True)
class Method:
    """One row; in every method the lowest score goes first.

    `metrics` are the scores that it can go by, the default first: names of `measure.metrics` or of
    `goals`. `grain` is what one removal takes: a `unit`, of one of `kinds`, or a whole `layer`.
    `way` is one of `WAYS`. `keep` are the numbers of first and of last layers that it never
    removes, counted among those that are on at the start. `order` decides between equal scores:
    `forward`, `attn_first` (all attentions, then all FFNs) or `module` (by the modules' names); the
    first goes. `calibration` is the authors' text; the default here is one that needs no hub.

    `published` says what `as_published` changes, empty where nothing: `published_order` takes the
    place of `order`, and with `bars_first` layer 0 is barred from the first removal. `bars_first`
    also lets `protect_first_until` bar more layers for longer.
    """

    name: str
    label: str
    paper: str
    metrics: tuple[str, ...]
    calibration: str
    note: str
    cost: str = GREEDY
    grain: str = "unit"
    kinds: tuple[str, ...] = KINDS
    way: str = "iterative"
    keep: tuple[int, int] = (0, 0)
    order: str = "forward"
    published: str = ""
    published_order: str = ""
    bars_first: bool = False

    def metric(self, name: str | None) -> str:
        """The metric to go by: the default for None.

        Raises:
            ResultError: the method does not know it.
        """
        if name is None:
            return self.metrics[0]
        if name not in self.metrics:
            choices = ", ".join(self.metrics)
            raise ResultError(f"{self.name} goes by {choices}, not by {name!r}.")
        return name

    @property
    def kept(self) -> str:
        """The layers that it never removes, in words; empty where there are none."""
        counts = zip(("first", "last"), self.keep, strict=True)
        return " and ".join(
            f"the {end} {n} layers" if n > 1 else f"the {end} layer" for end, n in counts if n
        )


UIDL = "arXiv 2403.17887"
REASSESSING = "arXiv 2411.15558"
LLM_DROP = "arXiv 2406.15786"
SHORTENED = "arXiv 2402.02834"
EVOPRESS = "arXiv 2410.14649"
NO_TEXT = "none"
_REASSESSING_TEXT = "10 sequences of 128 tokens"
_DROP_TEXT = "256 packed sequences of 2048 tokens"


def _drop(what: str, kinds: tuple[str, ...], *, iterative: bool) -> Method:
    joint = kinds == KINDS
    words = "attention and FFN units in one ranking" if joint else f"{what} units alone"
    name = "joint" if joint else "".join(kinds)
    again = "Scored anew after every removal." if iterative else "Scored once."
    return Method(
        f"llm-drop-{name}-iterative" if iterative else f"llm-drop-{name}",
        f"LLM-Drop, {what}{', iterative' if iterative else ''}",
        LLM_DROP,
        metrics=("turn",),
        calibration=_DROP_TEXT,
        kinds=kinds,
        way="iterative" if iterative else "one-shot",
        cost=f"{ONE_PASS}, at every step" if iterative else ONE_PASS,
        note=f"{again} Over {words}, by how little a unit turns the residual stream that it adds "
        "to, the norm in front of it counted in.",
    )


def _layers(name: str, label: str, paper: str, metric: str, **more: Any) -> Method:
    """A method that scores whole layers once."""
    return Method(name, label, paper, (metric,), grain="layer", way="one-shot", **more)


def _evopress(name: str, label: str, grain: str, note: str) -> Method:
    return Method(
        name,
        label,
        EVOPRESS,
        metrics=("kl",),
        calibration="fineweb-edu, 131,072 tokens (their example) to 8M in windows of 8192 (4096)",
        grain=grain,
        way="evolution",
        cost=EVOLVED,
        note=note,
    )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "finercut",
            "FinerCut",
            "arXiv 2405.18218",
            metrics=("js", "js-reversed", "kl", "angular", "norm", "nll"),
            calibration="wikitext2:train, non-empty lines joined by a space, 10 windows of 256 "
            "tokens (Vicuna: c4)",
            note="Greedy over attention and FFN units by how far the logits move from the "
            "untouched model's. Follows the paper: any unit may go first, equal scores go in "
            "forward order, and js is the textbook divergence; js-reversed is what the authors' "
            "code computes.",
            published="layer 0 is barred from the first removal, and equal scores go in the order "
            "of the modules' names",
            published_order="module",
            bars_first=True,
        ),
        Method(
            "blockpruner",
            "BlockPruner",
            "arXiv 2406.10594",
            metrics=("perplexity",),
            order="attn_first",
            calibration="alpaca, 256 rows joined by two newlines, windows of 2048 tokens",
            note="Greedy over attention and FFN units by perplexity; equal scores go to the "
            "earliest attention, then the earliest FFN, as in the authors' code. Attention only "
            "and FFN only are its mha and mlp types.",
        ),
        Method(
            "sleb",
            "SLEB",
            "arXiv 2402.09025",
            metrics=("nll",),
            grain="layer",
            keep=(1, 1),
            calibration="wikitext2:train, 128 lines joined",
            note="Greedy over whole layers by the loss of the present model without the layer; the "
            "authors sum it over tokens, here it is the mean, which orders the same.",
        ),
        _layers(
            "shortgpt",
            "ShortGPT",
            "arXiv 2403.03853",
            "influence",
            cost=ONE_PASS,
            calibration="PG19",
            note="Whole layers by how little they turn the residual stream. The last layer's "
            "output is its own, before the final norm.",
            published="the last layer's output is taken after the final norm, which makes it look "
            "busier than it is",
        ),
        _drop("attention", ("attn",), iterative=False),
        _drop("FFN", ("ffn",), iterative=False),
        _drop("joint", KINDS, iterative=False),
        _drop("attention", ("attn",), iterative=True),
        _drop("FFN", ("ffn",), iterative=True),
        _drop("joint", KINDS, iterative=True),
        _layers(
            "shortened-ppl",
            "Shortened LLaMA, PPL",
            SHORTENED,
            "perplexity",
            keep=(4, 2),
            cost=ONE_SWEEP,
            calibration="10 sequences of 128 tokens",
            note="Whole layers by the perplexity without the layer. Candidates are those of the "
            "paper's + variants.",
        ),
        _layers(
            "shortened-taylor",
            "Shortened LLaMA, Taylor+",
            SHORTENED,
            "taylor",
            keep=(4, 2),
            cost=THERE_AND_BACK,
            calibration="10 sequences of 128 tokens",
            note="Whole layers by the first-order estimate of what their weights are worth to the "
            "loss: the absolute value of each weight times its gradient over the whole text.",
        ),
        Method(
            "angular",
            "UIDL, best window",
            UIDL,
            metrics=("distance",),
            grain="layer",
            way="window",
            cost=ONE_PASS,
            calibration="c4",
            note="At step n the n neighbouring layers across which the last token's stream turns "
            "least. The window of a step need not contain that of the one before: layers come "
            "back. The score of a layer is that of the window that begins there.",
        ),
        _layers(
            "deepest",
            "UIDL, simple strategy",
            UIDL,
            "from-end",
            keep=(0, 1),
            cost=NO_PASS,
            calibration=NO_TEXT,
            note="The last layers, counted back from the last one, which stays.",
        ),
        _layers(
            "reverse",
            "Reverse order",
            REASSESSING,
            "from-end",
            cost=NO_PASS,
            calibration=NO_TEXT,
            note="The last layers, the very last one first.",
        ),
        _layers(
            "random",
            "Random layers",
            REASSESSING,
            "random",
            cost=NO_PASS,
            calibration=NO_TEXT,
            note="Whole layers in an order drawn by the method's seed: the reference that every "
            "other method has to beat.",
        ),
        _layers(
            "magnitude-l1",
            "Magnitude, l1",
            REASSESSING,
            "l1",
            cost=NO_PASS,
            calibration=NO_TEXT,
            note="Whole layers by the size of their weights, norms and biases included.",
        ),
        _layers(
            "magnitude-l2",
            "Magnitude, l2",
            REASSESSING,
            "l2",
            cost=NO_PASS,
            calibration=NO_TEXT,
            note="Whole layers by the size of their weights, norms and biases included.",
        ),
        _layers(
            "taylor",
            "Taylor",
            REASSESSING,
            "taylor",
            cost=THERE_AND_BACK,
            calibration=_REASSESSING_TEXT,
            note="As shortened-taylor, over all layers.",
        ),
        _layers(
            "perplexity-oneshot",
            "Perplexity, one-shot",
            REASSESSING,
            "perplexity",
            cost=ONE_SWEEP,
            calibration="wikitext2:test (they check on it, too: choose another)",
            note="Whole layers by the perplexity without the layer.",
        ),
        _layers(
            "bi-flat",
            "Block Influence, flat",
            REASSESSING,
            "influence-flat",
            keep=(0, 1),
            cost=ONE_PASS,
            calibration=_REASSESSING_TEXT,
            note="As shortgpt, but as this paper's code has it: one cosine over all tokens laid "
            "end to end, in which long streams drown the others, and the last layer is never "
            "scored.",
        ),
        _evopress(
            "evopress",
            "EvoPress",
            "unit",
            "K units are K/2 attentions and K/2 FFNs, or K of the one kind asked for. The best of "
            "the random masks is the first step; a generation's children are the present mask "
            "after min(a, b) swaps, a and b drawn from 1 to 3, of units of one kind, and the best "
            "two meet it on other windows, where the best of the three stays. Follows the authors' "
            "drop search with the numbers of their example script. Windows are drawn afresh for "
            "every stage, whole ones: give it a long text. The score of a removed unit is that of "
            "its whole mask.",
        ),
        _evopress(
            "evopress-layer",
            "EvoPress, whole layers",
            "layer",
            "As evopress, over whole layers. In the authors' code a swap that falls on an FFN does "
            "nothing here, so that their children differ by fewer layers.",
        ),
        Method(
            "ours",
            "KL per parameter",
            "this project",
            metrics=("kl-per-parameter", "loss-per-parameter"),
            way="exchanges",
            calibration="several windows of text like that which the model is for",
            cost="C candidates at first, some of the rest at every step; an exchange takes what is "
            "removed and some 30 masks",
            note="Greedy over attention and FFN units by the divergence, or the loss, that a unit "
            "adds for each parameter that it saves, scored lazily. After each removal something "
            "comes back for something else where that is better on the even and on the odd windows "
            "of the text. To remove a share of the parameters, whole layers go as well, and "
            "exchanges may be of any size; else one unit comes back for another of its kind and "
            "size.",
        ),
    )
}


def method_named(name: str) -> Method:
    """The row of that name.

    Raises:
        ResultError: there is none.
    """
    if name not in METHODS:
        raise ResultError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def check_lazy(row: Method, metric: str, *, lazy: bool, verify: bool) -> None:
    """Refuse a lazy search (`lazily`) where there is nothing to be lazy about.

    Raises:
        ResultError: says why.
    """
    if verify and not lazy:
        raise ResultError("--verify checks a lazy search: add --search lazy.")
    swept = metric in SWEPT or metric not in SCORES
    if lazy and not (row.way == "iterative" and swept):
        raise ResultError(
            f"{row.name} by {metric} does not score candidates one by one at every step: leave out "
            "--search lazy."
        )
