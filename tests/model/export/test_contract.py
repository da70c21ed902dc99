"""One contract that every family keeps: what is exported computes what the muted model computes.

All folders are loaded by one process that cannot import this project; INSPECTOR_EXPORT_ALONE=1
gives each family a process of its own, and INSPECTOR_EXPORT_MASKS another number of masks. Every
mask is tried compact and as a stub, one of them in every form.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inspector.model.export import fresh, proof
from inspector.model.export.forms import Choice, choices
from inspector.model.export.making import write_model
from inspector.model.families import FAMILIES
from inspector.model.loaded import LoadedModel
from inspector.units import Mask, all_units
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

MASKS = int(os.environ.get("INSPECTOR_EXPORT_MASKS", "20"))
ALONE = os.environ.get("INSPECTOR_EXPORT_ALONE") == "1"
CORNERS = ["0.attn", "1.ffn,3", "0-3.attn", "0-3.ffn", "1-2", "0-3"]
SUBJECTS = list(FAMILIES)
BLOCKS = "1-2"
WHOLE = {"blocks": BLOCKS, "moe-stub": "1.ffn,3", "compact": "0.attn"}
"""The mask with which a form goes through the whole of the proof."""
CHILD = """
import importlib.util, json, sys
sys.modules["inspector"] = None
spec = importlib.util.spec_from_file_location("fresh", sys.argv[1])
fresh = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fresh)
requests = json.loads(open(sys.argv[2]).read())

def answer(request):
    if request["whole"]:
        return fresh.main(request)
    from safetensors.torch import load_file
    reference = load_file(request["reference"])
    model, report = fresh.load(request["folder"], request)
    return fresh.compared(model.eval(), reference.pop("ids"), reference)

found = {}
for request in requests:
    try:
        found[request["name"]] = answer(request)
    except Exception as error:
        found[request["name"]] = [{"name": "loads", "what": repr(error), "passed": False}]
try:
    import inspector
except ImportError:
    found["inspector cannot be imported"] = []
open(sys.argv[3], "w").write(json.dumps(found))
"""
EXACT = {"logits", "cached", "chunked", "padded", "greedy"}
NEAR = {"cached-uncached", "chunked-uncached", "padded-alone"}
REST = {"tokenizer", "weights", "round-trip"}


@cache
def subject(name: str) -> LoadedModel:
    """The tiny model of a row of the family table; the composite one is read from files."""
    if name in plain.TYPES:
        return plain.tiny(name)
    with tempfile.TemporaryDirectory() as folder:
        return plain.composite(Path(folder))


def masks(loaded: LoadedModel) -> list[Mask]:
    """The corners, all attentions of one layer type, and as many at random as there is room for."""
    depth = loaded.depth
    generator = torch.Generator().manual_seed(len(loaded.model_type))
    found = [Mask.parse(text, depth) for text in CORNERS]
    types = getattr(loaded.model.config.get_text_config(), "layer_types", None)
    if types and len(set(types)) > 1:  # a cache slot that nobody fills
        mask = Mask.of(depth, [f"{i}.attn" for i, t in enumerate(types) if t == types[1]])
        found += [mask] if mask not in found else []
    while len(found) < MASKS:
        drawn = [unit for unit in all_units(depth) if torch.rand((), generator=generator) < 0.5]
        mask = Mask.of(depth, drawn)
        found += [mask] if drawn and mask not in found else []
    return found


def tried(loaded: LoadedModel, mask: Mask) -> list[Choice]:
    """The forms that this mask is exported in."""
    possible = [choice for choice in choices(loaded, mask) if not choice.problem]
    every = {"compact", "moe-stub", *(["blocks", "zeroed"] if str(mask) == BLOCKS else [])}
    return [choice for choice in possible if choice.form.name in every]


def is_whole(choice: Choice, mask: Mask) -> bool:
    """Whether it goes through the whole of the proof."""
    return WHOLE.get(choice.form.name) == str(mask)


def prepared(model_type: str, folder: Path) -> list[dict[str, Any]]:
    """Every possible form of every mask, written; and what the process is asked about it."""
    loaded = subject(model_type)
    requests = []
    for mask in masks(loaded):
        expected = folder / f"{model_type}-{mask}.safetensors"
        save_file(proof.reference(loaded, mask), expected)
        for choice in tried(loaded, mask):
            name = f"{model_type} {choice.form.name} {mask}"
            here = folder / name
            here.mkdir()
            write_model(loaded, mask, choice, here)
            request = proof.request_of(loaded, own_code=choice.form.own_code)
            again = str(folder / f"again {name}")
            more = {"name": name, "folder": str(here), "reference": str(expected), "again": again}
            requests.append({**request, **more, "whole": is_whole(choice, mask)})
    return requests


def answers(model_types: list[str], folder: Path) -> dict[str, list[proof.Check]]:
    """The checks of one process, by the request's name."""
    requests = [each for name in model_types for each in prepared(name, folder)]
    asked, told = folder / "requests.json", folder / "answers.json"
    asked.write_text(json.dumps(requests), encoding="utf-8")
    command = [sys.executable, "-P", "-c", CHILD, fresh.__file__, str(asked), str(told)]
    environment = {
        **os.environ,
        "HF_MODULES_CACHE": str(folder / "modules"),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(command, check=True, env=environment, cwd=folder, timeout=500)
    return json.loads(told.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def of(model_type: str) -> dict[str, list[proof.Check]]:
        return answers([model_type], tmp_path_factory.mktemp(model_type))

    @cache
    def of_all() -> dict[str, list[proof.Check]]:
        return answers(SUBJECTS, tmp_path_factory.mktemp("exports"))

    return lambda model_type: of(model_type) if ALONE else of_all()


@pytest.mark.parametrize("model_type", SUBJECTS)
def test_exports_compute_what_the_muted_model_computes(model_type: str, told: Any) -> None:
    every = told(model_type)
    assert "inspector cannot be imported" in every
    mine = {name: checks for name, checks in every.items() if name.split()[0] == model_type}
    loaded = subject(model_type)
    for mask in masks(loaded):
        for choice in tried(loaded, mask):
            case = f"{choice.form.name} {mask}"
            checks = mine.pop(f"{model_type} {case}")
            assert [check["what"] for check in checks if not check["passed"]] == [], case
            names = {check["name"] for check in checks}
            whole = REST | ({"refused"} if choice.form.own_code else set())
            assert names == EXACT | NEAR | (whole if is_whole(choice, mask) else set()), case
            assert {c["name"] for c in checks if c["exact"]} == EXACT, case
    assert not mine


def test_compact_is_possible_for_every_family_and_mask() -> None:
    for model_type in SUBJECTS:
        loaded = subject(model_type)
        for mask in masks(loaded):
            problems = {c.form.name: c.problem for c in choices(loaded, mask)}
            assert problems["compact"] == problems["zeroed"] == ""
