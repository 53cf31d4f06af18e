"""The gateway as it was before live traffic was one stream."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from tests.gateway.simulation.kinds import FINITE
from tests.gateway.simulation.sides import Found, Printed, Truth, config_text, given_keys
from tests.gateway.simulation.worlds import Event, Look, World, body_of

from exeunt.costs import CostModel
from exeunt.errors import Infeasible, InputError
from exeunt.gateway.certification import paid_for
from exeunt.gateway.certify import certify
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import read_config
from exeunt.gateway.folder import KEYS
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.recorded_trace import read_trace
from exeunt.gateway.saved_policies import REFERENCE
from exeunt.policies.candidates import lost_by
from exeunt.policy import Policy
from exeunt.trace import CascadeTrace, ExitTrace

DELTA = 0.05
_MORE = re.compile(r"about ([\d,]+) more (records|groups)")


class Before:
    """A gateway, calibrated by its command."""

    name = "before"
    pause_s = 600.0

    def __init__(self, world: World, file: Path, clients: Collection[str]) -> None:
        self.world, self._file, self._changed = world, file, set[str]()
        self._compared: Counter[str] = Counter()
        self._clients = given_keys(file.parent / "gateway" / KEYS, clients, world.private)
        self.gateway = self._opened()
        self._keys: dict[str, str] = {}

    def _opened(self) -> Gateway:
        self._file.write_text(config_text(self.world, self._changed))
        return Gateway(read_config(self._file))

    async def change(self, what: str) -> None:
        """Start again with another file."""
        await self.gateway.close()
        self._compared += self.gateway.compared
        self._changed.add(what)
        self.gateway = self._opened()

    async def answer(self, request: ChatRequest, client: str) -> Any:
        """Answer a request."""
        return await self.gateway.answer(request, self._clients[client])

    async def settle(self) -> None:
        """Wait until all comparisons are recorded."""
        while self.gateway._tasks:
            await asyncio.wait(self.gateway._tasks)

    async def advance(self) -> None:
        """Do what is periodic: nothing."""

    def look(self, look: Look) -> Found:
        """Calibrate, as the owner does."""
        gateway = self.gateway
        try:
            records = read_trace(gateway.folder, gateway.about)
            certified = certify(
                records.trace,
                gateway.config.reference,
                max_loss=look.max_loss,
                budget=look.budget,
                delta=DELTA,
            )
        except (Infeasible, InputError) as error:
            more = _MORE.search(str(error))
            return Found(said=str(error), more=int(more[1].replace(",", "")) if more else None)
        policy = certified.policy
        name = gateway.policies.add(policy, records.clients)
        proof = policy.cost_certificate
        printed = Printed(
            certified.loss, certified.saved, (certified.cost, *certified.cost_interval), certified.shares,
            list(records.notes),
            None if proof is None else proof.probability, None if proof is None else proof.budget,
        )  # fmt: skip
        return Found(name=name, printed=printed, said=str(certified), policy=policy)

    def use(self, found: Found) -> None:
        """Let what was certified answer."""
        self.gateway.live.activate(found.name)

    @property
    def answers(self) -> bool:
        """Whether a policy answers."""
        return self.gateway.live.active.name != REFERENCE

    @property
    def alarms(self) -> list[str]:
        """What alarms have said."""
        return [str(alarm["alarm"]) for alarm in self.gateway.live.alarms]

    def bill(self) -> dict[str, Any]:
        """Return what is printed of what was saved and lost."""
        return self.gateway.live.tally.to_dict()

    @property
    def compared(self) -> dict[str, int]:
        """What became of comparisons."""
        return dict(self._compared + self.gateway.compared)

    async def close(self) -> None:
        """Close the gateway."""
        await self.gateway.close()

    def truth(self, found: Found, population: list[Event]) -> Truth:
        """Return what a policy really loses and costs, per request, on all requests."""
        taken = [event for event in population if not event.tools]
        cost = np.array([self.world.costs(event) for event in population])
        paid, lost = cost[:, 1].copy(), np.zeros(len(population))
        rows = np.array([not event.tools for event in population])
        trace = self._trace(taken, cost[rows])
        policy: Policy = found.policy
        paid[rows], lost[rows] = paid_for(policy, trace), lost_by(policy, trace, "large")
        return Truth(float(lost.mean()), float(paid.mean()), float(cost[:, 1].mean()))

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
            self._keys[event.text] = self.gateway._hmac(ChatRequest.read(body_of(event)).content)
        return self._keys[event.text]
