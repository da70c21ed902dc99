"""Files that name attention and FFN units: BlockPruner, LLM-Drop, EvoPress, transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from inspector.errors import MaskError
from inspector.measure.foreign.content import (
    Content,
    Text,
    Wanted,
    one_set,
    stated_depth,
    whole_number,
)
from inspector.units import KINDS, Mask, Unit

# ---- BlockPruner: block_search.py of MrGGLS/BlockPruner, and the two files that it ships --------

_MHA = {"mha": "attn", "mlp": "ffn"}
_ATTN = {kind: name for name, kind in _MHA.items()}


def is_blockpruner(source: Text) -> bool:
    """Whether it is ``{"1": [["mha", 25]], "2": [...]}``."""
    return _numbered(source.json) and all(isinstance(each, list) for each in source.json.values())


def read_blockpruner(source: Text, depth: int | None) -> Content:
    """The sets by their numbers; an order where set n has n units and the one before in it."""
    numbers = sorted(source.json, key=int)
    sets = tuple(frozenset(map(_block, source.json[number])) for number in numbers)
    grown = all(before < after for before, after in pairwise(sets))
    counted = [len(each) for each in sets] == list(range(1, len(sets) + 1))
    if counted and grown and list(map(int, numbers)) == list(range(1, len(sets) + 1)):
        return Content(sets, None, ordered=True)
    return one_set(sets[-1])


def write_blockpruner(wanted: Wanted) -> str:
    """One set a unit in the order of removal; without an order the last set alone."""
    sets = _one_by_one(wanted.order) or [wanted.mask]
    if not wanted.mask:
        raise MaskError(
            "nothing is muted, and BlockPruner's file has one set or more: mute a unit."
        )
    return json.dumps({str(len(each)): [[_ATTN[u.kind], u.layer] for u in each] for each in sets})


def _block(pair: Any) -> Unit:
    if not isinstance(pair, list) or len(pair) != 2 or pair[0] not in _MHA:
        raise MaskError('BlockPruner writes a block as ["mha", 25] or ["mlp", 7]: it is damaged.')
    return Unit(whole_number(pair[1], "a block's layer"), _MHA[pair[0]])


def _one_by_one(order: Sequence[Mask]) -> list[Mask]:
    """The masks of an order, one unit more each; none where a step brings a unit back."""
    found: list[Mask] = []
    here = Mask(order[0].depth) if order else None
    for mask in order:
        if here is None or here.muted - mask.muted:
            return []
        for unit in mask:
            if unit not in here:
                here = here.mute([unit])
                found.append(here)
    return found


# ---- LLM-Drop: config.json files under exp/ and the README of CASE-Lab-UMD/LLM-Drop -------------

_LISTS = {"drop_attn_list": "attn", "drop_mlp_list": "ffn"}


def is_llm_drop(source: Text) -> bool:
    """Whether one of its two lists is there."""
    return isinstance(source.json, dict) and any(name in source.json for name in _LISTS)


def read_llm_drop(source: Text, depth: int | None) -> Content:
    """Both lists: of layer numbers, or of a true or false for each layer."""
    known = stated_depth(source.json)
    units: set[Unit] = set()
    for name, kind in _LISTS.items():
        listed = source.json.get(name) or []
        if not isinstance(listed, list):
            raise MaskError(f"{name} is no list in this file: it is damaged.")
        if listed and all(isinstance(each, bool) for each in listed):
            if known not in (None, len(listed)):
                raise MaskError(f"{name} is not as long as the model is deep: it is damaged.")
            known = len(listed)
            listed = [layer for layer, off in enumerate(listed) if off]
        units |= {Unit(whole_number(each, f"an entry of {name}"), kind) for each in listed}
    return one_set(units, known)


def write_llm_drop(wanted: Wanted) -> str:
    """The two lists, to be put into the model's config.json."""
    lists = {
        name: [unit.layer for unit in wanted.mask if unit.kind == kind]
        for name, kind in _LISTS.items()
    }
    return json.dumps(lists, indent=1)


