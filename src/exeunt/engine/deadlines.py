"""Deadlines: rows whose time has come are answered by what the exits so far have said of them."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exeunt._arrays import Integers
    from exeunt.engine.row_table import RowTable
    from exeunt.engine.tickets import Ticket

__all__ = ["Deadlines"]

_FEW = 64


class Deadlines:
    """The deadlines of the open tickets of a table. `longest_call`: seconds that a call of the network may take.

    `left`: rows that the last call left, who may have been told something after a look at their ticket.
    """

    def __init__(self, table: RowTable, *, longest_call: float) -> None:
        self.table, self.longest_call = table, longest_call
        self.left: list[Integers] = []
        self._next: list[tuple[float, int, Ticket]] = []  # when to look at a ticket, its number, and it
        self._enough = _FEW

    @property
    def soonest(self) -> float:
        """When to expire rows next; inf for never."""
        return self._next[0][0] if self._next else math.inf

    def watch(self, ticket: Ticket) -> None:
        """Expire the rows of a ticket in time: before a call after which it would be too late."""
        heappush(self._next, (ticket.deadline - self.longest_call, ticket.number, ticket))
        if len(self._next) > self._enough:  # most may be done: far deadlines must not keep their answers
            self._next = [entry for entry in self._next if not entry[2].done]
            heapify(self._next)
            self._enough = 2 * len(self._next) + _FEW

    def expire(self, now: float) -> None:
        """End rows whose deadline has come, or of which something was said and it will come during the longest call.

        A row of which nothing was said may hope until its deadline.
        """
        left, self.left = self.left, []
        for rows in left if self._next else ():
            self.table.cut_short(rows[self.table.ends_by(rows, now + self.longest_call)], expired=True)
        while self.soonest <= now:
            _, number, ticket = heappop(self._next)
            rows = self.table.undecided(ticket)
            if ticket.deadline > now:
                said = self.table.said(rows)
                if not said.all():
                    heappush(self._next, (ticket.deadline, number, ticket))
                rows = rows[said]
            self.table.cut_short(rows, expired=True)
