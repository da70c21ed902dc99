"""One table of commands and their arguments: the parser and the README are made from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from inspector import __version__
from inspector.cli import checking, exporting, information, looking, showing
from inspector.cli.arguments import (
    COMMON,
    DEVICE,
    DTYPE,
    JSON,
    MASK,
    MODEL,
    PLACE,
    Argument,
    argument,
)
from inspector.errors import InspectorError
from inspector.measure.methods import METHODS
from inspector.measure.suites import SUITES
from inspector.units import KINDS

if TYPE_CHECKING:
    from inspector.cli.progress import Meter


@dataclass(frozen=True)
class Command:
    """One row: the command's name, its line of help, its arguments, and what runs it."""

    name: str
    help: str
    run: Callable[[argparse.Namespace, Meter], None]
    arguments: tuple[Argument, ...]

    @property
    def usage(self) -> str:
        """The command with the arguments that are its own."""
        own = (each for each in self.arguments if each not in COMMON)
        parts = (f"[{each.usage}]" if _omissible(each) else each.usage for each in own)
        return " ".join([self.name, *parts])


def _omissible(argument: Argument) -> bool:
    settings = argument.settings
    return settings.get("nargs") == "?" or (argument.optional and not settings.get("required"))


COMMANDS: tuple[Command, ...] = (
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
            *COMMON,
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
                help=f"{', '.join(METHODS)}; default: {next(iter(METHODS))}",
            ),
            argument(
                "--remove",
                metavar="K",
                type=int,
                help="stop after K removals in the method's own grain: units, or whole layers",
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
                help="stop once the perplexity is above X; the first bound that is met counts",
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
                "--method-seed",
                metavar="S",
                type=int,
                default=0,
                help="seed of the method that draws at random; default: 0",
            ),
            argument(
                "--check-corpus",
                metavar="TEXT",
                help="the text of the perplexity recorded at each step, 16 windows of 512 tokens "
                "unless --samples and --length say otherwise; default: the windows of the search",
            ),
            *COMMON,
        ),
    ),
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
                default=512,
                help="tokens of the random prompt; default: 512",
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
    Command(
        "export",
        "write the model without the muted units as a folder that transformers loads",
        exporting.export,
        (
            argument("model", metavar="MODEL", nargs="?", help=f"{MODEL.help}; or --recipe"),
            argument(
                "-o",
                "--output",
                dest="folder",
                metavar="DIR",
                help="the folder to write, which must not exist; without it, what the mask allows, "
                "what each format saves, and who can load it",
            ),
            argument(
                "--format",
                metavar="NAME",
                default="auto",
                help="auto (the first that is possible and smaller; default), blocks (whole layers "
                "cut out), moe-stub (FFNs alone, in Llama, Mistral and Qwen2), compact (a small "
                "modelling file comes along) or zeroed (saves nothing)",
            ),
            argument("--force", action="store_true", help="replace an earlier export of that name"),
            argument(
                "--recipe",
                metavar="FILE",
                help="take model, mask, dtype and format from the recipe.json of an export",
            ),
            argument(
                "--push-to-hub",
                dest="repository",
                metavar="REPO",
                help="then upload the folder as a new, private repository, with the hub's login",
            ),
            argument("--public", action="store_true", help="make that repository public"),
            MASK,
            DEVICE,
            DTYPE,
            JSON,
        ),
    ),
    Command(
        "plot",
        "draw saved results into one HTML file that needs nothing else",
        showing.plot,
        (
            argument("results", metavar="RESULT", nargs="+", help="files that -o wrote"),
            argument("-o", "--output", metavar="OUT.html", required=True, help="where to"),
        ),
    ),
    Command(
        "serve",
        "serve the page",
        showing.serve,
        (
            argument("--host", metavar="H", default="127.0.0.1", help="default: 127.0.0.1"),
            argument("--port", metavar="P", type=int, default=7860, help="default: 7860"),
            argument("--open", action="store_true", help="open it in a browser"),
        ),
    ),
)


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print with its usage: a mistake is one line here."""

    def error(self, message: str) -> NoReturn:
        raise InspectorError(f"{message}; see {self.prog} --help.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it returns has `run`, the command's function."""
    parser = _Parser(
        prog="inspector",
        description="See, toggle, prune and check the sublayers of a language model.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"inspector {__version__}")
    parser.set_defaults(run=lambda args, meter: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for row in COMMANDS:
        one = commands.add_parser(row.name, help=row.help, description=row.help, allow_abbrev=False)
        one.set_defaults(run=row.run)
        for each in row.arguments:
            words = each.help.replace("%", "%%")  # argparse formats its helps
            one.add_argument(*each.names, help=words, **each.settings)
    return parser
