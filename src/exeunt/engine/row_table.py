"""The table of rows in flight: the latest output for each row, and the tickets that collect the answers.

A row's number is its place among all rows ever submitted. Its entry lies at that number modulo the table's size, which
doubles if the rows between the oldest open ticket and the newest do not fit. All rows of a call are entered at once,
whatever tickets they belong to, and the cost of that does not depend on how many tickets are open.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.engine.answers import ENTRY, Ticket
from exeunt.errors import ExeuntError
from exeunt.score.mask_confidence import NO_CLASS

_RAW = f"V{ENTRY.itemsize}"  # NumPy copies plain bytes ten times as fast as fields
_NO_OUTPUT = np.array(
    [(-1, np.nan, -1, 0.0, False, False, False, False, -1, np.nan, np.nan, np.nan)], dtype=ENTRY
).view(_RAW)
_FINISHED = -1


class RowTable:
    """The rows of open tickets. `policies`: names by their number in the entries, only ever appended to."""

    def __init__(self, size: int = 256) -> None:
        self.policies: tuple[str, ...] = ()
        self.rows = 0
        """Rows without an answer."""
        self.stale = 0
        """Rows that are finished but still in a queue."""
        self.done: list[Ticket] = []
        self._tickets: deque[Ticket] = deque()  # in order of submission; done ones leave at the front
        self._open: dict[int, Ticket] = {}  # by base
        self._next_row = self._next_number = 0
        self._details: NDArray[Any] | None = None
        self._allocate(size)

    def policy_number(self, policy: str) -> int:
        """Return the number of a policy's name, a new one if it has none."""
        if policy not in self.policies:
            self.policies = (*self.policies, policy)
        return self.policies.index(policy)

    def _allocate(self, size: int) -> None:
        self._mask = size - 1
        self._entries = np.repeat(_NO_OUTPUT, size)
        self._unfinished = np.full(size, _FINISHED)  # the row's number while it has no answer
        self._base = np.zeros(size, dtype=np.int64)
        self._due, self._deadline = np.full(size, np.inf), np.full(size, np.inf)
        self._columns = {name: self._entries.view(ENTRY)[name] for name in ENTRY.names or ()}

    # -- tickets ----------------------------------------------------------------------------------------

    def admit(self, n: int, deadline: float = math.inf, due: float = math.inf) -> Ticket:
        """Open a ticket of n rows. `due`: the time by which they should be done."""
        return self.admit_together([n], [deadline], [due])[0]

    def admit_together(
        self, sizes: Sequence[int], deadlines: Sequence[float], dues: Sequence[float]
    ) -> list[Ticket]:
        """Open tickets of so many rows each, side by side: all their rows are entered at once."""
        size, first = self._room(n := sum(sizes))
        if size > self._mask + 1:
            self._grow(size)
        start = first & self._mask
        place = slice(start, start + n)
        self._entries[place] = _NO_OUTPUT
        self._unfinished[place] = np.arange(first, first + n)
        bases = list(accumulate(sizes, initial=first))[:-1]
        for column, values in ((self._base, bases), (self._due, dues), (self._deadline, deadlines)):
            column[place] = values[0] if len(sizes) == 1 else np.repeat(values, sizes)
        self._next_row, self.rows = first + n, self.rows + n
        return [self._opened(*opening) for opening in zip(bases, sizes, deadlines, strict=True)]

    def _opened(self, base: int, n: int, deadline: float) -> Ticket:
        ticket = Ticket(self._next_number, base, n, n, deadline)
        self._next_number += 1
        if n == 0:
            self._close(ticket)
        else:
            self._tickets.append(ticket)
            self._open[base] = ticket
        return ticket

    def _room(self, n: int) -> tuple[int, int]:
        """Return the size at which n more rows fit side by side, and the number of the first."""
        size = self._mask + 1
        while True:
            base = self._next_row
            if (base & (size - 1)) + n > size:
                base = (base | (size - 1)) + 1
            if base + n - (self._tickets[0].base if self._tickets else base) <= size:
                return size, base
            size *= 2

    def _grow(self, size: int) -> None:
        old_mask, old = self._mask, self._arrays()
        if self._details is not None:
            self._details = np.empty_like(self._details, shape=(size, *self._details.shape[1:]))
        self._allocate(size)
        for ticket in self._tickets:
            was, new_start = ticket.base & old_mask, ticket.base & self._mask
            for before, after in zip(old, self._arrays(), strict=True):
                after[new_start : new_start + ticket.n] = before[was : was + ticket.n]

    def _arrays(self) -> list[NDArray[Any]]:
        arrays = [self._entries, self._unfinished, self._base, self._due, self._deadline]
        return arrays if self._details is None else [*arrays, self._details]

    def _close(self, ticket: Ticket) -> None:
        start = ticket.base & self._mask
        ticket._policies = self.policies
        ticket._entries = self._entries[start : start + ticket.n].copy()
        if self._details is not None:
            ticket._details = self._details[start : start + ticket.n].copy()
            without = NO_CLASS if ticket._details.dtype == np.uint8 else np.nan
            ticket._details[~self._columns["valid"][start : start + ticket.n]] = without
        self._open.pop(ticket.base, None)
        self.done.append(ticket)
        while self._tickets and self._tickets[0].done:
            self._tickets.popleft()

    # -- outputs and answers ----------------------------------------------------------------------------

    def record(
        self,
        rows: Integers,
        label: Integers,
        confidence: Floats,
        exit_: int,
        cost: float,
        policy: int,
        details: NDArray[Any] | None = None,
    ) -> None:
        """Enter an exit's output for rows, each row's cost and policy.

        `details`: probabilities (rows, k) or masks (rows, h, w), if they are kept.
        """
        places, column = self._places(rows), self._columns
        column["label"][places], column["confidence"][places], column["exit"][places] = (
            label,
            confidence,
            exit_,
        )
        column["cost"][places], column["policy"][places] = cost, policy
        if details is not None:
            if self._details is None:
                self._details = np.empty_like(details, shape=(self._mask + 1, *details.shape[1:]))
            self._details[places] = details

    def _places(self, rows: Integers) -> Any:
        """Return where the entries of rows lie; for one row a slice, which NumPy enters in a fifth of the time."""
        if len(rows) > 1:
            return rows & self._mask
        place = int(rows[0]) & self._mask
        return slice(place, place + 1)

    def record_score(self, rows: Integers, score: Floats, tie: Floats) -> None:
        """Enter what the watch is told of rows that leave: the score, and what breaks ties between equal ones."""
        places = rows & self._mask
        self._columns["score"][places], self._columns["tie"][places] = score, tie

    def record_first_score(self, rows: Integers, score: Floats) -> None:
        """Enter the score of these rows at the first exit that can answer, for the watch."""
        self._columns["first_score"][rows & self._mask] = score

    def record_cost(self, rows: Integers, cost: float, policy: int) -> None:
        """Enter the cost of each of these rows so far, and their policy."""
        places = rows & self._mask
        self._columns["cost"][places], self._columns["policy"][places] = cost, policy

    def mark_borderline(self, rows: Integers) -> None:
        """Enter that these rows came close to a threshold."""
        self._columns["borderline"][rows & self._mask] = True

    def finish(self, rows: Integers, *, valid: bool) -> None:
        """Make the latest output of these rows their answer, or enter that they have none."""
        places = self._places(rows)
        self._columns["valid"][places] = valid
        self._unfinished[places] = _FINISHED
        self.rows -= len(rows)
        if len(self._open) == 1:
            (ticket,) = self._open.values()
            self._count(ticket, len(rows))
            return
        for base, count in Counter(self._base[places].tolist()).items():
            self._count(self._open[base], count)

    def _count(self, ticket: Ticket, count: int) -> None:
        ticket.left -= count
        if ticket.left == 0:
            self._close(ticket)

    def reject(self, rows: Integers, cost: float, policy: int) -> None:
        """Enter that these rows have no answer, and what was run for each of them."""
        self._entries[rows & self._mask] = _NO_OUTPUT
        self.record_cost(rows, cost, policy)
        self.finish(rows, valid=False)

    # -- rows that end early ----------------------------------------------------------------------------

    def end_early(self, rows: Integers, *, expired: bool) -> None:
        """Answer these rows with the output of their latest exit; rows without any output get no answer.

        `expired`: because of their deadline, else to make room.
        """
        if len(rows) == 0:
            return
        self._columns["expired" if expired else "degraded"][rows & self._mask] = True
        has_output = self.has_output(rows)
        self.stale += len(rows)
        for which, valid in ((has_output, True), (~has_output, False)):
            if which.any():
                self.finish(rows[which], valid=valid)

    def fail(self, ticket: Ticket, error: Exception) -> None:
        """End a ticket with an error. Rows that had answered keep their cost, but not their answer."""
        if ticket.error is not None:
            return
        ticket.error = error
        start = ticket.base & self._mask
        place = slice(start, start + ticket.n)
        cost = np.where(self._unfinished[place] == _FINISHED, self._columns["cost"][place], 0.0)
        self._entries[place] = _NO_OUTPUT
        self._columns["cost"][place] = cost
        self.drop(ticket)

    def fail_tickets_of(self, rows: Integers, error: BaseException) -> None:
        """End the tickets of those of these rows, taken out of the queues, that have no answer yet."""
        lost = rows[self._unfinished[rows & self._mask] == rows]
        cause = error if isinstance(error, Exception) else ExeuntError(f"a call was broken off: {error!r}")
        for ticket in self.tickets_of(lost):
            self.fail(ticket, cause)

    def drop(self, ticket: Ticket) -> None:
        """Finish the rows of a ticket that have no answer without one."""
        if len(rows := self.unfinished(ticket)):
            self.stale += len(rows)
            self.finish(rows, valid=False)

    # -- look-ups ---------------------------------------------------------------------------------------

    def unfinished(self, ticket: Ticket) -> Integers:
        """Return the rows of a ticket that have no answer, ascending."""
        start = ticket.base & self._mask
        rows = self._unfinished[start : start + ticket.n]
        return rows[rows != _FINISHED] if not ticket.done else rows[:0]

    def has_output(self, rows: Integers) -> Booleans:
        """Return which of these rows have an output of some exit."""
        return self._columns["exit"][rows & self._mask] >= 0  # type: ignore[no-any-return]

    def with_output(self) -> Integers:
        """Return all unfinished rows that have an output, the oldest first."""
        return np.sort(self._unfinished[(self._unfinished != _FINISHED) & (self._columns["exit"] >= 0)])

    def still_waiting(self, rows: Integers) -> Booleans:
        """Return which of these rows, taken out of a queue, have no answer yet."""
        waiting: Booleans = self._unfinished[rows & self._mask] == rows
        self.stale -= len(rows) - int(np.count_nonzero(waiting))
        return waiting

    def due(self, rows: Integers) -> float:
        """Return the earliest time by which one of these rows should be done."""
        if len(rows) == 1:
            return float(self._due[int(rows[0]) & self._mask])
        return float(self._due[rows & self._mask].min())

    def set_deadline(self, rows: Integers, deadline: float) -> None:
        """Change the deadline of these rows."""
        self._deadline[rows & self._mask] = deadline

    def expiring(self, rows: Integers, time: float) -> Booleans:
        """Return which of these rows have no answer yet, but an output, and a deadline up to a time."""
        places = rows & self._mask
        return (self._unfinished[places] == rows) & self.has_output(rows) & (self._deadline[places] <= time)  # type: ignore[no-any-return]

    def overdue(self, rows: Integers, time: float) -> bool:
        """Return whether one of these rows has no output and a deadline up to a time."""
        return bool((~self.has_output(rows) & (self._deadline[rows & self._mask] <= time)).any())

    def has_fallback(self, rows: Integers) -> bool:
        """Return whether each of these rows has a deadline, and an output that becomes its answer then."""
        return bool(self.has_output(rows).all() and (self._deadline[rows & self._mask] < math.inf).all())

    def tickets_of(self, rows: Integers) -> list[Ticket]:
        """Return the open tickets of these rows, in order of submission."""
        return [self._open[base] for base in np.unique(self._base[rows & self._mask]).tolist()]

    def take_done(self) -> list[Ticket]:
        """Return the tickets done since the last call, without those that were cancelled."""
        if not self.done:
            return []
        done, self.done = self.done, []
        return [ticket for ticket in done if not ticket.cancelled]
