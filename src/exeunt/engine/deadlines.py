"""Deadlines: rows whose time has come are answered by what the exits so far have said of them."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from exeunt._arrays import Integers

if TYPE_CHECKING:
    from exeunt.engine.row_table import RowTable
    from exeunt.engine.tickets import Ticket

__all__ = ["Deadlines"]

_FEW = 64


class Deadlines:
    """The deadlines of the open tickets of a table.

    `left`: rows that the last call left, who may have been told something after a look at their ticket.
    """

    def __init__(self, table: RowTable) -> None:
        self.table = table
        self.left: list[Integers] = []
        # Heaps of deadlines, the tickets' numbers, and them. `_hoping`: to be cut short once they are told something;
        # the time is when nothing more is hoped for.
        self._next: list[tuple[float, int, Ticket]] = []
        self._hoping: list[tuple[float, int, Ticket]] = []
        self._enough = _FEW

    @property
    def pressing(self) -> bool:
        """Whether a row was told nothing by its soft deadline, and so cannot wait for company."""
        return any(end == math.inf and not ticket.done for end, _, ticket in self._hoping)

    @property
    def soonest(self) -> float:
        """When rows expire next; inf for never, -inf where some are overdue."""
        if self.pressing:
            return -math.inf
        return min((heap[0][0] for heap in (self._next, self._hoping) if heap), default=math.inf)

    def watch(self, ticket: Ticket) -> None:
        """Expire the rows of a ticket in time: before a call after which it would be too late."""
        heappush(self._next, (ticket.deadline, ticket.number, ticket))
        if len(self._next) > self._enough:  # most may be done: far deadlines must not keep their answers
            self._next = [entry for entry in self._next if not entry[2].done]
            heapify(self._next)
            self._enough = 2 * len(self._next) + _FEW

    def expire(self, now: float, call_s: float) -> None:
        """End rows whose deadline has come, or of which something was said and it will come during the next call.

        `call_s`: seconds that this takes. A row of which nothing was said may hope until its deadline, and beyond
        it if it is soft.
        """
        left, self.left = self.left, []
        for rows in left if self._hoping else ():
            self.table.cut_short(rows[self.table.ends_by(rows, now)], expired=True)
        while self._next and self._next[0][0] <= now + call_s:
            _, number, ticket = heappop(self._next)
            rows = self.table.undecided(ticket)
            end = math.inf if ticket.soft else ticket.deadline
            if end > now:
                said = self.table.said(rows)
                if not said.all():
                    self.table.set_deadline(rows[~said], now)
                    heappush(self._hoping, (end, number, ticket))
                rows = rows[said]
            self.table.cut_short(rows, expired=True)
        while self._hoping and (self._hoping[0][0] <= now or self._hoping[0][2].done):
            self.table.cut_short(self.table.undecided(heappop(self._hoping)[2]), expired=True)
