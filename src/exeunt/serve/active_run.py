"""The run in service: its engine's thread, the requests that use it, its budget and the active policy."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

from exeunt._support.arrays import Floats
from exeunt.serve.after_drift import RESPONSES
from exeunt.serve.engine_thread import EngineThread
from exeunt.serve.latency_controller import Load
from exeunt.serve.live_engine import LiveEngine
from exeunt.serve.loaded_run import LoadedRun
from exeunt.serve.metrics import Counts, Metrics
from exeunt.serve.recent import Recent
from exeunt.serve.settings import Settings
from exeunt.serve.watching import ServedWatches

_log = logging.getLogger("exeunt.serve")
_PATIENCE = 0.1
"""Share of the latency target that rows may wait for others before their first call."""
_QUIET_S, _REFUSALS_QUIET_S = 60.0, 10.0
"""The warnings that the latency cannot be kept, and that requests are refused, are logged again after these times."""


class LoadMeter:
    """Measures the load for the controller. `call_seconds` (2, s), `row_seconds`: see `LoadedRun`."""

    def __init__(
        self, engine: EngineThread | LiveEngine, call_seconds: Floats, row_seconds: Mapping[str, float]
    ) -> None:
        self._engine, self._call_seconds, self._row_seconds = engine, call_seconds, row_seconds
        self._work, self._busy_s = engine.work, engine.busy_s

    def measure(self, counts: Counts, waiting: int, late_s: float) -> Load:
        """Return the load since the last call. `counts`: since then; `waiting`: rows; `late_s`: see `Controller`."""
        work, busy_s = self._engine.work, self._engine.busy_s
        timed = [(seconds, rows) for seconds, rows, own_deadline in counts.seconds if not own_deadline]
        load = Load(
            rows=counts.arrived,
            requests=counts.requests,
            together=counts.together,
            own_s=sum(rows * self._row_seconds.get(policy, 0.0) for policy, rows in counts.own.items()),
            waiting=waiting,
            answered=sum(rows for _, rows in timed),
            late=sum(rows for seconds, rows in timed if seconds > late_s),
            busy_s=busy_s - self._busy_s,
            expected_s=float(((work - self._work) * self._call_seconds).sum()),
        )
        self._work, self._busy_s = work, busy_s
        return load


class ActiveRun:
    """A loaded run in service. Whoever uses it enters it as a context.

    `limit`: the budget, that is the largest mean cost per row. `policy`: name of the active policy, which requests get
    that ask for none.

    Raises as `LoadedRun.controller` does.
    """

    def __init__(self, loaded: LoadedRun, settings: Settings) -> None:
        self.loaded = loaded
        self.controller = loaded.controller(settings)
        responds = RESPONSES[settings.on_drift]
        for policy in loaded.policies.values():
            responds.check(policy)
        self.admission = None if self.controller is None else Admission(self.controller.late_s)
        patience_s = _PATIENCE * (settings.slo_s or 0.0)
        self.engine = loaded.started(patience_s)  # last of what may fail: a thread would keep the network
        self.watches = ServedWatches(loaded.policies, loaded.shared.exits, several=settings.workers > 1)
        self.after_drift = responds(self.engine, loaded.policies, loaded.shared.exits, self.watches)
        self._meter = LoadMeter(self.engine, loaded.call_seconds, loaded.row_seconds)
        self._users, self._refused = 0, 0
        self._quiet_until = self._refusals_quiet_until = -math.inf
        self._unused = asyncio.Event()
        self._unused.set()
        *_, (self.policy, most_expensive) = loaded.policies.items()
        self.limit = most_expensive.budget

    async def set_limit(self, budget: float | str | None) -> None:
        """Set the budget; None is the largest that there is.

        Raises as `LoadedRun.at` does, InputError for a budget below the least that the controller may choose.
        """
        *_, largest = self.loaded.policies
        name = largest if budget is None else self.loaded.at(budget)
        policy = self.loaded.policies[name]
        limit = policy.budget if budget is None else policy.cost.amount(budget)
        if self.controller is not None:
            self.controller.set_budget(limit)
            name = self.controller.active.name
        self.limit = limit
        await self._activate(name)

    async def follow_load(self, now: float, counts: Counts, waiting: int) -> None:
        """Let the controller, if there is one, choose the policy. `counts`: since the last call; `waiting`: rows."""
        self._refused += counts.problems["refused"]
        if self._refused and now >= self._refusals_quiet_until:
            _log.warning("requests are refused", extra={"fields": {"requests": self._refused}})
            self._refused, self._refusals_quiet_until = 0, now + _REFUSALS_QUIET_S
        if self.controller is None:
            return
        before, load = self.controller.settled, self._meter.measure(counts, waiting, self.controller.late_s)
        await self._activate(self.controller.observe(now, load).name)
        fields = {"rows_per_s": round(self.controller.rate), "waiting": waiting}
        if (settled := self.controller.settled) != before:
            names = {"policy": settled.name, "before": before.name}
            _log.info("active policy", extra={"fields": names | fields})
        if self.controller.out_of_options and now >= self._quiet_until:
            self._quiet_until = now + _QUIET_S
            _log.warning("the latency cannot be kept", extra={"fields": fields})

    @property
    def at_rest(self) -> bool:
        """Whether time alone does not change the active policy."""
        return self.policy == self.policy_without_load

    @property
    def policy_without_load(self) -> str:
        """Name of the policy that would be active without load."""
        return self.policy if self.controller is None else self.controller.without_load.name

    def deadline(self, arrived: float) -> float | None:
        """Return the soft deadline of a request that had arrived at a time; None without a latency target."""
        return None if self.controller is None else arrived + self.controller.within_s

    def admits(self, waited_s: float, waiting: int) -> bool:
        """Whether a request that has waited so long can be answered in time while so many rows wait in the engine."""
        if self.controller is None or self.admission is None:
            return True
        first_s = float(self.loaded.call_seconds[1, 0])  # of each row: all run to the first exit at least
        return self.admission.admits(waited_s, waiting * first_s * self.controller.slowness)

    async def follow_drift(self) -> None:
        """Tell the watches of the answers since the last call, log new alarms, and respond to them."""
        for name, alarm in self.watches.follow().items():
            fields = {"policy": name, "since": alarm.since, "void": alarm.void, "about": alarm.what}
            _log.warning("inputs have drifted", extra={"fields": fields})
            await self.after_drift.alarmed(name)
        await self.after_drift.follow()

    @property
    def drift(self) -> dict[str, str]:
        """What the alarms say that stand, and what followed, by policy."""
        notes = self.after_drift.notes
        return {
            name: f"{alarm} {notes.get(name, '')}".rstrip() for name, alarm in self.watches.alarms.items()
        }

    def recent(self, metrics: Metrics, now: float) -> Recent:
        """Return the last seconds of this worker."""
        counts, elapsed = metrics.last_seconds(now)
        return Recent(
            counts,
            elapsed,
            metrics.waiting,
            self.policy,
            self.loaded.policies[self.policy].budget,
            drift=self.drift,
            evidence=self.watches.evidence,
            recalibrated=self.after_drift.receipts,
        )

    async def take_over(self, before: ActiveRun) -> None:
        """Begin with the load that the previous run was under."""
        if self.controller is not None and before.controller is not None:
            self.controller.take_over(before.controller)
            await self._activate(self.controller.active.name)

    async def _activate(self, name: str) -> None:
        """Let this policy answer rows that have not begun and name none."""
        if name != self.policy:
            self.policy = name
            await self.engine.call(lambda engine: setattr(engine, "active", name))

    def __enter__(self) -> ActiveRun:
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


TOO_MANY = "too many requests wait for one more to be answered in time: try again soon"
"""What the client of a request is told that is refused."""
_ALLOWED = 0.1
"""Share of the requests admitted under overload that may be late."""
_GAIN = 0.005
"""If all answers are late, each lowers the limit by so many targets, but for the share that may be."""
_LEAST = 0.125
"""Share of the target that the limit never falls below: else an idle server might refuse."""


class Admission:
    """Decides by the time that a request has waited. `late_s`: seconds after which an answer is late.

    When more requests come than can be answered, all would be late. So a request that waited long in the server's own
    queues is refused. How long is too long follows from the answers: the limit falls with each late one and grows with
    the others, so that in the long run few of those admitted are late, whatever takes the time (stochastic
    approximation of a quantile, as in `exeunt.serve.latency_controller`).

    `oldest_s`: seconds after which a request is refused, if no others wait in the engine.
    """

    def __init__(self, late_s: float) -> None:
        self.late_s = self.oldest_s = late_s

    def answered(self, seconds: float) -> None:
        """Take note that a request was answered so many seconds after it came."""
        late = seconds > self.late_s
        self.oldest_s += _GAIN * self.late_s * (_ALLOWED - late)
        self.oldest_s = min(max(self.oldest_s, _LEAST * self.late_s), self.late_s)

    def admits(self, waited_s: float, ahead_s: float) -> bool:
        """Whether to answer a request that has waited, with rows ahead of it that take `ahead_s` to an exit."""
        return waited_s + ahead_s <= self.oldest_s
