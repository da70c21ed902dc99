"""The arguments of commands as data, and those that commands share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inspector.model.sources import FORMS


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
OUTPUT = argument("-o", "--output", metavar="FILE", help="also write the result as JSON")
JSON = argument(
    "--json", action="store_true", help="print the result as JSON, and nothing else, on stdout"
)

TEXT = (CORPUS, SAMPLES, LENGTH, SEED)
COMMON = (MASK, *TEXT, DEVICE, DTYPE, OUTPUT, JSON)
"""What commands share; those that measure on no text of their own do without `TEXT`."""
PLACE = (MASK, DEVICE, DTYPE, OUTPUT, JSON)
