"""The command line: the same calls as the page, one table of commands (`commands.COMMANDS`).

Nothing heavy is imported before a command runs, so that help is there at once.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from inspector.cli.output import check_output, save_partial
from inspector.cli.parser import build_parser
from inspector.cli.progress import Meter
from inspector.errors import InspectorError, RankError
from inspector.jobs import Cancelled
from inspector.measure.company import CRASHED, INTERRUPTED, Company, join

USERS_MISTAKE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; `argv` is what stands after `inspector`.

    0: done. 2: a mistake of the user's or a limit of the machine, said in one line on stderr. 130:
    interrupted. In the latter two cases what a run had measured so far is in the file of ``-o``.
    Anything else is a bug and leaves a traceback.

    Of several processes that a launcher has started, the first one alone writes and says anything.
    Where one of them stops, all do.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    args, meter, company = argparse.Namespace(), Meter(sys.stderr), Company()
    try:
        company = join()
        meter = meter if company.ranks.first else Meter(io.StringIO())
        args = build_parser().parse_args(arguments)
        args.line, args.ranks = shlex.join(["inspector", *arguments]), company.ranks
        _run(args, meter)
        company.leave()
    except InspectorError as error:
        return _stopped(args, meter, company, " ".join(str(error).split()), USERS_MISTAKE)
    except (KeyboardInterrupt, Cancelled):
        why = company.why()
        if why is None or why.code == INTERRUPTED:
            return _stopped(args, meter, company, "interrupted.", INTERRUPTED)
        return _stopped(args, meter, company, why.said, USERS_MISTAKE)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        company.leave()
    except Exception as error:
        company.leave(CRASHED, f"an unexpected {type(error).__name__}, see above.")
        raise
    finally:
        company.close()
    return 0


def _run(args: argparse.Namespace, meter: Meter) -> None:
    if args.ranks.size > 1 and not args.shared:
        raise RankError("of all commands, prune alone runs in several processes: start one.")
    if args.ranks.first:
        check_output(getattr(args, "output", None))
    with warnings.catch_warnings():
        if not sys.warnoptions:  # what libraries tell developers
            warnings.simplefilter("ignore")
        args.run(args, meter)
    sys.stdout.flush()


def _stopped(
    args: argparse.Namespace, meter: Meter, company: Company, reason: str, code: int
) -> int:
    meter.clear()
    if not company.leave(code, reason):
        return code
    path = save_partial(meter.partial, args) if company.ranks.first else None
    kept = f" What was measured so far is in {path}." if path else ""
    what = "" if code == INTERRUPTED else "error: "
    print(f"inspector: {what}{reason}{kept}", file=sys.stderr)
    return code
