"""The shape of the code, read off its syntax tree: each rule with examples that must break it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A part may import what stands strictly lower, and itself; "" is inspector/__init__.py.
RANKS = {
    "": 0,
    "errors": 1,
    "assets": 2,
    "units": 2,
    "paired": 2,
    "results": 3,
    "jobs": 3,
    "model": 4,
    "measure": 5,
    "view": 6,
    "cli": 6,
    "__main__": 7,
    "app": 8,
}
BASE_MAY_IMPORT = {
    "errors": set(),
    "units": set(),
    "jobs": set(),
    "paired": set(),
    "results": {"numpy"},
}
LATE = {"gradio", "lm_eval", "datasets"}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"}
MAX_LINES = 400


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, its line, and when the statement runs."""

    name: str
    line: int
    at_import: bool
    for_types: bool

    def of(self, package: str) -> bool:
        return self.name == package or self.name.startswith(package + ".")


@dataclass(frozen=True)
class Module:
    """A source file under its dotted name."""

    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def part(self) -> str:
        """The part of the picture it belongs to, a key of RANKS where the picture knows it."""
        return part_of(self.name)

    @cached_property
    def imports(self) -> list[Import]:
        return list(self._imports(self.tree, at_import=True, for_types=False))

    def _imports(self, node: ast.AST, at_import: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in self._names(child):
                    yield Import(name, child.lineno, at_import, for_types)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from self._imports(child, at_import, for_types=True)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from self._imports(child, at_import and not inside, for_types)

    def _names(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        """`from a import b` counts as `a.b`: b may be a module, and a rule on `a` holds as well."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        base = self._base(node)
        return [base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names]

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = self.name.split(".")
        up = node.level - 1 if self.is_package else node.level
        return ".".join([*here[: len(here) - up], *([node.module] if node.module else [])])


def part_of(name: str) -> str:
    """`inspector.view.figures` -> `view`; `inspector.__version__` -> ``; `app` -> `app`."""
    first, _, rest = name.partition(".")
    if first != "inspector":
        return first
    part = rest.split(".")[0]
    return "" if part == "__version__" else part


def downward(module: Module) -> Iterator[str]:
    """Imports point downward; cli reaches view in functions only, view never reaches cli."""
    if module.part not in RANKS:
        yield f"{module.name} has no place among the layers"
        return
    for each in module.imports:
        if not each.of("inspector") and not each.of("app"):
            continue
        part = part_of(each.name)
        late_view = module.part == "cli" and part == "view" and not each.at_import
        if part == module.part or late_view:
            continue
        if part not in RANKS or RANKS[part] >= RANKS[module.part]:
            yield f"line {each.line}: {module.name} imports {each.name}"


def foreign_to(module: Module, *packages: str) -> Iterator[str]:
    for each in module.imports:
        for package in packages:
            if each.of(package):
                yield f"line {each.line}: {module.name} imports {each.name}"


def base_is_light(module: Module) -> Iterator[str]:
    """errors, units and jobs import the standard library alone; results also numpy."""
    allowed = BASE_MAY_IMPORT.get(module.part)
    if allowed is None:
        return
    for each in module.imports:
        top = each.name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in allowed | {"inspector"}:
            yield f"line {each.line}: {module.name} imports {each.name}"


def figures_are_pure(module: Module) -> Iterator[str]:
    """view.figures knows results and plotly: no torch, no gradio, no model, no measure."""
    if module.name.startswith("inspector.view.figures"):
        yield from foreign_to(module, "torch", "gradio", "inspector.model", "inspector.measure")


def measure_shows_nothing(module: Module) -> Iterator[str]:
    """measure imports neither gradio nor plotly."""
    if module.part == "measure":
        yield from foreign_to(module, "gradio", "plotly")


def heavy_imports_are_late(module: Module) -> Iterator[str]:
    """gradio, lm_eval and datasets cost seconds: only view and app.py import them at the top."""
    if module.part in ("view", "app"):
        return
    for each in module.imports:
        if each.at_import and not each.for_types and each.name.split(".")[0] in LATE:
            yield f"line {each.line}: {module.name} imports {each.name} when it is imported"


def short(module: Module) -> Iterator[str]:
    """No module over 400 lines."""
    lines = len(module.source.splitlines())
    if lines > MAX_LINES:
        yield f"{module.name} has {lines} lines, {MAX_LINES} at most"


def no_assert(module: Module) -> Iterator[str]:
    """No assert: what a user can get wrong is an InspectorError, and -O drops asserts."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: assert in {module.name}"


def no_print(module: Module) -> Iterator[str]:
    """No print outside cli."""
    if module.part == "cli":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id == "print":
            yield f"line {node.lineno}: print in {module.name}"


def no_remote_code(module: Module) -> Iterator[str]:
    """trust_remote_code is never switched on in the code: keyword, key, variable or default."""
    for node in ast.walk(module.tree):
        for name, value in bound_values(node):
            if name == "trust_remote_code" and is_true(value):
                yield f"line {value.lineno}: trust_remote_code=True in {module.name}"


def bound_values(node: ast.AST) -> Iterator[tuple[str | None, ast.expr]]:
    """Pairs of a name and the expression that it gets in this node alone."""
    if isinstance(node, ast.keyword):
        yield node.arg, node.value
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                yield str(key.value), value
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield target_name(target), node.value
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        with_default = positional[len(positional) - len(node.defaults) :]
        for arg, default in zip(with_default, node.defaults, strict=True):
            yield arg.arg, default
        for arg, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
            if default:
                yield arg.arg, default


def target_name(target: ast.expr) -> str | None:
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute):
        return target.attr
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return str(target.slice.value)
    return None


def is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def no_pickles(module: Module) -> Iterator[str]:
    """Nothing that unpickles: no pickle module, no torch.load, no allow_pickle=True."""
    yield from foreign_to(module, *PICKLES, "torch.load")
    loads = {
        f"{alias.asname or alias.name}.load"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "torch"
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in loads:
            yield f"line {node.lineno}: torch.load in {module.name}"
        for name, value in bound_values(node):
            if name == "allow_pickle" and is_true(value):
                yield f"line {value.lineno}: allow_pickle=True in {module.name}"


def no_re_exports(module: Module) -> Iterator[str]:
    """An `__init__` that imports a name uses it itself, and lists no `__all__`."""
    if not module.is_package:
        return
    read = {
        node.id
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound = (alias.asname or alias.name).split(".")[0]
                if bound not in read:
                    yield f"line {node.lineno}: {module.name} re-exports {bound}"
        for name, _ in bound_values(node):
            if name == "__all__":
                yield f"line {node.lineno}: {module.name} has __all__"


Rule = Callable[[Module], Iterator[str]]

RULES: list[Rule] = [
    downward,
    base_is_light,
    figures_are_pure,
    measure_shows_nothing,
    heavy_imports_are_late,
    short,
    no_assert,
    no_print,
    no_remote_code,
    no_pickles,
    no_re_exports,
]


def project_modules() -> list[Module]:
    files = [*sorted((ROOT / "inspector").rglob("*.py")), ROOT / "app.py"]
    return [module_at(file) for file in files if file.is_file()]


def module_at(file: Path) -> Module:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name, file.read_text(encoding="utf-8"), is_package)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps(rule: Rule) -> None:
    modules = project_modules()
    assert {"inspector", "inspector.units"} <= {module.name for module in modules}
    assert not [fault for module in modules for fault in rule(module)]


BREAKS: list[tuple[Rule, str, str]] = [
    (downward, "inspector.units", "from inspector.results import Scores"),
    (downward, "inspector.errors", "import inspector.units"),
    (downward, "inspector.results", "from inspector import jobs"),
    (downward, "inspector.model.loading", "from ..measure import corpus"),
    (downward, "inspector.model.loading", "def f():\n    from inspector.view import page"),
    (downward, "inspector.measure.sweep", "import inspector.view.figures"),
    (downward, "inspector.view.page", "def f():\n    import inspector.cli"),
    (downward, "inspector.cli.serve", "from inspector.view.page import build"),
    (downward, "inspector.cli.plot", "import inspector.view.figures as figures"),
    (downward, "inspector.cli.main", "import app"),
    (downward, "inspector.helpers", "import os"),
    (downward, "inspector.model.loading", "import inspector.helpers"),
    (base_is_light, "inspector.units", "import numpy"),
    (base_is_light, "inspector.results", "def f():\n    from torch import nn"),
    (figures_are_pure, "inspector.view.figures", "import torch.nn.functional as F"),
    (figures_are_pure, "inspector.view.figures", "def f():\n    import gradio"),
    (figures_are_pure, "inspector.view.figures", "from inspector import measure"),
    (figures_are_pure, "inspector.view.figures", "from ..model.loading import LoadedModel"),
    (measure_shows_nothing, "inspector.measure.sweep", "def f():\n    import gradio as gr"),
    (measure_shows_nothing, "inspector.measure.sweep", "from plotly import graph_objects"),
    (heavy_imports_are_late, "inspector.measure.benchmark", "from lm_eval.api import model"),
    (heavy_imports_are_late, "inspector.cli.serve", "try:\n    import gradio\nfinally:\n    pass"),
    (heavy_imports_are_late, "inspector.measure.corpus", "class A:\n    import datasets"),
    (short, "inspector.units", "x = 1\n" * (MAX_LINES + 1)),
    (no_assert, "inspector.units", "def f(x):\n    assert x"),
    (no_print, "inspector.units", "print('x')"),
    (no_print, "inspector.view.page", "show = print"),
    (no_remote_code, "inspector.model.loading", "load(name, trust_remote_code=True)"),
    (no_remote_code, "inspector.model.loading", "load(**{'trust_remote_code': True})"),
    (no_remote_code, "inspector.model.loading", "options['trust_remote_code'] = True"),
    (no_remote_code, "inspector.model.loading", "trust_remote_code: bool = True"),
    (no_remote_code, "inspector.model.loading", "def f(a, trust_remote_code=True): ..."),
    (no_remote_code, "inspector.model.loading", "def f(*, trust_remote_code=True): ..."),
    (no_pickles, "inspector.model.loading", "def f():\n    import pickle"),
    (no_pickles, "inspector.model.loading", "from pickle import loads"),
    (no_pickles, "inspector.model.loading", "import torch\ntorch.load('x')"),
    (no_pickles, "inspector.model.loading", "import torch as t\nread = t.load"),
    (no_pickles, "inspector.model.loading", "from torch import load"),
    (no_pickles, "inspector.model.loading", "np.load('x', allow_pickle=True)"),
    (no_re_exports, "inspector.view", "from inspector.view.page import build"),
    (no_re_exports, "inspector.view", "from .page import build as build"),
    (no_re_exports, "inspector.view", "from inspector.view.page import *"),
    (no_re_exports, "inspector.view", "def build(): ...\n__all__ = ['build']"),
]

KEEPS: list[tuple[Rule, str, str]] = [
    (downward, "inspector.results", "from inspector import __version__\nimport inspector.units"),
    (downward, "inspector.view.tabs.muting", "from ..grid import Grid\nimport inspector.jobs"),
    (downward, "inspector.cli.serve", "def f():\n    from inspector.view.page import build"),
    (downward, "app", "from inspector.view.page import build"),
    (base_is_light, "inspector.results", "import json\nimport numpy as np"),
    (figures_are_pure, "inspector.view.figures", "import plotly.graph_objects as go, numpy"),
    (figures_are_pure, "inspector.view.page", "import gradio"),
    (measure_shows_nothing, "inspector.measure.sweep", "import torch"),
    (heavy_imports_are_late, "inspector.measure.benchmark", "def f():\n    import lm_eval"),
    (
        heavy_imports_are_late,
        "inspector.measure.corpus",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import datasets",
    ),
    (short, "inspector.units", "x = 1\n" * MAX_LINES),
    (no_print, "inspector.cli.main", "print('x')"),
    (no_remote_code, "inspector.model.loading", "'''trust_remote_code=True'''\nf(a=True)"),
    (no_remote_code, "inspector.model.loading", "load(trust_remote_code=False)"),
    (no_pickles, "inspector.model.loading", "import json, torch\njson.load(f)"),
    (no_re_exports, "inspector.measure.methods", "from .cosine import f\nMETHODS = {'f': f}"),
    (no_re_exports, "inspector.cli", "def main():\n    from inspector.cli.parser import run"),
]


def example(name: str, source: str, rule: Rule) -> Module:
    return Module(name, source, is_package=rule is no_re_exports)


@pytest.mark.parametrize(("rule", "name", "source"), BREAKS)
def test_a_breach_is_found(rule: Rule, name: str, source: str) -> None:
    assert list(rule(example(name, source, rule)))


@pytest.mark.parametrize(("rule", "name", "source"), KEEPS)
def test_what_is_allowed_passes(rule: Rule, name: str, source: str) -> None:
    assert not list(rule(example(name, source, rule)))


def test_every_rule_has_a_breach() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(RULES)
