"""Threads of their own for what may take long, so that money never waits behind a grader."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
D = TypeVar("D", str, bytes)

_LARGE = 1 << 18
"""Bytes, or characters, that take longer to read than a thread takes to begin."""


class Threads:
    """So many threads at most, for calls of one kind. `under_way`: calls that are waited for."""

    def __init__(self, name: str, n: int) -> None:
        self._executor = ThreadPoolExecutor(n, thread_name_prefix=name)
        self.under_way = 0

    async def run(self, function: Callable[..., T], /, *arguments: Any, **options: Any) -> T:
        """Call a function in one of the threads, as `asyncio.to_thread` does."""
        call = partial(contextvars.copy_context().run, function, *arguments, **options)
        self.under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        finally:
            self.under_way -= 1

    def begin(self, function: Callable[[], object]) -> None:
        """Call a function in one of the threads, without waiting for it; it is called even if the event loop ends."""
        self._executor.submit(function)


PAYING, GRADING = Threads("money", 32), Threads("grader", 8)
"""Calls of ledgers, and of graders that are functions. A store keeps as many calls in one transaction as there are
threads. Files are read and written in the event loop's own threads.
"""


async def read_beside(read: Callable[[D], T], data: D) -> T:
    """Return `read(data)`, called in a thread if there is much of it: others are answered meanwhile."""
    return read(data) if len(data) < _LARGE else await asyncio.to_thread(read, data)
