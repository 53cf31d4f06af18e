"""Threads that read what requests hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from exeunt.serve.input_reading import InputReader

__all__ = ["Decoders"]

T = TypeVar("T")


class Decoders:
    """So many threads. What waits for one is let go if its client leaves: others would fill the memory with it."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="exeunt-decode")
        self._free = asyncio.Semaphore(2 * threads)  # so that none waits for the event loop to give it more

    async def __call__(self, read: Callable[[InputReader], T], reader: InputReader) -> T:
        """Return what `read` returns, called in a thread. Raises what it raises."""
        await self._free.acquire()
        work = asyncio.get_running_loop().run_in_executor(self._pool, read, reader)
        work.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(work)  # a thread cannot be broken off

    def close(self) -> None:
        """End the threads once they have read what they read."""
        self._pool.shutdown(cancel_futures=True)
