"""One table of commands: the parser and the README are made from it."""

from __future__ import annotations

from inspector.cli.arguments import Command
from inspector.cli.commands_check import CHECK
from inspector.cli.commands_look import LOOK
from inspector.cli.commands_share import SHARE

COMMANDS: tuple[Command, ...] = (*LOOK, *CHECK, *SHARE)
