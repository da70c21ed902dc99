"""Other tools' files: published examples, round trips, and that no file is trusted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import InspectorError, MaskError, ResultError
from inspector.measure.corpus import Windows
from inspector.measure.foreign import FORMATS, read, text_of, write
from inspector.measure.foreign.blocks import pruneme_rows
from inspector.measure.foreign.distances import Distances, distances
from inspector.measure.foreign.runs import as_run
from inspector.measure.pruning import prune
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.units import Mask, Unit, all_units, layers

BLOCKS = ("mergekit", "llama.cpp")
"""Forms that know whole layers alone."""


def mask(text: str, depth: int = 32) -> Mask:
    return Mask.parse(text, depth)


# ---- as the tools write them --------------------------------------------------------------------

ORDER = ["27.attn", "25.attn", "7.ffn"]
BLOCKPRUNER = (
    '{"1": [["mha", 27]], "2": [["mha", 25], ["mha", 27]], '
    '"3": [["mlp", 7], ["mha", 25], ["mha", 27]]}'
)
PASSTHROUGH = """\
slices:
  - sources:
      - model: org/base
        layer_range: [0, 21]
  - sources:
      - model: org/base
        layer_range: [29,32]
merge_method: passthrough
dtype: bfloat16
"""
DISTANCES = "block_start,block_end,average_distance\n" + "".join(
    f"{b},{b + 8},{0.1 if b == 21 else 0.3}\n" for b in range(1, 25)
)

EXAMPLES: list[tuple[str, str, str]] = [
    ("blockpruner", BLOCKPRUNER, "7.ffn,25.attn,27.attn"),
    (
        "llm-drop",
        '{"model_type": "mistral", "num_hidden_layers": 32, "drop_mlp_list": [26, 25], '
        '"drop_attn_list": [26, 24]}',
        "24.attn,25.ffn,26",
    ),
    ("llm-drop", json.dumps({"drop_attn_list": [n == 3 for n in range(32)]}), "3.attn"),
    ("evopress", "none\nattn\nmlp\nattn+mlp\n" + "none\n" * 28, "1.attn,2.ffn,3"),
    ("evopress", "none\r\nattn\r\n" + "none\r\n" * 29 + "mlp", "1.attn,31.ffn"),
    (
        "per-layer-config",
        '{"num_hidden_layers": 32, "per_layer_config": {"0": {"skip": ["attention"]}, '
        '"5": {"skip": ["attention", "mlp"]}, "6": {"intermediate_size": 96}}}',
        "0.attn,5",
    ),
    ("per-layer-config", '{"0": {"skip": ["attention"]}, "3": {"skip": ["mlp"]}}', "0.attn,3.ffn"),
    ("mergekit", PASSTHROUGH, "21-28"),
    ("pruneme", DISTANCES, "21-28"),
    ("llama.cpp", "20,21,22\n", "20-22"),
    ("llama.cpp", "--prune-layers 22, 20,21", "20-22"),
    ("mask", '{"depth": 32, "muted": ["5.attn", "17"]}', "5.attn,17"),
]


@pytest.mark.parametrize(("form", "text", "expected"), EXAMPLES)
def test_a_file_is_known_by_what_it_holds(form: str, text: str, expected: str) -> None:
    found = read(text, depth=32)
    assert (found.form.name, found.mask) == (form, mask(expected))


def test_every_form_has_an_example() -> None:
    assert {form for form, _, _ in EXAMPLES} == set(FORMATS)


@pytest.mark.parametrize(("form", "text", "expected"), EXAMPLES)
def test_the_depth_is_the_files_where_it_says_it(form: str, text: str, expected: str) -> None:
    says = form in ("evopress", "pruneme", "mask") or "num_hidden" in text or "true" in text
    if says:
        assert read(text).mask == mask(expected)
        with pytest.raises(MaskError, match="for a model of 32 layers, not 30"):
            read(text, depth=30)
    else:
        with pytest.raises(MaskError, match="does not say how many layers"):
            read(text)


def test_blockpruners_order_is_the_difference_of_neighbours() -> None:
    found = read(BLOCKPRUNER, depth=32)
    assert [str(each) for each in found.order] == ["27.attn", "25.attn,27.attn", str(found.mask)]
    assert not read('{"3": [["mlp", 7], ["mha", 25], ["mha", 27]]}', depth=32).order
    assert not read('{"1": [["mlp", 7]], "2": [["mha", 25], ["mha", 27]]}', depth=32).order


def test_prunemes_window_is_the_one_that_its_own_slices_cut_out() -> None:
    """Its README cuts [0, 21] and [29, 32] for the least distance at 21 to 29."""
    assert read(DISTANCES).mask == read(PASSTHROUGH, depth=32).mask


def test_prunemes_distance_is_between_the_outputs_of_two_layers() -> None:
    """From its definition: a model whose layers 2 and 3 (of 5, from 0) leave the stream alone."""
    outputs = [(1.0, 0.0), (0.8, 0.6), (0.8, 0.6), (0.8, 0.6), (0.0, 1.0)]  # after each layer
    size = 2
    rows = []
    for first in range(len(outputs) - size):
        (a, b), (c, d) = outputs[first], outputs[first + size]
        rows.append((first + 1, first + 1 + size, math.acos(min(a * c + b * d, 1)) / math.pi))
    text = "block_start,block_end,average_distance\n" + "".join(
        ",".join(map(str, row)) + "\n" for row in rows
    )
    assert read(text).mask == mask("2-3", 5)


# ---- round trips --------------------------------------------------------------------------------


@st.composite
def masks(draw: st.DrawFn, *, whole: bool = False) -> Mask:
    depth = draw(st.integers(1, 40))
    if whole:
        chosen = draw(st.sets(st.integers(0, depth - 1)))
        return Mask(depth, frozenset(unit for n in chosen for unit in layers(n, n)))
    return Mask(depth, frozenset(draw(st.sets(st.sampled_from(all_units(depth))))))


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"pruneme"}))
@given(data=st.data())
def test_what_is_written_is_read_back(form: str, data: st.DataObject) -> None:
    wanted = data.draw(masks(whole=form in BLOCKS))
    try:
        text = write(form, wanted, model="org/base")
    except MaskError as error:
        empty = form in ("blockpruner", "llama.cpp") and not wanted
        full = form == "mergekit" and len(wanted) == 2 * wanted.depth
        assert empty or full, error
        return
    found = read(text, depth=wanted.depth)
    assert (found.form.name, found.mask, found.order) == (
        form,
        wanted,
        found.order if len(wanted) == 1 else (),
    )


@given(data=st.data())
def test_an_order_is_read_back(data: st.DataObject) -> None:
    """One unit a step or several: BlockPruner's file has one set a unit."""
    depth = data.draw(st.integers(1, 12))
    units = data.draw(st.permutations(all_units(depth)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(units)), min_size=1)))
    order = tuple(Mask(depth, frozenset(units[:cut])) for cut in cuts)
    text = write("blockpruner", order[-1], order=order)
    found = read(text, depth=depth)
    assert found.mask == order[-1]
    assert len(found.order) == len(found.mask)
    assert set(order) <= set(found.order)
    sets = json.loads(text)
    assert list(sets) == [str(n + 1) for n in range(len(found.order))]
    assert all(pairs == sorted(pairs, key=lambda pair: pair[1]) for pairs in sets.values())


