"""Where requests are read: small ones in the event loop, others in threads, and what may take long in processes.

A request with little to read is read where it came in: it would take longer to hand it to a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from typing import Any, TypeVar

from exeunt._support.limits import return_large_blocks
from exeunt.serve.image_decoding import MayTakeLong
from exeunt.serve.input_reader import PROCESS_BYTES, InputReader
from exeunt.serve.limited_processes import LimitedProcesses

T = TypeVar("T")

_FEW_BYTES = 1 << 16
"""The largest body of a request that is read in the event loop."""


class Decoding:
    """Reads requests: small ones at once, others in threads, and those whose images may take long in processes, which
    as many other threads wait for.

    A request that waits for a thread is dropped if its client disconnects: such requests would fill the memory.
    """

    def __init__(self, threads: int) -> None:
        self._lanes = [_Lane(threads, name) for name in ("exeunt-decode", "exeunt-decode-slowly")]
        self._processes = LimitedProcesses(PROCESS_BYTES)
        return_large_blocks()

    async def __call__(self, read: Callable[[InputReader], T], reader: InputReader, size: int) -> T:
        """Return what `read` returns. Raises what it raises. `size`: bytes of the request's body."""
        if size <= _FEW_BYTES:
            with suppress(MayTakeLong):
                return read(reader.for_little)
        cancellable = copy(reader)
        cancellable.left = threading.Event()
        quick, slow = self._lanes
        try:
            try:
                return await quick(read, cancellable)
            except MayTakeLong:
                cancellable.processes = self._processes
                return await slow(read, cancellable)
        finally:
            cancellable.left.set()  # a thread cannot be broken off

    def close(self) -> None:
        """End the processes, and the threads once they have read their current image."""
        self._processes.close()
        for lane in self._lanes:
            lane.pool.shutdown(cancel_futures=True)


class _Lane:
    def __init__(self, threads: int, name: str) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.free = asyncio.Semaphore(2 * threads)  # two each, so that no thread waits for the event loop

    async def __call__(self, read: Callable[[InputReader], T], reader: InputReader) -> T:
        await self.free.acquire()
        work = asyncio.get_running_loop().run_in_executor(self.pool, read, reader)
        work.add_done_callback(self._ended)
        return await asyncio.shield(work)

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self.free.release()
        if not work.cancelled():
            work.exception()  # else it is logged if its client has left
