"""The gateway whose live traffic is one stream of answered requests."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.gateway.simulation.sides import Found, Truth, config_text, given_keys
from tests.gateway.simulation.worlds import Event, Look, World

from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import read_config
from exeunt.gateway.folder import KEYS
from exeunt.gateway.gateway import Gateway

_UNKNOWN = "this gateway does not tell it yet"


class After:
    """A gateway that proposes and bets by itself. The owner only looks at what is certified."""

    name = "after"
    pause_s = 7_200.0

    def __init__(self, world: World, file: Path, clients: Collection[str]) -> None:
        first = world.looks[0]
        budget = f", budget: {first.budget}" if first.budget else ""
        more = {
            "units": world.units, "period": world.period, "min_periods": "7", "unit_idle": world.idle,
            "promise": f"{{max_loss: {first.max_loss}, delta: 0.05{budget}}}",
        }  # fmt: skip
        file.write_text(config_text(world, **more))
        self.world = world
        self._clients = given_keys(file.parent / "gateway" / KEYS, clients, world.private)
        self.gateway = Gateway(read_config(file), clock=time.time)  # type: ignore[call-arg]

    async def answer(self, request: ChatRequest, client: str) -> Any:
        """Answer a request."""
        return await self.gateway.answer(request, self._clients[client])

    async def change(self, what: str) -> None:
        """Start again with another file."""
        raise NotImplementedError(_UNKNOWN)

    async def settle(self) -> None:
        """Wait until all comparisons are recorded."""
        raise NotImplementedError(_UNKNOWN)

    async def advance(self) -> None:
        """Close units, bet on periods, and propose."""
        await self.gateway.advance()  # type: ignore[attr-defined]

    def look(self, look: Look) -> Found:
        """Return what is certified now."""
        raise NotImplementedError(_UNKNOWN)

    def use(self, found: Found) -> None:
        """Let what is certified answer."""
        raise NotImplementedError(_UNKNOWN)

    @property
    def answers(self) -> bool:
        """Whether a policy answers."""
        raise NotImplementedError(_UNKNOWN)

    @property
    def alarms(self) -> list[str]:
        """What alarms have said."""
        raise NotImplementedError(_UNKNOWN)

    def bill(self) -> dict[str, Any]:
        """Return what is printed of what was saved and lost."""
        raise NotImplementedError(_UNKNOWN)

    @property
    def compared(self) -> dict[str, int]:
        """What became of comparisons."""
        raise NotImplementedError(_UNKNOWN)

    async def close(self) -> None:
        """Close the gateway."""
        await self.gateway.close()

    def truth(self, found: Found, population: list[Event]) -> Truth:
        """Return what a policy really loses and costs, per request, on all requests."""
        raise NotImplementedError(_UNKNOWN)
