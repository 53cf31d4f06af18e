"""Streams of batches: reading them, in a thread if rows may wait only so long, and answering them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from exeunt.engine.stream import StreamPool

if TYPE_CHECKING:
    from exeunt.engine.answers import Answers
    from exeunt.engine.engine import Engine

END: Final = object()
"""There are no more batches."""
NOTHING: Final = object()
"""No batch arrived in time."""


class ReadAheadReader:
    """Reads the iterable in a thread, at most two batches ahead, so that waiting for a batch can end.

    A thread that the iterable blocks for good cannot be stopped, but does not keep the process from ending.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._read: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(batches,), name="exeunt-read-ahead", daemon=True
        )
        self._thread.start()

    def next(self, wait_s: float | None) -> Any:
        """Return the next batch, END, or NOTHING if none arrives within `wait_s` seconds (None: no limit).

        Raises what the iterable raises.
        """
        try:
            batch, error = self._read.get(timeout=wait_s)
        except queue.Empty:
            return NOTHING
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        """Let the thread end: it may put one more batch into the queue, so the queue is emptied."""
        self._closed.set()
        while not self._read.empty():
            self._read.get_nowait()

    def _run(self, batches: Iterable[Any]) -> None:
        try:
            for batch in batches:
                self._read.put((batch, None))
                if self._closed.is_set():
                    return
        except BaseException as error:  # raised by `next`
            self._read.put((None, error))
        else:
            self._read.put((END, None))


def answer_stream(
    engine: Engine,
    batches: Iterable[Any],
    max_rows: int,
    *,
    ordered: bool = True,
    skip: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Answers]:
    """Yield the answers of every batch, of which at most `max_rows` rows are held (see `Runner.stream`)."""
    direct = iter(batches)
    ahead = None if engine.max_wait_s is None else ReadAheadReader(batches)
    pool = StreamPool(engine, max_rows, ordered=ordered)
    broken: Exception | None = None
    try:
        while broken is None:
            try:
                batch = next(direct, END) if ahead is None else ahead.next(engine.seconds_left(clock()))
            except Exception as error:  # raised after the answers so far
                broken = error
                break
            if batch is END:
                break
            if batch is not NOTHING:
                pool.take_in(batch, clock())
            pool.work(clock())
            yield from pool.give_out(skip=skip)
            broken = None if skip else pool.failure
        pool.finish()
        yield from pool.give_out(skip=skip)
        broken = broken or (None if skip else pool.failure)
        if broken is not None:
            raise broken
    finally:
        if ahead is not None:
            ahead.close()
