"""The batches of a stream in flight: before each segment rows wait for others, up to limits on rows and time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exeunt.errors import BatchFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from exeunt.engine.answers import Answers
    from exeunt.engine.engine import Engine
    from exeunt.engine.tickets import Ticket

__all__ = ["Batch", "StreamPool"]


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
        self._open: deque[Ticket] = deque()  # not given out, in the order in which they came
        self._done: list[Ticket] = []  # of these, in the order in which they were done

    def take_in(self, batch: Any, now: float) -> None:
        """Let a batch in: inputs, or a Batch of them with their keys."""
        given = batch if isinstance(batch, Batch) else Batch(batch)
        try:
            ticket = self.engine.submit(given.inputs, now, id=given.id)
        except Exception as error:  # a batch that cannot be taken in costs no other its answers
            ticket = self.engine.refuse(_rows(given.inputs), error, now)
        self._open.append(ticket)

    def work(self, now: float) -> None:
        """Run what has company enough, what waited too long, and what is too much to hold."""
        while self.engine.ready(now):
            self._collect(self.engine.step(now))
        self._collect(self.engine.step(now))
        while self._held() > self.max_rows:
            oldest = next(ticket for ticket in self._open if not ticket.done)
            self._collect(self.engine.step(now, hurry=oldest))

    def finish(self) -> None:
        """Run everything to its answers."""
        self._collect(self.engine.drain())

    def give_out(self, *, skip: bool) -> Iterator[Answers]:
        """Yield the answers of batches that are done, in order if that is asked for."""
        done = self._in_order() if self.ordered else self._done
        self._done = []
        for ticket in done:
            if not self.ordered:
                self._open.remove(ticket)
            if skip or ticket.error is None:
                yield ticket.answers

    def _in_order(self) -> list[Ticket]:
        done = []
        while self._open and self._open[0].done:
            done.append(self._open.popleft())
        return done

    def _collect(self, done: list[Ticket]) -> None:
        self._done += done
        for ticket in done:
            if ticket.error is not None and self.failure is None:
                self.failure = BatchFailed(
                    f"batch {ticket.number} of the stream failed: {ticket.error}", batch=ticket.number
                )
                self.failure.__cause__ = ticket.error

    def _held(self) -> int:
        """Return how many rows cannot be given out yet."""
        behind = itertools.dropwhile(lambda ticket: ticket.done, self._open)
        return sum(ticket.n for ticket in behind if self.ordered or not ticket.done)


def _rows(inputs: Any) -> int:
    """Return how many rows inputs have that could not be taken in, or 0 if they do not say."""
    first = inputs
    if isinstance(inputs, Mapping):
        first = next(iter(inputs.values()), ())
    elif isinstance(inputs, (tuple, list)):
        first = next(iter(inputs), ())
    try:
        return len(first)
    except TypeError:
        return 0
