"""The command line: the same calls as the page, one table of commands (`commands.COMMANDS`).

Nothing heavy is imported before a command runs, so that help is there at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from inspector.cli.output import check_output, save_partial
from inspector.cli.parser import build_parser
from inspector.cli.progress import Meter
from inspector.errors import InspectorError
from inspector.jobs import Cancelled

USERS_MISTAKE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; `argv` is what stands after `inspector`.

    0: done. 2: a mistake of the user's or a limit of the machine, said in one line on stderr. 130:
    interrupted. In the latter two cases what a run had measured so far is in the file of ``-o``.
    Anything else is a bug and leaves a traceback.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    args, meter = argparse.Namespace(), Meter(sys.stderr)
    try:
        args = build_parser().parse_args(arguments)
        args.line = shlex.join(["inspector", *arguments])
        _run(args, meter)
    except InspectorError as error:
        sentence = " ".join(str(error).split())
        return _stopped(args, meter, f"inspector: error: {sentence}", USERS_MISTAKE)
    except (KeyboardInterrupt, Cancelled):
        return _stopped(args, meter, "inspector: interrupted.", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(args: argparse.Namespace, meter: Meter) -> None:
    check_output(getattr(args, "output", None))
    with warnings.catch_warnings():
        if not sys.warnoptions:  # what libraries tell developers
            warnings.simplefilter("ignore")
        args.run(args, meter)
    sys.stdout.flush()


def _stopped(args: argparse.Namespace, meter: Meter, sentence: str, code: int) -> int:
    meter.clear()
    path = save_partial(meter.partial, args)
    kept = f" What was measured so far is in {path}." if path else ""
    print(sentence + kept, file=sys.stderr)
    return code
