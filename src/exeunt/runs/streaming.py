"""Streams of batches: reading them, in a thread if rows may wait only so long, and answering them.

Rows wait to be batched, within limits on rows and time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import ArrayLike

from exeunt.engine.answers import Answers, Ticket
from exeunt.engine.engine import Engine, Submission
from exeunt.engine.inputs import n_rows
from exeunt.errors import BatchFailed

_LAG = 8  # how far a batch may fall behind others that were yielded, in times the rows that are held
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
        pool.submit(clock())
        pool.collect(engine.drain())
        yield from pool.give_out(skip=skip)
        broken = broken or (None if skip else pool.failure)
        if broken is not None:
            raise broken
    finally:
        if ahead is not None:
            ahead.close()


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of a stream with keys: `inputs` as a runner takes them, and `id` (n,), which breaks ties."""

    inputs: Any
    id: ArrayLike | None = None


class StreamPool:
    """The batches of a stream that were taken in and not given out. `failure`: of the first that failed."""

    def __init__(self, engine: Engine, max_rows: int, *, ordered: bool) -> None:
        self.engine, self.max_rows, self.ordered = engine, max_rows, ordered
        self.failure: BatchFailed | None = None
        self._gathered: list[Submission] = []  # small batches that are submitted together
        self._waiting, self._enough = 0, engine.scheduler.min_batch[0]  # rows of these
        self._open: deque[Ticket] = deque()  # in order of arrival; done ones leave at the front
        self._done: list[Ticket] = []  # to be given out next
        self._held = 0  # rows that cannot be given out yet

    def take_in(self, batch: Any, now: float) -> None:
        """Take in a batch: inputs, or a Batch of them with keys. Small ones wait until they are worth a call."""
        submission = Submission(batch.inputs, batch.id) if isinstance(batch, Batch) else Submission(batch)
        self._gathered.append(submission)
        self._waiting += n_rows(submission.inputs)
        many = max(self._waiting, len(self._gathered)) >= self._enough  # batches may have no rows
        many = many or self._held + self._waiting > self.max_rows
        if many or self.engine.max_wait_s is not None:
            self.submit(now)

    def submit(self, now: float) -> None:
        """Submit what was taken in: small batches together, unless one cannot be joined to the others."""
        submissions, self._gathered, self._waiting = self._gathered, [], 0
        if len(submissions) > 1:
            with suppress(Exception):
                self._add(self.engine.submit_together(submissions, now))
                return
        self._add([self._ticket(submission, now) for submission in submissions])

    def _ticket(self, submission: Submission, now: float) -> Ticket:
        try:
            return self.engine.submit(submission.inputs, now, id=submission.id)
        except Exception as error:  # a batch that cannot be submitted costs no other its answers
            return self.engine.refuse(n_rows(submission.inputs), error)

    def _add(self, tickets: list[Ticket]) -> None:
        self._open.extend(tickets)
        self._held += sum(ticket.n for ticket in tickets)

    def work(self, now: float) -> None:
        """Run full batches, rows that have waited too long, and the oldest rows while too many are held."""
        if self._gathered and self.engine.max_wait_s is None:
            return  # nothing has changed
        while self.engine.ready(now):
            self.collect(self.engine.step(now))
        self.collect(self.engine.step(now))
        while self._held > self.max_rows or self._span > _LAG * self.max_rows:
            self.collect(self.engine.step(now, flush=self._open[0]))

    def give_out(self, *, skip: bool) -> Iterator[Answers]:
        """Yield the answers of batches that are done, in order if that is asked for. `skip`: also of failed ones."""
        done, self._done = self._done, []
        for ticket in done:
            if skip or ticket.error is None:
                yield ticket.answers

    def collect(self, done: list[Ticket]) -> None:
        """Take in what the engine returns."""
        for ticket in done:
            if ticket.error is not None and self.failure is None:
                self.failure = BatchFailed(
                    f"batch {ticket.number} of the stream failed: {ticket.error}", batch=ticket.number
                )
                self.failure.__cause__ = ticket.error
        front = []
        while self._open and self._open[0].done:
            front.append(self._open.popleft())
        ready = front if self.ordered else done
        self._done += ready
        self._held -= sum(ticket.n for ticket in ready)

    @property
    def _span(self) -> int:
        """Rows from the oldest unfinished one to the newest: the engine's table must hold them all."""
        return self._open[-1].base + self._open[-1].n - self._open[0].base if self._open else 0
