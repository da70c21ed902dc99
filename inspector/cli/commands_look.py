"""Rows of the commands that look at a model and prune it."""

from __future__ import annotations

from inspector.cli import (
    information,
    looking,
    methods,
)
from inspector.cli.arguments import (
    COMMON,
    JSON,
    MODEL,
    PLACE,
    Command,
    argument,
)
from inspector.measure.methods import METHODS
from inspector.measure.methods.evolution import PUBLISHED
from inspector.units import KINDS

MEMORY = argument(
    "--memory",
    metavar="SIZE",
    help="bound on the candidates' streams that a sweep holds at once, such as 4GB or 512MiB; the "
    "weights, and what a pass takes inside a layer and in the head, come on top; default: 1GiB",
)

LOOK: tuple[Command, ...] = (
    Command(
        "info",
        "what a model is: size, units, and what is left of it under a mask",
        information.info,
        (
            MODEL,
            argument(
                "--no-weights",
                dest="weights",
                action="store_false",
                help="read the config alone: parameters, bytes, and whether they fit",
            ),
            *PLACE,
        ),
    ),
    Command(
        "similarity",
        "how alike the residual stream is at different depths",
        looking.similarity,
        (
            MODEL,
            argument(
                "--kind",
                choices=("angular", "stream", "unit"),
                default="angular",
                help="what is printed: the best window of every n layers (default), the cosine "
                "between unit boundaries, or how much each unit turns and grows the stream; the "
                "JSON has them all",
            ),
            *COMMON,
        ),
    ),
    Command(
        "sweep",
        "what muting each remaining unit would cost",
        looking.sweep,
        (
            MODEL,
            argument(
                "--metric",
                metavar="M",
                default="nll",
                help="nll (default), kl, js, js-reversed, angular or norm",
            ),
            MEMORY,
            *COMMON,
        ),
    ),
    Command(
        "methods",
        "what prune can choose by: paper, grain, score, the authors' text, constraints and cost",
        methods.methods,
        (
            argument("name", metavar="NAME", nargs="?", help="one method, in full; default: all"),
            JSON,
        ),
    ),
    Command(
        "prune",
        "let a method remove units, or whole layers, step by step",
        looking.prune,
        (
            MODEL,
            argument(
                "--method",
                metavar="NAME",
                default=next(iter(METHODS)),
                help=f"{', '.join(METHODS)}; default: {next(iter(METHODS))}; `inspector methods` "
                "says what each is",
            ),
            argument(
                "--remove",
                metavar="K",
                type=int,
                help="stop after K removals in the method's own grain: units (of evopress K/2 "
                "attentions and K/2 FFNs), or whole layers",
            ),
            argument(
                "--remove-params",
                metavar="P",
                help="stop at the first step that has taken this share of all the model's "
                "parameters (tied ones once): 10% or 0.1",
            ),
            argument("--remove-kv", metavar="P", help="the same of the KV cache's bytes"),
            argument(
                "--until-perplexity",
                metavar="X",
                type=float,
                help="stop once the perplexity is above X, which it must not be at the start; the "
                "first bound that is met counts",
            ),
            argument(
                "--metric",
                metavar="M",
                help="what to go by, where there is a choice: "
                + "; ".join(
                    f"{row.name}: {', '.join(row.metrics)}"
                    for row in METHODS.values()
                    if len(row.metrics) > 1
                )
                + "; default: the first",
            ),
            argument("--only", choices=KINDS, help="remove units of one kind alone"),
            argument(
                "--protect",
                metavar="UNITS",
                default="",
                help="what is never removed: layers such as 0,29, or units as for --mask",
            ),
            argument(
                "--protect-first-until",
                metavar="X",
                type=float,
                help="finercut: bar the first int(M X / 2) + 1 layers until int(M X) + 1 of the "
                "model's M units are gone",
            ),
            argument(
                "--as-published",
                action="store_true",
                help="do as the authors' code does where that differs: "
                + "; ".join(
                    f"{row.name}: {row.published}" for row in METHODS.values() if row.published
                ),
            ),
            argument(
                "--no-early-exit",
                dest="early_exit",
                action="store_false",
                help="by kl, js, js-reversed, angular or norm: measure every candidate of every "
                "step on the whole text; the same ones go without it, and scores above theirs "
                "are then lower bounds",
            ),
            argument(
                "--search",
                choices=("exact", "lazy"),
                default="exact",
                help="lazy: at every step score anew only what earlier scores do not rule out, an "
                "approximation; default: exact",
            ),
            argument(
                "--verify",
                action="store_true",
                help="search the last step of a lazy run exactly, too, and say whether the same "
                "goes",
            ),
            MEMORY,
            argument(
                "--method-seed",
                metavar="S",
                type=int,
                default=0,
                help="seed of a method that draws at random: random, evopress, evopress-layer; "
                "default: 0",
            ),
            argument(
                "--generations",
                metavar="G",
                type=int,
                help="evopress: how many; default: k (C - k) / 1.5 for k out of C of a kind",
            ),
            argument(
                "--offspring",
                metavar="N",
                type=int,
                help=f"evopress: masks in a generation; default: {PUBLISHED.offspring}",
            ),
            argument(
                "--starts",
                metavar="N",
                type=int,
                help=f"evopress: random masks before the first; default: {PUBLISHED.starts}",
            ),
            argument(
                "--search-tokens",
                metavar="A,B",
                help="evopress: tokens drawn for all masks of a generation, and for its best two "
                "and their parent; default: {},{}".format(*PUBLISHED.search_tokens),
            ),
            argument(
                "--resume",
                action="store_true",
                help="go on after the last finished step of a run that was cut short: with -o "
                "FILE, every step (of evopress every generation) is in FILE.journal before the "
                "next begins, until FILE is written",
            ),
            argument(
                "--check-corpus",
                metavar="TEXT",
                help="the text of the perplexity recorded at each step, 16 windows of 512 tokens "
                "unless --samples and --length say otherwise; default: the windows of the search",
            ),
            *COMMON,
        ),
        shared=True,
    ),
)
