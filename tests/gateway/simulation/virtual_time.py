"""Time that passes only when everybody waits: weeks of a gateway in seconds, always the same."""

from __future__ import annotations

import asyncio
import random
import secrets
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import rich.style  # noqa: F401 - draws a number at random when it is imported

from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.store import MemoryStore

T = TypeVar("T")

BEGIN = 1_800_057_600.0
"""When worlds begin, in seconds since 1970: midnight in UTC."""
_BOOTED = 1_000.0


class VirtualClock:
    """The time of a world. `passed`: seconds since it began."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> float:
        """Return the seconds since 1970."""
        return BEGIN + self.passed

    def monotonic(self) -> float:
        """Return the seconds since the machine was started."""
        return _BOOTED + self.passed


class _NothingToRead(selectors.SelectSelector):
    """A selector whose files never have anything to read: where the loop would wait, the time passes at once."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for what never happens")
        self._clock.passed += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, whose threads are calls."""

    def __init__(self, clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__(_NothingToRead(clock))
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Return the time of timers."""
        return self._virtual.monotonic()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Call it now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


async def _inline(func: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    return func(*args, **options)


class _Numbers:
    """What is random in an operating system, of a seed."""

    def __init__(self, seed: int) -> None:
        self._drawn = random.Random(f"numbers {seed}")

    def token_bytes(self, n: int = 32) -> bytes:
        return self._drawn.randbytes(n)

    def token_urlsafe(self, n: int = 32) -> str:
        return self._drawn.randbytes(n).hex()


@contextmanager
def virtual_time(seed: int) -> Iterator[VirtualClock]:
    """Let all clocks tell virtual time, threads be calls, and what is random follow a seed; after it all is as before.

    Defaults of arguments were bound when their modules were imported, so those are replaced, too.
    """
    clock, numbers, before = VirtualClock(), _Numbers(seed), random.getstate()
    in_ns = lambda: int(clock.monotonic() * 1e9)  # noqa: E731
    wall_in_ns = lambda: int(clock.now() * 1e9)  # noqa: E731
    whole = {
        (time, "time"): clock.now,
        (time, "time_ns"): wall_in_ns,
        (time, "monotonic"): clock.monotonic,
        (time, "monotonic_ns"): in_ns,
        (time, "sleep"): _no_sleep,
        (asyncio, "to_thread"): _inline,
        (secrets, "token_bytes"): numbers.token_bytes,
        (secrets, "token_urlsafe"): numbers.token_urlsafe,
        (SQLiteStore.__init__, "__defaults__"): ("normal", in_ns, wall_in_ns),
        (MemoryStore.__init__, "__defaults__"): (in_ns, wall_in_ns),
    }  # fmt: skip
    patches = [patch.object(of, name, new) for (of, name), new in whole.items()]
    try:
        for one in patches:
            one.start()
        random.seed(seed)
        yield clock
    finally:
        for one in reversed(patches):
            one.stop()
        random.setstate(before)


def _no_sleep(seconds: float) -> None:
    raise RuntimeError(f"a thread sleeps for {seconds:g} s, in which no time passes")


def run(clock: VirtualClock, work: Coroutine[Any, Any, T]) -> T:
    """Run work to its end in virtual time."""
    loop = VirtualLoop(clock)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