# ---- EvoPress: evo_drop_search.py (as forked by chijames) and src/model_utils.py of IST-DASLab --

_WORDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "attn": ("attn",),
    "mlp": ("ffn",),
    "attn+mlp": ("attn", "ffn"),
}


def is_evopress(source: Text) -> bool:
    """Whether every line is one of the four words."""
    lines = _lines(source)
    return bool(lines) and all(line in _WORDS for line in lines)


def read_evopress(source: Text, depth: int | None) -> Content:
    """A line a layer."""
    lines = _lines(source)
    units = {Unit(layer, kind) for layer, word in enumerate(lines) for kind in _WORDS[word]}
    return one_set(units, len(lines))


def _lines(source: Text) -> list[str]:
    return [line.strip() for line in source.text.rstrip().splitlines()]


def write_evopress(wanted: Wanted) -> str:
    """A line a layer."""
    words = {kinds: word for word, kinds in _WORDS.items()}
    mask = wanted.mask
    return "".join(
        words[tuple(kind for kind in KINDS if Unit(layer, kind) in mask)] + "\n"
        for layer in range(mask.depth)
    )


# ---- transformers: integrations/heterogeneity/configuration_utils.py of 5.23, and PR 45332 ------

_SKIPS = {"attention": "attn", "mlp": "ffn"}
_SKIPPED = {kind: name for name, kind in _SKIPS.items()}


def is_per_layer(source: Text) -> bool:
    """Whether it has a `per_layer_config`, or is one."""
    data = source.json
    if isinstance(data, dict) and isinstance(data.get("per_layer_config"), dict):
        return True
    return _numbered(data) and all(isinstance(each, dict) for each in data.values())


def read_per_layer(source: Text, depth: int | None) -> Content:
    """What each layer skips; its other overrides (widths, heads) belong to the architecture."""
    data = source.json
    layers = data.get("per_layer_config", data)
    if layers and not _numbered(layers):
        raise MaskError("the keys of per_layer_config are no layer numbers: it is damaged.")
    units: set[Unit] = set()
    for layer, overrides in layers.items():
        skip = overrides.get("skip") or [] if isinstance(overrides, dict) else None
        if not isinstance(skip, list) or any(name not in _SKIPS for name in map(str, skip)):
            raise MaskError(
                f"layer {int(layer)} skips something other than attention and mlp: a mask cannot "
                "say that."
            )
        units |= {Unit(int(layer), _SKIPS[name]) for name in skip}
    return one_set(units, stated_depth(data) if "per_layer_config" in data else None)


def write_per_layer(wanted: Wanted) -> str:
    """The entry of a config; transformers 5.23 reads it and its models do not act on it."""
    skips: dict[str, dict[str, list[str]]] = {}
    for unit in wanted.mask:
        skips.setdefault(str(unit.layer), {"skip": []})["skip"].append(_SKIPPED[unit.kind])
    return json.dumps({"per_layer_config": skips}, indent=1)


# ---- ours ---------------------------------------------------------------------------------------


def is_own(source: Text) -> bool:
    """Whether it is a mask's own JSON."""
    return isinstance(source.json, dict) and {"depth", "muted"} <= set(source.json)


def read_own(source: Text, depth: int | None) -> Content:
    """A mask as this program writes it."""
    mask = Mask.from_json(source.json)
    return one_set(mask.muted, mask.depth)


def write_own(wanted: Wanted) -> str:
    """A mask's own JSON."""
    return json.dumps(wanted.mask.to_json())


def _numbered(data: Any) -> bool:
    """Whether it is a dictionary whose keys are numbers."""
    return (
        isinstance(data, dict)
        and bool(data)
        and all(key.isascii() and key.isdecimal() and len(key) < 10 for key in data)
    )
