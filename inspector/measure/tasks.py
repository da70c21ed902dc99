"""Which tasks a benchmark is made of: a spec becomes lm-eval tasks, ready to be asked.

A spec is ``own`` (the set that comes with the program), a ``.jsonl`` file of multiple-choice items,
a folder of lm-eval task YAMLs, the name of one of lm-eval's own tasks, or of a paper's suite of
these (see `suites`), whose data the hub has. The first three need no network.

The items of a ``.jsonl`` file are data throughout: they pass through no template. A YAML is a
program: lm-eval renders its templates and imports the Python functions that it names, so a folder
is to be trusted like a script.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.assets import asset
from inspector.errors import TaskError
from inspector.jobs import Progress, patiently, silent
from inspector.measure.suites import SUITES

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

OWN = "own"
"""The spec of the set that comes with the program, and the name of its task."""

DEFAULT_TASKS = (OWN,)
"""What is asked unless other tasks are named."""

OFFLINE_FORMS = (
    f"use {OWN}, a .jsonl file of query, choices and gold, or a folder of task YAMLs with data of "
    "their own, which need no network"
)

EXAMPLE = '{"query": "The sky is", "choices": ["blue", "loud"], "gold": 0}'
PATH_ENDINGS = (".yaml", ".yml", ".json", ".txt", ".csv")


@dataclass
class Found:
    """lm-eval's tasks and groups by name, in the order of the specs."""

    tasks: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One multiple-choice question: the continuation of a choice is a space and its text."""

    query: str
    choices: list[str]
    gold: int


def find(specs: Iterable[str], *, progress: Progress = silent) -> Found:
    """The tasks that the specs name, in their order; a string is one spec.

    The first of lm-eval's own names takes 10 to 20 s to look up.

    Raises:
        TaskError: an unknown task, a file or folder that is missing, malformed or empty, a task
            whose data cannot be had now, or one that cannot be run here.
    """
    found = Found()
    for spec, shots in _expanded([specs] if isinstance(specs, str) else specs).items():
        new = patiently(partial(_find, spec), partial(progress, 0, 1, f"setting up {spec}"))
        for task in new.tasks.values() if shots is not None else ():
            task.set_config("num_fewshot", shots)
        for name in new.tasks:
            if name in found.tasks:
                raise TaskError(
                    f"{spec} has a task called {name}, and so has a task named before it: rename "
                    "one, or ask for one at a time."
                )
        found.tasks |= new.tasks
        found.groups |= new.groups
    if not found.tasks:
        raise TaskError(f"no task is named: {OFFLINE_FORMS}, or name one of lm-eval's.")
    for name, task in found.tasks.items():
        _require_runnable(name, task)
    return found


def _expanded(specs: Iterable[str]) -> dict[str, int | None]:
    """Each spec once, a suite's tasks in its place; to the examples shown where a suite says so."""
    found: dict[str, int | None] = {}
    for spec in specs:
        for name, shots in SUITES[spec].tasks if spec in SUITES else ((spec, None),):
            found.setdefault(name, shots)
    return found


def read_items(path: Path) -> list[Item]:
    """The items of a ``.jsonl`` file, one object a line; blank lines are passed over.

    Each has `query` and two or more `choices`, non-empty strings, and `gold`, the 0-based index of
    the right choice; other fields are ignored.

    Raises:
        TaskError: the file is missing, not UTF-8 or empty, or a line is not such an object.
    """
    # Lines end at "\n" alone: splitlines() would also split at separators inside JSON strings.
    lines = enumerate(_text(path).split("\n"), start=1)
    items = [_item(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    if not items:
        raise TaskError(f"{path} holds no items: write one object a line, such as {EXAMPLE}.")
    return items


def _find(spec: str) -> Found:
    if spec == OWN:
        return _from_items(OWN, asset("benchmark.jsonl"))
    path = Path(spec).expanduser()
    if path.suffix == ".jsonl":
        return _from_items(path.stem, path)
    if spec.strip() and _is_folder(path):
        return _from_folder(path)
    if not spec.strip() or "/" in spec or "\\" in spec or spec.endswith(PATH_ENDINGS):
        raise TaskError(
            f"{spec!r} is no folder of task YAMLs, no .jsonl file and no task of lm-eval's: check "
            f"the path, or use {OWN}."
        )
    return _from_lm_eval(spec)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # too long for a path
        return False


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise TaskError(f"there is no file {path}: check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TaskError(f"cannot read {path} ({reason}): choose another file.") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 text."
        ) from error


def _item(line: str, where: str) -> Item:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where} is not JSON ({error}): write an object such as {EXAMPLE}.") from (
            error
        )
    if not isinstance(row, dict):
        raise TaskError(f"{where} is not a JSON object: write one such as {EXAMPLE}.")
    for name in ("query", "choices", "gold"):
        if name not in row:
            raise TaskError(f'{where} has no field "{name}": write an object such as {EXAMPLE}.')
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise TaskError(f'{where}: "choices" must be a list of two strings or more.')
    for text in (query, *choices):
        if not _is_text(text):
            raise TaskError(f'{where}: "query" and each of "choices" must be text, and not empty.')
    if type(gold) is not int or not 0 <= gold < len(choices):
        raise TaskError(
            f'{where}: "gold" is {json.dumps(gold)[:40]}, and must be the number of a choice, 0 to '
            f"{len(choices) - 1}."
        )
    return Item(query, choices, gold)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()  # half a surrogate pair is not text
    except UnicodeEncodeError:
        return False
    return True


