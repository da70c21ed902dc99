"""The parser, made from the table of commands."""

from __future__ import annotations

import argparse
from typing import NoReturn

from inspector import __version__
from inspector.cli.commands import COMMANDS
from inspector.errors import InspectorError


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print with its usage: a mistake is one line here."""

    def error(self, message: str) -> NoReturn:
        raise InspectorError(f"{message}; see {self.prog} --help.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it returns has a command's `run` and `shared`."""
    parser = _Parser(
        prog="inspector",
        description="See, toggle, prune and check the sublayers of a language model.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"inspector {__version__}")
    parser.set_defaults(run=lambda args, meter: parser.print_help(), shared=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for row in COMMANDS:
        one = commands.add_parser(row.name, help=row.help, description=row.help, allow_abbrev=False)
        one.set_defaults(run=row.run, shared=row.shared)
        for argument in row.arguments:
            words = argument.help.replace("%", "%%")  # argparse formats its helps
            one.add_argument(*argument.names, help=words, **argument.settings)
    return parser
