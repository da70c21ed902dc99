"""One export from beginning to end: the folder beside its target, the proof, and its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inspector.errors import ExportError
from inspector.jobs import Progress, part, silent
from inspector.model.export import card, measured, modelling
from inspector.model.export.forms import AUTO, Choice, choose
from inspector.model.export.llamacpp.keys import keys
from inspector.model.export.llamacpp.reading import prove_gguf
from inspector.model.export.llamacpp.vocabulary import KeyValue, vocabulary
from inspector.model.export.llamacpp.writing import write_gguf
from inspector.model.export.picture import PICTURE, picture
from inspector.model.export.proof import Check, prove, reference, request_of
from inspector.model.export.shards import SHARD_BYTES, write_weights
from inspector.model.export.writing import (
    RECIPE,
    check_target,
    path_of,
    put_in_place,
    workplace,
)
from inspector.model.loaded import LoadedModel
from inspector.model.loading import memory_available
from inspector.model.placing import ROOM
from inspector.model.sources import parse
from inspector.results.base import Result
from inspector.units import Mask

REPORT = "proof.json"
SLACK = 64 * 2**20
"""Bytes for everything but the weights: tokenizer, logits to compare with, headers."""


@dataclass(frozen=True)
class Exported:
    """A finished export: its folder, the form, the bytes of all its files, and its checks."""

    folder: Path
    choice: Choice
    bytes: int
    checks: list[Check]


def export(
    loaded: LoadedModel,
    mask: Mask,
    target: str | Path,
    *,
    form: str = AUTO,
    force: bool = False,
    results: Sequence[Result] = (),
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> Exported:
    """Write the model without the muted units into a folder, once that has been shown to be right.

    The folder is written beside its target, loaded in a fresh process, compared with the muted
    model, and only then given its name; on any failure nothing of it is left. The check holds the
    exported model in memory beside this one, or brings its weights in layer by layer where this one
    does, or where there is no room for both. A GGUF file is read back tensor by tensor instead, and
    run by llama.cpp where that is installed.

    Args:
        loaded: the model, whose dtype the weights are written in unless the form has its own.
        mask: what is removed.
        target: the folder to be; its parent exists.
        form: a name of `forms.NAMES`, or auto.
        force: replace an earlier export of that name.
        results: measurements for the model card and the recipe; those of other masks or weights
            are left out.
        shard_bytes: the most bytes of weights in one file.
        progress: told of each stage; may cancel.

    Raises:
        ExportError: the form is not possible, the folder cannot be written, or a check failed.
        MaskError: the mask does not fit the model.
    """
    choice = choose(loaded, mask, form)
    folder = path_of(target)
    source = parse(loaded.source)
    if source.folder and source.folder.resolve() == folder.resolve():
        raise ExportError(f"{folder} is what the model was loaded from: choose another folder.")
    copies = 1 if choice.type else 2
    check_target(folder, need=copies * choice.bytes + SLACK, force=force)
    with workplace(folder) as work:
        made = work / "model"
        made.mkdir()
        make = _make_gguf if choice.type else partial(_make_folder, shard_bytes=shard_bytes)
        checks = make(loaded, mask, choice, made, work, progress=part(progress, 0, 9.5, 10))
        about = measured.fitting(loaded, mask, results)
        _write(made / REPORT, _dumped(checks))
        _write(made / RECIPE, _dumped(card.recipe(loaded, mask, choice, checks, about)))
        _write(made / PICTURE, picture(mask))
        _write(made / "README.md", card.card(loaded, mask, choice, checks, about))
        progress(9.5, 10, "writing it through to the disk")
        size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
        put_in_place(made, folder, force=force)
    progress(10, 10, "exported")
    return Exported(folder, choice, size, checks)


def _make_folder(
    loaded: LoadedModel,
    mask: Mask,
    choice: Choice,
    made: Path,
    work: Path,
    *,
    shard_bytes: int,
    progress: Progress,
) -> list[Check]:
    """A folder that transformers loads, and its checks."""
    progress(0, 10, "asking the muted model")
    expected = reference(loaded, mask)
    request = request_of(loaded, own_code=choice.form.own_code)
    request["offload"] |= choice.bytes * ROOM > memory_available(loaded.device)
    writing = part(progress, 1, 5, 10)
    write_model(loaded, mask, choice, made, shard_bytes=shard_bytes, progress=writing)
    return prove(made, work, expected, request, progress=part(progress, 6, 4, 10))


def _make_gguf(
    loaded: LoadedModel, mask: Mask, choice: Choice, made: Path, work: Path, *, progress: Progress
) -> list[Check]:
    """A GGUF file, and its checks."""
    progress(0, 10, "reading the tokenizer")
    said = key_values(loaded, mask, choice)
    write_about(loaded, mask, choice, made)
    writing = part(progress, 1, 4, 10)
    write_gguf(loaded, mask, made, kind=choice.type, said=said, progress=writing)
    return prove_gguf(loaded, mask, made, work, said=said, progress=part(progress, 5, 5, 10))


def key_values(loaded: LoadedModel, mask: Mask, choice: Choice) -> dict[str, KeyValue]:
    """Every key-value of a GGUF file but its architecture."""
    title = f"{card.title(parse(loaded.source))} without {len(mask)} of its units"
    return {**keys(loaded, mask, choice.type, title), **vocabulary(loaded)}


def write_model(
    loaded: LoadedModel,
    mask: Mask,
    choice: Choice,
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> None:
    """Write all that transformers needs."""
    write_about(loaded, mask, choice, folder)
    write_weights(
        loaded,
        choice.form.weights(loaded, mask),
        folder,
        native=not choice.form.own_code,
        shard_bytes=shard_bytes,
        progress=progress,
    )


def write_about(loaded: LoadedModel, mask: Mask, choice: Choice, folder: Path) -> None:
    """Write what stands beside the weights: config, code where there is any, and tokenizer."""
    form = choice.form
    _write(folder / "config.json", _dumped(form.config(loaded, mask)))
    if form.own_code:
        name = modelling.names(loaded)["module"]
        _write(folder / f"{name}.py", modelling.source_code(loaded, mask))
    own: Any = loaded.model.generation_config
    if own is not None:
        # As it is: some models come with settings that `save_pretrained` refuses.
        own.to_json_file(folder / "generation_config.json")
    loaded.tokenizer.save_pretrained(folder)


def _dumped(data: Any) -> str:
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
