"""Money for attempts that cost something: never more than a total or a rate, whatever runs, crashes or is repeated."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any, NamedTuple

from exeunt._support.arrays import check_between, short
from exeunt.errors import InputError, ModelStopped
from exeunt.ledger import core
from exeunt.ledger.books import CHARGED, RESERVED, SETTLED, Account, Books, Hold, shown
from exeunt.ledger.calendar import PERIODS
from exeunt.ledger.postgresql_store import PostgreSQLStore
from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.store import MemoryStore, Store
from exeunt.ledger.wanted import MOST, MOST_INPUTS, account_of, billionths, text_of, whole

_log = logging.getLogger("exeunt.ledger")
_LONGEST_S = 1e9  # of an attempt, and of a lease
_STATES = ("reserved", "dispatched", "charged", "settled")


class Ledger:
    """A total, or a rate, that is never exceeded, given that no attempt costs more than its stated maximum.

    ::

        ledger = ex.Ledger(total="5 usd", file="money.db")
        held = ledger.reserve(0.012, model="large", key="input-17/large/1")     # at most; may raise OverBudget
        if held.dispatch():                                                     # else send nothing
            held.settle(send())                                                 # what it has cost

    Every attempt, so every retry, is a reservation of its own. What is reserved and not dispatched comes back when its
    lease ends, `lease_s` seconds after what the attempt may take; what is dispatched counts at its maximum until it is
    settled. A bill above the maximum is logged as an error, and stops its model. It counts at the maximum, and the rest
    is disputed until somebody decides: see `disputed`.

    `total`: such as "5 usd". `rate`: such as "2 usd/hour", with a `burst` (by default what the rate names, here 2 usd):
    in any time t at most burst + rate * t is spent. `day`, `week`, `month`: the most of each by the calendar of a
    `time_zone` such as "Europe/Paris" (by default UTC), beside a total or a rate, or alone; see `limits`. What is
    reserved counts in the period in which it was. `inputs`: how many inputs are promised an answer; see `promise`.
    `within`: a ledger that also holds whatever this one holds. `name`: tells ledgers of one store apart. Opening a
    ledger again with other limits changes them; with none it stays as it is. `inputs` is at most 10^12,
    `lease_s` above 0 and at most 10^9.

    Without a `file` it is kept in memory. With one, threads and processes of one machine share it; `durability`
    "normal" survives the end of any process, "full" also a power failure. `file` may be the address of a PostgreSQL
    database that several machines share, such as "postgresql://user@host/database" (extra `exeunt[postgres]`); what it
    survives is up to the server. `store`: a store of your own.

    `resumed_by`: returns how messages say that a stopped model is let be asked again; ledgers within take it over.
    """

    def __init__(
        self,
        *,
        total: str | None = None,
        rate: str | None = None,
        burst: str | None = None,
        day: str | None = None,
        week: str | None = None,
        month: str | None = None,
        time_zone: str | None = None,
        inputs: int = 0,
        within: Ledger | None = None,
        name: str = "",
        file: str | Path | None = None,
        durability: str = "normal",
        lease_s: float = 60.0,
        store: Store | None = None,
    ) -> None:
        lease = check_between(lease_s, "lease_s", 0.0, _LONGEST_S, inclusive=True)
        if lease == 0:
            raise InputError(f"lease_s is a number of seconds above 0, got {lease_s}")
        name, inputs = text_of(name, "the name of a ledger"), whole(inputs, "inputs", 0)
        if "/" in name or (within is not None and (not name or file is not None or store is not None)):
            raise InputError("a ledger within another has a name without '/', and lies where that one does")
        shared_store = within._store if within else store
        self.name: str = text_of(
            f"{within.name}/{name}" if within else name or "ledger", "the name of a ledger"
        )
        self.resumed_by: Callable[[str], str] = (
            within.resumed_by if within else "call resume({!r}) of the ledger".format
        )
        self._store: Store = shared_store or (MemoryStore() if file is None else _opened(file, durability))
        self._lease = math.ceil(lease * 1e9)
        parent = within.name if within else None
        periods = {"day": day, "week": week, "month": month}
        if any(limit is not None for limit in (total, rate, *periods.values())):
            wanted = account_of(
                self.name,
                parent,
                total=total,
                rate=rate,
                burst=burst,
                inputs=inputs,
                periods=periods,
                time_zone=time_zone,
            )
            self._run(core.open_account, wanted)
        elif time_zone is not None:
            raise InputError("a time zone belongs to limits by day, week or month: give one, too")
        elif burst is not None or inputs:
            raise InputError("a burst belongs to a rate, and inputs to a total: give it too")
        self.unit = self._account().unit

    def reserve(
        self,
        amount: float,
        *,
        model: str = "",
        key: str | None = None,
        promised: bool = False,
        limit_s: float = 0.0,
    ) -> Reservation:
        """Hold the most that an attempt may cost, here and in the ledgers that this one is within, or in none.

        `key`: the same key is the same reservation, also after a restart; without a key, what is settled is not kept.
        It has at most 1,000 bytes, as have `model` and the ledger's name.
        `promised`: the attempt is to give its input the answer that `promise` keeps money for. `limit_s`: how many
        seconds the attempt may take; the lease ends `lease_s` later.

        Raises OverBudget where too little is left, ModelStopped after a bill of this model above its maximum.
        """
        maximum = billionths(amount, ROUND_CEILING)
        model, key = text_of(model, "a model"), None if key is None else text_of(key, "a key")
        lease = self._lease + int(check_between(limit_s, "limit_s", 0.0, _LONGEST_S, inclusive=True) * 1e9)
        hold = Hold(self.name, 0, key, model, maximum, bool(promised), lease)
        try:
            return Reservation(self, self._run(core.reserve, hold, lasting=False))
        except ModelStopped as stopped:
            raise ModelStopped(f"{stopped}. Correct its price, then {self.resumed_by(model)}") from None

    def promise(self, cheapest: float, *, answered: int | None = None) -> None:
        """Keep this much for each of the inputs that are still to come, so that all of them get an answer.

        `answered`: how many inputs have their answer already, up to 10^12, where a job goes on that was killed; fewer
        than none, down to -10^12, keeps money for as many more. Nobody else may use this ledger then.
        An input is to come until an attempt with `promised` is made for it; it is again if that one is released or
        brings no answer. Raises OverBudget if the total does not suffice for all.
        """
        answered = None if answered is None else whole(answered, "answered", -MOST_INPUTS)
        self._run(core.promise, self.name, billionths(cheapest, ROUND_CEILING), answered)

    def reconcile(self, key: str, cost: float) -> None:
        """Correct what a dispatched attempt has cost, such as by the provider's bill, however high that is."""
        cost_, key = billionths(cost, ROUND_CEILING), text_of(key, "a key")

        def correct(books: Books, now: int) -> Hold:
            hold = books.find(self.name, key)
            if hold is None:
                raise InputError(f"the ledger {self.name!r} has no attempt with the key {key!r}")
            return core.settle(books, now, hold, cost_, hold.promised, correct=True)

        self._alarm(self._store.run(correct))

    def unsettled(self) -> list[Reservation]:
        """Return what was dispatched and is not settled, here and in the ledgers within this one."""
        holds = self._store.run(lambda books, _: list(books.unsettled(CHARGED)), lasting=False)
        return self._within(hold for hold in holds if hold.state != RESERVED)

    @property
    def disputed(self) -> list[Reservation]:
        """Attempts with a bill above their maximum, here and in the ledgers within this one: they count at the maximum.

        `Reservation.book` lets such a bill count, `Reservation.settle` without a cost drops what is above the maximum.
        """
        return self._within(self._store.run(lambda books, _: list(books.disputed()), lasting=False))

    def decide(self, bills: Iterable[Reservation], *, book: bool) -> int:
        """Let these disputed bills count (`book`), or none above its maximum. Return how many were decided.

        They are decided together or not at all, except those that somebody else has decided, or billed otherwise, since
        they were read.
        """
        holds = [bill._hold for bill in bills]

        def decide(books: Books, now: int) -> int:
            left = [hold for hold in holds if books.hold(hold.ledger, hold.number) == hold]
            for hold in left:
                core.settle(books, now, hold, hold.cost if book else None, hold.promised, correct=book)
            return len(left)

        return self._store.run(decide)

    def resume(self, model: str) -> None:
        """Let a model be asked again that was stopped, here, in the ledgers that this one is within, and in those
        within this one.
        """
        self._run(core.resume, self.name, text_of(model, "a model"))

    def close(self) -> None:
        """Close the store, for all ledgers in it."""
        self._store.close()

    @property
    def spent(self) -> float:
        """What is settled, and the maxima of what is dispatched and not settled."""
        account = self._account()
        return (account.settled + account.dispatched) / 1e9

    @property
    def reserved(self) -> float:
        """What is held for attempts that are not dispatched yet."""
        return self._account().reserved / 1e9

    @property
    def left(self) -> float:
        """What is neither spent nor reserved, of all limits here; of a rate, what may be spent now. Negative after too
        high a bill.
        """
        return self._account().left / 1e9

    @property
    def limits(self) -> dict[str, Limit]:
        """The total and the limits by the calendar, by "total", "day", "week" and "month". A rate is none of them."""
        account = self._account()
        limits: dict[str, tuple[int, int, float | None]] = {}
        if not account.rate and account.limit < MOST * 10**9:
            limits["total"] = account.limit, account.limit, None
        limits |= {one.period: (one.amount, one.limit, one.ends / 1e9) for one in account.calendar}
        return {
            name: Limit(amount / 1e9, (limit - account.used) / 1e9, ends)
            for name, (amount, limit, ends) in limits.items()
        }

    @property
    def available(self) -> float:
        """The least that is left here and in the ledgers that this one is within."""

        def least(books: Books, now: int) -> int:
            core.age(books, now)
            return min(account.left for account in core.chain(books, now, self.name))

        return self._store.run(least, lasting=False) / 1e9

    @property
    def to_come(self) -> int:
        """How many inputs are promised an answer and have none yet, see `promise`."""
        account = self._account()
        return max(0, account.inputs - account.asked)

    @property
    def stopped(self) -> tuple[str, ...]:
        """Models that billed more than their stated maximum."""
        return self._account().stopped

    def __repr__(self) -> str:
        account = self._account()
        sums = (account.settled + account.dispatched, account.reserved, account.left)
        return "<Ledger {!r}: {} spent, {} reserved, {} left>".format(
            self.name, *(shown(amount, account.unit) for amount in sums)
        )

    def _account(self) -> Account:
        def read(books: Books, now: int) -> Account:
            core.age(books, now)
            return core.chain(books, now, self.name)[0]

        return self._store.run(read, lasting=False)

    def _within(self, holds: Iterable[Hold]) -> list[Reservation]:
        """Return those of this ledger and of the ledgers within it."""
        return [Reservation(self, hold) for hold in holds if f"{hold.ledger}/".startswith(f"{self.name}/")]

    def _run(self, rule: Callable[..., Any], *arguments: Any, lasting: bool = True) -> Any:
        return self._store.run(lambda books, now: rule(books, now, *arguments), lasting=lasting)

    def _alarm(self, hold: Hold) -> None:
        if hold.cost > hold.maximum:
            counts = "it counts at that and is disputed" if hold.is_disputed else "it counts in full"
            _log.error(
                "the model %r billed %s%s, and its stated maximum is %s: %s, and the model is stopped: correct its "
                "price, then %s",
                hold.model,
                shown(hold.cost, self.unit),
                f" for {hold.key!r}" if hold.key else "",
                shown(hold.maximum, self.unit),
                counts,
                self.resumed_by(hold.model),
            )


