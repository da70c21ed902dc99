"""Masks and orders of removal in the files of other tools: one table for page, CLI and README.

What a file says is taken for data: nothing in it becomes a path, a template or a command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inspector.errors import MaskError, ResultError
from inspector.measure.foreign import blocks, sublayers
from inspector.measure.foreign.content import DEEPEST, NO_DEPTH, Content, Text, Wanted
from inspector.units import Mask

if TYPE_CHECKING:
    from inspector.measure.foreign.distances import Distances

MAX_TEXT = 4_000_000
"""Characters; an order of all units of the deepest models has a tenth of that."""

TOO_LARGE = "this file is larger than 4 MB: it is no mask of another tool."

SUFFIXES = (".json", ".csv", ".yaml", ".yml", ".txt")


@dataclass(frozen=True)
class Format:
    """One row: a form of file, what its numbers mean, and the functions that know it.

    `holds` is what it can say; `index` where its layers count from and what its ranges leave out.
    """

    name: str
    label: str
    holds: str
    index: str
    knows: Callable[[Text], bool]
    reads: Callable[[Text, int | None], Content]
    writes: Callable[[Wanted], str]


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "mask",
            "a mask of this program, JSON",
            "units",
            "from 0, ranges include both ends",
            sublayers.is_own,
            sublayers.read_own,
            sublayers.write_own,
        ),
        Format(
            "blockpruner",
            "BlockPruner's order, JSON",
            "units and their order",
            "from 0",
            sublayers.is_blockpruner,
            sublayers.read_blockpruner,
            sublayers.write_blockpruner,
        ),
        Format(
            "llm-drop",
            "LLM-Drop's drop_attn_list and drop_mlp_list in a config.json",
            "units",
            "from 0; or a true or false for each layer",
            sublayers.is_llm_drop,
            sublayers.read_llm_drop,
            sublayers.write_llm_drop,
        ),
        Format(
            "evopress",
            "EvoPress's layer_drop_config.txt",
            "units",
            "a line a layer: none, attn, mlp or attn+mlp",
            sublayers.is_evopress,
            sublayers.read_evopress,
            sublayers.write_evopress,
        ),
        Format(
            "per-layer-config",
            "transformers' per_layer_config in a config.json",
            "units",
            "from 0",
            sublayers.is_per_layer,
            sublayers.read_per_layer,
            sublayers.write_per_layer,
        ),
        Format(
            "pruneme",
            "PruneMe's layer_distances.csv",
            "the distance of every window of n layers; the least is taken",
            "from 1; block_start is the last layer before the window, block_end its last",
            blocks.is_pruneme,
            blocks.read_pruneme,
            blocks.write_pruneme,
        ),
        Format(
            "mergekit",
            "mergekit's passthrough slices, YAML",
            "whole layers that stay",
            "from 0, layer_range leaves out its end",
            blocks.is_mergekit,
            blocks.read_mergekit,
            blocks.write_mergekit,
        ),
        Format(
            "llama.cpp",
            "llama.cpp's --prune-layers list, text",
            "whole layers",
            "from 0",
            blocks.is_llama_cpp,
            blocks.read_llama_cpp,
            blocks.write_llama_cpp,
        ),
    )
}


@dataclass(frozen=True)
class Found:
    """What a file says of a model of `mask.depth` layers; `order` has the masks after each step."""

    form: Format
    mask: Mask
    order: tuple[Mask, ...] = ()


def read(text: str, *, depth: int | None = None) -> Found:
    """Read a file of any form in the table, which is told by what it holds.

    `depth` is the number of layers of the model; without it, the file has to say it.

    Raises:
        ResultError: a form that is in no row, or too long.
        MaskError: damaged, for another depth, or the depth is not known.
    """
    if len(text) > MAX_TEXT:
        raise ResultError(TOO_LARGE)
    source = Text(text, _json(text))
    row = next((each for each in FORMATS.values() if each.knows(source)), None)
    if row is None:
        refuse_own(source.json)
        raise ResultError(
            "this file is of no known form: it is no result of this program, and none of "
            f"{', '.join(FORMATS)}; the README says what these are."
        )
    if depth is not None and not 1 <= depth <= DEEPEST:
        raise MaskError(f"a model of {depth} layers there is none: give the number of its layers.")
    content = row.reads(source, depth)
    if depth is not None and content.depth not in (None, depth):
        raise MaskError(
            f"this file ({row.name}) is for a model of {content.depth} layers, not {depth}: "
            "name the model that it was made for."
        )
    layers = content.depth if depth is None else depth
    if layers is None:
        raise MaskError(NO_DEPTH)
    masks = tuple(Mask(layers, units) for units in content.sets)
    return Found(row, masks[-1], masks if content.ordered else ())


def text_of(path: str | Path) -> str:
    """A file's text.

    Raises:
        ResultError: it cannot be read, is larger than 4 MB, or no text.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_TEXT:
            raise ResultError(TOO_LARGE)
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ResultError(f"cannot read {file.name}: {error.strerror}.") from error
    except ValueError as error:
        raise ResultError(f"{file.name} is no text in UTF-8: name another file.") from error


def write(
    form: str,
    mask: Mask,
    *,
    order: tuple[Mask, ...] = (),
    model: str = "",
    distances: Distances | None = None,
) -> str:
    """The text of a file of this form.

    `order` are the masks after each step of a run, for forms that hold an order; `model` is the
    name for forms that need one; `distances` for the form that holds them and no mask.

    Raises:
        ResultError: an unknown form.
        MaskError: the form cannot say this mask.
    """
    row = FORMATS.get(form)
    if row is None:
        raise ResultError(f"{form!r} is no form that can be written: {', '.join(FORMATS)} are.")
    return row.writes(Wanted(mask, order, model, distances))


def refuse_own(data: object) -> None:
    """Say what a result of this program is for: it needs no import.

    Raises:
        ResultError: it is one.
    """
    from inspector.results.checks import Generation  # here, because numpy comes along
    from inspector.results.files import KINDS
    from inspector.results.trajectory import Trajectory

    kind = data.get("kind") if isinstance(data, dict) else None
    if kind == Trajectory.kind:
        raise ResultError(
            "this file is a pruning run of this program, which needs no import: `inspector plot` "
            "draws it, `inspector compare` sets it beside others, and `inspector masks` writes its "
            "mask for other tools."
        )
    if isinstance(kind, str) and kind in KINDS:
        does = "the page's Runs tab shows" if kind == Generation.kind else "`inspector plot` draws"
        raise ResultError(
            f"this file is a {kind} result of this program, which needs no import: {does} it."
        )


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
