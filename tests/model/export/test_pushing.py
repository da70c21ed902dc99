"""Uploads, with a stand-in for the hub: private, whole or removed, and never a token shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors

from inspector.cli import main
from inspector.errors import ExportError
from inspector.jobs import Cancelled
from inspector.model.export import making
from inspector.model.export.pushing import check_hub, push

TOKEN = "hf_thisIsTheSecret"


class Hub:
    """Repositories that exist, and the call that fails."""

    def __init__(self) -> None:
        self.repositories: dict[str, Any] = {}
        self.failing: dict[str, BaseException] = {}

    def _may(self, call: str) -> None:
        if call in self.failing:
            raise self.failing[call]

    def whoami(self, _: Any) -> dict[str, str]:
        self._may("whoami")
        return {"name": "someone"}

    def repo_exists(self, _: Any, name: str) -> bool:
        self._may("repo_exists")
        return name in self.repositories

    def create_repo(self, _: Any, name: str, *, private: bool, exist_ok: bool) -> str:
        self._may("create_repo")
        if name in self.repositories and not exist_ok:
            raise http_error(409)
        self.repositories[name] = {"private": private, "files": []}
        return f"https://huggingface.co/{name}"

    def upload_folder(self, _: Any, *, repo_id: str, folder_path: Path, **__: Any) -> None:
        files = sorted(path.name for path in folder_path.iterdir())
        self.repositories[repo_id]["files"] = files[:1]
        self._may("upload_folder")
        self.repositories[repo_id]["files"] = files

    def delete_repo(self, _: Any, name: str, *, missing_ok: bool) -> None:
        self._may("delete_repo")
        del self.repositories[name]


def http_error(status: int) -> errors.HfHubHTTPError:
    """What the hub's client raises; its text carries the token, as a careless proxy's might."""
    response = httpx2.Response(status, request=httpx2.Request("POST", "https://huggingface.co"))
    return errors.HfHubHTTPError(f"authorization: Bearer {TOKEN}", response=response)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("whoami", "repo_exists", "create_repo", "upload_folder", "delete_repo"):
        call = getattr(hub, name)
        monkeypatch.setattr(
            huggingface_hub.HfApi,
            name,
            lambda self, *args, _call=call, **named: _call(self, *args, **named),
        )
    return hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    for name in ("README.md", "config.json", "model.safetensors"):
        (made / name).write_text(name)
    return made


def test_a_repository_is_private_unless_asked(hub: Hub, folder: Path) -> None:
    assert push(folder, "someone/model") == "https://huggingface.co/someone/model"
    push(folder, "someone/open", private=False)
    assert hub.repositories["someone/model"]["private"] is True
    assert hub.repositories["someone/open"]["private"] is False
    files = ["README.md", "config.json", "model.safetensors"]
    assert hub.repositories["someone/model"]["files"] == files


def test_one_that_exists_is_left_alone(hub: Hub, folder: Path) -> None:
    hub.repositories["someone/model"] = {"private": False, "files": ["theirs"]}
    with pytest.raises(ExportError, match=r"cannot be made \(HTTP 409\): it is there already"):
        push(folder, "someone/model")
    assert hub.repositories["someone/model"]["files"] == ["theirs"]


@pytest.mark.parametrize(
    "error",
    [
        http_error(500),
        httpx2.ConnectError(TOKEN),
        OSError(TOKEN),
        RuntimeError(TOKEN),  # of a large file
        ValueError(TOKEN),
    ],
    ids=repr,
)
def test_a_broken_upload_is_removed_and_says_no_token(
    hub: Hub, folder: Path, error: Exception
) -> None:
    hub.failing["upload_folder"] = error
    with pytest.raises(ExportError, match=r"broke off .*, and it was removed: try again") as caught:
        push(folder, "someone/model")
    assert hub.repositories == {}
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert folder.is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled, ZeroDivisionError])
def test_what_stops_an_upload_removes_it_and_goes_on(
    hub: Hub, folder: Path, error: type[BaseException]
) -> None:
    hub.failing["upload_folder"] = error()
    with pytest.raises(error):
        push(folder, "someone/model")
    assert hub.repositories == {}


def test_what_cannot_be_removed_is_said(hub: Hub, folder: Path) -> None:
    hub.failing = {"upload_folder": OSError("x"), "delete_repo": http_error(403)}
    with pytest.raises(ExportError, match="could not be removed: delete it on its page"):
        push(folder, "someone/model")


def test_the_check_beforehand(hub: Hub) -> None:
    check_hub("someone/model")
    for name in ("a/b/c", "some one/model", "", "x" * 200, "model"):
        with pytest.raises(ExportError, match="is no name of a repository"):
            check_hub(name)
    hub.repositories["someone/model"] = {"private": False, "files": ["theirs"]}
    with pytest.raises(ExportError, match="someone/model is there already, and is left alone"):
        check_hub("someone/model")
    hub.failing["whoami"] = errors.LocalTokenNotFoundError("none")
    with pytest.raises(ExportError, match=r"no login for the hub: log in \(hf auth login\)"):
        check_hub("someone/model")
    hub.failing["whoami"] = http_error(401)
    with pytest.raises(ExportError, match="does not know who you are") as caught:
        check_hub("someone/model")
    assert TOKEN not in str(caught.value)


def test_on_the_command_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(making, "prove", lambda *_, **__: [])
    argv = ["export", "tiny:llama", "--mask", "2", "--push-to-hub", "someone/model"]
    assert main([*argv[:-1], ""]) == 2
    assert "or leave out --push-to-hub" in capsys.readouterr().err
    assert main([*argv[:-1], "", "-o", str(tmp_path / "no")]) == 2
    assert "is no name of a repository" in capsys.readouterr().err
    assert main(argv) == 2
    assert "or leave out --push-to-hub: it is what is uploaded" in capsys.readouterr().err
    argv += ["-o", str(tmp_path / "out")]
    hub.failing["upload_folder"] = http_error(500)
    assert main(argv) == 2
    said = capsys.readouterr()
    assert "broke off (HTTP 500), and it was removed" in said.err
    assert TOKEN not in said.err + said.out
    assert (tmp_path / "out" / "recipe.json").is_file()
    hub.failing.clear()
    assert main(["export", "tiny:llama", "--mask", "2", "--public"]) == 2
    assert "--public is for a repository" in capsys.readouterr().err
    assert main([*argv, "--force", "--public"]) == 0
    assert "uploaded to https://huggingface.co/someone/model" in capsys.readouterr().out
    assert hub.repositories["someone/model"]["private"] is False
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert TOKEN.encode() not in everything
