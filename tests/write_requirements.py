"""Prints requirements.txt: what plain pip, and so Hugging Face Spaces, installs.

The versions come from `constraint-dependencies` in pyproject.toml, and the choice of packages from
the runtime closure that uv resolves from the project's dependencies. `make requirements` writes
the file; test_packaging.py holds it to what this prints.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Container
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

HEADER = """\
# Made by `make requirements` from the constraints in pyproject.toml; do not edit.
# The runtime closure, without the development tools and the bundled model's package. The CUDA
# packages and triton are left to torch, which pins them itself, so a CPU build of torch stays
# free of them. Pydantic is left to gradio: a Space installs gradio's `mcp` extra beside this file,
# which caps it lower than what is tested here.
"""

# Beginnings of the names of packages that are bounded by others and not by the file.
LEFT_TO_OTHERS = ("cuda-", "nvidia-", "triton", "pydantic")


def constraints(pyproject: Path = ROOT / "pyproject.toml") -> list[Requirement]:
    """The pinned closure, in the order of the file; a package forked by Python stands twice."""
    tool = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]
    return [Requirement(line) for line in tool["uv"]["constraint-dependencies"]]


def resolved(*options: str) -> list[Requirement]:
    """What uv's resolution holds for this project, on every platform; it needs no network."""
    command = ["uv", "export", "--frozen", "--no-hashes", "--no-annotate", "--no-header"]
    command += ["--no-emit-project", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"uv export failed: {done.stderr.strip()}")
    return [Requirement(line) for line in done.stdout.splitlines() if line.strip()]


def pin(requirement: Requirement) -> tuple[str, str]:
    """Name and version bound, without the marker, which uv may word in more than one way."""
    return canonicalize_name(requirement.name), str(requirement.specifier)


def requirements(pins: list[Requirement], runtime: Container[str]) -> str:
    """The file's text: each pin whose package is in the runtime closure and not left to others."""
    chosen = [
        str(row)
        for row in pins
        if canonicalize_name(row.name) in runtime and not row.name.startswith(LEFT_TO_OTHERS)
    ]
    return HEADER + "".join(f"{row}\n" for row in chosen)


def current() -> str:
    """The text that requirements.txt should hold now."""
    runtime = {canonicalize_name(row.name) for row in resolved("--no-default-groups")}
    return requirements(constraints(), runtime)


if __name__ == "__main__":
    sys.stdout.write(current())