def test_an_order_that_brings_units_back_is_written_without_it() -> None:
    order = (mask("3"), mask("4,5"))
    assert json.loads(write("blockpruner", order[-1], order=order)).keys() == {"4"}


@given(masks())
def test_block_forms_refuse_half_layers(wanted: Mask) -> None:
    half = [
        n for n in range(wanted.depth) if (Unit(n, "attn") in wanted) != (Unit(n, "ffn") in wanted)
    ]
    for form in BLOCKS:
        if half:
            with pytest.raises(MaskError, match=f"of layer {half[0]} this mask mutes .* alone"):
                write(form, wanted, model="org/base")


def test_what_mergekit_gets_keeps_every_other_layer_once() -> None:
    data = yaml.safe_load(write("mergekit", mask("0,5-6,31"), model="org/base"))
    ranges = [each["sources"][0]["layer_range"] for each in data["slices"]]
    assert ranges == [[1, 5], [7, 31]]
    assert data["merge_method"] == "passthrough"


@given(st.data())
def test_distances_are_the_same_numbers_when_they_are_read_back(data: st.DataObject) -> None:
    """A row for every window but the first, both ends counted from 1; unknown ones stay unknown."""
    depth = data.draw(st.integers(2, 40))
    size = data.draw(st.integers(1, depth - 1))
    known = st.floats(0, 1) | st.just(math.nan)
    many = depth + 1 - size
    values = tuple(data.draw(st.lists(known, min_size=many, max_size=many)))
    found = Distances(depth, values)
    assert found.size == size
    if all(map(math.isnan, values[1:])):
        with pytest.raises(MaskError, match="choose a smaller --window"):
            write("pruneme", Mask(depth), distances=found)
        return
    text = write("pruneme", Mask(depth), distances=found)
    rows = pruneme_rows(text)
    assert [row[:2] for row in rows] == [(n, n + size) for n in range(1, many)]
    assert [repr(value) for *_, value in rows] == [repr(value) for value in values[1:]]
    least = min((value, n) for n, value in enumerate(values) if n and not math.isnan(value))[1]
    assert read(text).mask == Mask(depth, frozenset(layers(least, least + size - 1)))


