"""What is installed, what is pinned and what is in git agree, and name no machine of ours."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from write_requirements import ROOT, constraints, current, pin, requirements, resolved

# Written in pieces, so that this file does not hold what it looks for.
HOSTS = ["pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js.org", "debian" + ".org"]
PLACES = ["/" + "work/", "/" + "root/"]
HOME = str(Path.home()) + "/"


def faults_of_versions(pins: Iterable[Requirement], installed: dict[str, str]) -> list[str]:
    """Each pin that holds on this platform and is not what is installed."""
    faults: list[str] = []
    for row in pins:
        if row.marker and not row.marker.evaluate():
            continue
        version = installed.get(canonicalize_name(row.name))
        if version is None:
            faults.append(f"{row.name} is pinned but not installed")
        elif not row.specifier.contains(version, prereleases=True):
            faults.append(f"{row.name} is {version}, pinned {row.specifier}")
    return faults


def holds_with_extra(row: Requirement, *extras: str) -> bool:
    return row.marker is None or any(row.marker.evaluate({"extra": each}) for each in extras)


def clashes(pins: Iterable[Requirement], bounds: Collection[Requirement]) -> list[str]:
    """Each pin whose one version lies outside a bound on the same package."""
    return [
        f"{row} against {bound}"
        for row in pins
        for bound in bounds
        if canonicalize_name(row.name) == canonicalize_name(bound.name)
        and not bound.specifier.contains(next(iter(row.specifier)).version, prereleases=True)
    ]


def written() -> list[Requirement]:
    """The rows of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def mentions(files: Iterable[Path], needles: Iterable[str]) -> list[str]:
    """Where one of the strings stands, as `path: string`; a path begins at a word's edge."""
    patterns = [
        (needle, re.compile(rb"(?<![\w.~-])" + re.escape(needle.encode())))
        if needle.startswith("/")
        else (needle, re.compile(re.escape(needle.encode())))
        for needle in needles
    ]
    found: list[str] = []
    for file in files:
        data = file.read_bytes()
        found += [f"{file}: {needle}" for needle, pattern in patterns if pattern.search(data)]
    return found


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git tracks, or would with `git add`."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name]
    return [file for file in files if file.is_file()]


def test_every_resolved_package_is_pinned_and_nothing_else() -> None:
    assert {pin(row) for row in constraints()} == {pin(row) for row in resolved()}


def test_each_constraint_pins_one_version() -> None:
    loose = [str(row) for row in constraints() if not re.fullmatch(r"==[^,*]+", str(row.specifier))]
    assert not loose


def test_requirements_are_the_pinned_runtime_closure() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert text == current(), "out of date: run `make requirements`"


def test_requirements_hold_every_direct_dependency_and_no_development_tool() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    direct = {canonicalize_name(Requirement(r).name) for r in project["project"]["dependencies"]}
    groups = project["dependency-groups"].values()
    tools = {canonicalize_name(Requirement(r).name) for group in groups for r in group}
    names = {canonicalize_name(row.name) for row in written()}
    assert direct <= names
    assert not tools & names
    assert {pin(row) for row in written()} <= {pin(row) for row in constraints()}


def test_requirements_leave_room_for_what_a_space_adds() -> None:
    """A Space installs gradio[oauth,mcp] at its sdk_version in the same call as this file."""
    declared = [Requirement(line) for line in importlib.metadata.requires("gradio") or []]
    added = [row for row in declared if holds_with_extra(row, "oauth", "mcp")]
    assert any(row.name == "mcp" for row in added)
    assert not clashes(written(), added)


def test_a_pin_outside_a_bound_is_a_clash() -> None:
    pins = [Requirement("pydantic==2.14.3"), Requirement("mcp==1.30.0")]
    bounds = [Requirement(r) for r in ("Pydantic<=2.12.5", "pydantic<=3", "mcp<2", "authlib")]
    assert clashes(pins, bounds) == ["pydantic==2.14.3 against Pydantic<=2.12.5"]


def test_requirements_leave_cuda_and_other_packages_out() -> None:
    pins = [Requirement(r) for r in ("torch==2.0", "triton==3.0 ; sys_platform == 'linux'")]
    pins += [Requirement("nvidia-nccl-cu13==2"), Requirement("ruff==1"), Requirement("Pillow==9")]
    text = requirements(pins, {"torch", "triton", "nvidia-nccl-cu13", "pillow"})
    assert [line for line in text.splitlines() if line[0] != "#"] == ["torch==2.0", "Pillow==9"]


def test_installed_versions_are_the_pinned_ones() -> None:
    found = importlib.metadata.distributions()
    installed: dict[str, str] = {
        canonicalize_name(each.metadata["Name"]): each.version for each in found
    }
    assert not faults_of_versions(constraints(), installed)


def test_a_version_that_differs_or_is_missing_is_found() -> None:
    pins = [Requirement(r) for r in ("a==1", "B_c==2", "d==3", "e==4 ; python_version < '3'")]
    assert faults_of_versions(pins, {"a": "1.0", "b-c": "2.1"}) == [
        "B_c is 2.1, pinned ==2",
        "d is pinned but not installed",
    ]


def test_no_lock_file_is_tracked(tracked: list[Path]) -> None:
    assert ROOT / "pyproject.toml" in tracked
    assert ROOT / "uv.lock" not in tracked


def test_no_file_names_a_package_host(tracked: list[Path]) -> None:
    assert not mentions(tracked, HOSTS)


def test_no_file_names_a_path_of_this_machine(tracked: list[Path]) -> None:
    places = [*PLACES, HOME] if len(HOME) > 2 else PLACES
    assert not mentions(tracked, places)


@pytest.mark.parametrize("needle", [*HOSTS, *PLACES])
def test_a_mention_is_found(tmp_path: Path, needle: str) -> None:
    bad, good = tmp_path / "bad.bin", tmp_path / "good.txt"
    bad.write_bytes(b"\xff\x00 see '" + needle.encode() + b"main'")
    good.write_text(f"frame{needle}, network/ and tests/root.py" if needle[0] == "/" else "none")
    assert mentions([bad, good], [needle]) == [f"{bad}: {needle}"]


def test_the_licence_is_the_one_declared() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Copyright 2026 The layer-inspector authors" in text
    assert importlib.metadata.metadata("layer-inspector")["License-Expression"] == "Apache-2.0"
