"""The proof: a right folder passes with equal numbers, a wrong one is deleted and named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.errors import ExportError
from inspector.jobs import Cancelled
from inspector.model.export import fresh, modelling, proof
from inspector.model.export.making import Exported, export
from inspector.model.loaded import LoadedModel
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "0.attn,1.ffn,3"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return plain.tiny("llama")


@pytest.fixture(scope="module")
def made(
    loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Exported:
    """A whole export, with its proof."""
    return export(loaded, loaded.mask(TEXT), tmp_path_factory.mktemp("made") / "out")


def test_a_whole_export(made: Exported, loaded: LoadedModel) -> None:
    names = {file.name for file in made.folder.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "layers.svg",
        "model.safetensors",
        "modeling_pruned_llama.py",
        "proof.json",
        "recipe.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    report = json.loads((made.folder / "proof.json").read_text(encoding="utf-8"))
    assert report == made.checks
    assert all(check["passed"] for check in report)
    exact = {check["name"] for check in report if check["exact"]}
    assert exact == {"logits", "cached", "chunked", "padded", "greedy"}
    assert {"refused", "tokenizer", "weights", "round-trip", "padded-alone"} <= {
        check["name"] for check in report
    }


def test_the_config_says_what_is_gone(made: Exported) -> None:
    config = json.loads((made.folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "pruned_llama"
    assert config["num_hidden_layers"] == 3
    assert config["per_layer_config"] == {"0": {"skip": ["attention"]}, "1": {"skip": ["mlp"]}}
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    assert "quantization_config" not in config


def test_the_recipe_and_the_card(made: Exported, loaded: LoadedModel) -> None:
    recipe = json.loads((made.folder / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["source"] == "tiny:llama"
    assert recipe["weights"] == loaded.weights
    assert recipe["mask"] == {"depth": 4, "muted": ["0.attn", "1.ffn", "3"]}
    assert recipe["export"] == "compact"
    assert recipe["checks"] == made.checks
    assert set(recipe["versions"]) == {"inspector", "torch", "transformers"}
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert f"![Layer map of 4 layers, attention above FFN. Removed: {TEXT}](layers.svg)" in card
    assert "trust_remote_code=True" in card
    assert str(made.folder.parent) not in card + json.dumps(recipe)


def test_without_the_slots_the_proof_fails(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive removal: the first layer's slot of the cache stays empty, and positions go wrong."""
    right = modelling.TEMPLATE
    broken = right.replace(".layer_idx = slot", ".was = slot")
    assert broken != right
    monkeypatch.setattr(modelling, "TEMPLATE", broken)
    with pytest.raises(ExportError, match=r"failed its check 'cached' .* was deleted"):
        export(loaded, loaded.mask("0.attn"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (
            "raise ImportError('the roof is leaking')",
            "cannot be .*ImportError: the roof is leaking",
        ),
        ("raise MemoryError('CUDA out of memory')", "the check of the export ran out of memory"),
        (
            "import os\nos.kill(os.getpid(), 9)",
            "ended by the system, most often for lack of memory",
        ),
        ("raise SystemExit", "its process ended without a word"),
    ],
    ids=["error", "memory", "killed", "silent"],
)
def test_a_check_that_does_not_come_to_its_end_says_why(
    ends: str, said: str, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ends.py"
    script.write_text(ends)
    monkeypatch.setattr(fresh, "__file__", str(script))
    (tmp_path / "here").mkdir()
    with pytest.raises(ExportError, match=said):
        export(loaded, loaded.mask("0.attn"), tmp_path / "here" / "out")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_cancel_ends_the_process(
    tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text(
        "import os, sys, time, pathlib\n"
        "pathlib.Path(sys.argv[1] + '.pid').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(fresh, "__file__", str(script))
    started = tmp_path / "request.json.pid"

    def progress(*_: Any, **__: Any) -> None:
        if started.is_file() and started.read_text():
            raise Cancelled

    with pytest.raises(Cancelled):
        proof.prove(tmp_path, tmp_path, {"ids": torch.zeros(1)}, {}, progress=progress)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_no_token_reaches_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "tells.py"
    script.write_text("import os, sys\nsys.stderr.write(repr(dict(os.environ)))\n")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("SEEN", "seen")
    _, said = proof._run(str(script), tmp_path / "request.json", tmp_path, lambda *_, **__: None)
    assert "'SEEN': 'seen'" in said
    assert "hf_secret" not in said


def test_passes_tell_models_apart(loaded: LoadedModel) -> None:
    """Each part of the reference changes when one weight does, so none of the checks is idle."""
    ids = plain.random_ids(loaded, 2, 24)
    before = fresh.passes(loaded.model, ids)
    assert all(check["passed"] for check in fresh.compared(loaded.model, ids, before))
    weight = loaded.model.get_parameter("model.layers.2.mlp.down_proj.weight")
    kept = weight.detach().clone()
    try:
        weight.data *= 1.5
        failed = {c["name"] for c in fresh.compared(loaded.model, ids, before) if not c["passed"]}
    finally:
        weight.data = kept
    assert failed >= {"logits", "cached", "chunked", "padded"}


def test_the_models_own_settings_are_put_back(loaded: LoadedModel) -> None:
    own = loaded.model.generation_config
    fresh.passes(loaded.model, plain.random_ids(loaded, 2, 24))
    assert loaded.model.generation_config is own
