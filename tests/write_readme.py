"""Writes the parts of README.md that are made from the code, between their markers.

`make readme` runs it; test_readme.py holds the file to what it would write.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from packaging.requirements import Requirement
from write_requirements import ROOT, constraints

import inspector
from inspector.cli.arguments import COMMON, Argument
from inspector.cli.commands import COMMANDS
from inspector.measure import corpus
from inspector.measure.foreign import FORMATS
from inspector.measure.methods import METHODS, WAYS
from inspector.measure.methods.facts import DIRECTION, removes
from inspector.measure.methods.goals import SCORES
from inspector.measure.metrics import METRICS
from inspector.model.export import forms
from inspector.model.families import FAMILIES
from inspector.model.sources import FORMS
from inspector.results.files import KINDS

README = ROOT / "README.md"
MEASURED = ROOT / "tests" / "bench" / "table.json"
MARKED = re.compile(r"(<!-- made from the code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines
    )


def code(text: str) -> str:
    return f"`{text}`"


def picture() -> str:
    """The data flow: the docstring of the package below its first line."""
    drawn = inspect.cleandoc(inspector.__doc__ or "").partition("\n\n")[2]
    return f"```text\n{drawn}\n```\n"


def sources() -> str:
    return table(["source", "what it is"], ([code(form), text] for form, text in FORMS))


def families() -> str:
    rows = (
        [
            code(row.model_type),
            code(row.layers),
            *(_modules(names) for names in (row.attn, row.ffn)),
        ]
        for row in FAMILIES.values()
    )
    return table(["model type", "layers", "attention", "FFN"], rows)


def _modules(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))


def texts() -> str:
    defaults = {corpus.DEFAULT_SEARCH: "default to search on", corpus.DEFAULT_CHECK: "default"}
    defaults[corpus.DEFAULT_CHECK] += " to check on"
    needs = {True: "hub", False: "nothing"}
    rows = [
        [
            code(row.spec),
            row.label + (f" ({defaults[row.spec]})" if row.spec in defaults else ""),
            row.role,
            needs[row.hub is not None],
            row.licence,
        ]
        for row in corpus.CORPORA
    ]
    rows.append([code("file:PATH"), "your own `.txt` or `.jsonl`", "any", "nothing", "yours"])
    return table(["text", "what it is", "for", "needs", "licence"], rows)


def measures() -> str:
    """Every kind of result, by the first line of its docstring."""
    rows = (
        [code(kind), (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")]
        for kind, cls in KINDS.items()
    )
    return table(["result", "what it is"], rows)


def metrics() -> str:
    rows = (
        [code(row.name), row.label, code(row.formula), row.unit, row.source]
        for row in METRICS.values()
    )
    return table(["metric", "what it is", "formula", "unit", "source"], rows)


def methods() -> str:
    rows = (
        [
            code(row.name),
            f"{row.label}, {row.paper}",
            removes(row),
            row.way,
            ", ".join(map(code, row.metrics)),
            row.kept or "-",
            row.calibration,
            row.cost,
            row.note + (f" As published: {row.published}." if row.published else ""),
        ]
        for row in METHODS.values()
    )
    header = ["method", "paper", "removes", "way", "goes by", "stay", "the authors' text", "cost"]
    ways = "".join(f"- **{name}**: {words}.\n" for name, words in WAYS.items())
    lowest = f"\nOf every score, {DIRECTION}.\n\n"
    return table([*header, "how it goes"], rows) + "\n" + ways + lowest + _scores()


def _scores() -> str:
    rows = ([code(row.name), row.label, code(row.formula), row.unit] for row in SCORES.values())
    return table(["score", "what it is", "formula", "unit"], rows)


def formats() -> str:
    """Other tools' files, and where their layers count from."""
    rows = (
        [
            code(row.name),
            row.label,
            row.holds,
            row.index,
        ]
        for row in FORMATS.values()
    )
    return table(["form", "file", "holds", "layers count"], rows)


def commands() -> str:
    own = ([code(f"inspector {row.usage}"), row.help + _listed(row.arguments)] for row in COMMANDS)
    common = ([code(", ".join(_spellings(each))), each.help] for each in COMMON)
    return table(["command", "what it does"], own) + "\n" + table(["common", "what it is"], common)


def _listed(arguments: Iterable[Argument]) -> str:
    """What the options of a command's own mean."""
    own = [each for each in arguments if each.optional and each not in COMMON]
    return "".join(f"<br>{code(each.names[0])}: {each.help}" for each in own)


