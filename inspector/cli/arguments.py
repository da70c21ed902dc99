"""What a row of the table of commands is made of, and the arguments that commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inspector.model.sources import FORMS

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
        metavar += " ..." if self.settings.get("nargs") == "+" else ""
        return f"{self.names[0]} {metavar}".strip() if self.optional else metavar

    @property
    def optional(self) -> bool:
        """Whether it begins with a dash."""
        return self.names[0].startswith("-")


def argument(*names: str, help: str, **settings: Any) -> Argument:  # noqa: A002 - argparse's word
    """The row of an argument; `settings` go to argparse."""
    return Argument(names, help, settings)


MODEL = argument("model", metavar="MODEL", help="; ".join(form for form, _ in FORMS))
MASK = argument(
    "--mask",
    metavar="UNITS",
    default="",
    help="what is muted: units such as 5.attn,3.ffn,17,21-28.attn, or the path of a mask's .json "
    "(@FILE for one of another name); default: nothing",
)
CORPUS = argument(
    "--corpus",
    metavar="TEXT",
    help="pydoc:search, pydoc:check, pydoc, wikitext2:train, wikitext2:validation, wikitext2:test, "
    "c4, alpaca or file:PATH (.txt or .jsonl); default: pydoc:search, for perplexity pydoc:check",
)
SAMPLES = argument(
    "--samples",
    metavar="N",
    type=int,
    help="windows of the text; default: 8, for perplexity 16",
)
LENGTH = argument(
    "--length",
    metavar="T",
    type=int,
    help="tokens in a window; default: 256, for perplexity 512, or what the model takes at most",
)
SEED = argument(
    "--seed",
    metavar="S",
    type=int,
    help="choose the windows at random by this seed; default: the first ones",
)
DEVICE = argument(
    "--device", metavar="NAME", default="auto", help="auto (CUDA, then MPS, then CPU), cuda:1, cpu"
)
DTYPE = argument(
    "--dtype",
    metavar="NAME",
    default="auto",
    help="auto (bf16 where the hardware multiplies it natively, else fp32), bf16, fp16, fp32",
)
OFFLOAD = argument(
    "--offload",
    metavar="PLACE",
    help="for a model larger than the device's memory: keep its weights in PLACE and bring them "
    "in layer by layer; a folder on disk, which models that are no safetensors are written to "
    "first, or cpu: main memory, where the device is a GPU",
)
OUTPUT = argument("-o", "--output", metavar="FILE", help="also write the result as JSON")
JSON = argument(
    "--json", action="store_true", help="print the result as JSON, and nothing else, on stdout"
)

TEXT = (CORPUS, SAMPLES, LENGTH, SEED)
COMMON = (MASK, *TEXT, DEVICE, DTYPE, OFFLOAD, OUTPUT, JSON)
"""What commands share; those that measure on no text of their own do without `TEXT`."""
PLACE = (MASK, DEVICE, DTYPE, OFFLOAD, OUTPUT, JSON)


@dataclass(frozen=True)
class Command:
    """One row: the command's name, its line of help, its arguments, and what runs it.

    `shared` tells that several processes can run it together.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace, Meter], None]
    arguments: tuple[Argument, ...]
    shared: bool = False

    @property
    def usage(self) -> str:
        """The command with the arguments that are its own."""
        own = (each for each in self.arguments if each not in COMMON)
        parts = (f"[{each.usage}]" if _omissible(each) else each.usage for each in own)
        return " ".join([self.name, *parts])


def _omissible(argument: Argument) -> bool:
    settings = argument.settings
    return settings.get("nargs") == "?" or (argument.optional and not settings.get("required"))
