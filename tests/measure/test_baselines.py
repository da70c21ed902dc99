"""What is kept of untouched models: found for the very same question, and never for another."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from inspector.errors import ResultError
from inspector.jobs import Cancelled
from inspector.measure import baselines
from inspector.measure.baselines import Shelf, scoring, shelf
from inspector.measure.benchmark import benchmark
from inspector.measure.tasks import find
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.checks import Benchmark
from tests.measure.test_benchmark import Heard, multiple_choice, table, write_folder, write_items

pytestmark = pytest.mark.usefixtures("one_thread")

ITEMS = [
    {"query": f"{at} and {at * at}", "choices": ["one", "two, or more", "3"], "gold": at % 3}
    for at in range(6)
]
MASK = "1.attn,2"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("tiny:llama", dtype="fp32")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "mine.jsonl", ITEMS)


@pytest.fixture
def kept(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "kept")


def files(kept: Shelf) -> list[Path]:
    return sorted(kept.folder.glob("*")) if kept.folder.is_dir() else []


def asked(loaded: LoadedModel, spec: Path, kept: Shelf, mask: str = MASK, **more: Any) -> Benchmark:
    return benchmark(loaded, [str(spec)], loaded.mask(mask), shelf=kept, **more)


def test_it_is_measured_once_and_comes_back_as_it_was(
    loaded: LoadedModel, items: Path, kept: Shelf
) -> None:
    first, heard = asked(loaded, items, kept), Heard()
    assert first.baseline_from == "" and len(files(kept)) == 1
    again = asked(loaded, items, kept, progress=heard)
    assert "the untouched model" not in {note for *_, note, _ in heard}
    assert {total for _, total, *_ in heard} == {1, 3 * len(ITEMS)}
    assert again.baseline_from == first.provenance.created
    for name in ("tasks", "picks", "baseline_picks", "flips", "mask"):
        assert getattr(again, name) == getattr(first, name)
    other = asked(loaded, items, kept, mask="0-3")
    assert other.baseline_from == first.provenance.created
    assert table(other, baseline=True) == table(first, baseline=True)
    plain = benchmark(loaded, [str(items)], loaded.mask("0-3"))
    assert other.tasks == plain.tasks and other.flips == plain.flips
    assert len(files(kept)) == 1


def test_the_mask_that_was_asked_for_is_always_measured(
    loaded: LoadedModel, items: Path, kept: Shelf
) -> None:
    bare = asked(loaded, items, kept, mask="")
    (path,) = files(kept)
    text = json.loads(path.read_text())
    assert text["mask"] == "" and text["provenance"]["command"] == ""
    heard = Heard()
    again = asked(loaded, items, kept, mask="", progress=heard)
    assert again.tasks == bare.tasks and again.baseline_from == ""
    assert max(done for done, total, *_ in heard if total > 1) == 3 * len(ITEMS)
    assert asked(loaded, items, kept).baseline_from == again.provenance.created


def test_a_fresh_one_is_measured_and_takes_the_old_ones_place(
    loaded: LoadedModel, items: Path, kept: Shelf
) -> None:
    asked(loaded, items, kept)
    anew = asked(loaded, items, dataclasses.replace(kept, fresh=True))
    assert anew.baseline_from == ""
    assert len(files(kept)) == 1
    assert asked(loaded, items, kept).baseline_from == anew.provenance.created


def test_another_question_is_not_answered_by_it(
    loaded: LoadedModel, items: Path, kept: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(loaded, items, kept, limit=4)

    def is_known(model: LoadedModel = loaded, spec: Path = items, **more: Any) -> bool:
        before = files(kept)
        found = asked(model, spec, kept, **{"limit": 4, **more})
        for path in set(files(kept)) - set(before):
            path.unlink()
        return bool(found.baseline_from)

    assert is_known()
    assert not is_known(limit=5) and not is_known(limit=None) and not is_known(batch=3)
    assert not is_known(load("tiny:llama", dtype="bf16")) and not is_known(load("tiny:qwen2"))
    assert not is_known(dataclasses.replace(loaded, weights="seed 1"))
    narrow = load("tiny:llama", dtype="fp32")
    assert is_known(narrow)
    narrow.model.config.max_position_embeddings = 100
    assert not is_known(narrow)
    changed = [{**ITEMS[0], "gold": 1}, *ITEMS[1:]]
    assert not is_known(spec=write_items(tmp_path / "again" / "mine.jsonl", changed))
    assert is_known(spec=write_items(tmp_path / "same" / "mine.jsonl", ITEMS))
    real = LoadedModel.provenance

    def later(self: LoadedModel, **more: Any) -> Any:
        made = real(self, **more)
        return dataclasses.replace(made, versions={**made.versions, "inspector": "99"})

    monkeypatch.setattr(LoadedModel, "provenance", later)
    assert not is_known()


def test_examples_and_scoring_are_part_of_the_question(
    loaded: LoadedModel, items: Path, kept: Shelf, tmp_path: Path
) -> None:
    def known(number: int, **more: Any) -> bool:
        config = multiple_choice("shots", items, fewshot_split="test", **more)
        folder = write_folder(tmp_path / str(number), config)
        return bool(asked(loaded, folder, kept).baseline_from)

    one = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    found = [known(at, num_fewshot=shots) for at, shots in enumerate((0, 2, 0, 2))]
    assert found == [False, False, True, True]
    assert not known(4, num_fewshot=0, metric_list=one)  # the same requests, scored otherwise
    assert known(5, num_fewshot=0, metric_list=one)


def test_a_function_that_scores_counts_by_the_text_of_its_file(items: Path, tmp_path: Path) -> None:
    def made(number: int, body: str) -> str:
        folder = write_folder(tmp_path / str(number), multiple_choice("mine", items))
        (folder / "helper.py").write_text(
            f"def more():\n    {body}\n\ndef text(doc):\n    more()\n"
        )
        config = (folder / "0.yaml").read_text()
        (folder / "0.yaml").write_text(
            config.replace("doc_to_text: query", "doc_to_text: !function helper.text")
        )
        return scoring(find([str(folder)]).tasks["mine"])

    same = "return 'x'"
    assert made(0, same) == made(1, same) != made(2, "return 'y'")


@pytest.mark.parametrize("harm", ["cut", "changed", "emptied", "binary", "folder"])
def test_a_damaged_file_is_measured_anew(
    loaded: LoadedModel, items: Path, kept: Shelf, harm: str
) -> None:
    asked(loaded, items, kept)
    (path,) = files(kept)
    text = path.read_bytes()
    assert b'"value": ' in text
    harmed = {
        "cut": text[: len(text) // 2],
        "changed": text.replace(b'"value": ', b'"value": 1', 1),  # JSON, and a result, as before
        "emptied": b"",
        "binary": b"\xff\xfe\x00",
    }
    path.unlink()
    if harm == "folder":
        path.mkdir()
    else:
        path.write_bytes(harmed[harm])
    found = asked(loaded, items, kept)
    assert found.baseline_from == ""
    assert found.tasks == benchmark(loaded, [str(items)], loaded.mask(MASK)).tasks


def test_a_whole_file_of_another_mask_is_not_taken(
    loaded: LoadedModel, items: Path, kept: Shelf
) -> None:
    """Nobody writes such a file, and if somebody does, it is not the untouched model's."""
    asked(loaded, items, kept)
    (path,) = files(kept)
    text = path.read_bytes().replace(b'"mask": ""', b'"mask": "1"')
    path.unlink()
    key, _, _ = path.stem.partition("-")
    path.with_name(f"{key}-{baselines._digest(text)}.json").write_bytes(text)
    assert asked(loaded, items, kept).baseline_from == ""


