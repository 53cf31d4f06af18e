"""A run in service: its engine's thread, its users, and what is active."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from exeunt.serve.engine_thread import EngineThread
from exeunt.serve.steering import Steering, controller_of, profile_of

if TYPE_CHECKING:
    from exeunt.serve.opened_run import OpenedRun
    from exeunt.serve.settings import Settings
    from exeunt.serve.traffic import Counts

__all__ = ["Served"]

_log = logging.getLogger("exeunt.serve")
_QUIET_S = 60.0
"""So long it is not said again that the latency cannot be kept."""


class Served:
    """A run in service: opened, with its engine's thread, and what is active.

    `most`: the budget. `active`: name of the policy that requests get which ask for none. To be entered by whoever
    uses it.

    Raises as `controller_of` does.
    """

    def __init__(self, opened: OpenedRun, settings: Settings) -> None:
        steered_by = None if settings.slo_s is None else (controller_of(opened, settings), profile_of(opened))
        self.opened = opened
        self.engine = EngineThread(opened.engine)  # last of what may fail: the thread would keep the network
        self.steering = None if steered_by is None else Steering(self.engine, *steered_by)
        self._users, self._quiet_until = 0, -math.inf
        self._unused = asyncio.Event()
        self._unused.set()
        *_, (self.active, dearest) = opened.policies.items()
        self.most = dearest.budget

    async def set_most(self, budget: float | str | None) -> None:
        """Activate a budget; None is the largest that there is.

        Raises as `OpenedRun.at` does, InputError for a budget below the least that the controller may choose.
        """
        *_, largest = self.opened.policies
        name = largest if budget is None else self.opened.at(budget)
        policy = self.opened.policies[name]
        most = policy.budget if budget is None else policy.cost.amount(budget)
        if self.steering is not None:
            self.steering.controller.set_budget(most)
            name = self.steering.controller.active.name
        self.most = most
        await self.put_active(name)

    async def steer(self, now: float, counts: Counts, waiting: int) -> None:
        """Let the controller, if there is one, look at what happened since it last did, and at the rows that wait."""
        if self.steering is None:
            return
        before = self.active
        await self.put_active(self.steering.chosen(now, counts, waiting))
        fields = {"rows_per_s": round(self.steering.controller.rate), "waiting": waiting}
        if self.active != before:
            _log.info("active policy", extra={"fields": {"policy": self.active, "before": before, **fields}})
        if self.steering.controller.helpless and now >= self._quiet_until:
            self._quiet_until = now + _QUIET_S
            _log.warning("the latency cannot be kept", extra={"fields": fields})

    @property
    def without_load(self) -> str:
        """Name of the policy that is active without load."""
        return self.active if self.steering is None else self.steering.controller.most.name

    def answers_by(self, whole: float) -> float | None:
        """Return when a request that had come in at `whole` is answered with what the exits so far have said."""
        return None if self.steering is None else whole + self.steering.controller.within_s

    async def take_over(self, before: Served) -> None:
        """Begin under the load that the run before was under."""
        if self.steering is not None and before.steering is not None:
            self.steering.controller.take_over(before.steering.controller)
            await self.put_active(self.steering.controller.active.name)

    async def put_active(self, name: str) -> None:
        """Let this policy answer what has not begun and asks for none."""
        if name != self.active:
            self.active = name
            await self.engine.call(lambda engine: setattr(engine, "active", name))

    def __enter__(self) -> Served:
        self._users += 1
        self._unused.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if self._users == 0:
            self._unused.set()

    async def close(self) -> None:
        """Wait until nobody uses it, then end its engine."""
        await self._unused.wait()
        await self.engine.close()
