"""Deadlines: a row whose deadline has passed returns the prediction of its latest exit."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush

from exeunt._support.arrays import Integers
from exeunt.engine.answers import Ticket
from exeunt.engine.row_table import RowTable

_FEW = 64


class Deadlines:
    """The deadlines of the open tickets of a table.

    `left`: rows that the last call left, which may have got their first output since their ticket was checked.
    """

    def __init__(self, table: RowTable) -> None:
        self.table = table
        self.left: list[Integers] = []
        # Heaps of (time, ticket number, ticket). `_next`: by deadline. `_no_output`: tickets of which some row had no
        # output when its time came; such a row ends with its first output, or without any at this time.
        self._next: list[tuple[float, int, Ticket]] = []
        self._no_output: list[tuple[float, int, Ticket]] = []
        self._enough = _FEW

    @property
    def has_overdue(self) -> bool:
        """Whether a row had no output at its soft deadline. Such rows do not wait to be batched."""
        return bool(self._no_output) and any(
            end == math.inf and not ticket.done for end, _, ticket in self._no_output
        )

    @property
    def soonest(self) -> float:
        """When rows expire next; inf for never, -inf if some are overdue."""
        if self.has_overdue:
            return -math.inf
        return min((heap[0][0] for heap in (self._next, self._no_output) if heap), default=math.inf)

    def watch(self, ticket: Ticket) -> None:
        """Expire the rows of a ticket in time: before a call that would end after their deadline."""
        heappush(self._next, (ticket.deadline, ticket.number, ticket))
        # Far deadlines must not keep the answers of done tickets in memory.
        if len(self._next) > self._enough:
            self._next = [entry for entry in self._next if not entry[2].done]
            heapify(self._next)
            self._enough = 2 * len(self._next) + _FEW

    def expire(self, now: float, call_s: float) -> None:
        """End rows whose deadline has passed, and rows with an output whose deadline falls within the next call.

        `call_s`: seconds that the next call takes. A row without any output waits for its first one until its deadline,
        and beyond the deadline if that is soft.
        """
        left, self.left = self.left, []
        for rows in left if self._no_output else ():
            self.table.end_early(rows[self.table.expiring(rows, now)], expired=True)
        while self._next and self._next[0][0] <= now + call_s:
            _, number, ticket = heappop(self._next)
            rows = self.table.unfinished(ticket)
            end = math.inf if ticket.soft else ticket.deadline
            if end > now:
                has_output = self.table.has_output(rows)
                if not has_output.all():
                    self.table.set_deadline(rows[~has_output], now)
                    heappush(self._no_output, (end, number, ticket))
                rows = rows[has_output]
            self.table.end_early(rows, expired=True)
        while self._no_output and (self._no_output[0][0] <= now or self._no_output[0][2].done):
            self.table.end_early(self.table.unfinished(heappop(self._no_output)[2]), expired=True)
