"""Model folders on disk, and a stand-in for the hub and its cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import _cache_manager

from inspector.model.tiny import tiny_model, tiny_tokenizer
from tests import plain

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """See `plain.one_thread`."""
    with plain.one_thread():
        yield


@pytest.fixture(scope="session")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as `save_pretrained` writes it: leave it as it is."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_model("llama", seed=3).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(master: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(master, tmp_path / "model"))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache that takes the place of the real one."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def put_in_cache(hub_cache: Path) -> Callable[..., Path]:
    """Lay a repository's files out as the hub's client does: blobs, snapshots, refs."""

    def put(
        name: str, files: dict[str, bytes], *, commit: str = COMMIT, kind: str = "model"
    ) -> Path:
        repository = hub_cache / f"{kind}s--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        for part in (repository / "blobs", repository / "refs", snapshot):
            part.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        for file, content in files.items():
            blob = repository / "blobs" / f"{commit[:8]}-{file}"
            blob.write_bytes(content)
            (snapshot / file).symlink_to(blob)
        return snapshot

    return put


class Hub:
    """The hub as `sources` sees it: what a repository has, and what goes wrong on the way."""

    def __init__(self) -> None:
        self.files: dict[str, int | None] = {}
        self.folder: Path | None = None
        self.lookup_error: BaseException | None = None
        self.download_error: BaseException | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.downloaded: list[str] = []

    def model_info(self, _: Any, name: str, *, revision: str | None = None, **__: Any) -> Any:
        self.asked.append((name, revision))
        if self.lookup_error is not None:
            raise self.lookup_error
        siblings = [{"rfilename": file, "size": size} for file, size in self.files.items()]
        return huggingface_hub.ModelInfo(id=name, sha=COMMIT, siblings=siblings)

    def hf_hub_download(self, name: str, file: str, *, revision: str, **_: Any) -> str:
        assert revision == COMMIT
        if self.download_error is not None:
            raise self.download_error
        assert self.folder is not None
        self.downloaded.append(file)
        return str(self.folder / file)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Hub:
    """The hub's place is taken by this one; nothing is in the cache."""
    hub = Hub()
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: hub.model_info(*args, **kwargs)
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    return hub
