"""`export`: the model without the muted units, as a folder that others can load."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.inputs import loaded_model
from inspector.cli.text import printable, table
from inspector.errors import ExportError, ResultError
from inspector.units import Mask

if TYPE_CHECKING:
    from inspector.cli.progress import Meter
    from inspector.model.export.forms import Choice
    from inspector.model.export.making import Exported
    from inspector.model.loaded import LoadedModel
    from inspector.results.base import Result

RECIPE_FIELDS = {
    "source": str,
    "weights": str,
    "model_type": str,
    "dtype": str,
    "mask": dict,
    "export": str,
    "measured": list,
}


def export(args: argparse.Namespace, meter: Meter) -> None:
    """Export to the folder of ``-o``; without one, say what the mask allows."""
    recipe = read_recipe(args.recipe) if args.recipe else {}
    take_over(args, recipe)
    check_folder(args)
    check_push(args)
    measured = measured_checks(args, recipe)
    loaded, mask = loaded_model(args, meter)
    check_recipe(loaded, recipe)
    check_fit(loaded, mask, measured)
    from inspector.model.export.forms import choices
    from inspector.model.export.making import export as make

    if args.folder is None:
        found = choices(loaded, mask)
        _print(args, facts(found, mask), described(found, mask))
        return
    progress = meter.phase("exporting")
    results = [result for _, result in measured]
    made = make(
        loaded,
        mask,
        args.folder,
        form=args.format,
        force=args.force,
        results=results,
        progress=progress,
    )
    address = ""
    if args.repository:
        from inspector.model.export.pushing import push

        progress = meter.phase("uploading")
        address = push(made.folder, args.repository, private=not args.public, progress=progress)
    meter.clear()
    data, text = made_facts(made, mask), made_described(made, mask)
    if address:
        data, text = {**data, "repository": address}, f"{text}\n\nuploaded to {address}"
    _print(args, data, text)


def read_recipe(path: str) -> dict[str, Any]:
    """The recipe that an export has left.

    Raises:
        ExportError: it cannot be read, or is something else.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(
            f"cannot read the recipe {path} ({error.strerror}): give the recipe.json of an export."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ExportError(
            f"the recipe {path} is not JSON ({error}): give the recipe.json of an export."
        ) from error
    ours = isinstance(data, dict) and (data.get("kind"), data.get("format")) == ("export", 1)
    data = {"measured": [], **data} if ours else {}
    if any(not isinstance(data.get(k), kind) for k, kind in RECIPE_FIELDS.items()):
        raise ExportError(f"{path} is no recipe: give the recipe.json of an export.")
    return data


def take_over(args: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Fill the arguments up from the recipe; a model that is named takes its source's place.

    Raises:
        ExportError: neither a model nor a recipe, or a recipe beside a mask.
        MaskError: the recipe's mask is damaged.
    """
    if not recipe:
        if not args.model:
            raise ExportError("name a model, or give --recipe the recipe.json of an export.")
        return
    if args.mask:
        raise ExportError("the recipe has a mask of its own: leave out --mask, or --recipe.")
    from inspector.results.base import DTYPES

    args.model = args.model or _source(recipe)
    args.mask = str(Mask.from_json(recipe["mask"]))
    if args.dtype == "auto":
        args.dtype = DTYPES.get(recipe["dtype"], recipe["dtype"])
    if args.format == "auto":
        args.format = recipe["export"]


def _source(recipe: dict[str, Any]) -> str:
    """The recipe's source; one on the hub at the commit that it had, since it may have moved."""
    from inspector.results.base import pinned

    source = recipe["source"]
    return source if "@" in source else pinned(source, recipe["weights"])


def check_folder(args: argparse.Namespace) -> None:
    """Refuse before a long load what could not be written after it.

    Raises:
        ExportError: arguments that ask for a folder without one, or one that cannot be written.
    """
    if args.folder is not None:
        from inspector.model.export.writing import check_target, path_of

        check_target(path_of(args.folder), force=args.force)
        return
    for given, option, said in (
        (args.force, "--force", "it is what is replaced"),
        (args.checks, "--checks", "what was measured goes into it"),
        (args.repository, "--push-to-hub", "it is what is uploaded"),
    ):
        if given not in (None, False, []):
            raise ExportError(f"name a folder with -o as well, or leave out {option}: {said}.")


def check_push(args: argparse.Namespace) -> None:
    """Refuse before a long load what could not be uploaded after it.

    Raises:
        ExportError: no repository to make public, a name that the hub does not take or that is
            taken, or no login.
    """
    if args.repository is None:
        if args.public:
            raise ExportError("--public is for a repository: name one with --push-to-hub.")
        return
    from inspector.model.export.pushing import check_hub

    check_hub(args.repository)


def measured_checks(args: argparse.Namespace, recipe: dict[str, Any]) -> list[tuple[str, Result]]:
    """What was measured, each with where it stands: the recipe's own, then the files of --checks.

    Raises:
        ExportError: the recipe's are damaged.
        ResultError: a file that cannot be read, or holds no result.
    """
    from inspector.results.files import from_json, load

    try:
        own = [(args.recipe, from_json(each)) for each in recipe.get("measured", ())]
    except ResultError as error:
        raise ExportError(f"what the recipe {args.recipe} has measured: {error}") from error
    return [*own, *((path, load(path)) for path in args.checks)]


def check_fit(loaded: LoadedModel, mask: Mask, measured: list[tuple[str, Result]]) -> None:
    """Refuse what was measured on another model or mask, or says nothing of what an edit costs.

    Raises:
        ExportError: names the file and why.
    """
    from inspector.model.export.measured import misfit

    for path, result in measured:
        why = misfit(loaded, mask, result)
        if why:
            # Names and masks of a file are not ours.
            why = printable(f"{path} is no check of this export: {why}", lines=False)
            raise ExportError(f"{why}; leave it out, or give what -o of perplexity or bench wrote.")


def check_recipe(loaded: LoadedModel, recipe: dict[str, Any]) -> None:
    """Refuse a model that is not the recipe's.

    Raises:
        ExportError: other weights.
        MaskError: another depth.
    """
    if not recipe:
        return
    Mask.from_json(recipe["mask"], loaded.depth)
    if loaded.weights != recipe["weights"]:
        raise ExportError(
            f"the recipe is for other weights ({printable(recipe['weights'], lines=False)}) than "
            f"{printable(loaded.source, lines=False)} has "
            f"({loaded.weights}): name the model that it was made of."
        )
    if loaded.model_type != recipe["model_type"]:
        kind = printable(recipe["model_type"], lines=False)
        raise ExportError(
            f"the recipe is for a {kind}, and {loaded.source} is a {loaded.model_type}: name the "
            "model that it was made of."
        )


def facts(found: list[Choice], mask: Mask) -> dict[str, Any]:
    """The JSON of what a mask allows."""
    return {"kind": "export choices", "mask": str(mask), "formats": [_facts(c) for c in found]}


def made_facts(made: Exported, mask: Mask) -> dict[str, Any]:
    """The JSON of a finished export."""
    return {
        "kind": "exported",
        "mask": str(mask),
        "folder": str(made.folder),
        "folder_bytes": made.bytes,
        "checks": made.checks,
        **_facts(made.choice),
    }


def _facts(choice: Choice) -> dict[str, Any]:
    return {
        "format": choice.name,
        "what": choice.form.what,
        "problem": choice.problem,
        "bytes": choice.bytes,
        "source_bytes": choice.source_bytes,
        "loads": choice.form.loads,
    }


def described(found: list[Choice], mask: Mask) -> str:
    """What a mask allows, as text."""
    rows = [
        [
            choice.form.name,
            "-" if choice.problem else f"{choice.bytes:,}",
            "-" if choice.problem else f"{choice.saved:.1%}",
            f"not possible: {choice.problem}" if choice.problem else choice.form.what,
        ]
        for choice in found
    ]
    readers = [
        [choice.form.name, *choice.form.loads.values()] for choice in found if not choice.problem
    ]
    size = found[0].source_bytes
    head = f"muted: {mask or 'nothing'}; the source has {size:,} bytes of weights in this dtype"
    names = ["format", *next(iter(found)).form.loads]
    parts = [head, table(["format", "bytes", "saved", "what it is"], rows, align="<>><")]
    if readers:
        parts.append("who can load it\n" + table(names, readers, align="<<<<"))
        parts.append("give -o DIR to export")
    return "\n\n".join(parts)


def made_described(made: Exported, mask: Mask) -> str:
    """A finished export, as text."""
    from inspector.model.export.proof import verdict

    rows = [
        [
            check["name"],
            verdict(check),
            "-" if check["difference"] is None else f"{check['difference']:.3g}",
            check["what"],
        ]
        for check in made.checks
    ]
    choice = made.choice
    head = (
        f"{printable(str(made.folder), lines=False)} · {choice.name}, {made.bytes:,} bytes, "
        f"of which {choice.bytes:,} are weights ({choice.saved:.1%} less than the source's in "
        "this dtype)\n"
        f"removed: {mask}"
    )
    loads = "\n".join(f"{reader}: {how}" for reader, how in choice.form.loads.items())
    checks = table(["check", "result", "difference", "what it is"], rows, align="<<><")
    return f"{head}\n\n{loads}\n\n{checks}"


def _print(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    print(json.dumps(data, indent=1, allow_nan=False) if args.json else text)
