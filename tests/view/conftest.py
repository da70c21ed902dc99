"""A page without a browser: a workbench, requests as pages send them, a small recorded run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from inspector import assets
from inspector.jobs import Job
from inspector.measure import corpus
from inspector.measure.corpus import Windows
from inspector.measure.pruning import prune
from inspector.measure.similarity import similarity
from inspector.measure.sweep import sweep
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.results.base import Result
from inspector.results.files import save
from inspector.view import page, runs
from inspector.view.card import Card
from inspector.view.session import Session
from inspector.view.workbench import Workbench

LENGTH, SAMPLES = 16, 2
TINY = ("tiny:llama", "cpu", "fp32")


def request(name: str) -> Any:
    """What Gradio hands a handler for the page of this name."""
    return SimpleNamespace(session_hash=name)


def finish(bench: Workbench, session: Session, job: Job) -> Job:
    """Wait for a job's end and let its page take it over."""
    assert job.wait(60)
    bench.poll(session)
    return job


def settle(bench: Workbench, session: Session, condition: Callable[[], bool]) -> None:
    """Poll until the condition holds, and once more."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it has not come"
        bench.poll(session)
        time.sleep(0.01)
    bench.poll(session)


@dataclass
class Pages:
    """A built page whose events can be fired, as if a browser had sent them."""

    bench: Workbench
    blocks: gr.Blocks

    def fire(self, element: str, event: str, *values: Any, at: str = "a") -> Any:
        """Run the handler of an element's event; what it returns."""
        return self._handler(element, event)(request(at), *values)

    def click(self, element: str, *data: Any, at: str = "a") -> Any:
        """A click on a figure's point; without data, one whose event carries nothing."""
        event = gr.EventData(None, {"customdata": data[0]} if data else {})
        return self._handler(element, "point")(request(at), event)

    def _handler(self, element: str, event: str) -> Any:
        (block,) = [b for b in self.blocks.blocks.values() if b.elem_id == element]
        return self.handler(block, event)

    def handler(self, block: Any, event: str) -> Any:
        """What runs on a component's event; the first that was connected."""
        return next(f.fn for f in self.blocks.fns.values() if (block._id, event) in f.targets)

    def component(self, kind: type, **attributes: Any) -> Any:
        """The first component of a type with these attributes."""
        return next(
            block
            for block in self.blocks.blocks.values()
            if isinstance(block, kind)
            and all(getattr(block, name) == value for name, value in attributes.items())
        )


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """A model to measure on directly."""
    return load("tiny:llama", device="cpu", dtype="fp32")


@pytest.fixture(scope="session")
def text(tiny: LoadedModel) -> Windows:
    """A little text, cut as `FORM` says."""
    return corpus.windows(tiny.tokenizer, "pydoc:search", length=LENGTH, samples=SAMPLES)


@pytest.fixture(scope="session")
def measured(tiny: LoadedModel, text: Windows) -> dict[str, Result]:
    """One result for each tab that a recorded run fills."""
    empty = tiny.empty()
    return {
        "similarity": similarity(tiny, text, empty),
        "sweep": sweep(tiny, text, empty),
        "pruning": prune(tiny, text, empty, method="finercut", remove=3),
    }


@pytest.fixture(scope="session")
def recorded_folder(
    tiny: LoadedModel, measured: dict[str, Result], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A recorded run of a model that is never loaded here: its weights say so."""
    folder = tmp_path_factory.mktemp("assets")
    (folder / "recorded").mkdir()
    card = replace(Card.of(tiny), weights="long ago")
    (folder / "recorded/model.json").write_text(json.dumps(card.to_json()), encoding="utf-8")
    for name, result in measured.items():
        made = replace(result.provenance, weights="long ago")
        save(replace(result, provenance=made), folder / f"recorded/{name}.json")
    return folder


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a megabyte would be tokenised anew for every workbench; the first topics do as well."""
    topics = corpus._pydoc_rows()[:12]
    monkeypatch.setattr(corpus, "_pydoc_rows", lambda: topics)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, recorded_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs go to a folder of the test's, and the recorded run is the small one."""
    monkeypatch.setenv("INSPECTOR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(assets, "FOLDERS", (recorded_folder, *assets.FOLDERS))
    runs.recorded.cache_clear()
    yield
    runs.recorded.cache_clear()


@pytest.fixture
def bench() -> Workbench:
    """A workbench without a model."""
    return Workbench(public=False)


@pytest.fixture
def ready(bench: Workbench) -> Workbench:
    """A workbench with the tiny model, loaded by the page `a`."""
    session = bench.session(request("a"))
    finish(bench, session, bench.load(session, *TINY))
    assert bench.loaded is not None
    return bench


@pytest.fixture(scope="session")
def built() -> Pages:
    """The page, which takes a third of a second to build."""
    bench = Workbench(public=False)
    return Pages(bench, page.build(bench))


@pytest.fixture
def pages(built: Pages) -> Pages:
    """The page over a workbench without a model, and without a past."""
    built.bench.__init__(public=False)
    return built


@pytest.fixture
def ready_pages(pages: Pages) -> Pages:
    """The page over a workbench with the tiny model, loaded by the page `a`."""
    session = pages.bench.session(request("a"))
    finish(pages.bench, session, pages.bench.load(session, *TINY))
    return pages
