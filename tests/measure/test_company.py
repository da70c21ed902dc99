"""That another process has stopped is noticed wherever this one is, and said by one of them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from torch._C._distributed_c10d import HashStore

from inspector.errors import RankError
from inspector.measure import company
from inspector.measure.company import CRASHED, INTERRUPTED, Company, join
from inspector.measure.ranks import ALONE, Ranks


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(company, "SPEAK_SECONDS", 0.1)
    monkeypatch.setattr(company, "LINGER_SECONDS", 0.1)


@pytest.fixture
def others() -> Iterator[Callable[[int, int], tuple[Company, HashStore, threading.Event]]]:
    """Makes the company of a rank; the others give signs of life until the event is set."""
    ends: list[Callable[[], None]] = []

    def make(rank: int, size: int) -> tuple[Company, HashStore, threading.Event]:
        store, still = HashStore(), threading.Event()

        def beat() -> None:
            number = 0
            while not still.wait(0.01):
                for each in set(range(size)) - {rank}:
                    store.set(f"inspector/beat/{each}", str(number))
                number += 1

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        made = Company(Ranks(rank, size, store=store))
        ends.extend([made.close, still.set, thread.join])
        return made, store, still

    yield make
    for end in ends:
        end()


def interrupted(by: Callable[[], object] = lambda: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        by()
        for _ in range(2000):
            time.sleep(0.01)


def left(store: HashStore, rank: int, code: int, said: str = "") -> None:
    store.set(f"inspector/left/{rank}", json.dumps([code, said]))


def test_alone_there_is_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM), threading.active_count()
    for environment in ({}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "2"}):
        alone = join(environment)
        assert alone.ranks is ALONE and alone.leave(2, "a mistake") and alone.why() is None
        assert (signal.getsignal(signal.SIGTERM), threading.active_count()) == before
        alone.close()


def test_another_ones_mistake_is_told_by_the_first(others) -> None:
    made, store, _ = others(0, 3)
    time.sleep(0.2)  # while all is well nobody is interrupted
    left(store, 1, 0)  # nor where one has come to its end
    time.sleep(0.2)
    interrupted(lambda: left(store, 2, 2, "there is no file x."))
    why = made.why()
    assert why and (why.rank, why.code, why.said) == (2, 2, "rank 2: there is no file x.")
    assert made.leave(2, why.said)
    assert json.loads(store.get("inspector/left/0")) == [2, why.said]


def test_the_others_leave_without_a_word(others) -> None:
    made, store, _ = others(1, 3)
    interrupted(lambda: left(store, 0, 2, "a mistake"))
    assert not made.leave(2, "a mistake")


def test_a_mistake_that_the_first_does_not_notice_is_told_to_it(others) -> None:
    made, store, _ = others(2, 3)
    assert not made.leave(2, "mine")  # the first is there to say it
    assert json.loads(store.get("inspector/left/2")) == [2, "mine"]


@pytest.mark.parametrize("rank", [0, 1])
def test_silence_is_death_and_the_next_one_says_so(others, rank: int) -> None:
    made, _, still = others(rank, 2)
    time.sleep(0.1)
    interrupted(still.set)
    why = made.why()
    assert why and why.rank == 1 - rank and f"rank {1 - rank} has died" in why.said
    assert made.leave(2, why.said)


def test_a_crash_of_the_first_is_told_by_the_next(others) -> None:
    made, store, _ = others(1, 3)
    interrupted(lambda: left(store, 0, CRASHED, "an unexpected ValueError, see above."))
    why = made.why()
    assert why and why.said == "rank 0: an unexpected ValueError, see above."
    assert made.leave(2, why.said)


def test_told_to_stop_it_finds_out_who_died(others) -> None:
    """A launcher stops the others before the silence is long."""
    made, _, still = others(0, 2)
    time.sleep(0.1)
    still.set()
    interrupted(lambda: os.kill(os.getpid(), signal.SIGTERM))
    why = made.why()
    assert why and "rank 1 has died" in why.said
    assert made._missed[1] < company.SILENT_LOOKS
    os.kill(os.getpid(), signal.SIGTERM)  # nothing interrupts the leaving
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)


def test_an_interrupt_is_nobodys_fault(others) -> None:
    made, _, _ = others(0, 2)
    time.sleep(0.1)
    interrupted(lambda: os.kill(os.getpid(), signal.SIGINT))
    assert made.why() is None
    assert made.leave(INTERRUPTED, "interrupted.")


def test_signals_are_given_back(others) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    made, _, _ = others(0, 2)
    assert before != [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    made.close()
    assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


class Failing:
    """A store whose host goes."""

    gone = False

    def _do(self, *_: object) -> bool:
        if self.gone:
            raise RuntimeError("Connection reset by peer")
        return False

    set = check = _do

    def go(self) -> None:
        self.gone = True


@pytest.mark.parametrize(("rank", "speaks"), [(0, True), (1, True), (2, False)])
def test_without_a_store_all_stop(rank: int, speaks: bool) -> None:
    store = Failing()
    made = Company(Ranks(rank, 3, store=store))
    try:
        interrupted(store.go)
        why = made.why()
        assert why and "the processes have lost each other" in why.said
        assert made.leave(2, why.said) is speaks
    finally:
        made.close()
    with pytest.raises(RankError, match="the processes have lost each other"):
        Ranks(rank, 3, store=store).everybodys(1)


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "many", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    ],
    ids=["no address", "no number", "no port", "nobody there"],
)
def test_what_cannot_be_joined(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(company, "JOIN_SECONDS", 1)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match=r"rank 1 of .* cannot join the others at"):
        join()