def _from_items(name: str, path: Path) -> Found:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = [vars(item) for item in read_items(path)]
    config = {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "multiple_choice",
        # Functions, not names or templates: lm-eval renders what is a string, and takes a query
        # of digits alone for the number of a choice.
        "doc_to_text": itemgetter("query"),
        "doc_to_choice": itemgetter("choices"),
        "doc_to_target": itemgetter("gold"),
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
    }
    return Found({name: ConfigurableTask(config=config)})


def _from_folder(folder: Path) -> Found:
    from lm_eval.tasks import TaskManager

    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise TaskError(
            f"{folder} has no task in it: lm-eval reads *.yaml files, and there are none."
        )
    for file in files:
        _require_readable(file)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = Found()
    for name in [*manager.all_groups, *manager.all_subtasks]:
        if name not in found.tasks:
            _add(found, manager, name)
    if not found.tasks:
        raise TaskError(
            f"{folder} has no task in it: none of its {len(files)} YAML files has a field task."
        )
    return found


def _require_readable(file: Path) -> None:
    """lm-eval passes over a YAML that it cannot read; the user wants to know."""
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        load_yaml(file, resolve_func=False)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise TaskError(
            f"{file} cannot be read as a task ({_cause(error)}): correct it, or take it out."
        ) from error


@lru_cache(maxsize=1)
def _lm_eval_tasks() -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _from_lm_eval(name: str) -> Found:
    manager = _lm_eval_tasks()
    if name not in manager.task_index:
        near = difflib.get_close_matches(name, [OWN, *manager.all_tasks], n=4, cutoff=0.5)
        hint = f"the nearest are {', '.join(near)}" if near else "lm-eval has none like it"
        raise TaskError(
            f"no task is called {name!r}: {hint}; {OWN}, a .jsonl file or a folder of task YAMLs "
            "work too."
        )
    found = Found()
    _add(found, manager, name, hub=True)
    return found


def _add(found: Found, manager: TaskManager, name: str, *, hub: bool = False) -> None:
    """Build a task or a group of them, which reads its data."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx  # whichever client this version of the hub uses

    unreachable: tuple[type[Exception], ...] = (ConnectionError, DatasetsError, httpx.HTTPError)
    if hub:  # half a cached copy is a ValueError, a missing one an OSError
        unreachable += (OSError, ValueError)
    try:
        built = manager.load([name])
    except unreachable as error:
        raise TaskError(
            f"the data of {name} cannot be had from the hub ({_cause(error)}): check the "
            f"connection, or {OFFLINE_FORMS}."
        ) from error
    except ImportError as error:
        raise TaskError(
            f"{name} needs a package that is not installed ({_cause(error)}): install it, or "
            "choose another task."
        ) from error
    except Exception as error:  # a task is a program, and may fail in any way
        raise TaskError(
            f"{name} cannot be set up ({type(error).__name__}: {_cause(error)}): correct the task, "
            "or choose another."
        ) from error
    found.tasks |= built["tasks"]
    found.groups |= built.get("groups", {})


def _require_runnable(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(
            f"{name} runs code that the model writes, which is never done here: choose another "
            "task."
        )
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"{name} needs pictures or sound: choose a task that is text alone.")


def _cause(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200].rstrip(".")


def fingerprint(task: Any) -> str:
    """What a task asks after its requests are built: 12 hexadecimal digits, equal for equal items.

    Covers every request's kind and arguments and the item that it is made from.
    """
    digest = hashlib.sha256()
    for request in task.instances:
        asked = [request.request_type, request.idx, request.args, request.doc]
        digest.update(json.dumps(asked, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:12]
