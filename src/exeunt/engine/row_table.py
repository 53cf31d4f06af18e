"""The table of rows in flight: what was said of each so far, and the tickets that collect it.

A row's number is its place among all rows that ever came. Its entry lies at that number modulo the table's size, which
doubles where the rows between the oldest open ticket and the newest do not fit. All rows of a call are entered at once,
whatever tickets they are of, and the cost of that does not depend on how many tickets are open.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Booleans, Floats, Integers
from exeunt.engine.tickets import ENTRY, Ticket
from exeunt.errors import ExeuntError

__all__ = ["RowTable"]

_RAW = f"V{ENTRY.itemsize}"  # NumPy copies plain bytes ten times as fast as fields
_NOTHING_SAID = np.array([(-1, np.nan, -1, 0.0, False, False, False, False, -1)], dtype=ENTRY).view(_RAW)
_DECIDED = -1


class RowTable:
    """The rows of open tickets. `policies`: names by the place that entries hold, only ever appended to."""

    def __init__(self, size: int = 256) -> None:
        self.policies: tuple[str, ...] = ()
        self.rows = 0
        """Rows without an answer."""
        self.stale = 0
        """Rows that need not be run any more, but wait among the others."""
        self.done: list[Ticket] = []
        self._tickets: deque[Ticket] = (
            deque()
        )  # in the order in which they came; done ones leave at the front
        self._open: dict[int, Ticket] = {}  # by base
        self._next_row = self._next_number = 0
        self._probabilities: Floats | None = None
        self._allocate(size)

    def place_of(self, policy: str) -> int:
        """Return the place of a policy's name, a new one if it has none."""
        if policy not in self.policies:
            self.policies = (*self.policies, policy)
        return self.policies.index(policy)

    def _allocate(self, size: int) -> None:
        self._mask = size - 1
        self._entries = np.repeat(_NOTHING_SAID, size)
        said = self._entries.view(ENTRY)
        self._undecided = np.full(size, _DECIDED)  # the row's number while it has no answer
        self._base = np.zeros(size, dtype=np.int64)
        self._due, self._deadline = np.full(size, np.inf), np.full(size, np.inf)
        self._label, self._confidence, self._exit, self._cost, self._policy = (
            said[name] for name in ("label", "confidence", "exit", "cost", "policy")
        )
        self._valid, self._borderline, self._expired, self._degraded = (
            said[name] for name in ("valid", "borderline", "expired", "degraded")
        )

    # -- tickets ----------------------------------------------------------------------------------------

    def admit(self, n: int, now: float, deadline: float = math.inf, due: float = math.inf) -> Ticket:
        """Open a ticket of n rows. `due`: the time by which they should be done."""
        size, base = self._room(n)
        if size > self._mask + 1:
            self._grow(size)
        ticket = Ticket(self._next_number, base, n, now, deadline, n)
        self._next_row, self._next_number = base + n, self._next_number + 1
        if n == 0:
            self._close(ticket)
            return ticket
        at = base & self._mask
        place: Any = at if n == 1 else slice(at, at + n)
        self._entries[place] = _NOTHING_SAID
        self._undecided[place] = base if n == 1 else np.arange(base, base + n)
        self._base[place] = base
        self._due[place], self._deadline[place] = due, deadline
        self.rows += n
        self._tickets.append(ticket)
        self._open[base] = ticket
        return ticket

    def refuse(self, n: int, error: Exception, now: float) -> Ticket:
        """Return the ticket of n rows that could not be taken in."""
        ticket = self.admit(n, now)
        self.fail(ticket, error)
        self.stale -= n  # these wait nowhere
        return ticket

    def _room(self, n: int) -> tuple[int, int]:
        """Return the size at which n rows more have room, side by side, and the number of the first."""
        size = self._mask + 1
        while True:
            base = self._next_row
            if (base & (size - 1)) + n > size:
                base = (base | (size - 1)) + 1
            if base + n - (self._tickets[0].base if self._tickets else base) <= size:
                return size, base
            size *= 2

    def _grow(self, size: int) -> None:
        mask = self._mask
        old = self._columns()
        kept = self._probabilities
        self._allocate(size)
        if kept is not None:
            self._probabilities = np.full((size, kept.shape[1]), np.nan)
        for ticket in self._tickets:
            was, at = ticket.base & mask, ticket.base & self._mask
            for before, after in zip(old, self._columns(), strict=True):
                after[at : at + ticket.n] = before[was : was + ticket.n]
            if kept is not None and self._probabilities is not None:
                self._probabilities[at : at + ticket.n] = kept[was : was + ticket.n]

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self._entries, self._undecided, self._base, self._due, self._deadline

    def _close(self, ticket: Ticket) -> None:
        at = ticket.base & self._mask
        ticket._policies = self.policies
        ticket._entries = self._entries[at : at + ticket.n].copy()
        if self._probabilities is not None:
            ticket._probabilities = self._probabilities[at : at + ticket.n].copy()
        self._open.pop(ticket.base, None)
        self.done.append(ticket)
        while self._tickets and self._tickets[0].done:
            self._tickets.popleft()

    # -- what is said -----------------------------------------------------------------------------------

    def say(
        self,
        rows: Integers,
        label: Integers,
        confidence: Floats,
        exit_: int,
        cost: float,
        policy: int,
        probabilities: Floats | None = None,
    ) -> None:
        """Enter what an exit says of rows, what was spent on each and under which policy. `probabilities`: of every
        class, if they are to be kept.
        """
        at = rows & self._mask
        self._label[at], self._confidence[at], self._exit[at] = label, confidence, exit_
        self._cost[at], self._policy[at] = cost, policy
        if probabilities is not None:
            if self._probabilities is None:
                self._probabilities = np.full((self._mask + 1, probabilities.shape[1]), np.nan)
            self._probabilities[at] = probabilities

    def spend(self, rows: Integers, cost: float, policy: int) -> None:
        """Enter what was spent on each of these rows, and under which policy."""
        at = rows & self._mask
        self._cost[at], self._policy[at] = cost, policy

    def note_borderline(self, rows: Integers) -> None:
        """Enter that these rows came close to a threshold."""
        self._borderline[rows & self._mask] = True

    def settle(self, rows: Integers, *, valid: bool) -> None:
        """Enter that what was said of these rows is their answer, or that they have none."""
        at = rows & self._mask
        self._valid[at] = valid
        self._undecided[at] = _DECIDED
        self.rows -= len(rows)
        if len(self._open) == 1:
            (ticket,) = self._open.values()
            self._count(ticket, len(rows))
            return
        for base, count in Counter(self._base[at].tolist()).items():
            self._count(self._open[base], count)

    def _count(self, ticket: Ticket, count: int) -> None:
        ticket.left -= count
        if ticket.left == 0:
            self._close(ticket)

    def reject(self, rows: Integers, cost: float, policy: int) -> None:
        """Enter that these rows have no answer, after so much was spent on each."""
        at = rows & self._mask
        self._entries[at] = _NOTHING_SAID
        self._cost[at], self._policy[at] = cost, policy
        self.settle(rows, valid=False)

    # -- what ends otherwise ----------------------------------------------------------------------------

    def undecided(self, ticket: Ticket) -> Integers:
        """Return the rows of a ticket that have no answer, ascending."""
        at = ticket.base & self._mask
        waiting = self._undecided[at : at + ticket.n]
        return waiting[waiting != _DECIDED] if not ticket.done else waiting[:0]

    def said(self, rows: Integers) -> Booleans:
        """Return of which of these rows some exit has said something."""
        spoken: Booleans = self._exit[rows & self._mask] >= 0
        return spoken

    def cut_short(self, rows: Integers, *, expired: bool) -> None:
        """Let what the exits so far said of these rows be their answer; those without one have none.

        `expired`: because of their deadline, else to make room.
        """
        if len(rows) == 0:
            return
        (self._expired if expired else self._degraded)[rows & self._mask] = True
        said = self.said(rows)
        self.stale += len(rows)
        for which, valid in ((said, True), (~said, False)):
            if which.any():
                self.settle(rows[which], valid=valid)

    def fail(self, ticket: Ticket, error: Exception) -> None:
        """Give a ticket up. What was spent on rows that had answered stays entered, their answers do not."""
        if ticket.error is not None:
            return
        ticket.error = error
        at = ticket.base & self._mask
        place = slice(at, at + ticket.n)
        answered = self._undecided[place] == _DECIDED
        cost = np.where(answered, self._cost[place], 0.0)
        self._entries[place] = _NOTHING_SAID
        self._cost[place] = cost
        if self._probabilities is not None:
            self._probabilities[place] = np.nan
        self.drop(ticket)

    def lose(self, rows: Integers, error: BaseException) -> None:
        """Give the tickets of rows up that were taken out of what waits and have no answer yet."""
        lost = rows[self._undecided[rows & self._mask] == rows]
        cause = error if isinstance(error, Exception) else ExeuntError(f"a call was broken off: {error!r}")
        for ticket in self.tickets_of(lost):
            self.fail(ticket, cause)

    def drop(self, ticket: Ticket) -> None:
        """Let the rows of a ticket that have no answer go without one."""
        if len(rows := self.undecided(ticket)):
            self.stale += len(rows)
            self.settle(rows, valid=False)

    # -- what is asked ----------------------------------------------------------------------------------

    def still_waiting(self, rows: Integers) -> Booleans:
        """Return which of these rows, taken out of what waits, have no answer yet."""
        waiting: Booleans = self._undecided[rows & self._mask] == rows
        self.stale -= len(rows) - int(np.count_nonzero(waiting))
        return waiting

    def due(self, rows: Integers) -> float:
        """Return the earliest time by which one of these rows should be done."""
        return float(self._due[rows & self._mask].min())

    def set_deadline(self, rows: Integers, deadline: float) -> None:
        """Enter another deadline of these rows."""
        self._deadline[rows & self._mask] = deadline

    def ends_by(self, rows: Integers, time: float) -> Booleans:
        """Return which of these rows have no answer yet, but were told something, and have a deadline up to a time."""
        at = rows & self._mask
        ends: Booleans = (self._undecided[at] == rows) & (self._exit[at] >= 0) & (self._deadline[at] <= time)
        return ends

    def can_do_without(self, rows: Integers) -> bool:
        """Return whether each of these rows was told something, which is its answer if its deadline comes first."""
        at = rows & self._mask
        return bool((self._exit[at] >= 0).all() and (self._deadline[at] < math.inf).all())

    def overdue(self, rows: Integers, time: float) -> bool:
        """Return whether one of these rows was told nothing and has a deadline up to a time."""
        at = rows & self._mask
        return bool(((self._exit[at] < 0) & (self._deadline[at] <= time)).any())

    def tickets_of(self, rows: Integers) -> list[Ticket]:
        """Return the open tickets of these rows, in the order in which they came."""
        return [self._open[base] for base in np.unique(self._base[rows & self._mask]).tolist()]

    def all_said(self) -> Integers:
        """Return the rows without an answer of which some exit has said something, the oldest first."""
        rows = self._undecided[(self._undecided != _DECIDED) & (self._exit >= 0)]
        return np.sort(rows)

    def take_done(self) -> list[Ticket]:
        """Return the tickets that are done since this was last asked, but for those that were cancelled."""
        done, self.done = self.done, []
        return [ticket for ticket in done if not ticket.cancelled]
