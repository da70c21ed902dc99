"""Rows of the commands that check what an edit has cost."""

from __future__ import annotations

from inspector.cli import (
    checking,
)
from inspector.cli.arguments import (
    COMMON,
    MODEL,
    PLACE,
    Command,
    argument,
)
from inspector.measure.suites import SUITES

CHECK: tuple[Command, ...] = (
    Command(
        "perplexity",
        "perplexity under a mask and of the untouched model",
        checking.perplexity,
        (
            MODEL,
            argument(
                "--stride",
                metavar="S",
                type=int,
                help="tokens between the beginnings of two windows; default: --length",
            ),
            argument(
                "--by-position",
                action="store_true",
                help="also print the mean NLL by a token's position in its window",
            ),
            *COMMON,
        ),
    ),
    Command(
        "bench",
        "lm-eval tasks under a mask and on the untouched model",
        checking.bench,
        (
            MODEL,
            argument(
                "--tasks",
                metavar="T[,T]",
                default="own",
                help="own (the set that comes with the program; default), names of lm-eval tasks, "
                "a paper's suite of them ("
                + ", ".join(SUITES)
                + "), folders of task YAMLs (which can run code), or .jsonl files with query, "
                "choices and gold on each line",
            ),
            argument(
                "--limit",
                metavar="N",
                type=int,
                help="the first N items of each task; default: all",
            ),
            argument(
                "--until-decided",
                action="store_true",
                help="ask on, 50 items of each task at first, only until the difference to the "
                "untouched model is no chance any more",
            ),
            argument(
                "--width",
                metavar="W",
                type=float,
                help="as --until-decided, or until the difference is known to plus or minus W",
            ),
            argument(
                "--fresh-baseline",
                action="store_true",
                help="measure the untouched model anew, also where its scores were kept from an "
                "earlier run",
            ),
            *PLACE,
        ),
    ),
    Command(
        "speed",
        "prefill, decoding, memory and cache under a mask and of the untouched model, in turns",
        checking.speed,
        (
            MODEL,
            argument(
                "--prompt-tokens",
                metavar="N",
                type=int,
                default=256,
                help="tokens of the random prompt; default: 256",
            ),
            argument("--tokens", metavar="N", type=int, default=32, help="new tokens; default: 32"),
            argument(
                "--rounds",
                metavar="R",
                type=int,
                default=5,
                help="how many times both are run, besides one that is not counted; default: 5",
            ),
            *PLACE,
        ),
    ),
    Command(
        "generate",
        "continue prompts under a mask and with the untouched model",
        checking.generate,
        (
            MODEL,
            argument(
                "--prompt",
                metavar="P",
                required=True,
                action="append",
                help="the text to continue; may be given several times",
            ),
            argument(
                "--tokens", metavar="N", type=int, default=64, help="at most so many; default: 64"
            ),
            argument("--chat", action="store_true", help="put P into the model's chat template"),
            argument(
                "--temperature",
                metavar="X",
                type=float,
                help="draw each token at this temperature, 0.01 to 100; default: take the most "
                "likely one",
            ),
            argument(
                "--top-p",
                metavar="P",
                type=float,
                default=1.0,
                help="draw from the likeliest tokens that together have this probability; "
                "default: 1",
            ),
            argument(
                "--seed",
                metavar="S",
                type=int,
                help="seed of the draws, the same for both models; default: 0",
            ),
            *PLACE,
        ),
    ),
)
