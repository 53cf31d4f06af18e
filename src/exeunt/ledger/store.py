"""Where ledgers are kept: what a store does, and the one in memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, cast

from exeunt.errors import InputError
from exeunt.ledger.books import CHARGED, Account, Books, Hold

T = TypeVar("T")
Clock = Callable[[], int]


class Store(Protocol):
    """Keeps ledgers. Another database needs this method, the tables of `Account` and `Hold`, and clocks."""

    def run(self, operation: Callable[[Books, int], T], *, lasting: bool = True) -> T:
        """Call `operation` with the books and the time, in nanoseconds; return once its changes are kept.

        Nobody else changes the books meanwhile. `lasting`: if not, a power failure may undo them. Raises what the
        operation raises, and FileError or ArtefactError if nothing can be kept.
        """

    def close(self) -> None:
        """Free what the store has open."""


class _MemoryBooks:
    """Books in dictionaries."""

    wall = 0

    def __init__(self) -> None:
        self.by_name: dict[str, Account] = {}
        self.holds: dict[tuple[str, int], Hold] = {}
        self.keys: dict[tuple[str, str | None], tuple[str, int]] = {}
        self._unsettled: dict[tuple[str, int], Hold] = {}

    def account(self, name: str) -> Account | None:
        return self.by_name.get(name)

    def accounts(self) -> Iterable[Account]:
        return list(self.by_name.values())

    def put(self, account: Account) -> None:
        self.by_name[account.name] = account

    def find(self, ledger: str, key: str) -> Hold | None:
        place = self.keys.get((ledger, key))
        return None if place is None else self.holds[place]

    def hold(self, ledger: str, number: int) -> Hold | None:
        return self.holds.get((ledger, number))

    def write(self, before: Hold | None, after: Hold | None) -> None:
        hold = cast(Hold, before or after)
        place, key = (hold.ledger, hold.number), (hold.ledger, hold.key)
        if after is None:
            self.holds.pop(place, None)
            self.keys.pop(key, None)
        else:
            self.holds[place] = after
            if hold.key is not None:
                self.keys[key] = place
        if after is None or after.state > CHARGED:
            self._unsettled.pop(place, None)
        else:
            self._unsettled[place] = after

    def unsettled(self, last: int) -> Iterable[Hold]:
        return [hold for hold in self._unsettled.values() if hold.state <= last]

    def disputed(self) -> Iterable[Hold]:
        return [hold for hold in self._unsettled.values() if hold.is_disputed]


class MemoryStore:
    """Ledgers of one process, which are gone when it ends."""

    def __init__(self, clock: Clock = time.monotonic_ns, calendar: Clock = time.time_ns) -> None:
        self.books, self._clock, self._calendar = _MemoryBooks(), clock, calendar
        self._lock, self._process = threading.Lock(), os.getpid()

    def run(self, operation: Callable[[Books, int], T], *, lasting: bool = True) -> T:  # noqa: ARG002
        """Call `operation`, as `Store.run` says."""
        if os.getpid() != self._process:
            raise InputError(
                "this ledger is in the memory of another process: give it a file, which processes share"
            )
        with self._lock:
            self.books.wall = self._calendar()
            return operation(self.books, self._clock())

    def close(self) -> None:
        """Do nothing: there is nothing open."""
