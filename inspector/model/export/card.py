"""What stands beside the weights for people: the recipe, and the model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yaml import YAMLError

from inspector import __version__
from inspector.model.export import measured
from inspector.model.export.forms import Choice
from inspector.model.export.picture import PICTURE, alternative
from inspector.model.export.proof import Check, verdict
from inspector.model.export.tables import table
from inspector.model.loaded import LoadedModel
from inspector.model.sources import BUNDLED, BUNDLED_HUB, BUNDLED_LICENCE, Source, parse
from inspector.model.unread import read_header
from inspector.results.base import Result
from inspector.units import Mask

FORMAT = 1
"""Grows when a field of a recipe changes its meaning."""
UNKNOWN = "unknown"
LICENCE_FIELDS = {
    "license": re.compile(r"[\w.-]+"),
    "license_name": re.compile(r"[\w.-]+"),
    "license_link": re.compile(r"(https?://)?[\w.~/-]+"),
}
"""The hub's fields, and what each may be made of: they go into YAML."""

RUN = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH"{trust})
tokenizer = AutoTokenizer.from_pretrained("PATH"{trust})
```
"""
RUN_GGUF = """\
```sh
llama-cli -m PATH/model.gguf -p "The sky is"
```
"""
CHECKED = (
    "The folder was loaded in a fresh process and compared with the source whose units were muted."
)
CHECKED_GGUF = (
    "The file was read back and compared with the source whose units were muted; whether llama.cpp "
    "has run it stands below."
)


def recipe(
    loaded: LoadedModel, mask: Mask, choice: Choice, checks: list[Check], results: Sequence[Result]
) -> dict[str, Any]:
    """What an export is made of; with the same versions it makes the same files once more.

    It names no time and no place, so that two exports of the same are the same.
    """
    made = loaded.provenance()
    return {
        "kind": "export",
        "format": FORMAT,
        "source": made.source,
        "weights": made.weights,
        "model_type": made.model_type,
        "dtype": made.dtype,
        "mask": mask.to_json(),
        "export": choice.name,
        "bytes": choice.bytes,
        "source_bytes": choice.source_bytes,
        "checks": checks,
        "measured": [result.to_json() for result in results],
        "versions": made.versions,
    }


def card(
    loaded: LoadedModel,
    mask: Mask,
    choice: Choice,
    checks: list[Check],
    results: Sequence[Result],
) -> str:
    """The README.md of an export: Markdown with the hub's fields in front."""
    source = parse(loaded.source)
    parts = [
        _front(source, choice),
        f"# {title(source)} without {len(mask)} of its units\n",
        _what(loaded, mask, choice, source),
        f"## The layer map\n\n![{alternative(mask)}]({PICTURE})\n",
        f"Removed, in the numbering of the source: `{mask}`\n",
        "## Who can load it\n\n" + table(["reader", "how"], choice.form.loads.items()),
        RUN_GGUF if choice.type else RUN.format(trust=_trust(choice)),
        f"## How it was checked\n\n{CHECKED_GGUF if choice.type else CHECKED}\n\n"
        + table(["check", "result", "largest difference"], map(_checked, checks)),
    ]
    if results:
        parts.append(measured.section(results))
    return "\n".join(parts)


def _trust(choice: Choice) -> str:
    return ", trust_remote_code=True" if choice.form.own_code else ""


def licence(source: Source) -> dict[str, str]:
    """What the source says of its licence, in the hub's fields; `license` is `unknown` at least."""
    said: Any = {}
    if source.text == BUNDLED or source.name == BUNDLED_HUB:
        said = {"license": BUNDLED_LICENCE}
    elif source.kind == "folder":
        said = _said_in(source.files / "README.md")
    elif source.kind == "gguf":
        said = {"license": read_header(Path(source.name)).values.get("general.license")}
    elif source.kind == "hub":
        said = _said_on_hub(source)
    found = {
        name: said[name]
        for name, letters in LICENCE_FIELDS.items()
        if isinstance(said.get(name), str) and letters.fullmatch(said[name])
    }
    link = found.get("license_link", "")
    if link and source.kind == "hub" and "://" not in link:
        found["license_link"] = f"https://huggingface.co/{source.name}/blob/main/{link}"
    return {"license": UNKNOWN, **found}


def _said_in(readme: Path) -> dict[str, Any]:
    """The fields in front of a model card."""
    from huggingface_hub import metadata_load

    try:
        return metadata_load(readme) or {}
    except (OSError, ValueError, YAMLError):
        return {}


def _said_on_hub(source: Source) -> dict[str, Any]:
    import httpx2
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        info = hub.HfApi().model_info(source.name, revision=source.revision)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx2.HTTPError, OSError):
        return {}
    return {name: getattr(info.card_data, name, None) for name in LICENCE_FIELDS}


def title(source: Source) -> str:
    """The name of what the export was made of, in letters that mean nothing in Markdown."""
    name = BUNDLED_HUB if source.text == BUNDLED else source.name
    return re.sub(r"[^\w.-]+", "-", Path(name).name)


def _front(source: Source, choice: Choice) -> str:
    base = BUNDLED_HUB if source.text == BUNDLED else source.name if source.kind == "hub" else ""
    lines = [
        "---",
        *(f"{name}: {said}" for name, said in licence(source).items()),
        *([f"base_model: {base}"] if base else []),
        *([] if choice.type else ["library_name: transformers"]),
        "pipeline_tag: text-generation",
        "tags:",
        "- pruned",
        *(["- gguf"] if choice.type else []),
        *(["- custom_code"] if choice.form.own_code else []),
        "---",
        "",
    ]
    return "\n".join(lines)


def _what(loaded: LoadedModel, mask: Mask, choice: Choice, source: Source) -> str:
    made = loaded.provenance()
    left = loaded.parameters_left(mask)
    saved = (
        f"{choice.bytes:,} bytes of weights, {choice.saved:.1%} less than the source's in "
        f"{made.dtype}"
    )
    if choice.bytes >= choice.source_bytes:
        saved = f"{choice.bytes:,} bytes of weights: this format saves nothing"
    kv = loaded.kv_bytes_left(mask), loaded.kv_bytes_left(loaded.empty())
    return (
        f"Made of {title(source)} ({made.weights}, {made.model_type}, {made.dtype}) with "
        f"inspector {__version__}. It computes what the source computes with those units muted; "
        "nothing was trained afterwards.\n\n"
        f"- Format `{choice.name}`: {choice.form.what}.\n{_type(choice)}"
        f"- {saved}.\n"
        f"- {left:,} of {loaded.parameters:,} parameters are in use.\n"
        f"- {kv[0]:,} of {kv[1]:,} bytes of KV cache a token.\n"
        + "".join(f"- {note}\n" for note in choice.form.notes)
        + f"- Made and checked with transformers {made.versions['transformers']}.\n"
    )


def _type(choice: Choice) -> str:
    return f"- Its matrices are in {choice.type.upper()}.\n" if choice.type else ""


def _checked(check: Check) -> tuple[str, str, str]:
    apart = check["difference"]
    return check["what"], verdict(check), "-" if apart is None else f"{apart:.3g}"
