"""The ledgers of a gateway: all requests, a day of them, those of each client, and what is asked for comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from exeunt.gateway.config import Shadow, Spend
from exeunt.gateway.keys import Client
from exeunt.ledger import Ledger, ledger_of
from exeunt.ledger.ledger import MOST
from exeunt.ledger.sqlite_store import SQLiteStore

_NO_LIMIT = f"{MOST} usd/day"  # a rate: a total that becomes one begins without a burst


class Money:
    """The ledgers, in a file. Each lies within those above it, so that all limits hold at once.

    A limit that changes goes on from what is spent already.
    """

    def __init__(self, file: Path, spend: Spend, shadow: Shadow | None) -> None:
        self._store = SQLiteStore(file, "normal")
        self._each: dict[str, Ledger] = {}
        self.set(spend)
        self.shadow = None if shadow is None else ledger_of(shadow.spend, name="shadow", within=self._day)

    def set(self, spend: Spend) -> None:
        """Change the limits."""
        self.spend = spend
        self.whole = ledger_of(spend.total or f"{MOST} usd", name="all", store=self._store)
        day = _NO_LIMIT if spend.day is None else f"{spend.day}/day"
        self._day = ledger_of(day, name="day", within=self.whole)
        self._each.clear()

    def of(self, client: Client) -> Ledger:
        """Return what pays for the requests of a client."""
        if (known := self._each.get(client.digest)) is None:
            limit = client.spend or self.spend.key or _NO_LIMIT
            known = ledger_of(limit, name=f"key {client.digest[:12]}", within=self._day)
            self._each[client.digest] = known
        return known

    @property
    def left(self) -> float:
        """US dollars that are left of the limits for all; infinite without any."""
        return math.inf if self.spend.total is None and self.spend.day is None else self._day.available

    def state(self, clients: Iterable[Client]) -> dict[str, Any]:
        """Return what is spent and left, JSON-able; None for no limit."""
        ledgers = {client.name: self.of(client) for client in clients if not client.admin}
        limits = {client.name: client.spend or self.spend.key for client in clients}
        return {
            "spent": self.whole.spent,
            "left": None if math.isinf(self.left) else self.left,
            "limits": {"total": self.spend.total, "day": self.spend.day},
            "shadow": self.shadow and {"spent": self.shadow.spent, "left": self.shadow.left},
            "clients": {
                name: {
                    "spent": one.spent,
                    "left": one.available if limits[name] else None,
                    "limit": limits[name],
                }
                for name, one in ledgers.items()
            },
        }

    def close(self) -> None:
        """Close the file."""
        self._store.close()
