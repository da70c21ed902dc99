"""What stands beside the weights for people: the recipe, and the model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspector import __version__
from inspector.model.export import measured
from inspector.model.export.forms import Choice
from inspector.model.export.picture import PICTURE, alternative
from inspector.model.export.proof import Check, verdict
from inspector.model.export.tables import table
from inspector.model.loaded import LoadedModel
from inspector.model.sources import BUNDLED, BUNDLED_HUB, BUNDLED_LICENCE, Source, parse
from inspector.results.base import Result
from inspector.units import Mask

FORMAT = 1
"""Grows when a field of a recipe changes its meaning."""
UNKNOWN = "unknown"
_LICENCE = re.compile(r"^license:\s*['\"]?([\w.-]+)['\"]?\s*$", re.MULTILINE)
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)

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


def licence(source: Source) -> str:
    """The licence of the source as the hub spells it, or `unknown`."""
    if source.text == BUNDLED or source.name == BUNDLED_HUB:
        return BUNDLED_LICENCE
    if source.kind == "folder":
        return _licence_in(source.files / "README.md")
    if source.kind == "hub":
        return _licence_on_hub(source)
    return UNKNOWN


def _licence_in(readme: Path) -> str:
    try:
        front = _FRONT.match(readme.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return UNKNOWN
    found = _LICENCE.search(front[1]) if front else None
    return found[1] if found else UNKNOWN


def _licence_on_hub(source: Source) -> str:
    import httpx2
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        info = hub.HfApi().model_info(source.name, revision=source.revision)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx2.HTTPError, OSError):
        return UNKNOWN
    found = getattr(info.card_data, "license", None)
    return found if isinstance(found, str) and re.fullmatch(r"[\w.-]+", found) else UNKNOWN


def title(source: Source) -> str:
    """The name of what the export was made of, in letters that mean nothing in Markdown."""
    name = BUNDLED_HUB if source.text == BUNDLED else source.name
    return re.sub(r"[^\w.-]+", "-", Path(name).name)


def _front(source: Source, choice: Choice) -> str:
    base = BUNDLED_HUB if source.text == BUNDLED else source.name if source.kind == "hub" else ""
    lines = [
        "---",
        f"license: {licence(source)}",
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
    saved = f"{choice.bytes:,} bytes of weights, {choice.saved:.1%} less than the source's"
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
