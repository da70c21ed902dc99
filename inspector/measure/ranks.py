"""Several processes that measure one text together: which one this is, and what all have found.

The processes (ranks) do the same from beginning to end, but for the windows that each of them takes
through the model. What these give are a few numbers a window; everybody's are exchanged as JSON,
which keeps every digit of a float, through a key-value store of torch.distributed, and everybody
adds them up alike. So all ranks know the same, and decide the same.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from inspector.errors import RankError

T = TypeVar("T")
Piece = TypeVar("Piece")

LOST = (
    "the processes have lost each other: rank 0, or what launched it, is gone, or the network; "
    "start anew, with --resume where the run had an -o."
)
POLL_SECONDS = 0.005
"""Between two looks whether everybody's values are there."""


@dataclass(eq=False)
class Ranks:
    """This process among all; by default it is alone, and nothing is exchanged.

    `rank` counts from 0, over all machines; 0 is the one that speaks to the user and writes files.
    `local` is its number on its machine. `store` is a `torch.distributed.Store`.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    store: Any = None
    _round: int = field(default=0, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def own(self, pieces: Iterable[T]) -> Iterator[T]:
        """Those of the pieces of work that are this rank's: every `size`-th one."""
        return itertools.islice(pieces, self.rank, None, self.size)

    def spread(
        self, pieces: Iterable[Piece], work: Callable[[Piece], T]
    ) -> Iterator[tuple[Piece, T]]:
        """Each piece of work and what `work` gives for it, in the order of the pieces.

        Alone it is done piece by piece, as they are asked for; otherwise every rank does its own,
        and all get all. The same is added up in the same order either way.
        """
        if self.size == 1:
            for piece in pieces:
                yield piece, work(piece)
            return
        pieces = list(pieces)
        found = self.everybodys([work(piece) for piece in self.own(pieces)])
        for number, piece in enumerate(pieces):
            yield piece, found[number % self.size][number // self.size]

    def everybodys(self, value: Any) -> list[Any]:
        """The value of every rank, in their order; this waits for all of them.

        A value is what JSON takes (NaN and infinity included). All ranks must come here equally
        often. The wait has no limit of its own: whether the others are still there is for
        `company` to say.

        Raises:
            RankError: the store is gone.
        """
        if self.size == 1:
            return [value]
        self._round += 1
        try:
            self.store.set(self._key(self._round, self.rank), json.dumps(value))
            keys = [self._key(self._round, rank) for rank in range(self.size)]
            while not self.store.check(keys):
                time.sleep(POLL_SECONDS)
            found = [json.loads(self.store.get(key)) for key in keys]
            if self._round > 1:  # all are here, so all have read what was there before
                self.store.delete_key(self._key(self._round - 1, self.rank))
        except RuntimeError as error:  # of the store
            raise RankError(LOST) from error
        return found

    def of_first(self, work: Callable[[], T]) -> T:
        """What `work` gives on rank 0, which alone does it."""
        return self.everybodys(work() if self.first else None)[0]

    def agree(self, about: Mapping[str, Any]) -> None:
        """Make sure that all are about to do the same.

        Raises:
            RankError: on every rank, what differs and on which rank.
        """
        from inspector.results.journal import differences

        here, *others = self.everybodys(dict(about))
        for rank, there in enumerate(others, 1):
            if there != here:
                what = differences(here, there, "{} is {} on rank 0 and {} there")
                raise RankError(
                    f"rank {rank} is about to do something else than rank 0: {what}; start all "
                    "processes with the same command, files and versions."
                )

    @staticmethod
    def _key(number: int, rank: int) -> str:
        return f"inspector/value/{number}/{rank}"


ALONE = Ranks()