class Limit(NamedTuple):
    """The most that may be spent, and what is neither spent nor reserved of it. `ends`: when it begins anew, in seconds
    since 1970; None for a total.
    """

    most: float
    left: float
    ends: float | None = None

    @property
    def used(self) -> float:
        """The share that is spent or reserved."""
        return 1 - self.left / self.most if self.most else 1.0


class Reservation:
    """Money that is held for one attempt. `state` is that of the last call here."""

    def __init__(self, ledger: Ledger, hold: Hold) -> None:
        self._ledger, self._hold = ledger, hold

    @property
    def key(self) -> str | None:
        """The key that it was reserved with."""
        return self._hold.key

    @property
    def model(self) -> str:
        """The model that it is for."""
        return self._hold.model

    @property
    def maximum(self) -> float:
        """The most that the attempt may cost."""
        return self._hold.maximum / 1e9

    @property
    def cost(self) -> float | None:
        """What it has cost; None if that is not known yet."""
        return self._hold.cost / 1e9 if self._hold.state == SETTLED else None

    @property
    def claimed(self) -> float | None:
        """What it was billed above its maximum at, while that is disputed; else None."""
        return self._hold.cost / 1e9 if self._hold.is_disputed else None

    @property
    def state(self) -> str:
        """One of "reserved", "dispatched", "charged" (for long, without being settled), "settled"."""
        return _STATES[self._hold.state]

    def dispatch(self) -> bool:
        """Return whether the attempt may be sent now. Only one call for one key returns True.

        False: it was dispatched before, its lease has ended, it was released, or its model is stopped.
        """
        sent: Hold | None = self._ledger._run(core.dispatch, self._hold)
        self._hold = sent or self._hold
        return sent is not None

    def settle(self, cost: float | None = None, *, answered: bool = True) -> None:
        """Record what the dispatched attempt has cost; None: its maximum. A higher bill is disputed.

        `answered`: whether a `promised` attempt brought an answer. Settling again at the same cost changes nothing.
        """
        cost_ = None if cost is None else billionths(cost, ROUND_CEILING)
        if cost_ is not None and cost_ - self._hold.maximum <= max(1, self._hold.maximum // 10**9):
            cost_ = min(cost_, self._hold.maximum)  # floats were added up
        too_high = cost_ is not None and cost_ > self._hold.maximum
        self._hold = self._ledger._run(core.settle, self._hold, cost_, bool(answered), lasting=too_high)
        self._ledger._alarm(self._hold)

    def book(self) -> None:
        """Let the disputed bill count in full: it was right, and the stated maximum was wrong."""
        if self.claimed is None:
            raise InputError(f"this attempt has no disputed bill: it is {self.state}")
        self._hold = self._ledger._run(
            lambda books, now: core.settle(
                books, now, self._hold, self._hold.cost, self._hold.promised, correct=True
            )
        )

    def charge(self) -> None:
        """Count the dispatched attempt at its maximum until it is settled, and a `promised` one as without an answer.

        For attempts of which nothing came back. Without this call the same happens when their lease ends.
        """
        self._hold = self._ledger._run(core.charge, self._hold, lasting=False)

    def release(self) -> bool:
        """Give the money back if the attempt was not dispatched. Return False, and change nothing, if it was."""
        done: bool = self._ledger._run(core.release, self._hold, lasting=False)
        return done


def ledger_of(limit: str, *, time_zone: str | None = None, **options: Any) -> Ledger:
    """Return a ledger with a limit as people write it: a total such as "5 usd", or a rate such as "2 usd/hour".

    With a `time_zone`, limits a day, week or month, such as "2 usd/day", are by the calendar there.
    """
    amount, _, period = limit.partition("/")
    if time_zone is not None and period.strip() in PERIODS:
        by_calendar: dict[str, Any] = {period.strip(): amount.strip()}
        return Ledger(**by_calendar, time_zone=time_zone, **options)
    return Ledger(rate=limit, **options) if period else Ledger(total=limit, **options)


def _opened(file: str | Path, durability: str) -> Store:
    """Return the store in a file, or at the address of a database."""
    if not isinstance(file, (str, Path)) or "\0" in str(file):
        raise InputError(f"file is a path, or the address of a database, got {short(file)}")
    if isinstance(file, Path) or "://" not in file:
        return SQLiteStore(file, durability)
    return PostgreSQLStore(file)
