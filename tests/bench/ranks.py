"""Several processes of one thread each against one process of one thread, in one run.

Both remove the same number of units from the same model on the same text, by js (finercut, with
early exit) and by perplexity (blockpruner), on the processor. The time is that of the run itself,
as its result has it: without starting Python and loading the model, of which each process has its
own share of the machine as well. There should be a core for each process, and nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from inspector.results.files import load
from inspector.results.trajectory import Trajectory

METHODS = ("finercut", "blockpruner")


def main() -> None:
    options = _options()
    print(
        f"{options.model}, {options.dtype}, {options.corpus}, {options.samples} x {options.length} "
        f"tokens, {options.remove} units; {os.cpu_count()} cores",
        flush=True,
    )
    for method in options.methods:
        alone = _run(options, method, 1)
        shared = _run(options, method, options.processes)
        same = alone.removed == shared.removed
        ends = [each.steps[-1].perplexity for each in (alone, shared)]
        one, several = (each.provenance.seconds for each in (alone, shared))
        print(
            f"{method}: 1 process {one:.1f} s, {options.processes} processes {several:.1f} s, "
            f"ratio {one / several:.2f}; {'the same' if same else 'ANOTHER'} order "
            f"({' '.join(shared.removed)}); perplexity at the end {ends[0]!r} and {ends[1]!r}; "
            f"evaluations through the layers {_layers(alone):.1f} and {_layers(shared):.1f}",
            flush=True,
        )


def _run(options: argparse.Namespace, method: str, processes: int) -> Trajectory:
    """One run of the command, in so many processes of one thread each."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        launcher += ["--master-port", str(_free_port())]
    command = [*launcher, "-m", "inspector", "prune", options.model, "--method", method]
    command += ["--remove", str(options.remove), "--corpus", options.corpus]
    command += ["--samples", str(options.samples), "--length", str(options.length)]
    command += ["--device", "cpu", "--dtype", options.dtype]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        subprocess.run(
            [*command, "-o", str(out)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found = load(out)
    if not isinstance(found, Trajectory):
        raise SystemExit(f"{out} is no pruning run")
    return found


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _layers(run: Trajectory) -> float:
    return sum(step.layers for step in run.steps)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--corpus", default="pydoc:search")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--remove", type=int, default=4)
    parser.add_argument("--dtype", default="fp32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
