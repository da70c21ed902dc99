"""What else a finished export is: reproducible, with measurements and a licence where known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from inspector.errors import ExportError
from inspector.model.export import card
from inspector.model.export.making import export
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.sources import BUNDLED, Source
from inspector.results.checks import Perplexity
from tests import plain

pytestmark = pytest.mark.usefixtures("one_thread", "no_proof")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return plain.tiny("llama")


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_two_exports_of_the_same_are_the_same(loaded: LoadedModel, tmp_path: Path) -> None:
    mask = loaded.mask("0.attn,2")
    export(loaded, mask, tmp_path / "one", shard_bytes=100_000)
    again = load("tiny:llama", dtype="fp32", device="cpu")
    export(again, mask, tmp_path / "two", shard_bytes=100_000)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    export(loaded, loaded.mask("0.attn,3"), tmp_path / "three", shard_bytes=100_000)
    assert files(tmp_path / "one") != files(tmp_path / "three")


def test_the_model_is_left_as_it_was(loaded: LoadedModel, tmp_path: Path) -> None:
    ids = plain.random_ids(loaded, 2, 12)
    before, config = plain.logits(loaded, ids), loaded.model.config.to_dict()
    for number, form in enumerate(("compact", "zeroed")):
        export(loaded, loaded.mask("0.attn"), tmp_path / str(number), form=form)
    assert plain.logits(loaded, ids).equal(before)
    assert loaded.model.config.to_dict() == config


def test_what_was_measured_goes_along(loaded: LoadedModel, tmp_path: Path) -> None:
    made = loaded.provenance(corpus={"name": "a text", "windows": 2, "length": 8})
    baseline = {"perplexity": 2.0, "nll": 0.69, "tokens": 14}
    fits = Perplexity(made, "1.ffn", 3.0, 1.1, 14, 8, 8, baseline)
    others = [
        replace(fits, mask="2.ffn", perplexity=4.0),
        replace(fits, provenance=replace(made, weights="other"), perplexity=5.0),
    ]
    export(loaded, loaded.mask("1.ffn"), tmp_path / "out", results=[*others, fits])
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    assert [each["perplexity"] for each in recipe["measured"]] == [3.0]
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| perplexity, a text, windows of 8 tokens (lower is better) | 3.000 | 2.000 |" in text


def test_an_export_of_a_folder(folder: Path, tmp_path: Path) -> None:
    front = "---\nlanguage: en\nlicense: mit\n---\n# A model\n"
    (folder / "README.md").write_text(front, encoding="utf-8")
    loaded = load(str(folder), dtype="fp32", device="cpu")
    export(loaded, loaded.mask("1"), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: mit\nlibrary_name")
    assert "# model without 2 of its units" in text
    assert str(tmp_path) not in text
    back = load(str(tmp_path / "out"), dtype="fp32", device="cpu")
    assert back.model_type == "llama"
    assert [str(info.unit) for info in back.units if info.problem] == ["1.attn", "1.ffn"]


def test_licences(tmp_path: Path, hub: Any) -> None:
    def of(kind: str, name: str, text: str = "x") -> dict[str, str]:
        return card.licence(Source(text, kind, name, folder=tmp_path))

    def written(front: str) -> dict[str, str]:
        (tmp_path / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
        return of("folder", str(tmp_path))

    unknown = {"license": "unknown"}
    assert of("gguf", "file.gguf", BUNDLED) == {"license": "apache-2.0"}
    assert of("tiny", "llama") == unknown
    assert of("folder", str(tmp_path)) == unknown
    for front in ("license: 'gpl 3; rm'", "license: [mit]", "{", "- 3", "\tx: y"):
        assert written(front) == unknown
    assert written("license: mit  # really") == {"license": "mit"}
    other = {"license": "other", "license_name": "llama3", "license_link": "https://a.b/LICENSE"}
    assert written("\n".join(f"{name}: {said}" for name, said in other.items())) == other
    assert of("hub", "someone/something") == unknown
    hub.lookup_error = OSError("no network")
    assert of("hub", "someone/something") == unknown
    file = tmp_path / "file.gguf"
    for said, found in (("cc-by-4.0", "cc-by-4.0"), ("a: b", "unknown"), (None, "unknown")):
        writer = GGUFWriter(file, "llama")
        if said:
            writer.add_license(said)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert of("gguf", str(file)) == {"license": found}


def test_a_name_is_no_markdown_and_no_yaml(loaded: LoadedModel, tmp_path: Path) -> None:
    source = Source("x", "folder", "/home/me/**bold**: yes\n- no", folder=tmp_path)
    assert card.title(source) == "-bold-yes---no"


def test_a_form_that_is_not_possible_begins_nothing(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="blocks is not possible here"):
        export(loaded, loaded.mask("1.ffn"), tmp_path / "out", form="blocks")
    assert list(tmp_path.iterdir()) == []
