"""The Export tab: what it says beforehand, what it makes, and what a public server refuses."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from inspector.cli.parser import build_parser
from inspector.errors import ExportError
from inspector.model.export import making
from inspector.model.export.forms import FORMS
from inspector.model.export.llamacpp import reading
from inspector.units import Mask
from inspector.view.session import Session
from inspector.view.status import active
from inspector.view.tabs import export
from tests.view.conftest import Pages, request, settle


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fresh process of the proof, which has its own tests."""
    check = {"name": "logits", "what": "all", "passed": True, "exact": True, "difference": 0.0}
    monkeypatch.setattr(making, "prove", lambda *_, **__: [check])


@pytest.fixture
def session(ready_pages: Pages) -> Session:
    """The page `a`, with a mask."""
    made = ready_pages.bench.session(request("a"))
    made.set_mask(Mask.parse("0.attn,2", 4))
    return made


def plan(pages: Pages, session: Session) -> str:
    return export.plan_text(pages.bench, session)


def go(pages: Pages, session: Session, *values: Any) -> Any:
    pages.fire("export-go", "click", *values)
    settle(pages.bench, session, lambda: not active(session))
    return session.results.get("export")


def test_the_plan_has_every_form_under_the_present_mask(
    ready_pages: Pages, session: Session
) -> None:
    text = plan(ready_pages, session)
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("- ")] == [*FORMS]
    assert "- `blocks`: not possible, layer 0 is off only in part" in text
    assert "refused without" in text
    assert "The source has 0.7 MB of weights" in text
    session.set_mask(Mask.parse("2", 4))
    assert "- `blocks`: **0.6 MB, 20.4% saved**." in plan(ready_pages, session)
    session.set_mask(Mask(4))
    assert "Nothing is off" in plan(ready_pages, session)


def test_the_plan_needs_the_model(pages: Pages) -> None:
    session = pages.bench.session(request("a"))
    assert "Load the model" in plan(pages, session)


def test_an_export_and_its_report(ready_pages: Pages, session: Session, tmp_path: Path) -> None:
    target = tmp_path / "a folder" / "out"
    target.parent.mkdir()
    made = go(ready_pages, session, "auto", str(target), False, "")
    assert made.exported.folder == target
    assert (target / "modeling_pruned_llama.py").is_file()
    report, line, file = export.draw(session)
    assert "### Exported as `compact`" in report
    assert "- passed, bit for bit: all." in report
    assert file["visible"] is False
    args = build_parser().parse_args(shlex.split(line["value"])[1:])
    assert (args.model, args.dtype, args.mask) == ("tiny:llama", "fp32", "0.attn,2")
    assert (args.folder, args.format, args.force) == (str(target), "auto", False)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    go(ready_pages, session, "auto", str(target), False, "")
    assert "is there already" in session.errors["export"]
    assert session.results["export"] is made
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    go(ready_pages, session, "zeroed", str(target), True, "")
    assert not session.errors["export"]
    assert not (target / "modeling_pruned_llama.py").exists()


def test_a_gguf_file(
    ready_pages: Pages, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READER", "no_such_module")
    assert "- `gguf`: **0.3 MB, " in plan(ready_pages, session)
    made = go(ready_pages, session, "gguf:bf16", str(tmp_path / "out"), False, "")
    assert (made.exported.folder / "model.gguf").is_file()
    report, line, _ = export.draw(session)
    assert "### Exported as `gguf:bf16`" in report
    assert "- not done: what llama.cpp computes" in report
    assert "- passed, off by 0.00098 at most: every tensor" in report
    assert "--format gguf:bf16" in line["value"]


def test_what_was_checked_on_the_page_goes_along(
    ready_pages: Pages, session: Session, tmp_path: Path
) -> None:
    ready_pages.fire("perplexity-go", "click", "", "pydoc:check", 2, 16)
    settle(ready_pages.bench, session, lambda: not active(session))
    go(ready_pages, session, "compact", str(tmp_path / "out"), False, "")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| perplexity, pydoc:check, windows of 16 tokens" in text


def test_an_upload_afterwards(
    ready_pages: Pages, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def push(folder: Path, repository: str, **_: Any) -> str:
        assert (folder / "recipe.json").is_file()
        asked.append(repository)
        return f"https://huggingface.co/{repository}"

    monkeypatch.setattr(export, "check_hub", asked.append)
    monkeypatch.setattr(export, "push", push)
    made = go(ready_pages, session, "auto", str(tmp_path / "out"), False, " someone/model ")
    assert asked == ["someone/model", "someone/model"]
    assert "Uploaded to https://huggingface.co/someone/model, private." in export.report_text(made)
    args = build_parser().parse_args(shlex.split(made.line)[1:])
    assert (args.repository, args.public) == ("someone/model", False)

    def refused(_: str) -> None:
        raise ExportError("there is no login for the hub.")

    monkeypatch.setattr(export, "check_hub", refused)
    go(ready_pages, session, "auto", str(tmp_path / "other"), False, "someone/model")
    assert session.errors["export"] == "there is no login for the hub."
    assert not (tmp_path / "other").exists()
    # A public server would do it with its own login.
    monkeypatch.setattr(ready_pages.bench, "public", True)
    made = go(ready_pages, session, "auto", "", False, "someone/model")
    assert not made.address
    assert "push-to-hub" not in made.line
    assert asked == ["someone/model", "someone/model"]


@pytest.mark.parametrize(
    ("mask", "values", "message"),
    [
        ("2", ("auto", "", False, ""), "ame the folder to write"),
        ("2", ("auto", None, False, ""), "ame the folder to write"),
        ("0.attn", ("blocks", "out", False, ""), "locks is not possible here"),
        ("2", ("gold", "out", False, ""), "here is no format"),
        ("", ("auto", "out", False, ""), "no unit is off"),
    ],
)
def test_a_form_filled_in_wrongly_starts_nothing(
    ready_pages: Pages, session: Session, mask: str, values: Any, message: str
) -> None:
    session.set_mask(Mask.parse(mask, 4))
    with pytest.raises(gr.Error, match=message):
        ready_pages.fire("export-go", "click", *values)
    assert active(session) == []


def test_it_needs_the_model(pages: Pages) -> None:
    with pytest.raises(gr.Error, match="needs the model in memory: press Load model first"):
        pages.fire("export-go", "click", "auto", "out", False, "")


def test_on_a_public_server_nothing_written_is_a_path(
    ready_pages: Pages, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_pages.bench, "public", True)
    monkeypatch.chdir(tmp_path)
    made = go(ready_pages, session, "auto", str(tmp_path / "out"), True, "")
    assert list(tmp_path.glob("out*")) == []
    assert made.archive.name == "pruned-model.zip"
    with zipfile.ZipFile(made.archive) as packed:
        names = packed.namelist()
        assert packed.testzip() is None
    assert {"pruned-model/model.safetensors", "pruned-model/recipe.json"} <= set(names)
    assert str(tmp_path) not in made.line
    assert export.draw(session)[2]["value"] == str(made.archive)
    assert made.holder.name == str(made.archive.parent)  # goes with the result
    assert sorted(path.name for path in made.archive.parent.rglob("*")) == [
        "pruned-model",
        "pruned-model.zip",
    ]


def test_a_public_server_refuses_what_is_large(
    ready_pages: Pages, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_pages.bench, "public", True)
    monkeypatch.setattr(export, "SMALL", 1000)
    with pytest.raises(gr.Error, match=r"make it at home with +inspector export tiny:llama"):
        ready_pages.fire("export-go", "click", "auto", "", False, "")
    assert active(session) == []
