"""The ledgers of a gateway: all requests, their days, weeks and months, clients, and what is asked for comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from exeunt.costs.budget_text import exact_quantity
from exeunt.errors import InputError
from exeunt.gateway.audit_log import append_line
from exeunt.gateway.config import Shadow, Spend
from exeunt.gateway.key_store import Client
from exeunt.ledger import Ledger, Limit, Reservation, ledger_of
from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.wanted import MOST

MONEY, DISPUTES = "money.db", "disputes.jsonl"
_ALL = "all"
_BY_CALENDAR = "day"  # with all periods: folders of older versions have this name, within which clients lie
_COMPARED = f"{_ALL}/{_BY_CALENDAR}/shadow"
_NO_LIMIT = f"{MOST} usd/day"  # a rate: a total that becomes one begins without a burst


class Disputed(NamedTuple):
    """Bills of a model: how many, what they claim, and what these requests can cost at most, in US dollars."""

    bills: int = 0
    claimed: float = 0.0
    maximum: float = 0.0


class Money:
    """The ledgers, in a file. Each lies within those above it, so that all limits hold at once.

    A limit that changes goes on from what is spent already.
    """

    def __init__(self, file: Path, spend: Spend, shadow: Shadow | None) -> None:
        self._store = SQLiteStore(file, "normal")
        self._each: dict[str, Ledger] = {}
        self.spend = spend
        self.total = ledger_of(spend.total or f"{MOST} usd", name=_ALL, store=self._store)
        self.total.resumed_by = resumed_by
        self._by_calendar = _by_calendar(spend, self.total)
        self._shadow_limit = None if shadow is None else shadow.spend
        self.shadow = (
            None if shadow is None else ledger_of(shadow.spend, name="shadow", within=self._by_calendar)
        )

    def of(self, client: Client) -> Ledger:
        """Return what pays for the requests of a client. Another key of the same name goes on with what is spent."""
        return self._each.get(client.digest) or self.limit(client)

    def limit(self, client: Client) -> Ledger:
        """Let the limit of a client be what its key says now, and return what pays for it."""
        limit, name = client.spend or self.spend.key or _NO_LIMIT, f"client {client.name}"
        zone = self.spend.time_zone
        self._each[client.digest] = ledger_of(limit, time_zone=zone, name=name, within=self._by_calendar)
        return self._each[client.digest]

    @property
    def disputed(self) -> dict[str, Disputed]:
        """Bills above what requests can cost, by model, of which nobody has decided."""
        return _disputes(self.total.disputed)

    @property
    def compared(self) -> float:
        """US dollars that comparisons, audits and judges have cost."""
        return 0.0 if self.shadow is None else self.shadow.spent

    @property
    def left(self) -> float:
        """US dollars that are left of the limits for all; infinite without any."""
        return max(self._available, 0.0)

    @property
    def overdrawn(self) -> float:
        """US dollars that were spent above the limits for all, such as by a bill that was booked."""
        return max(-self._available, 0.0)

    @property
    def _available(self) -> float:
        return self._by_calendar.available if self.spend.is_limited else math.inf

    def state(self, clients: Iterable[Client]) -> dict[str, Any]:
        """Return the limits and what is spent and left of each, JSON-able."""
        spend = self.spend
        return {
            "all": _state(self.total, spend.total, spend),
            **{name: _state(self._by_calendar, limit, spend) for name, limit in _periods(spend).items()},
            "shadow": None if self.shadow is None else _state(self.shadow, self._shadow_limit, spend),
            "clients": {
                client.name: _state(self.of(client), client.spend or spend.key, spend)
                for client in clients
                if not client.admin
            },
        }

    def limits(self, clients: Iterable[Client]) -> dict[str, Limit]:
        """Return the limits that are totals, or begin anew by the calendar, by name as `limits_in` has them."""
        each = {f"each {name}": limit for name, limit in self._by_calendar.limits.items()}
        ledgers = {"all": self.total}
        if self.shadow is not None:
            ledgers["comparisons"] = self.shadow
        for client in clients:
            if not client.admin and (client.spend or self.spend.key):
                ledgers[f"client {client.name}"] = self.of(client)
        return each | {name: limit for name, ledger in ledgers.items() for limit in ledger.limits.values()}

    def close(self) -> None:
        """Close the file."""
        self._store.close()


def resumed_by(model: str) -> str:
    """Return how a stopped model is let be asked again."""
    return f"POST /admin/models/{quote(model)}/resume"


def compared_in(folder: Path) -> float:
    """Return the US dollars that comparisons of the gateway in a folder have cost so far, as `Money.compared` does."""
    with _store_in(folder) as store:
        if store is None:
            return 0.0
        account = store.run(lambda books, _: books.account(_COMPARED), lasting=False)
    return 0.0 if account is None else (account.settled + account.dispatched) / 1e9


def decide_disputes(
    folder: Path, model: str, *, book: bool, reason: str, now: float
) -> tuple[Disputed, bool]:
    """Let the disputed bills of a model count in full (`book`), or no more than their requests can cost. The gateway
    may run meanwhile. The decision is added to `disputes.jsonl` in the folder, and then the bills that it names are
    decided; one that comes between the two stays disputed.

    Returns what was decided, and whether the model is stopped still. Raises InputError if none is disputed.
    """
    none = InputError(f"no bill of {model!r:.80} is disputed: the page of the gateway names those that are")
    with _store_in(folder) as store:
        if store is None:
            raise none
        ledger = Ledger(name=_ALL, store=store)
        is_stopped = model in ledger.stopped
        bills = [bill for bill in ledger.disputed if bill.model == model]
        if not bills:
            raise none
        dispute = _disputes(bills)[model]
        decision = "booked" if book else "dropped"
        line = {"time": now, "model": model, **dispute._asdict(), "decision": decision, "reason": reason}
        append_line(folder / DISPUTES, line)
        ledger.decide(bills, book=book)
    return dispute, is_stopped


def resume_model(folder: Path, model: str) -> None:
    """Let a model be asked again that was stopped. Raises InputError if it is not stopped."""
    with _store_in(folder) as store:
        ledger = _opened(store, _ALL)
        if ledger is None or model not in ledger.stopped:
            raise InputError(f"{model!r:.80} is not stopped: it is asked as before")
        ledger.resume(model)


def limits_in(
    folder: Path, spend: Spend, shadow: Shadow | None, clients: Iterable[Client]
) -> tuple[dict[str, dict[str, Any]], dict[str, Disputed]]:
    """Return the limits of a gateway's file by name, each as `Money.state` has it, and disputed bills by model.

    Looking changes nothing. The gateway may run meanwhile, and keeps the limits that it started with.
    """
    with _store_in(folder) as store:
        total = _opened(store, _ALL)
        by_calendar = _opened(store, _BY_CALENDAR, total)
        limits = {"all": _state(total, spend.total, spend)}
        limits |= {
            f"each {name}": _state(by_calendar, limit, spend) for name, limit in _periods(spend).items()
        }
        if shadow is not None:
            limits["comparisons"] = _state(_opened(store, "shadow", by_calendar), shadow.spend, spend)
        for client in clients:
            if not client.admin:
                name = f"client {client.name}"
                limits[name] = _state(_opened(store, name, by_calendar), client.spend or spend.key, spend)
        return limits, {} if total is None else _disputes(total.disputed)


def _by_calendar(spend: Spend, total: Ledger) -> Ledger:
    """Return the ledger of all requests with the limits by the calendar, within that of the total."""
    if not spend.periods:
        return Ledger(total=f"{MOST} usd", name=_BY_CALENDAR, within=total)
    limits: dict[str, Any] = spend.periods
    return Ledger(**limits, time_zone=spend.time_zone, name=_BY_CALENDAR, within=total)


def _periods(spend: Spend) -> dict[str, str]:
    """Return the limits by the calendar, as a limit of a client is written."""
    return {name: f"{limit}/{name}" for name, limit in spend.periods.items()}


@contextmanager
def _store_in(folder: Path) -> Iterator[SQLiteStore | None]:
    """Open what keeps the ledgers of a gateway's folder; None if nothing was ever spent there."""
    if not (file := folder / MONEY).exists():
        yield None
        return
    with closing(SQLiteStore(file, "normal")) as store:
        yield store


