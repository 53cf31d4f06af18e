"""A world drives a gateway: clients ask, the owner looks, and all that was printed or is true is written down."""

from __future__ import annotations

import asyncio
import tempfile
import time as real_time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.gateway.simulation import grading
from tests.gateway.simulation.provider import Provider
from tests.gateway.simulation.sides import Found, Side
from tests.gateway.simulation.virtual_time import VirtualClock, run, virtual_time
from tests.gateway.simulation.worlds import Change, Event, Look, World, body_of

from exeunt.gateway.chat_request import ChatRequest

_RETRIES, _RETRY_S = 2, 5.0
_ADVANCE_S = 60.0


class Outcome(NamedTuple):
    """What became of a request: who chose and gave the answer, what it cost, and whether it is wrong."""

    event: Event
    policy: str
    model: str
    cost: float
    wrong: bool

    @property
    def by_policy(self) -> bool:
        """Whether a policy, not the reference, answered."""
        return self.policy not in ("", "reference")


@dataclass
class Alarm:
    """An alarm. `at`: after how many requests it came; `issued`, `answered`: since the policy was chosen. `audits`: of
    these, how many were.
    """

    at: int
    issued: int
    answered: int
    audits: int
    said: str


class Drive:
    """One world on one side."""

    def __init__(self, world: World, side: Side, provider: Provider, clock: VirtualClock) -> None:
        self.world, self.side, self.provider, self.clock = world, side, provider, clock
        self.outcomes: list[Outcome] = []
        self.looks: list[tuple[Look, Found, dict[str, Any]]] = []
        self.alarms: list[Alarm] = []
        self._issued = self._since = self._answered_before = self._audits_before = 0
        self._histories: dict[int, list[dict[str, str]]] = {}
        self._turns: dict[int, asyncio.Future[None]] = {}
        self.changed: list[tuple[int, str]] = []
        self.used: list[int] = []
        self.snapshots: list[float] = []

    async def run(self, events: list[Event]) -> None:
        """Ask all requests, at their times."""
        acts = sorted((*self.world.looks, *self.world.changes), key=lambda act: act.at)
        advancing = asyncio.ensure_future(self._advance())
        tasks: list[asyncio.Task[None]] = []
        for number, event in enumerate(events):
            while acts and acts[0].at <= number:
                await self._settled(tasks, pause_s=0.9 * self.side.pause_s)
                await self._act(acts.pop(0))
            await asyncio.sleep(event.time - self.clock.passed)
            self._note_alarms()
            if self.alarms and self.world.until_alarm:
                break
            self._issued += 1
            tasks.append(self._begun(event))
        await self._settled(tasks, pause_s=self.side.pause_s)
        for act in acts:
            await self._act(act)
        self._note_alarms()
        advancing.cancel()

    async def _settled(self, tasks: list[asyncio.Task[None]], *, pause_s: float) -> None:
        if tasks:
            await asyncio.wait(tasks)
            for task in tasks:
                task.result()
            tasks.clear()
        await self.side.settle()
        await asyncio.sleep(pause_s)  # the owner comes later than the last record
        self._note_alarms()

    async def _advance(self) -> None:
        while True:
            await asyncio.sleep(_ADVANCE_S)
            await self.side.advance()

    async def _act(self, act: Look | Change) -> None:
        if isinstance(act, Look):
            self._look(act)
        else:
            await self.side.change(act.what)
            self.changed.append((len(self.outcomes), act.what))

    def _look(self, look: Look) -> None:
        if look.use == "again" and self.side.answers:
            return
        started = real_time.process_time()
        found = self.side.look(look)
        told = {
            "seconds": real_time.process_time() - started, "requests": len(self.outcomes), "used": False,
            "changed": [what for _, what in self.changed],
        }  # fmt: skip
        if found.name and look.use:
            self.side.use(found)
            self._since, self._answered_before = self._issued, len(self.outcomes)
            self.used.append(len(self.outcomes))
            self.snapshots.append(self.provider.spent)
            self._audits_before = self.side.compared.get("compared", 0)
            told["used"] = True
        self.looks.append((look, found, told))

    def _note_alarms(self) -> None:
        for said in self.side.alarms[len(self.alarms) :]:
            answered = len(self.outcomes) - self._answered_before
            audits = self.side.compared.get("compared", 0) - self._audits_before
            self.alarms.append(Alarm(self._issued, self._issued - self._since, answered, audits, said))

    def _begun(self, event: Event) -> asyncio.Task[None]:
        """Begin to ask. The next turn of a conversation waits for the answer to this one."""
        answered = asyncio.get_running_loop().create_future()
        before = self._turns.get(event.unit) if event.turn or event.again else None
        self._turns[event.unit] = answered
        return asyncio.ensure_future(self._ask(event, before, answered))

    async def _ask(
        self, event: Event, before: asyncio.Future[None] | None, answered: asyncio.Future[None]
    ) -> None:
        try:
            if before is not None and not event.again:
                await before
            messages = [*self._histories.get(event.unit, ())][: event.messages]
            body = body_of(event, messages)
            for attempt in range(_RETRIES + 1):
                given = await self.side.answer(ChatRequest.read(body), event.client)
                if given.reply is not None:
                    break
                await asyncio.sleep(_RETRY_S * (attempt < _RETRIES))
            said = "" if given.reply is None else given.reply.message["content"]
            self.outcomes.append(
                Outcome(event, given.policy, given.model, given.cost, said.startswith("wrong"))
            )
            if event.turns > 1 and said and not event.again:
                asked = {"role": "user", "content": event.text}
                self._histories[event.unit] = [*messages, asked, {"role": "assistant", "content": said}]
        finally:
            if not answered.done():
                answered.set_result(None)


def driven(world: World, make: type[Side], measure: Callable[[Drive], Any]) -> Any:
    """Run a world on a side, and return what is measured of it, before the gateway is closed."""
    started = real_time.process_time()
    with tempfile.TemporaryDirectory(dir=_folder()) as folder, virtual_time(world.seed) as clock:
        events = world.events(make.pause_s)
        provider, clients = Provider(world, events), sorted({event.client for event in events})
        with provider.in_place(), grading.failing(world.grader_fails, world.seed):

            async def lived() -> Any:
                drive = Drive(world, make(world, Path(folder) / "gateway.yaml", clients), provider, clock)
                await drive.run(events)
                measured = measure(drive)
                await drive.side.close()
                return measured

            found = run(clock, lived())
    return {**found, "seconds": round(real_time.process_time() - started, 2)}


def _folder() -> str | None:
    """Return a folder in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
