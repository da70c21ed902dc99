"""A folder is there whole or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors import SafetensorError

from inspector.errors import ExportError
from inspector.jobs import Cancelled
from inspector.model.export import making, shards, writing
from inspector.model.export.making import export
from inspector.model.loaded import LoadedModel
from tests import plain
from tests.model.export import words

pytestmark = pytest.mark.usefixtures("one_thread")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def loaded() -> LoadedModel:
    return plain.tiny("llama")


def there(folder: Path) -> list[str]:
    """Everything in a folder, workplaces included."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("no_proof")
def test_an_export_leaves_its_folder_and_nothing_else(loaded: LoadedModel, tmp_path: Path) -> None:
    made = export(loaded, loaded.mask("0.attn"), tmp_path / "out")
    assert there(tmp_path) == ["out"]
    assert made.folder == tmp_path / "out"
    assert made.bytes == sum(file.stat().st_size for file in made.folder.iterdir())
    with pytest.raises(ExportError, match="is an export itself: choose a folder outside of it"):
        export(loaded, loaded.mask("0.attn"), made.folder / "inner")


@pytest.mark.usefixtures("no_proof")
def test_an_existing_folder_is_refused_and_left_alone(loaded: LoadedModel, tmp_path: Path) -> None:
    mask = loaded.mask("0.attn")
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    (tmp_path / "file").write_text("file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "empty", "file", "link"):
        with pytest.raises(ExportError, match=r"is there already: .*--force"):
            export(loaded, mask, tmp_path / name)
    for name in ("full", "file", "link"):  # not even with force: it is none of ours
        with pytest.raises(ExportError, match="is no export of this program"):
            export(loaded, mask, tmp_path / name, force=True)
    for recipe in ('{"flour": 3}', "[]", "{", '{"kind": "masks"}'):  # a recipe for a cake
        (tmp_path / "full" / "recipe.json").write_text(recipe)
        with pytest.raises(ExportError, match="is no export of this program"):
            export(loaded, mask, tmp_path / "full", force=True)
    (tmp_path / "full" / "recipe.json").unlink()
    assert there(tmp_path / "full") == ["letter"]
    export(loaded, mask, tmp_path / "empty", force=True)
    assert "config.json" in there(tmp_path / "empty")
    assert there(tmp_path) == ["empty", "file", "full", "link"]


@pytest.mark.usefixtures("no_proof")
def test_force_replaces_an_export_and_never_merges(loaded: LoadedModel, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(loaded, loaded.mask("0.attn"), target, shard_bytes=50_000)
    assert "modeling_pruned_llama.py" in there(target)
    assert len(list(target.glob("*.safetensors"))) > 1
    export(loaded, loaded.mask("1"), target, force=True)
    assert "modeling_pruned_llama.py" not in there(target)
    assert [file.name for file in target.glob("*.safetensors")] == ["model.safetensors"]
    assert there(tmp_path) == ["out"]


@pytest.mark.usefixtures("no_proof")
def test_what_it_was_loaded_from_is_never_replaced(tmp_path: Path) -> None:
    loaded = words.model(tmp_path / "model")
    (tmp_path / "model" / "recipe.json").write_text('{"kind": "export"}', encoding="utf-8")
    before = there(tmp_path / "model")
    with pytest.raises(ExportError, match=r"is what the model was loaded from: choose another"):
        export(loaded, loaded.mask("1.ffn"), tmp_path / "no" / ".." / "model", force=True)
    assert there(tmp_path / "model") == before


@pytest.mark.usefixtures("no_proof")
def test_what_cannot_be_written_is_said_before_the_work(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = loaded.mask("0.attn")
    monkeypatch.setattr(making, "write_model", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(ExportError, match="there is no folder"):
        export(loaded, mask, tmp_path / "no" / "out")
    for name in ("", "/", ".."):
        with pytest.raises(ExportError, match="is no name of a folder"):
            export(loaded, mask, tmp_path / name if name == ".." else name)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ExportError, match="cannot be written to"):
        export(loaded, mask, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    with pytest.raises(ExportError, match=r"needs \d+ MiB on the way .* has 0 MiB free"):
        export(loaded, mask, tmp_path / "out")
    assert there(tmp_path) == []


@pytest.mark.usefixtures("no_proof")
def test_a_disk_that_fills_up_leaves_nothing(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def save(tensors: Any, path: Path, **_: Any) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(b"something")
        written.append(path)

    monkeypatch.setattr(shards, "save_file", save)
    with pytest.raises(ExportError, match=r"No space left on device.*nothing was kept"):
        export(loaded, loaded.mask("0.attn"), tmp_path / "out", shard_bytes=50_000)
    assert len(written) == 2
    assert there(tmp_path) == []

    def fails(*_: Any, **__: Any) -> None:  # as safetensors says it
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", fails)
    with pytest.raises(ExportError, match=r"No space left on device.*nothing was kept"):
        export(loaded, loaded.mask("0.attn"), tmp_path / "out")
    assert there(tmp_path) == []


@pytest.mark.usefixtures("no_proof")
def test_a_cancel_leaves_nothing(loaded: LoadedModel, tmp_path: Path) -> None:
    for number in range(0, 40, 8):
        calls = 0

        def progress(*_: Any, number: int = number, **__: Any) -> None:
            nonlocal calls
            calls += 1
            if calls > number:
                raise Cancelled

        with pytest.raises(Cancelled):
            export(loaded, loaded.mask("0.attn"), tmp_path / "out", progress=progress)
        assert there(tmp_path) == []


@pytest.mark.usefixtures("no_proof")
def test_an_earlier_export_survives_a_rename_that_fails(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    export(loaded, loaded.mask("0.attn"), target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    rename = Path.rename

    def fails(self: Path, to: Path) -> Path:
        if self.name == "model":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ExportError, match="Input/output error"):
        export(loaded, loaded.mask("1"), target, force=True)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert there(tmp_path) == ["out"]


@pytest.mark.usefixtures("no_proof")
def test_an_earlier_export_that_a_kill_left_aside_comes_back(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    """Killed between the two renames: it lies in the workplace, and its name is free."""
    target = tmp_path / "out"
    export(loaded, loaded.mask("0.attn"), target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    work = tmp_path / f".out.exporting-{dead.stdout.strip()}"
    work.mkdir()
    target.rename(work / "before")
    with pytest.raises(ExportError, match=r"is there already"), writing.workplace(target):
        writing.check_target(target, force=False)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert there(tmp_path) == ["out"]


def test_every_file_reaches_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "work" / "model"
    (made / "deeper").mkdir(parents=True)
    for name in ("a", "b", "deeper/c"):
        (made / name).write_text(name)
    through: list[str] = []
    monkeypatch.setattr(writing, "write_through", lambda path: through.append(path.name))
    rename = Path.rename

    def noted(self: Path, to: Path) -> Path:
        through.append(f"{self.name} -> {to.name}")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", noted)
    writing.put_in_place(made, tmp_path / "out", force=False)
    assert set(through[:5]) == {"a", "b", "c", "deeper", "model"}
    assert through[5:] == ["model -> out", tmp_path.name]


# Kills. A child imports everything once and forks for each kill; the fork exports with a hook that
# ends it, at once and for good, before its n-th change to the disk.
KILLS = """
import json, os, shutil, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from inspector.model.export import making
from inspector.model.loading import load

making.prove = lambda *_, **__: []
making.reference = lambda *_: {}
loaded = load("tiny:llama", dtype="fp32", device="cpu")
root = sys.argv[1]
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")

def run(target, text, at=0, force=False):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    seen = []
    def hook(event, arguments):
        changes = event in CHANGES
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and root in str(arguments[0]):
            seen.append(event)
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    making.export(loaded, loaded.mask(text), target, force=force, shard_bytes=100_000)
    events = list(seen)
    Path(root, "events").write_text(json.dumps(events))
    os._exit(0)

def points(events):
    renames = [number for number, event in enumerate(events, 1) if event == "os.rename"][-2:]
    spread = [max(1, len(events) * part // 9) for part in range(9)]
    return sorted({*spread, *renames, *(number + 1 for number in renames)})

def same(one, two):
    files = [{f.name: f.read_bytes() for f in Path(each).iterdir()} for each in (one, two)]
    return files[0] == files[1]

def state(target):
    if not os.path.lexists(target):
        return "none"
    return next((name for name in ("old", "new") if same(target, f"{root}/{name}")), "damaged")

def left(name):
    return sum(path.name.startswith(f".{name}.exporting-") for path in Path(root).iterdir())

outcome = {"fresh": [], "force": [], "left": []}
for name, text in (("old", "1"), ("new", "0.attn")):
    assert run(f"{root}/{name}", text) == 0
for at in points(json.loads(Path(root, "events").read_text())):
    outcome["fresh"].append([run(f"{root}/fresh-{at}", "0.attn", at), state(f"{root}/fresh-{at}")])
shutil.copytree(f"{root}/old", f"{root}/again")
assert run(f"{root}/again", "0.attn", force=True) == 0
for at in points(json.loads(Path(root, "events").read_text())):
    target = f"{root}/force-{at}"
    shutil.copytree(f"{root}/old", target)
    outcome["force"].append([run(target, "0.attn", at, force=True), state(target)])
target = f"{root}/force-{at}"
shutil.rmtree(target, ignore_errors=True)
outcome["left"] = [left(f"force-{at}"), run(target, "0.attn"), left(f"force-{at}"), state(target)]
Path(root, "outcome").write_text(json.dumps(outcome))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_leaves_no_folder_or_a_whole_one(tmp_path: Path) -> None:
    root = Path(writing.__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLS, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    outcome = json.loads((tmp_path / "outcome").read_text())
    for case in ("fresh", "force"):
        assert len(outcome[case]) >= 10
        assert {status for status, _ in outcome[case]} == {signal.SIGKILL}
    assert {state for _, state in outcome["fresh"]} == {"none", "new"}
    assert outcome["fresh"][0][1] == "none"
    assert {state for _, state in outcome["force"]} == {"old", "none", "new"}
    assert outcome["force"][0][1] == "old"
    # What the last of the killed left behind goes with the next export to the same place.
    assert outcome["left"] == [1, 0, 0, "new"]