def _opened(store: SQLiteStore | None, name: str, within: Ledger | None = None) -> Ledger | None:
    """Return a ledger as it is, without setting its limit; None if there is none yet."""
    if store is None or (within is None and name != _ALL):
        return None
    try:
        return Ledger(name=name, store=None if within else store, within=within)
    except InputError:
        return None


def _disputes(bills: Iterable[Reservation]) -> dict[str, Disputed]:
    """Return the disputed bills by model."""
    disputes: dict[str, Disputed] = {}
    for bill in bills:
        n, claimed, maximum = disputes.get(bill.model, Disputed())
        disputes[bill.model] = Disputed(n + 1, claimed + (bill.claimed or 0.0), maximum + bill.maximum)
    return disputes


def _state(ledger: Ledger | None, limit: str | None, spend: Spend) -> dict[str, Any]:
    """Return what is spent, since the beginning, and left of a limit, or spent above it. `most`: what may be left, in
    US dollars. `ends`: when it begins anew, in seconds since 1970; None if it never does. `near`: whether it is nearly
    reached; a rate never is. `ledger`: None if nothing was ever spent.
    """
    spent = 0.0 if ledger is None else ledger.spent
    state = {
        "limit": limit,
        "most": None,
        "spent": spent,
        "left": None,
        "overdrawn": 0.0,
        "ends": None,
        "near": False,
    }
    if limit is None:
        return state
    most = float(exact_quantity(limit)[0])
    found = None if ledger is None else ledger.limits.get(limit.partition("/")[2].strip() or "total")
    left = most if ledger is None else min(most, ledger.left) if found is None else found.left
    state |= {"most": most, "left": max(left, 0.0), "overdrawn": max(-left, 0.0)}
    return state if found is None else {**state, "ends": found.ends, "near": spend.is_near(found)}