def test_the_distances_of_a_run_are_those_of_what_it_might_have_removed() -> None:
    tiny: LoadedModel = load("tiny:llama", device="cpu", dtype="fp32")
    ids = torch.arange(32).reshape(2, 16)
    protect = Mask.parse("3", 4)
    run = prune(
        tiny,
        Windows(ids, 16, {}),
        tiny.empty(),
        method="angular",
        remove=2,
        protect=protect,
    )
    found = distances(run, 1)
    assert math.isnan(found.values[3]) and not any(map(math.isnan, found.values[:3]))
    assert distances(run, None).size == 2
    with pytest.raises(MaskError, match=r"1 to 2: --window N"):
        distances(run, 3)


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("mergekit", "1", "names the model"),
        ("mergekit", "0-31", "needs one that stays"),
        ("llama.cpp", "", "one layer or more"),
        ("blockpruner", "", "one set or more"),
        ("pruneme", "1", "holds distances, and a mask has none"),
        ("../x", "1", "no form that can be written: mask, blockpruner"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(form: str, text: str, message: str) -> None:
    with pytest.raises(InspectorError, match=message):
        write(form, mask(text))


# ---- what is refused ----------------------------------------------------------------------------

ALIASES = "slices: &a [1]\nb: [*a, *a]\n"
MERGED = PASSTHROUGH.replace("passthrough", "slerp")
REPEATED = PASSTHROUGH.replace("[29,32]", "[20, 32]")
SCALED = PASSTHROUGH.replace("[29,32]", "[29,32]\n        parameters: {scale: 0.0}")

DAMAGED: list[tuple[str, str]] = [
    ("", "of no known form"),
    ("{", "of no known form"),
    ("[]", "of no known form"),
    ("hello", "of no known form"),
    ('{"kind": "trajectory"}', "a pruning run of this program, .* `inspector compare`"),
    ('{"kind": "perplexity"}', "a perplexity result of this program, .* `inspector plot`"),
    ('{"kind": "generation"}', "a generation result of this program, .* Runs tab"),
    ('{"kind": ["x"]}', "of no known form"),
    ("[" * 100_000, "of no known form"),
    ("1,,2", "of no known form"),
    ("1,-2", "of no known form"),
    ("9" * 5000, "of no known form"),
    ("none\n\nattn\n", "of no known form"),
    ("40,41", "layer 40 is out of range: this model has 32 layers"),
    ('{"1": [["mha", 32]]}', "layer 32 is out of range"),
    ('{"1": [["mha", -1]]}', "layer -1 is out of range"),
    ('{"1": [["mha", true]]}', "no whole number"),
    ('{"1": [["norm", 1]]}', "it is damaged"),
    ('{"1": [5]}', "it is damaged"),
    ('{"drop_attn_list": 5}', "drop_attn_list is no list"),
    ('{"drop_attn_list": [1, true]}', "no whole number"),
    ('{"drop_attn_list": [1.5]}', "no whole number"),
    ('{"drop_attn_list": [true], "num_hidden_layers": 32}', "not as long as the model is deep"),
    ('{"drop_attn_list": [], "num_hidden_layers": 1e3}', "no whole number"),
    ('{"drop_attn_list": [], "num_hidden_layers": 99999999}', "it is damaged"),
    ('{"per_layer_config": {"x": {}}}', "no layer numbers"),
    ('{"per_layer_config": {"1": {"skip": ["mamba"]}}}', "other than attention and mlp"),
    ('{"per_layer_config": {"1": {"skip": "attention"}}}', "other than attention and mlp"),
    ('{"per_layer_config": {"1": 5}}', "other than attention and mlp"),
    ('{"depth": 32, "muted": ["x"]}', "is not a unit"),
    (DISTANCES + "1,2\n", "no window and its distance"),
    (DISTANCES + "1,9,0.1\n", "not one row for every window"),
    (DISTANCES.replace("3,11,", "3,12,"), "not one row for every window"),
    ("block_start,block_end,average_distance\n", "not one row for every window"),
    ("block_start,block_end,average_distance\n1,999999999,0.1\n", "not one row for every window"),
    ("block_start,block_end,average_distance\n1,2,nan\n", "not one row for every window"),
    (f"block_start,block_end,average_distance\n1,2,{'x' * 200_000}\n", "no window"),
    ("slices: 5\n", "this is another"),
    ("slices:\n- sources: []\nmerge_method: passthrough\n", "this is another"),
    ("slices: [\n", "is no YAML"),
    ("slices: !!python/object/apply:os.system [echo]\n", "is no YAML"),
    ("slices: 2001-99-99\n", "is no YAML"),
    ("slices: " + "[" * 20_000, "is no YAML"),
    (ALIASES, "refers to parts of itself"),
    ("slices:\n" + "# \n" * 50_000, "longer than 100 kB"),
    (MERGED, "mixes models"),
    (REPEATED, "repeats or moves layers"),
    (SCALED, "scales weights"),
    (PASSTHROUGH.replace("org/base", "org/other", 1), "joins several models"),
    (PASSTHROUGH.replace("[29,32]", "[29, 33]"), "keeps layers up to 32"),
    (PASSTHROUGH.replace("[29,32]", "[29, x]"), "no whole number"),
    ("x" * 4_000_001, "larger than 4 MB"),
]


@pytest.mark.parametrize(("text", "message"), DAMAGED, ids=range(len(DAMAGED)))
def test_what_cannot_be_read_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises((MaskError, ResultError), match=message) as caught:
        read(text, depth=32)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(
            ["1", "2", "drop_attn_list", "drop_mlp_list", "per_layer_config", "skip",
             "num_hidden_layers", "depth", "muted"]
        ), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_any_json_is_read_or_refused(data: Any) -> None:
    """A mistake is an InspectorError: nothing else comes out, whatever the file holds."""
    for depth in (None, 4):
        try:
            found = read(json.dumps(data), depth=depth)
        except InspectorError:
            continue
        assert found.mask.depth == (depth or found.mask.depth)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for each in (text, f"slices:\n{text}", f"block_start,block_end,average_distance\n{text}"):
        try:
            read(each, depth=4)
        except InspectorError:
            continue


def test_a_depth_that_no_model_has_is_refused() -> None:
    for depth in (0, -1, 10**9):
        with pytest.raises(MaskError, match="there is none"):
            read("0", depth=depth)


def test_files_that_cannot_be_read_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResultError, match=r"cannot read gone\.txt: No such file"):
        text_of(tmp_path / "gone.txt")
    file = tmp_path / "x.txt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match=r"x\.txt is no text in UTF-8"):
        text_of(file)
    file.write_bytes(b"\xef\xbb\xbf3,4")  # a byte order mark
    assert read(text_of(file), depth=8).mask == mask("3-4", 8)
    monkeypatch.setattr("inspector.measure.foreign.MAX_TEXT", 3)
    with pytest.raises(ResultError, match="larger than 4 MB"):
        text_of(file)


# ---- as a run -----------------------------------------------------------------------------------


def test_an_order_is_a_run_with_the_models_own_sizes() -> None:
    tiny: LoadedModel = load("tiny:llama", device="cpu", dtype="fp32")
    found = read('{"1": [["mlp", 2]], "2": [["mha", 1], ["mlp", 2]]}', depth=4)
    run = as_run(
        found, tiny.provenance(), lambda m: (tiny.parameters_left(m), tiny.kv_bytes_left(m))
    )
    assert run is not None and run.method == "blockpruner"
    assert [step.removed for step in run.steps] == [[], ["2.ffn"], ["1.attn"]]
    assert [step.mask for step in run.steps] == ["", "2.ffn", "1.attn,2.ffn"]
    for step in run.steps:
        here = tiny.mask(step.mask)
        assert step.parameters == tiny.parameters_left(here)
        assert step.kv_bytes_per_token == tiny.kv_bytes_left(here)
        assert math.isnan(step.perplexity)
    assert as_run(read("1,2", depth=4), tiny.provenance(), lambda m: (0, 0)) is None
