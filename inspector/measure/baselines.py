"""What stands for the untouched model in a benchmark, and what of it is kept on disk.

Only the empty mask is ever kept, and what is found is only ever the other side of a comparison: the
mask that was asked for is always measured.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from inspector.errors import ResultError
from inspector.measure.tasks import Found, fingerprint
from inspector.model.loaded import LoadedModel
from inspector.results.base import Provenance
from inspector.results.checks import Benchmark
from inspector.results.files import cache_folder, load

ITEMS = "items of "
"""A result's `provenance.versions` has, under this and a task's name, the fingerprint of what was
asked, and under `lm_eval` that package's version."""

MOST = 100
"""Files that are kept; the oldest go."""


@dataclass(frozen=True)
class Shelf:
    """A folder of kept benchmarks of untouched models.

    A file's name has the hash of its key and the hash of its content, so that a damaged file is
    never found. What cannot be read or written is as if it were not there: the benchmark itself is
    worth more than keeping it.
    """

    folder: Path
    most: int = MOST
    fresh: bool = False  # nothing is found, so that all is measured anew

    def find(self, key: str) -> Benchmark | None:
        """The benchmark that was kept under this key; None where there is none, or with `fresh`."""
        for path in () if self.fresh else self._under(key):
            try:
                if not path.stem.endswith(_digest(path.read_bytes())):
                    continue
                found = load(path)
            except (OSError, ResultError):
                continue
            if isinstance(found, Benchmark) and not found.mask:
                return found
        return None

    def keep(self, key: str, result: Benchmark) -> None:
        """Keep the untouched model's own benchmark under this key, in the place of an older one.

        Raises:
            ResultError: it is of another mask, or has its own scores from the shelf.
        """
        if result.mask or result.baseline_from:
            raise ResultError("only what was measured of the untouched model can be kept.")
        # Whose command it was is nobody else's business.
        bare = replace(result, provenance=replace(result.provenance, command=""))
        text = bare.dumps().encode()
        path = self.folder / f"{_digest(key.encode())}-{_digest(text)}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".partial")
            temporary.write_bytes(text)
            temporary.replace(path)
            for old in self._under(key):
                if old != path:
                    old.unlink(missing_ok=True)
            for old in sorted(self.folder.glob("*.json"), key=_age)[self.most :]:
                old.unlink(missing_ok=True)
        except OSError:
            return

    def _under(self, key: str) -> list[Path]:
        return sorted(self.folder.glob(f"{_digest(key.encode())}-*.json"))


def shelf(*, fresh: bool = False) -> Shelf:
    """The user's shelf: INSPECTOR_BASELINES, or a folder in the user's cache."""
    return Shelf(cache_folder("INSPECTOR_BASELINES", "baselines"), fresh=fresh)


def key_of(
    loaded: LoadedModel,
    made: Provenance,
    found: Found,
    *,
    limit: int | None,
    batch: int,
) -> str:
    """All that the untouched model's scores depend on, as JSON; call it once requests are built.

    That is the model (source, weights, config, tokenizer), dtype and device, the program's and the
    libraries' versions, the requests with their examples (`made.versions` has their fingerprints),
    how they are scored, and how many there are. `made` is the provenance of the benchmark.
    """
    config: Any = loaded.model.config
    parts = {
        "model": [made.source, made.weights, made.dtype, made.device],
        "config": [config.to_json_string(), getattr(config, "_attn_implementation", "")],
        "tokenizer": _digest(_tokenizer(loaded.tokenizer).encode()),
        "versions": made.versions,
        "tasks": {name: scoring(task) for name, task in found.tasks.items()},
        "groups": {name: repr(group) for name, group in found.groups.items()},
        "asked": [limit, batch],
    }
    return json.dumps(parts, sort_keys=True)


def provenance_of(loaded: LoadedModel, found: Found, *, started: float | None = None) -> Provenance:
    """The model's provenance with lm-eval's version and the fingerprints of the items."""
    made = loaded.provenance(started=started)
    lm_eval = {"lm_eval": importlib.metadata.version("lm_eval")}
    return replace(made, versions=made.versions | lm_eval | _item_versions(found))


def require_same_model(loaded: LoadedModel, baseline: Benchmark, limit: int | None) -> None:
    """Refuse a baseline that is not of this model, untouched, or of another number of items.

    Raises:
        ResultError: says which.
    """
    if baseline.mask:
        raise ResultError(
            f"the baseline was measured with {baseline.mask} muted: give one of the empty mask."
        )
    here, there = loaded.provenance(), baseline.provenance
    for name in ("source", "weights", "dtype"):
        if getattr(here, name) != getattr(there, name):
            raise ResultError(
                f"the baseline is of another model ({name} {getattr(there, name)}, not "
                f"{getattr(here, name)}): leave it out to have it measured anew."
            )
    if baseline.limit != limit:
        raise ResultError(
            f"the baseline has a limit of {baseline.limit} items, not {limit}: leave it out to "
            "have it measured anew."
        )


def require_same_items(found: Found, baseline: Benchmark) -> None:
    """Refuse a baseline of other items than have just been built.

    Raises:
        ResultError: names the tasks.
    """
    versions = baseline.provenance.versions
    there = {name: text for name, text in versions.items() if name.startswith(ITEMS)}
    here = _item_versions(found)
    if here != there:
        other = sorted(name for name in here | there if here.get(name) != there.get(name))
        raise ResultError(
            f"the baseline is not of the same {', '.join(other)}: leave it out to have it measured "
            "anew."
        )


def _item_versions(found: Found) -> dict[str, str]:
    return {ITEMS + name: fingerprint(task) for name, task in found.tasks.items()}


def scoring(task: Any) -> str:
    """How a task is set up and scored: its config, with functions by the text of their files."""
    config = task.config.to_dict(keep_callable=True)
    # Where the YAML lies says nothing about what is in it.
    config["metadata"] = {**(config.get("metadata") or {}), "config_source": ""}
    told = json.dumps(config, skipkeys=True, default=_described)
    return _digest((told + _described(type(task))).encode())


def _described(value: Any) -> str:
    """A function or class by its name and the file that it comes from; else its `repr`."""
    while isinstance(value, partial):
        value = value.func
    if not callable(value):
        return repr(value)
    named = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    try:
        text = Path(inspect.getfile(named)).read_bytes()
    except (TypeError, OSError):  # built in: the version of Python or of a library tells it
        text = b""
    return f"{getattr(named, '__qualname__', named)} {_digest(text)} {_arguments(value)}"


def _arguments(value: Any) -> str:
    """What sets two instances of one class apart, where their `repr` says it."""
    told = repr(value)
    return "" if " at 0x" in told else told


def _tokenizer(tokenizer: Any) -> str:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return fast.to_str() if fast is not None else json.dumps(sorted(tokenizer.get_vocab().items()))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _age(path: Path) -> float:
    """Smaller for newer files."""
    try:
        return -path.stat().st_mtime
    except OSError:  # somebody else has just deleted it
        return float("inf")
