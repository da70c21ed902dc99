"""One export from beginning to end: the folder beside its target, the proof, and its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.errors import ExportError
from inspector.jobs import Progress, part, silent
from inspector.model.export import card, modelling
from inspector.model.export.forms import AUTO, Choice, choose
from inspector.model.export.proof import Check, prove, reference, request_of
from inspector.model.export.shards import SHARD_BYTES, write_weights
from inspector.model.export.writing import RECIPE, check_target, put_in_place, workplace
from inspector.model.loaded import LoadedModel
from inspector.model.loading import ROOM, gib, memory_available
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
    exported model in memory beside this one.

    Args:
        loaded: the model, whose dtype the weights are written in.
        mask: what is removed.
        target: the folder to be; its parent exists.
        form: a name of `forms.FORMS`, or auto.
        force: replace an earlier export of that name.
        results: measurements for the model card and the recipe; those of other masks or weights
            are left out.
        shard_bytes: the most bytes of weights in one file.
        progress: told of each stage; may cancel.

    Raises:
        ExportError: the form is not possible, the folder cannot be written, there is too little
            memory for the check, or a check failed.
        MaskError: the mask does not fit the model.
    """
    choice = choose(loaded, mask, form)
    folder = Path(target).expanduser().absolute()
    check_target(folder, need=2 * choice.bytes + SLACK, force=force)
    _check_memory(loaded, choice)
    progress(0, 10, "asking the muted model")
    expected = reference(loaded, mask)
    request = request_of(loaded, own_code=choice.form.own_code)
    with workplace(folder) as work:
        made = work / "model"
        made.mkdir()
        write_model(
            loaded, mask, choice, made, shard_bytes=shard_bytes, progress=part(progress, 1, 5, 10)
        )
        checks = prove(made, work, expected, request, progress=part(progress, 6, 3.5, 10))
        about = card.of_this_mask(loaded, mask, results)
        _write(made / REPORT, _dumped(checks))
        _write(made / RECIPE, _dumped(card.recipe(loaded, mask, choice, checks, about)))
        _write(made / "README.md", card.card(loaded, mask, choice, checks, about))
        progress(9.5, 10, "writing it through to the disk")
        size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
        put_in_place(made, folder, force=force)
    progress(10, 10, "exported")
    return Exported(folder, choice, size, checks)


def _check_memory(loaded: LoadedModel, choice: Choice) -> None:
    """Refuse what could not be checked in the end, rather than have the system end it."""
    free = memory_available(loaded.device)
    if choice.bytes * ROOM > free:
        raise ExportError(
            f"the check holds the export, {gib(choice.bytes * ROOM)}, in memory beside the present "
            f"model, {loaded.device} has {gib(free)} free: load the model in bf16, or elsewhere."
        )


def write_model(
    loaded: LoadedModel,
    mask: Mask,
    choice: Choice,
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> None:
    """Write all that loading needs: config, code where there is any, tokenizer, weights."""
    form, model = choice.form, loaded.model
    _write(folder / "config.json", _dumped(form.config(loaded, mask)))
    if form.own_code:
        name = modelling.names(loaded)["module"]
        _write(folder / f"{name}.py", modelling.source_code(loaded, mask))
    own: Any = model.generation_config
    if own is not None:
        # As it is: some models come with settings that `save_pretrained` refuses.
        own.to_json_file(folder / "generation_config.json")
    loaded.tokenizer.save_pretrained(folder)
    write_weights(
        loaded,
        form.weights(loaded, mask),
        folder,
        native=form.native,
        shard_bytes=shard_bytes,
        progress=progress,
    )


def _dumped(data: Any) -> str:
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
