"""Progress on stderr: one updating line on a terminal, else a line now and then."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any, TextIO

from inspector.cli.text import printable
from inspector.jobs import Progress

REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0
PACE_SECONDS = 1.0
"""How long a phase must have run before its pace says anything about the time left."""

CLEAR_LINE = "\r\x1b[K"


class Meter:
    """Shows how far a command is, phase by phase.

    `partial` is the latest that the work has handed over of its result so far.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.partial: Any = None
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty()
        self._begun = self._shown = clock()
        self._note = ""
        self._drawn = False

    def phase(self, title: str) -> Progress:
        """Begin a phase: the `Progress` to hand to the work."""
        self._begun = self._clock()
        self._shown = float("-inf") if self._terminal else self._begun
        self._note = title

        def report(done: float, total: float, note: str = "", partial: Any = None) -> None:
            self._note = note or self._note
            self.partial = self.partial if partial is None else partial
            self._show(done, total)

        return report

    def clear(self) -> None:
        """Wipe the updating line, so that something else can be written."""
        if self._drawn:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()
        self._drawn = False

    def _show(self, done: float, total: float) -> None:
        now = self._clock()
        if now - self._shown < (REDRAW_SECONDS if self._terminal else LINE_SECONDS):
            return
        self._shown = now
        line = describe(printable(self._note, lines=False), done, total, now - self._begun)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(CLEAR_LINE + line[:width])
            self._drawn = True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def describe(note: str, done: float, total: float, seconds: float) -> str:
    """``note: 40 %, 1 min 20 s left``; the time left is that at the pace of `seconds` so far."""
    share = min(1.0, done / total) if total > 0 else 0.0
    text = f"{note}: {share:.0%}".replace("%", " %")
    if share > 0 and seconds >= PACE_SECONDS:
        text += f", {duration(seconds * (1 - share) / share)} left"
    return text


def duration(seconds: float) -> str:
    """``40 s``, ``1 min 20 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
