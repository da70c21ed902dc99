"""What all results share: where they come from, and how they become JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from inspector.results.jsonable import number, plain

FORMAT = 1
"""Grows when a field of a saved result changes its meaning."""


DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""What the command line calls a provenance's dtype."""


def pinned(source: str, weights: str) -> str:
    """The source as the command line takes it; a model of the hub with the commit that was used."""
    kind, _, commit = weights.partition(" ")
    return f"{source.partition('@')[0]}@{commit}" if kind == "revision" else source


def brief(weights: str) -> str:
    """`Provenance.weights` for people: of a hub's commit, the first twelve digits."""
    kind, _, digits = weights.partition(" ")
    return f"{kind} {digits[:12]}" if kind == "revision" else weights


@dataclass(frozen=True)
class Provenance:
    """What made a result: enough to repeat it and to tell two results apart.

    `source` is what was loaded, `weights` its revision or the hash of its file, `corpus` the text
    and how it was cut (see `measure.corpus.Windows.about`), `command` the command line that
    reproduces it, `seconds` the wall-clock time that it took.
    """

    source: str
    weights: str
    model_type: str
    dtype: str
    device: str
    depth: int
    corpus: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    command: str = ""
    created: str = ""
    seconds: float = math.nan
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read null as NaN."""
        object.__setattr__(self, "seconds", number(self.seconds))

    @property
    def about(self) -> str:
        """One line for a figure: model, weights, dtype, and the text that was used."""
        parts = [self.source, brief(self.weights), self.dtype]
        if self.corpus:
            cut = f"{self.corpus.get('windows')} x {self.corpus.get('length')} tokens"
            parts.append(f"{self.corpus.get('name')}, {cut}")
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True)
class Result:
    """What all results share. `mask` is the canonical text of the mask that was measured."""

    kind: ClassVar[str] = ""

    provenance: Provenance
    mask: str

    @property
    def depth(self) -> int:
        """The number of layers of the model."""
        return self.provenance.depth

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, with `kind` and `format` in front."""
        return {"kind": self.kind, "format": FORMAT, **plain(dataclasses.asdict(self))}

    def dumps(self) -> str:
        """The JSON as text, strictly valid (no NaN)."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False)

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "provenance": Provenance(**data["provenance"])})
