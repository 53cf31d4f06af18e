"""Where a stream's batches come from: the iterable itself, or a thread that reads it ahead."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["END", "NOTHING", "Direct", "ReadAhead", "Source"]

END: Final = object()
"""There are no more batches."""
NOTHING: Final = object()
"""No batch came in time."""


class Source(Protocol):
    """Gives the next batch, END, or NOTHING if none came within `wait_s` seconds (None: wait for ever)."""

    def next(self, wait_s: float | None) -> Any:
        """Return the next batch; raises what the iterable raises."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


class Direct:
    """Asks the iterable when a batch is wanted, and waits as long as it takes."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._iterator = iter(batches)

    def next(self, wait_s: float | None) -> Any:  # noqa: ARG002 - nothing else could be done meanwhile
        """Return the next batch or END."""
        return next(self._iterator, END)

    def close(self) -> None:
        """Nothing is held."""


class ReadAhead:
    """A thread reads the iterable, at most two batches ahead, so that waiting for one can end.

    A thread that the iterable blocks for ever cannot be ended; it does not keep the process alive.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._read: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(batches,), name="exeunt-read-ahead", daemon=True
        )
        self._thread.start()

    def next(self, wait_s: float | None) -> Any:
        """Return the next batch, END or NOTHING."""
        try:
            batch, error = self._read.get(timeout=wait_s)
        except queue.Empty:
            return NOTHING
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        """Let the thread end: it hands over at most one more batch, for which room is made."""
        self._closed.set()
        while not self._read.empty():
            self._read.get_nowait()

    def _run(self, batches: Iterable[Any]) -> None:
        try:
            for batch in batches:
                self._read.put((batch, None))
                if self._closed.is_set():
                    return
        except BaseException as error:  # raised again where the batches are asked for
            self._read.put((None, error))
        else:
            self._read.put((END, None))
