"""The gateway whose live traffic is one stream of answered requests."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from tests.gateway.simulation.kinds import FINITE
from tests.gateway.simulation.sides import Found, Printed, Truth, config_text, given_keys
from tests.gateway.simulation.worlds import Event, Look, World, body_of

from exeunt.costs.cost_model import CostModel
from exeunt.gateway.answering import Active
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import read_config
from exeunt.gateway.evidence import paid_for
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.saved_policies import REFERENCE
from exeunt.rules.outcomes import Outcome
from exeunt.trace import CascadeTrace, ExitTrace

DELTA = 0.05
_FEW, _ALL = 100, "all"
_MORE = re.compile(r"about ([\d,]+) more (requests|conversations|users)")


async def _at_once(function: Callable[..., Any], *given: Any, **options: Any) -> Any:
    return function(*given, **options)


class After:
    """A gateway that proposes and bets by itself. The owner only looks at what is certified."""

    name = "after"
    pause_s = 7_200.0

    def __init__(self, world: World, file: Path, clients: Collection[str]) -> None:
        self.world, self._file, self._changed = world, file, set[str]()
        self._compared: Counter[str] = Counter()
        # A key for each of thousands of requests would break the ties of equal ones.
        names = clients if len(clients) <= _FEW else [_ALL]
        keys = given_keys(file.parent / "gateway", names, world.private)
        self._clients = {name: keys.get(name) or keys[_ALL] for name in clients}
        self.gateway = self._opened()
        self._keys: dict[str, str] = {}

    def _opened(self) -> Gateway:
        world, first = self.world, self.world.looks[0]
        promises = world.promises or ((first.max_loss, first.budget),)
        max_loss, budget = promises[-1 if "promise" in self._changed else 0]
        more = {
            "period": world.period, "min_periods": "7", "unit_idle": world.idle,
            "promise": f"{{max_loss: {max_loss}, delta: {DELTA}{f', budget: {budget}' if budget else ''}}}",
            **({"units": world.units} if world.units != "conversation" else {}),
            **({"unit_time": world.time} if world.time else {}),
        }  # fmt: skip
        text = config_text(world, self._changed, **more)
        if world.cap:
            text = text.replace(f"spend: '{world.money}'", f"spend: '{world.spend}', cap: '{world.cap}'")
        self._file.write_text(text)
        return Gateway(read_config(self._file), clock=time.time, apart=_at_once)

    async def answer(self, request: ChatRequest, client: str) -> Any:
        """Answer a request."""
        return await self.gateway.answer(request, self._clients[client])

    async def change(self, what: str) -> None:
        """Start again with another file."""
        await self.gateway.close()
        self._compared += self.gateway.compared
        self._changed.add(what)
        self.gateway = self._opened()

    async def settle(self) -> None:
        """Wait until all comparisons are recorded."""
        while self.gateway._tasks:
            await asyncio.wait(self.gateway._tasks)
        await self.gateway.advance()

    async def advance(self) -> None:
        """Close units, bet on periods, and propose."""
        await self.gateway.advance()

    def look(self, look: Look) -> Found:
        """Return what is certified now: the policy that saves the most."""
        gateway = self.gateway
        gateway.find_status()
        standing = gateway.status
        said = "" if standing is None else str(standing)
        more = _MORE.search(said)
        to_come = int(more[1].replace(",", "")) if more else None
        if standing is None or not standing.certified:
            return Found(said=said, more=to_come)
        best = min(standing.certified.values(), key=lambda certified: certified.cost)
        numbers, promise = best.measured, gateway.config.promise
        assert numbers is not None
        assert promise is not None
        lost, saved = (interval or (np.nan,) * 3 for interval in (numbers.lost, numbers.saved))
        cost = tuple(1 - share for share in (saved[0], saved[2], saved[1]))
        printed = Printed(
            [*lost], [*saved], cost, numbers.shares, list(standing.notes),
            None if promise.budget is None else 1 - DELTA,
            None if promise.budget is None else float(promise.budget.rstrip("%")) / 100,
        )  # fmt: skip
        return Found(best.name, printed, said, to_come, gateway.live.named(best.name), promise.max_loss)

    def use(self, found: Found) -> None:
        """Let what is certified answer."""
        self.gateway.live.activate(found.name)

    @property
    def answers(self) -> bool:
        """Whether a policy answers."""
        return self.gateway.live.active.name != REFERENCE

    @property
    def alarms(self) -> list[str]:
        """What alarms have said, but for those about the file, which the owner has changed."""
        alarms = [str(alarm["alarm"]) for alarm in self.gateway.live.alarms]
        return [alarm for alarm in alarms if "have changed" not in alarm and "no grade" not in alarm]

    def bill(self) -> dict[str, Any]:
        """Return what is printed of what was saved and lost."""
        gateway = self.gateway
        span, compared = gateway.traffic.bill.now, gateway.money.compared
        return {
            "saved": span.saved(compared), "lost": span.lost, "cost": span.cost, "n": span.requests,
            "in_all": gateway.traffic.bill.saved_in_all(compared), "audits": span.loss.n,
        }  # fmt: skip

    @property
    def compared(self) -> dict[str, int]:
        """What became of comparisons."""
        return dict(self._compared + self.gateway.compared)

    async def close(self) -> None:
        """Close the gateway."""
        await self.gateway.close()

    # -- the truth ------------------------------------------------------------------------------------------

    def truth(self, found: Found, population: list[Event]) -> Truth:
        """Return what a policy really loses and costs, per request, on all requests that it is measured on."""
        active: Active = found.policy
        population = list(filter(self.world.is_measured, population))
        cost = np.array([self.world.costs(event) for event in population])
        may = np.array([
            row is not None and row < active.rows and not event.tools and not self._is_dear(event)
            for event, row in zip(population, self._rows(population), strict=True)
        ])  # fmt: skip
        paid, lost = cost[:, 1].copy(), np.zeros(len(population))
        if may.any():
            answered = [event for event, own in zip(population, may.tolist(), strict=True) if own]
            trace = self._trace(answered, cost[may])
            assert active.policy is not None
            paid[may], lost[may] = (
                paid_for(active.policy, trace),
                Outcome.of(active.policy, trace, "large").loss,
            )
        return Truth(
            float(lost.mean()), float(paid.mean()), float(cost[:, 1].mean()),
            float(paid[may].sum() / cost[may, 1].sum()) if may.any() else 0.0,
        )  # fmt: skip

    def _rows(self, population: list[Event]) -> list[int | None]:
        """Return the place of each request in its unit; None if it is in none."""
        kind, most, seen = self.world.units, self.gateway.config.unit_rules.most_rows, Counter[Any]()
        rows: list[int | None] = []
        for event in population:
            if kind == "user":
                row = seen[event.client, event.user] if event.user else None
                seen[event.client, event.user] += 1
            else:
                row = event.turn if kind == "conversation" else 0
            rows.append(row if row is None or row < most else None)
        return rows

    def _is_dear(self, event: Event) -> bool:
        """Return whether a request could cost more than the cap."""
        letters = event.letters + len(event.text) + 40 * (event.messages + 1)
        most = sum(price * (letters + 16 + 4 * 64) / 1e6 for price in self.world.prices)
        return most > self.gateway.config.cap

    def _trace(self, events: list[Event], cost: Any) -> CascadeTrace:
        names = [self._key(event) for event in events]
        score = np.array([event.saying.score if self.world.scored else 0.0 for event in events])
        grade = 1 - np.array([event.saying.expected() for event in events])
        made = {}
        for k, name in enumerate(("small", "large")):
            made[name] = ExitTrace.from_losses(
                score[:, None] if k == 0 else np.zeros((len(events), 1)),
                grade[:, None] if k == 0 else np.ones((len(events), 1)),
                cost=CostModel(cost[:, [k]], unit="usd", source="paid"), better="higher", measure="grade", id=names,
            )  # fmt: skip
        return CascadeTrace(made)

    def _key(self, event: Event) -> str:
        """Return by what the gateway breaks ties of a request; of one that comes once anything will do."""
        if event.saying.prompt < FINITE:
            return event.text
        if event.text not in self._keys:
            content = ChatRequest.read(body_of(event)).content
            client = self._clients.get(event.client) or next(iter(self._clients.values()))
            self._keys[event.text] = self.gateway._hmac(client, content).hex()
        return self._keys[event.text]
