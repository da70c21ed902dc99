"""Files that name whole layers: PruneMe's distances, mergekit's slices, llama.cpp's list."""

from __future__ import annotations

import csv
import math
from itertools import groupby
from typing import Any

from inspector.errors import MaskError
from inspector.measure.foreign.content import (
    DEEPEST,
    NO_DEPTH,
    Content,
    Text,
    Wanted,
    both_units,
    one_set,
    whole_layers,
    whole_number,
)

# ---- PruneMe: compute_block_similarity/layer_similarity.py and utils.py of arcee-ai/PruneMe ----

_COLUMNS = ["block_start", "block_end", "average_distance"]


def is_pruneme(source: Text) -> bool:
    """Whether the first line has its three columns."""
    return source.text.split("\n", 1)[0].strip() == ",".join(_COLUMNS)


def read_pruneme(source: Text, depth: int | None) -> Content:
    """The window with the least distance, the first of equals.

    Its numbers count layers from 1, and a distance is taken between the outputs of the layers
    `block_start` and `block_end`: what lies between are the layers after the first up to the
    second, which counted from 0 are block_start to block_end - 1. There is a row for every window
    of the model but the one from the embedding on, which gives the depth.
    """
    blocks = pruneme_rows(source.text)
    sizes = {end - start for start, end, _ in blocks}
    known = [block for block in blocks if not math.isnan(block[2])]
    starts = [start for start, _, _ in blocks]
    fits = len(sizes) == 1 and 1 <= min(sizes) <= DEEPEST
    if not known or not fits or starts != list(range(1, len(blocks) + 1)):
        raise MaskError("this CSV is not one row for every window of one size: it is damaged.")
    start, end, _ = min(known, key=lambda block: block[2])
    return one_set(both_units(range(start, end)), len(blocks) + min(sizes))


def pruneme_rows(text: str) -> list[tuple[int, int, float]]:
    """block_start, block_end (both from 1) and the distance of every row below the first.

    Raises:
        MaskError: a row is something else.
    """
    try:
        rows = [row for row in csv.reader(text.splitlines()[1:]) if row]
        return [(int(start), int(end), float(value)) for start, end, value in rows]
    except (ValueError, csv.Error) as error:
        raise MaskError(
            "a row of this CSV is no window and its distance: it is damaged."
        ) from error


def write_pruneme(wanted: Wanted) -> str:
    """A row for every window but the one that begins with layer 0, which PruneMe never compares.

    The window of the layers l to l + n - 1, from 0, is its row l, l + n. Numbers are in full, so
    that they are the same when they are read; an unknown one is ``nan``. The last window ends
    before the final norm here, behind it in PruneMe.
    """
    found = wanted.distances
    if found is None:
        raise MaskError(
            "PruneMe's file holds distances, and a mask has none: give a similarity, or a run of "
            "the method angular, as the .json of --mask."
        )
    rows = [(n, n + found.size, value) for n, value in enumerate(found.values) if n]
    if not any(math.isfinite(value) for *_, value in rows):
        raise MaskError(
            f"no window of {found.size} layers has a distance that PruneMe's file can hold: choose "
            "a smaller --window."
        )
    lines = [",".join(_COLUMNS), *(f"{start},{end},{value!r}" for start, end, value in rows)]
    return "\n".join(lines) + "\n"


# ---- mergekit: mergekit/config.py of arcee-ai/mergekit, and slice.yaml of PruneMe ---------------

YAML_BYTES = 100_000
"""The parser is slow, and a slice a layer of the deepest models is a tenth of that."""

_SLICES = "a mergekit file that removes layers is a list of slices, each of one source"


def is_mergekit(source: Text) -> bool:
    """Whether a line begins the slices."""
    return source.json is None and any(
        line.startswith("slices:") for line in source.text.splitlines()
    )


def read_mergekit(source: Text, depth: int | None) -> Content:
    """The layers that no slice keeps; `layer_range` counts from 0 and leaves out its end."""
    ranges = _kept(_yaml(source.text))
    if depth is None:
        raise MaskError(NO_DEPTH)
    ends = [0, *(end for _, end in ranges)]
    starts = [*(start for start, _ in ranges), depth]
    if ends[-1] > depth:
        raise MaskError(
            f"this file keeps layers up to {ends[-1] - 1}, and the model has {depth} layers, "
            f"numbered 0 to {depth - 1}: name the model that it was made for."
        )
    gone = [n for end, start in zip(ends, starts, strict=True) for n in range(end, start)]
    return one_set(both_units(gone), depth)


