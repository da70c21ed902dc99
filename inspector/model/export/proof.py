"""The proof of an export: loaded in a process of its own and compared with the muted model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inspector.errors import ExportError
from inspector.jobs import Progress, silent
from inspector.model.export import fresh
from inspector.model.loaded import LoadedModel, out_of_memory
from inspector.model.surgery import muted
from inspector.units import Mask

SHAPE = (2, 24)
"""Rows and tokens that are compared."""
TEXT = "A mask is the set of muted units.\n\tIt counts from 0, naïvely: 3.attn, 17."
POLL_SECONDS = 0.1
KILLED = -9
"""The status of a process that was ended by SIGKILL."""
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")

Check = dict[str, Any]
"""`name`, `what` was checked, whether it `passed` (None: it was not done), whether equality was
`exact`, and the largest `difference`."""


def reference(loaded: LoadedModel, mask: Mask) -> dict[str, torch.Tensor]:
    """What the muted model answers to a few random tokens, and these; see `fresh.passes`."""
    vocabulary = loaded.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocabulary, SHAPE, generator=generator)
    with muted(loaded, mask):
        return {"ids": ids, **fresh.passes(loaded.model, ids.to(loaded.device))}


def request_of(loaded: LoadedModel, *, own_code: bool) -> dict[str, Any]:
    """What the checking process must know of the model in memory, to compute as it does."""
    config: Any = loaded.model.config
    return {
        "own_code": own_code,
        "offload": bool(loaded.offloaded),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
        "attention": config._attn_implementation,
        "threads": torch.get_num_threads(),
        "text": TEXT,
        "tokens": list(loaded.tokenizer(TEXT)["input_ids"]),
        "chat_template": getattr(loaded.tokenizer, "chat_template", None),
    }


def prove(
    folder: Path,
    work: Path,
    expected: dict[str, torch.Tensor],
    request: dict[str, Any],
    *,
    progress: Progress = silent,
) -> list[Check]:
    """Check the folder in a fresh process that cannot import this project.

    Args:
        folder: the finished export.
        work: an empty folder beside it for files on the way, on the same disk.
        expected: what `reference` gave.
        request: what `request_of` gave.
        progress: called while the process runs; a cancel ends it.

    Raises:
        ExportError: a check failed, or the folder cannot be loaded; says which and why.
    """
    more = {"folder": str(folder), "again": str(work / "again"), "offloaded": str(work / "disk")}
    checks = ask(fresh.__file__, work, expected, {**request, **more}, progress=progress)
    refuse_failed(checks)
    return checks


def ask(
    script: str,
    work: Path,
    expected: dict[str, torch.Tensor],
    request: dict[str, Any],
    *,
    progress: Progress = silent,
) -> list[Check]:
    """What a script answers in a fresh process; see `prove`.

    The script finds `expected` in the file `reference` of its request, and leaves its checks in the
    file `report`.

    Raises:
        ExportError: it came to no end; says why.
    """
    files = {name: str(work / name) for name in ("reference", "report")}
    save_file(expected, files["reference"])
    asked = work / "request.json"
    asked.write_text(json.dumps({**request, **files}), encoding="utf-8")
    status, said = _run(script, asked, work, progress)
    report = Path(files["report"])
    if not report.is_file():
        lines = [line for line in said.splitlines() if line.strip()]
        reason = lines[-1].strip()[:300] if lines else "its process ended without a word"
        if status < 0:
            reason = f"its process crashed (signal {-status})"
        if status == KILLED:
            reason = "its process was ended by the system, most often for lack of memory"
        if out_of_memory(RuntimeError(reason)) or "out of memory" in reason:
            raise ExportError(
                "the check of the export ran out of memory, and nothing was kept: it holds the "
                "exported model beside the present one; free some, or choose bf16."
            )
        if "No space left" in reason:
            raise ExportError(
                "the disk was full during the check of the export, and nothing was kept: free some "
                "space, or choose another disk."
            )
        raise ExportError(
            f"the exported folder cannot be loaded, and was deleted ({reason}): choose another "
            "format, or report it with the mask."
        )
    checks: list[Check] = json.loads(report.read_text(encoding="utf-8"))
    return checks


def refuse_failed(checks: list[Check]) -> None:
    """Raise an ExportError that names the first check that failed; None is one not done."""
    failed = [check for check in checks if check["passed"] is False]
    if failed:
        raise ExportError(
            f"the export failed its check {failed[0]['name']!r} ({failed[0]['what']}), and was "
            "deleted: choose another format, or report it with the mask."
        )


def verdict(check: Check) -> str:
    """What came out of a check, in a word or two."""
    if check["passed"] is None:
        return "not done"
    if not check["passed"]:
        return "failed"
    return "passed, bit for bit" if check["exact"] else "passed"


def _run(script: str, asked: Path, work: Path, progress: Progress) -> tuple[int, str]:
    """Run the check; its status and what it wrote to stderr. On a cancel the process is ended."""
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(work / "modules"),  # and not the user's own, for good
        "TOKENIZERS_PARALLELISM": "false",
    }
    # -P: what lies beside the script must not be imported in the place of a library.
    command = [sys.executable, "-P", script, str(asked)]
    with (work / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=work,
        )
        try:
            while process.poll() is None:
                progress(0, 1, "checking the export in a fresh process")
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        stderr.seek(0)
        return process.returncode, stderr.read()
