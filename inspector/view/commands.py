"""The command line that does what a form on the page does."""

from __future__ import annotations

import shlex
from typing import Any

from inspector.results.base import DTYPES, pinned
from inspector.view.card import Card


def command(name: str, card: Card, mask: str, **options: Any) -> str:
    """`inspector NAME MODEL ...`; None, False and "" leave an option out, True makes it a flag."""
    words = ["inspector", name, pinned(card.source, card.weights)]
    words += ["--dtype", DTYPES.get(card.dtype, card.dtype)]
    words += ["--device", card.device.partition(" ")[0]]  # without the product's name
    for option, value in {"mask": mask, **options}.items():
        if value is None or value is False or value == "":
            continue
        flag = f"--{option.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif str(value).startswith("-"):  # it would be taken for an option itself
            words.append(f"{flag}={value}")
        else:
            words += [flag, str(value)]
    return shlex.join(words)
