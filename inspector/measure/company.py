"""Joining the other processes of a run, and noticing that one of them has stopped.

Every process says twice a second that it is there, and says why when it stops. A thread looks at
what the others say: when one has stopped, or is silent for long, the main thread is interrupted
wherever it is, as by Ctrl-C. The launchers (`torchrun`, `accelerate launch`) send SIGTERM to the
processes of their own machine for the same reason. One process alone tells the user.
"""

from __future__ import annotations

import _thread
import datetime
import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inspector.errors import RankError
from inspector.measure.ranks import ALONE, LOST, Ranks

JOIN_SECONDS = 180
"""How long a process waits for the others to join."""

BEAT_SECONDS = 0.5
"""Between two signs of life, and two looks at those of the others."""

SILENT_LOOKS = 50
"""A process that has given no sign of life for so many looks is taken for dead. Looks are counted
and not seconds, so that nobody is dead for having been stopped together with everybody else."""

TOLD_LOOKS = 10
"""The same once something has told this process to stop: a launcher kills it after 30 seconds."""

WHY_SECONDS = 20.0
"""How long to look for the reason at most."""

SPEAK_SECONDS = 2.0
"""How long the other processes wait whether the first one notices the same mistake."""

LINGER_SECONDS = 5.0
"""How long the first process waits for the others at the end: they may be reading yet."""

DEAD = (
    "rank {} has died: nothing is heard of it any more, so it was killed, or its machine or the "
    "network is gone; start anew, with --resume where the run had an -o."
)
LEFT, BEAT = "inspector/left/{}", "inspector/beat/{}"
CRASHED = 1
INTERRUPTED = 130


@dataclass(frozen=True)
class Stopped:
    """A process that has stopped: its exit code, and the sentence to say about it."""

    rank: int
    code: int
    said: str


class Company:
    """This process and the others that it works with; by default there are none.

    From `join` on, signals that stop a process raise KeyboardInterrupt in the main thread, until
    `close`.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self._others = [rank for rank in range(ranks.size) if rank != ranks.rank]
        self._beats: dict[int, bytes] = {}
        self._missed = dict.fromkeys(self._others, 0)
        self._stopped: dict[int, Stopped] = {}
        self._signal, self._raised, self._leaving = 0, -60.0, False
        self._looks = 0
        self._lost = False  # the connection to the others
        self._over = threading.Event()
        self._handlers: dict[int, Any] = {}
        if self._others:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._interrupt)
            threading.Thread(target=self._watch, name="inspector-company", daemon=True).start()

    def why(self) -> Stopped | None:
        """After a KeyboardInterrupt: which other process was the reason; None where none was.

        SIGTERM may come before it can be known, so that this waits for a few looks.
        """
        self._leaving = True
        enough, until = self._looks + TOLD_LOOKS + 2, time.monotonic() + WHY_SECONDS
        while self._signal == signal.SIGTERM and not self._reason():
            if self._looks >= enough or time.monotonic() > until:
                break
            time.sleep(BEAT_SECONDS / 10)
        return self._reason()

    def leave(self, code: int = 0, said: str = "") -> bool:
        """Tell the others that this process stops, and why; whether it is to tell the user, too.

        The first process does, or if it is gone the next one. A mistake that all of them notice is
        the first one's to tell: the others wait a little whether it does.
        """
        self._leaving = True
        if not self._others:
            return True
        if code not in (0, CRASHED, INTERRUPTED) and not self.ranks.first:
            until = time.monotonic() + SPEAK_SECONDS
            while not (0 in self._stopped or self._gone(0) or time.monotonic() > until):
                time.sleep(BEAT_SECONDS / 10)
        try:
            self.ranks.store.set(LEFT.format(self.ranks.rank), json.dumps([code, said]))
        except RuntimeError:
            self._lost = True
        own = self.ranks.rank
        return next(r for r in range(self.ranks.size) if r == own or not self._gone(r)) == own

    def close(self) -> None:
        """Give the signals back, once the others have left: the first may hold what they read."""
        self._leaving = True
        until = time.monotonic() + LINGER_SECONDS
        while self.ranks.first and time.monotonic() < until:
            if all(rank in self._stopped or self._gone(rank) for rank in self._others):
                break
            time.sleep(BEAT_SECONDS / 10)
        self._over.set()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        """Of signals that come in a burst the first one counts."""
        if not self._leaving and time.monotonic() - self._raised > 2:
            self._signal, self._raised = number, time.monotonic()
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """The thread: give signs of life, and look at the others'."""
        while not self._over.is_set():
            try:
                self._look()
            except RuntimeError:  # of the store
                self._lost = True
            self._looks += 1
            if self._reason() and not self._leaving:
                _thread.interrupt_main(signal.SIGTERM)
            self._over.wait(BEAT_SECONDS)

    def _look(self) -> None:
        store = self.ranks.store
        store.set(BEAT.format(self.ranks.rank), str(self._looks))
        for rank in self._others:
            key = BEAT.format(rank)
            beat = store.get(key) if store.check([key]) else b""
            self._missed[rank] = 0 if beat != self._beats.get(rank) else self._missed[rank] + 1
            self._beats[rank] = beat
            key = LEFT.format(rank)
            if rank not in self._stopped and store.check([key]):
                code, said = json.loads(store.get(key))
                self._stopped[rank] = Stopped(rank, code, f"rank {rank}: {said}")

    def _gone(self, rank: int) -> bool:
        """Whether a process cannot tell the user any more why all stop."""
        stopped = self._stopped.get(rank)
        if stopped:
            return stopped.code == CRASHED
        looks = SILENT_LOOKS if self._beats.get(rank) else round(JOIN_SECONDS / BEAT_SECONDS)
        if self._signal == signal.SIGTERM:
            looks = TOLD_LOOKS
        return self._missed[rank] >= looks or (self._lost and rank == 0)

    def _reason(self) -> Stopped | None:
        """The other process that is the reason to stop; None where there is none."""
        for stopped in list(self._stopped.values()):
            if stopped.code:
                return stopped
        if self._lost:
            return Stopped(0, CRASHED, LOST)
        for rank in self._others:
            if rank not in self._stopped and self._gone(rank):
                return Stopped(rank, CRASHED, DEAD.format(rank))
        return None


def join(environment: Mapping[str, str] = os.environ) -> Company:
    """The company that the launcher's environment tells of (WORLD_SIZE, RANK); else of one.

    Raises:
        RankError: the others cannot be reached.
    """
    rank, size = environment.get("RANK"), environment.get("WORLD_SIZE", "1")
    if rank is None or size == "1":
        return Company()
    from torch.distributed.rendezvous import rendezvous

    at = ":".join(environment.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    try:
        limit = datetime.timedelta(seconds=JOIN_SECONDS)
        store, number, count = next(rendezvous("env://", timeout=limit))
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RankError(
            f"rank {rank} of {size} cannot join the others at {at} ({reason}): start all of them "
            "with accelerate launch or torchrun, and see that the machines reach that address."
        ) from error
    local = int(environment.get("LOCAL_RANK", "0"))
    return Company(Ranks(number, count, local, store))
