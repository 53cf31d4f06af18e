"""Limits that are nearly reached: told once in each period, in the log and to the webhook that the file names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from exeunt._support.files import read_json, write_json
from exeunt._support.threads import PAYING
from exeunt.errors import ExeuntError, one_line, require
from exeunt.gateway.config import Spend
from exeunt.gateway.key_store import Client
from exeunt.gateway.ledgers import Money
from exeunt.ledger import Limit

_log = logging.getLogger("exeunt.gateway")
WARNED = "warned.json"
"""By name of a limit: which one was told, `[most, ends]`."""
_WAIT_S = 10.0


class NearLimit(NamedTuple):
    """A limit of which little is left. `name`: such as "each day", or "client shop"."""

    name: str
    limit: Limit

    @property
    def told(self) -> dict[str, Any]:
        """What is told of it, JSON-able: money in US dollars, and when it begins anew."""
        most, left, ends = self.limit
        until = None if ends is None else datetime.fromtimestamp(ends, timezone.utc).isoformat()
        return {"limit": self.name, "most": most, "left": max(left, 0.0), "until": until}

    def __str__(self) -> str:
        told = self.told
        until = "" if told["until"] is None else f" until {told['until']}"
        return f"{self.name}: {told['left']:.4g} usd left of {told['most']:g} usd{until}"


class SpendWarnings:
    """Looks at the limits of a gateway, and tells each that is nearly reached once, also after a restart. `near`: the
    share used of those that are nearly reached now, by name.
    """

    def __init__(self, folder: Path, spend: Spend, money: Money) -> None:
        self._file, self._spend, self._money = folder / WARNED, spend, money
        self.near: dict[str, float] = {}
        self._told: dict[str, list[Any]] = {}
        if self._file.exists():
            try:
                self._told = dict(read_json(self._file))
            except (ExeuntError, TypeError, ValueError) as error:
                _log.warning(
                    "which limits were told is not known", extra={"fields": {"why": one_line(error)}}
                )

    async def look(self, clients: Iterable[Client]) -> list[NearLimit]:
        """Return the limits that are nearly reached since the last look, after they are logged."""
        limits = await PAYING.run(self._money.limits, list(clients))
        near = [NearLimit(name, limit) for name, limit in limits.items() if self._spend.is_near(limit)]
        self.near = {name: limit.used for name, limit in near}
        new = [one for one in near if self._told.get(one.name) != _which(one.limit)]
        told = {
            name: which for name, which in self._told.items() if name in limits
        }  # clients may be forgotten
        told |= {one.name: _which(one.limit) for one in new}
        if told != self._told:
            self._told = told
            await asyncio.to_thread(self._keep, told)
        for one in new:
            _log.warning("a limit is nearly reached", extra={"fields": one.told})
        return new

    def _keep(self, told: Mapping[str, Any]) -> None:
        """Keep what is told before it is: rather once too few than again with each start."""
        try:
            write_json(self._file, told)
        except (ExeuntError, OSError) as error:
            _log.error("cannot keep which limits were told", extra={"fields": {"why": one_line(error)}})

    async def call(self, near: list[NearLimit]) -> None:
        """Call the webhook, if there is one. What fails is logged: its URL may be a secret, so its host alone."""
        if self._spend.webhook is None:
            return
        text = "Exeunt gateway: nearly reached: " + "; ".join(map(str, near))
        body = {"event": "limits nearly reached", "text": text, "limits": [one.told for one in near]}
        try:
            status = await asyncio.wait_for(_post(self._spend.webhook, body), _WAIT_S)
            why = "" if 200 <= status < 300 else f"status {status}"
        except Exception as error:
            why = type(error).__name__
        if why:
            fields = {"host": urlsplit(self._spend.webhook).hostname, "why": why}
            _log.error("the webhook of limits failed", extra={"fields": fields})


async def _post(url: str, body: Mapping[str, Any]) -> int:
    """Return the status of an answer, which is not read. Redirects are not followed."""
    httpx = require("httpx", extra="gateway")
    client = await asyncio.to_thread(httpx.AsyncClient, follow_redirects=False)  # it reads certificates
    async with client, client.stream("POST", url, json=body) as answer:
        return int(answer.status_code)


def _which(limit: Limit) -> list[Any]:
    """Return what tells a limit from others of its name: after a change it is told again."""
    return [limit.most, limit.ends]