def test_only_the_untouched_models_own_numbers_are_taken(
    loaded: LoadedModel, items: Path, kept: Shelf
) -> None:
    found = asked(loaded, items, kept)
    with pytest.raises(ResultError, match="only what was measured of the untouched model"):
        kept.keep("key", found)
    again = asked(loaded, items, kept)
    with pytest.raises(ResultError, match="only what was measured of the untouched model"):
        kept.keep("key", again.untouched())
    assert len(files(kept)) == 1


def test_what_was_cancelled_keeps_nothing(loaded: LoadedModel, items: Path, kept: Shelf) -> None:
    with pytest.raises(Cancelled):
        asked(loaded, items, kept, progress=Heard(cancel_at=3 * len(ITEMS) + 2))
    assert files(kept) == []


def test_only_so_many_are_kept_and_the_oldest_go(
    loaded: LoadedModel, items: Path, tmp_path: Path
) -> None:
    kept = Shelf(tmp_path / "kept", most=3)
    bare = benchmark(loaded, [str(items)], loaded.empty(), limit=1)
    for number in range(5):
        kept.keep(f"key {number}", bare)
        for path in files(kept):  # a second between any two
            age = path.stat().st_mtime - 1
            os.utime(path, (age, age))
    assert len(files(kept)) == 3
    assert [kept.find(f"key {number}") is not None for number in range(5)] == [
        *[False] * 2,
        *[True] * 3,
    ]


def test_a_folder_that_cannot_be_written_is_no_error(
    loaded: LoadedModel, items: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    found = asked(loaded, items, Shelf(tmp_path / "file" / "kept"))
    assert found.baseline_from == "" and found.tasks[0].items == len(ITEMS)


def test_the_shelf_is_in_the_users_cache_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INSPECTOR_BASELINES", str(tmp_path / "mine"))
    assert shelf() == Shelf(tmp_path / "mine")
    monkeypatch.delenv("INSPECTOR_BASELINES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shelf(fresh=True) == Shelf(tmp_path / "layer-inspector/baselines", fresh=True)
    assert shelf().most == baselines.MOST
