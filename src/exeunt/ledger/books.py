"""What a ledger keeps: accounts, and holds on their money. Amounts are whole billionths of the ledger's unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from exeunt.ledger.calendar import CalendarLimit

RESERVED, DISPATCHED, CHARGED, SETTLED = range(4)


class Account(NamedTuple):
    """A ledger as a store keeps it."""

    name: str
    parent: str | None  # the ledger that it is within
    unit: str
    limit: int
    rate: int  # the limit grows by this in `period` nanoseconds; 0 for a total
    period: int
    burst: int
    inputs: int
    cheapest: int = 0  # the most that a promised answer costs
    asked: int = 0  # inputs whose promised answer is there, or is being asked for
    grown: int = 0  # when the limit last grew, and the remainder of that division
    rest: int = 0
    reserved: int = 0
    dispatched: int = 0
    settled: int = 0  # with what is charged
    made: int = 0  # holds so far
    stopped: tuple[str, ...] = ()  # models with a bill above its maximum
    calendar: tuple[CalendarLimit, ...] = ()

    @property
    def used(self) -> int:
        """What is spent or reserved, since the beginning."""
        return self.settled + self.dispatched + self.reserved

    @property
    def left(self) -> int:
        """What is neither spent nor reserved, of all limits. It is negative after a bill above its maximum."""
        left = self.limit - self.used
        if self.calendar:
            left += min(0, *(one.limit - self.limit for one in self.calendar))
        return left

    def kept(self, asking: int = 0) -> int:
        """Return what the promised answers of the inputs to come need once `asking` more are asked."""
        return self.cheapest * max(0, self.inputs - self.asked - asking)

    def room(self, hold: Hold) -> int:
        """Return what this hold may take. A promised answer may take what is kept for promised answers."""
        promised = hold.promised and hold.maximum <= self.cheapest
        return self.left - (0 if promised else self.kept(int(hold.promised)))


class Hold(NamedTuple):
    """Money that is held for one attempt. `promised`: it asks for the promised answer of its input."""

    ledger: str
    number: int
    key: str | None
    model: str
    maximum: int
    promised: bool
    lease: int
    time: int = 0  # when it got its state
    state: int = RESERVED
    cost: int = 0
    made: int = 0  # which hold it is in the outermost ledger: of two, the later one has more

    def alive(self, now: int) -> bool:
        """Return whether its lease has not ended. A jump of the clock by a lease or more, either way, ends it."""
        return abs(now - self.time) < self.lease

    @property
    def is_disputed(self) -> bool:
        """Whether it has a bill above its maximum, of which nobody has decided whether it counts."""
        return self.state == CHARGED and self.cost > self.maximum


class Books(Protocol):
    """What a store holds, in one transaction. `wall`: the time of the calendar, in nanoseconds since 1970."""

    wall: int

    def account(self, name: str) -> Account | None:
        """Return the account of this name."""

    def accounts(self) -> Iterable[Account]:
        """Return all accounts."""

    def put(self, account: Account) -> None:
        """Add an account, or replace it."""

    def find(self, ledger: str, key: str) -> Hold | None:
        """Return the hold with this key."""

    def hold(self, ledger: str, number: int) -> Hold | None:
        """Return the hold with this number."""

    def write(self, before: Hold | None, after: Hold | None) -> None:
        """Replace a hold, add one (nothing before), or remove it (nothing after)."""

    def unsettled(self, last: int) -> Iterable[Hold]:
        """Return the holds of all ledgers whose state is RESERVED to `last`, at most CHARGED."""

    def disputed(self) -> Iterable[Hold]:
        """Return the holds of all ledgers with a disputed bill."""


def shown(amount: int, unit: str) -> str:
    """Write an amount in full.

    >>> shown(12_000, "usd")
    '0.000012 usd'
    """
    units, part = divmod(abs(amount), 10**9)
    number = f"{units}.{part:09}".rstrip("0").rstrip(".")
    return f"{'-' if amount < 0 else ''}{number} {unit}"
