"""One table of commands and their arguments: the parser and the README are made from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inspector.cli import checking, comparing, exchanging, information, looking, showing
from inspector.measure.foreign import FORMATS, WRITTEN
from inspector.measure.methods import METHODS
from inspector.model.sources import FORMS
from inspector.units import KINDS

if TYPE_CHECKING:
    from inspector.cli.progress import Meter


@dataclass(frozen=True)
class Argument:
    """One argument: its names, what it says about itself, and what argparse needs besides."""

    names: tuple[str, ...]
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usage(self) -> str:
        """How it is written: ``MODEL``, ``RESULT ...``, ``--samples N``, ``-o FILE``."""
        metavar = self.settings.get("metavar") or "|".join(self.settings.get("choices", ()))
        metavar += " ..." if "nargs" in self.settings else ""
        return f"{self.names[0]} {metavar}".strip() if self.optional else metavar

    @property
    def optional(self) -> bool:
        """Whether it begins with a dash."""
        return self.names[0].startswith("-")


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


def _argument(*names: str, help: str, **settings: Any) -> Argument:  # noqa: A002 - argparse's word
    return Argument(names, help, settings)


def _omissible(argument: Argument) -> bool:
    return argument.optional and not argument.settings.get("required", False)


MODEL = _argument("model", metavar="MODEL", help="; ".join(form for form, _ in FORMS))
MASK = _argument(
    "--mask",
    metavar="UNITS",
    default="",
    help="what is muted: units such as 5.attn,3.ffn,17,21-28.attn, or the path of a mask's .json "
    "(@FILE for one of another name); default: nothing",
)
CORPUS = _argument(
    "--corpus",
    metavar="TEXT",
    help="pydoc:search, pydoc:check, pydoc, wikitext2:train, wikitext2:validation, wikitext2:test, "
    "c4, alpaca or file:PATH (.txt or .jsonl); default: pydoc:search, for perplexity pydoc:check",
)
SAMPLES = _argument(
    "--samples",
    metavar="N",
    type=int,
    help="windows of the text; default: 8, for perplexity 16",
)
LENGTH = _argument(
    "--length",
    metavar="T",
    type=int,
    help="tokens in a window; default: 256, for perplexity 512, or what the model takes at most",
)
SEED = _argument(
    "--seed",
    metavar="S",
    type=int,
    help="choose the windows at random by this seed; default: the first ones",
)
DEVICE = _argument(
    "--device", metavar="NAME", default="auto", help="auto (CUDA, then MPS, then CPU), cuda:1, cpu"
)
DTYPE = _argument(
    "--dtype",
    metavar="NAME",
    default="auto",
    help="auto (bf16 where the hardware multiplies it natively, else fp32), bf16, fp16, fp32",
)
OUTPUT = _argument("-o", "--output", metavar="FILE", help="also write the result as JSON")
JSON = _argument(
    "--json", action="store_true", help="print the result as JSON, and nothing else, on stdout"
)

TEXT = (CORPUS, SAMPLES, LENGTH, SEED)
COMMON = (MASK, *TEXT, DEVICE, DTYPE, OUTPUT, JSON)
"""What commands share; those that measure on no text of their own do without `TEXT`."""
PLACE = (MASK, DEVICE, DTYPE, OUTPUT, JSON)

COMMANDS: tuple[Command, ...] = (
    Command(
        "info",
        "what a model is: size, units, and what is left of it under a mask",
        information.info,
        (
            MODEL,
            _argument(
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
            _argument(
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
            _argument(
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
            _argument(
                "--method",
                metavar="NAME",
                default=next(iter(METHODS)),
                help=f"{', '.join(METHODS)}; default: {next(iter(METHODS))}",
            ),
            _argument(
                "--remove",
                metavar="K",
                type=int,
                help="stop after K removals in the method's own grain: units, or whole layers",
            ),
            _argument(
                "--remove-params",
                metavar="P",
                help="stop at the first step that has taken this share of all the model's "
                "parameters (tied ones once): 10% or 0.1",
            ),
            _argument("--remove-kv", metavar="P", help="the same of the KV cache's bytes"),
            _argument(
                "--until-perplexity",
                metavar="X",
                type=float,
                help="stop once the perplexity is above X; the first bound that is met counts",
            ),
            _argument(
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
            _argument("--only", choices=KINDS, help="remove units of one kind alone"),
            _argument(
                "--protect",
                metavar="UNITS",
                default="",
                help="what is never removed: layers such as 0,29, or units as for --mask",
            ),
            _argument(
                "--protect-first-until",
                metavar="X",
                type=float,
                help="finercut: bar the first int(M X / 2) + 1 layers until int(M X) + 1 of the "
                "model's M units are gone",
            ),
            _argument(
                "--as-published",
                action="store_true",
                help="do as the authors' code does where that differs: "
                + "; ".join(
                    f"{row.name}: {row.published}" for row in METHODS.values() if row.published
                ),
            ),
            _argument(
                "--method-seed",
                metavar="S",
                type=int,
                default=0,
                help="seed of the method that draws at random; default: 0",
            ),
            _argument(
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
            _argument(
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
            _argument(
                "--tasks",
                metavar="T[,T]",
                default="own",
                help="own (the set that comes with the program; default), names of lm-eval tasks, "
                "folders of task YAMLs (which can run code), or .jsonl files with query, choices "
                "and gold on each line",
            ),
            _argument(
                "--limit",
                metavar="N",
                type=int,
                help="the first N items of each task; default: all",
            ),
            *PLACE,
        ),
    ),
    Command(
        "generate",
        "continue a prompt under a mask and with the untouched model",
        checking.generate,
        (
            MODEL,
            _argument("--prompt", metavar="P", required=True, help="the text to continue"),
            _argument(
                "--tokens", metavar="N", type=int, default=64, help="at most so many; default: 64"
            ),
            _argument("--chat", action="store_true", help="put P into the model's chat template"),
            *PLACE,
        ),
    ),
    Command(
        "plot",
        "draw saved results into one HTML file that needs nothing else",
        showing.plot,
        (
            _argument("results", metavar="RESULT", nargs="+", help="files that -o wrote"),
            _argument("-o", "--output", metavar="OUT.html", required=True, help="where to"),
        ),
    ),
    Command(
        "compare",
        "several pruning runs of one model: perplexity by parameters removed, and where they agree",
        comparing.compare,
        (
            _argument("runs", metavar="RUN", nargs="+", help="files that prune wrote with -o"),
            _argument(
                "--at",
                metavar="P",
                help="compare their masks at this share of parameters removed: 10% or 0.1; "
                "default: the largest that all runs reach",
            ),
            _argument(
                "-o", "--output", metavar="OUT.html", help="write the figure into one HTML file"
            ),
        ),
    ),
    Command(
        "import",
        "read a mask, or an order of removal, from another tool's file",
        exchanging.import_file,
        (
            _argument(
                "file",
                metavar="FILE",
                help=f"known by what it holds: {', '.join(FORMATS)}",
            ),
            _argument(
                "--depth",
                metavar="N",
                type=int,
                help="the number of the model's layers, where the file does not say it",
            ),
            _argument(
                "--model",
                metavar="MODEL",
                help="load the model: its depth is taken, the mask is checked against it, and a "
                "file with an order becomes a pruning run",
            ),
            DEVICE,
            DTYPE,
            OUTPUT,
            JSON,
        ),
    ),
    Command(
        "masks",
        "write a mask, or the order of a run, as another tool's file",
        exchanging.masks,
        (
            _argument(
                "--mask",
                metavar="UNITS",
                required=True,
                help="units such as 5.attn,17, or the .json of a mask or of a pruning run",
            ),
            _argument("--depth", metavar="N", type=int, help="the number of the model's layers"),
            _argument("--to", metavar="FORM", required=True, help=f"one of {', '.join(WRITTEN)}"),
            _argument(
                "--model",
                metavar="NAME",
                help="the model's name in a mergekit file, as it takes it",
            ),
            _argument("-o", "--output", metavar="FILE", help="write it here and not on stdout"),
        ),
    ),
    Command(
        "serve",
        "serve the page",
        showing.serve,
        (
            _argument("--host", metavar="H", default="127.0.0.1", help="default: 127.0.0.1"),
            _argument("--port", metavar="P", type=int, default=7860, help="default: 7860"),
            _argument("--open", action="store_true", help="open it in a browser"),
        ),
    ),
)