def _spellings(argument: Argument) -> list[str]:
    *short, long = argument.names
    return [*short, argument.usage.replace(argument.names[0], long, 1)]


def exports() -> str:
    readers = list(next(iter(forms.FORMS.values())).loads)
    rows = ([code(row.name), row.what, *row.loads.values()] for row in forms.FORMS.values())
    return table(["format", "what it is", *readers], rows)


def measured() -> str:
    """Every method at equal shares of parameters removed, as tests/bench/table.py measured it."""
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    about, measures = found["about"], found["measures"]
    shares = sorted({int(share) for runs in found["methods"].values() for share in runs})

    def at(name: str, share: int) -> dict[str, Any] | None:
        """What was measured; None where nothing was, an empty one where nothing can be."""
        run = found["methods"].get(name, {}).get(str(share))
        return {} if run and run["mask"] is None else run and measures.get(run["mask"])

    def perplexity(name: str, share: int) -> float:
        return (at(name, share) or {}).get("perplexity", math.inf)

    least = {share: min(perplexity(name, share) for name in found["methods"]) for share in shares}

    def cell(values: dict[str, Any] | None, best: float | None = None) -> str:
        if not values:
            return "-" if values is None else "cannot"
        text = _rounded(values["perplexity"])
        text = f"**{text}**" if values["perplexity"] == best else text
        return " / ".join([text, *(f"{100 * values[task]:.1f}" for task in ("arc_easy", "piqa"))])

    def seconds(name: str) -> str:
        return f"{max(run.get('seconds', 0.0) for run in found['methods'][name].values()):,.0f} s"

    rows = [["untouched", *[cell(measures[""])] * len(shares), "-"]]
    known = [name for name in found["methods"] if any(at(name, share) for share in shares)]
    for name in sorted(known, key=lambda name: [perplexity(name, share) for share in shares[1:]]):
        cells = [cell(at(name, share), least[share]) for share in shares]
        rows.append([code(name), *cells, seconds(name)])
    behind = []
    for share in shares:
        lower = [name for name in known if perplexity(name, share) < perplexity("ours", share)]
        if lower:
            lower.sort(key=lambda name: perplexity(name, share))
            behind.append(f"At {share} % lower than `ours`: {', '.join(map(code, lower))}.")
    lower_than_ours = f"\n{' '.join(behind)}\n" if behind else ""
    missing = ", ".join(code(name) for name in METHODS if name not in known)
    missing = f"\nNot measured yet: {missing}.\n" if missing else ""
    search, check = about["search"], about["check"]
    said = (
        f"{about['model']} in {about['dtype']} on {about['threads']} threads. Searched on "
        f"{search['windows']} windows of {search['length']} tokens of {search['name']}; perplexity "
        f"on the first {check['windows']} windows of {check['length']:,} tokens of "
        f"{check['name']} / accuracy on the first {about['items']} items of arc_easy / of piqa, in "
        f"percent. EvoPress: {about['evolution']['generations']} generations of "
        f"{about['evolution']['offspring']} after {about['evolution']['starts']} random masks, on "
        f"{about['evolution']['search_tokens'].replace(',', ' and ')} tokens."
    )
    header = ["method", *(f"{share} % of parameters" for share in shares), "search"]
    return said + "\n\n" + table(header, rows) + lower_than_ours + missing


def _rounded(value: float) -> str:
    """Three digits at least, and no more than two behind the point."""
    if value >= 1e5:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def bounds() -> str:
    """The versions that are needed: Python's, and the tested ones of what the numbers rest on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = ("torch", "transformers", "gradio", "plotly", "lm-eval", "datasets")
    direct = [Requirement(line) for line in project["dependencies"]]
    rows = [["Python", project["requires-python"], ""]]
    rows += [
        [row.name, str(row.specifier), pinned(row.name)] for row in direct if row.name in shown
    ]
    return table(["", "needed", "tested"], rows)


def pinned(name: str) -> str:
    """The version of a package in the tested closure."""
    row = next(each for each in constraints() if each.name == name)
    return str(row.specifier).removeprefix("==")


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
        picture,
        sources,
        families,
        texts,
        measures,
        metrics,
        methods,
        formats,
        commands,
        exports,
        measured,
        bounds,
    )
}


def regenerated(text: str) -> str:
    """The README with every marked part made anew."""
    text = re.sub(r"(?m)^sdk_version: .*$", f"sdk_version: {pinned('gradio')}", text)
    return MARKED.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], text)


if __name__ == "__main__":
    README.write_text(regenerated(README.read_text(encoding="utf-8")), encoding="utf-8")