def write_mergekit(wanted: Wanted) -> str:
    """One slice for each stretch of layers that stays."""
    import yaml

    gone = set(whole_layers(wanted.mask, "mergekit"))
    left = [layer for layer in range(wanted.mask.depth) if layer not in gone]
    if not left:
        raise MaskError("every layer is muted, and mergekit needs one that stays: unmute a layer.")
    if not wanted.model:
        raise MaskError("a mergekit file names the model that it cuts: say which with --model.")
    stretches = [
        [n for _, n in run] for _, run in groupby(enumerate(left), lambda at: at[1] - at[0])
    ]
    slices = [
        {"sources": [{"model": wanted.model, "layer_range": [run[0], run[-1] + 1]}]}
        for run in stretches
    ]
    data = {"slices": slices, "merge_method": "passthrough"}
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None)


def _yaml(text: str) -> Any:
    """The file's data. Aliases are refused: a few lines of them unfold into gigabytes."""
    import yaml

    if len(text) > YAML_BYTES:
        raise MaskError(
            f"this YAML is longer than {YAML_BYTES // 1000} kB: it is no list of slices."
        )
    try:
        if any(isinstance(each, yaml.AliasToken) for each in yaml.scan(text, yaml.SafeLoader)):
            raise MaskError("this YAML refers to parts of itself: write them out.")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MaskError(f"this file is no YAML: {' '.join(str(error).split())[:200]}.") from error


def _kept(data: Any) -> list[tuple[int, int]]:
    """The ranges of layers that stay, in their order."""
    slices = data.get("slices") if isinstance(data, dict) else None
    if not isinstance(slices, list) or not slices:
        raise MaskError(f"{_SLICES}: this is another.")
    if data.get("merge_method") != "passthrough":
        raise MaskError(
            "this mergekit file mixes models: a mask can say a passthrough merge alone."
        )
    found = [_source(each) for each in slices]
    if any(model != found[0][0] for model, _, _ in found):
        raise MaskError("this mergekit file joins several models: a mask is of one.")
    ranges = [(start, end) for _, start, end in found]
    before = 0
    for start, end in ranges:
        if not before <= start < end:
            raise MaskError(
                "this mergekit file repeats or moves layers: a mask can only leave layers out."
            )
        before = end
    return ranges


def _source(entry: Any) -> tuple[Any, int, int]:
    sources = entry.get("sources") if isinstance(entry, dict) else None
    one = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
    span = one.get("layer_range") if isinstance(one, dict) else None
    if not isinstance(one, dict) or not isinstance(span, list) or len(span) != 2:
        raise MaskError(f"{_SLICES} with a layer_range of two numbers: this is another.")
    if "parameters" in entry or "parameters" in one:
        raise MaskError("this mergekit file scales weights, which a mask cannot say.")
    start, end = (whole_number(each, "a layer_range") for each in span)
    return one.get("model"), start, end


# ---- llama.cpp: parse_layer_prune of tools/quantize/quantize.cpp, remap_layer of src/llama-quant -

_OPTION = "--prune-layers"


def is_llama_cpp(source: Text) -> bool:
    """Whether it is a list of numbers, with or without the option in front."""
    return all(part.isascii() and part.isdecimal() and len(part) < 10 for part in _listed(source))


def read_llama_cpp(source: Text, depth: int | None) -> Content:
    """The numbers N of the tensors ``blk.N``."""
    return one_set(both_units([int(part) for part in _listed(source)]))


def write_llama_cpp(wanted: Wanted) -> str:
    """The list alone; it goes behind ``llama-quantize --prune-layers``."""
    gone = whole_layers(wanted.mask, "llama.cpp")
    if not gone:
        raise MaskError("nothing is muted, and llama.cpp's list has one layer or more: mute one.")
    return ",".join(map(str, gone)) + "\n"


def _listed(source: Text) -> list[str]:
    text = source.text.strip().removeprefix(_OPTION).lstrip("=")
    return [part.strip() for part in text.split(",")]
