"""What the requests of a server may cost: all together, and those of each API key."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from exeunt._support.threads import PAYING
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError, QueueFull
from exeunt.ledger import Ledger, ledger_of
from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.wanted import MOST
from exeunt.live.live_model import admitted
from exeunt.serve.settings import Settings


@dataclass(frozen=True)
class Payer:
    """A ledger that pays for requests. `scale`: units of the ledger in one of the costs."""

    ledger: Ledger
    scale: float

    @asynccontextmanager
    async def paying(self, maximum: float) -> AsyncIterator[Callable[[float], None]]:
        """Hold the most that work may cost, and pay what it did cost, which is passed to the function that this yields.

        Without that call it is the most, since a part may have run; nothing, where the work was refused. Raises
        OverBudget.
        """
        held = await admitted(lambda: self.ledger.reserve(maximum * self.scale))
        bill: list[float] = []
        try:
            yield bill.append
        except (InputError, QueueFull):
            bill = [0.0]
            raise
        finally:
            cost = min(bill[0] * self.scale, held.maximum) if bill else None
            await asyncio.shield(PAYING.run(held.settle, cost))


class Spending:
    """The ledgers of a server, in a file that its workers share. `payer` returns the one of a request's key, or None.

    Those of the keys lie within one for all, which has no limit if none is given: so each goes on where it was when
    limits change.
    """

    def __init__(self, settings: Settings, cost: CostModel) -> None:
        self._whole: Payer | None = None
        self._of_key: dict[str, Payer] = {}
        limit_of_all, each = settings.max_spend, settings.max_spend_per_key
        if (limit := limit_of_all or each) is None:
            return
        unit = ledger_of(limit).unit
        store = SQLiteStore(settings.money_file, "full")
        overall = ledger_of(limit_of_all or f"{MOST} {unit}", name="all", store=store)
        self._whole = None if limit_of_all is None else _payer(overall, cost)
        if each is not None:
            self._of_key = {
                key: _payer(ledger_of(each, name=key_name(key), within=overall), cost)
                for key in settings.api_keys
            }

    def payer(self, key: str) -> Payer | None:
        """Return what pays for a request with this key."""
        return self._of_key.get(key, self._whole)


def check_limits(settings: Settings, cost: CostModel) -> None:
    """Raise InputError for a limit in another unit than the costs of the policies."""
    for limit in (settings.max_spend, settings.max_spend_per_key):
        if limit is not None:
            _payer(ledger_of(limit), cost)


def key_name(key: str) -> str:
    """Return what stands for an API key in the file."""
    return f"key {hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}"


def _payer(ledger: Ledger, cost: CostModel) -> Payer:
    return Payer(ledger, 1 / cost.amount(f"1 {ledger.unit}"))
