"""What a server does, without HTTP: it answers rows, keeps a budget, and reloads its run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from exeunt._support.arrays import Integers
from exeunt.errors import ArtefactError, ExeuntError, InputError, OverBudget, QueueFull, one_line
from exeunt.serve import prediction
from exeunt.serve.active_run import ActiveRun
from exeunt.serve.decoding import Decoding
from exeunt.serve.engine_thread import EngineThread
from exeunt.serve.events import EventStream, about, snapshot
from exeunt.serve.input_reader import InputReader, Rows
from exeunt.serve.live_budget import LiveBudgetFile
from exeunt.serve.live_engine import LiveEngine
from exeunt.serve.loaded_run import LoadedRun, load_run
from exeunt.serve.metrics import Metrics
from exeunt.serve.settings import Settings
from exeunt.serve.spending import Payer, Spending

_log = logging.getLogger("exeunt.serve")
_LEAST_TICK_S, _SLOWER, _FEW = 0.005, 9, 4
"""The controller acts ten times within the latency target, but at most once in this time; once within the target while
only few rows wait."""
_POLL_S = 1.0
"""How often the live budget is read, and the page gets an event."""


class Service:
    """Answers rows with the run of its settings. All methods are for the thread of the event loop.

    `active`: the run in service. `events`: what the page shows, once a second. `draining`: no new requests are wanted.
    `workers`: of the server that answer, this one included.
    """

    active: ActiveRun
    spending: Spending

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.draining, self.workers = False, 1
        self.events = EventStream()
        self._live = LiveBudgetFile(settings.live_budget_file)
        self._decoding = Decoding(settings.decoders)
        self._loads = 0
        self._asked, self._few = asyncio.get_running_loop().create_future(), 0  # see `_until_asked`
        self._budget: str | float | None = None  # as somebody wrote it; None is the budget of the settings
        self._reloading, self._setting = asyncio.Lock(), asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()

    async def start(self, loaded: LoadedRun | None = None) -> None:
        """Load the run, unless it is given, and begin to watch. Raises what loading raises."""
        try:
            self._loads = self._live.read().loads
        except ExeuntError as error:  # a damaged file is no reason not to start
            _log.error(one_line(error))
        self.active = await self._loaded(loaded)
        cost = next(iter(self.active.loaded.policies.values())).cost
        self.spending = await asyncio.to_thread(Spending, self.settings, cost)
        self.metrics.restart_window(time.monotonic())
        description = about(self.active, self.settings)
        fields = {
            key: description[key] for key in ("model", "policy", "budget", "unit", "slo_ms", "slo_quantile")
        }
        _log.info("ready", extra={"fields": fields | {"policies": list(self.active.loaded.policies)}})
        self.metrics.workers.set(1)
        self._in_background(self._follow_load())
        self._in_background(self._follow_file())

    async def stop(self) -> None:
        """Answer the rows in the engine, then stop."""
        self.drain()
        await self.active.close()
        for task in self._background:
            task.cancel()
        self._decoding.close()

    def drain(self) -> None:
        """Take note that no new requests are wanted, and end the streams of events, which would never end."""
        self.draining = True
        self.events.close()

    @property
    def alive(self) -> bool:
        """Whether the engine works, even if only on what is left."""
        return self.active.engine.failure is None

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self.draining and self.active.engine.alive

    # -- answers ----------------------------------------------------------------------------------------

    def is_late(self, arrived: float) -> bool:
        """Whether a request that came at this time cannot be answered within the latency target."""
        waited_s = time.monotonic() - arrived
        return not self.active.admits(waited_s, self.metrics.waiting_without_deadline)

    async def answer(
        self,
        read: Callable[[InputReader], prediction.PredictRequest],
        size: int,
        begun: float,
        arrived: float,
        key: str = "",
    ) -> prediction.PredictResponse:
        """Answer a request, which `read` makes of its body: at once if it is small, else in a decoding thread.

        `size`: bytes of the body. `begun`, `arrived`: when the request began to come in, and when it had, on the
        monotonic clock. Deadlines of its own count from the first, latencies from the second: a slow client is no sign
        of load. If the task is cancelled, its rows are dropped. `key`: the API key, whose ledger pays.
        Raises what `read` raises, InputError for options that cannot be met, OverBudget and QueueFull.
        """
        if self.metrics.waiting >= self._few:
            _set(self._asked)
        with self.active as active:
            loaded = active.loaded
            with self.metrics.reading():
                rows, options = await self._decoding(read, loaded.reader, size)
            policy = self._policy_for(loaded, options)
            own_deadline = options.deadline_ms is not None
            deadline = (
                active.deadline(arrived) if options.deadline_ms is None else begun + options.deadline_ms / 1e3
            )
            parts, running = None, active.watches.begin()
            try:
                with self.metrics.running(len(rows), policy, own_deadline=own_deadline):
                    parts = await run_rows(
                        active.engine,
                        rows,
                        policy=policy,
                        deadline=deadline,
                        soft=not own_deadline,
                        payer=self.spending.payer(key),
                    )
            except (QueueFull, OverBudget):
                self.metrics.refused()
                raise
            finally:
                active.watches.end(running, parts)
            answers = await prediction.in_thread_if_large(loaded.answers, len(rows), rows, parts)
            taken_s = time.monotonic() - arrived
            self.metrics.answered(answers, taken_s, policy, own_deadline=own_deadline)
            if active.admission is not None and not own_deadline:
                active.admission.answered(taken_s)
            return prediction.PredictResponse(answers, loaded.unit)

    def _policy_for(self, loaded: LoadedRun, options: prediction.Options) -> str | None:
        """Return the name of the policy that the options ask for; None for the active one."""
        if options.budget is not None and options.tier is not None:
            raise InputError("give a budget or a tier, not both")
        if options.tier is None:
            return None if options.budget is None else loaded.at(options.budget)
        tiers = self.settings.tiers
        if options.tier not in tiers:
            known = f"choose one of {', '.join(tiers)}" if tiers else "start it with --tier NAME=BUDGET"
            raise InputError(f"the server has no tier {options.tier!r}: {known}")
        return loaded.at(tiers[options.tier])

    # -- the budget and the run -------------------------------------------------------------------------

    async def set_budget(self, budget: str | float) -> None:
        """Set the budget, here and on all servers that watch the file.

        Raises InfeasibleBudget below the smallest, InputError for what is no budget, FileError if the file cannot be
        written.
        """
        async with self._setting:  # whoever reads the file meanwhile would restore the old budget
            before = self._budget
            await self._set_limit(self.active, budget)
            try:
                await asyncio.to_thread(self._live.set_budget, budget)
            except ExeuntError:  # no other server would follow
                await self._set_limit(self.active, before)
                raise
        _log.info("budget set", extra={"fields": {"budget": budget, "policy": self.active.policy}})

    async def reload(self) -> None:
        """Reload the run, here and on all servers that watch the file; the previous one serves until then."""
        async with self._setting:  # of two tasks that read and write the file, one would lose its change
            loads = await asyncio.to_thread(self._live.request_reload)
        await self._replace(loads)

    async def _replace(self, loads: int) -> None:
        async with self._reloading:
            if loads in (0, self._loads):  # 0: the file is gone, or new, and nobody has asked
                self._loads = loads
                return
            before, self.active = self.active, await self._loaded()
            await self.active.take_over(before)
            self._loads = loads
            self.metrics.restart_window(time.monotonic())
            self._in_background(before.close())
            _log.info("run loaded again", extra={"fields": {"run": self.active.loaded.run.digest[:12]}})

    async def _loaded(self, loaded: LoadedRun | None = None) -> ActiveRun:
        loaded = await asyncio.to_thread(load_run, self.settings) if loaded is None else loaded
        active = ActiveRun(loaded, self.settings)
        try:
            budget = self._live.read().budget
        except ExeuntError as error:
            _log.error(one_line(error))
            budget = self._budget
        try:
            if loaded.warms:
                rows = await asyncio.to_thread(loaded.reader.warm_up)
                loaded.answers(rows, await run_rows(active.engine, rows))
            try:
                await self._follow(active, budget)
                if budget not in (None, self.settings.budget):
                    fields = {"budget": budget, "file": str(self._live.path), "policy": active.policy}
                    _log.info("budget set earlier", extra={"fields": fields})
            except ExeuntError as error:  # the budget may have been set for another run
                _log.error(one_line(error))
                await self._set_limit(active, None)
        except BaseException:
            await active.close()
            raise
        return active

    async def _follow(self, active: ActiveRun, budget: str | float | None) -> None:
        """Set the budget of the live file. Raises ArtefactError that names the file if it cannot be kept."""
        try:
            await self._set_limit(active, budget)
        except ExeuntError as error:
            raise ArtefactError(
                f"the budget in {self._live.path} cannot be kept: {one_line(error)}"
            ) from error

    async def _set_limit(self, active: ActiveRun, budget: str | float | None) -> None:
        """Set a budget; None is that of the settings."""
        await active.set_limit(self.settings.budget if budget is None else budget)
        self._budget = budget
        self.metrics.budget.set(active.limit)

    # -- in the background ------------------------------------------------------------------------------

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _follow_load(self) -> None:
        due, slo_s = time.monotonic(), self.settings.slo_s
        tick_s = _POLL_S if slo_s is None else max(slo_s / 10, _LEAST_TICK_S)
        while True:
            await asyncio.sleep(tick_s)
            if self.metrics.waiting <= _FEW and tick_s < _POLL_S:
                await self._until_asked(min(_SLOWER * tick_s, _POLL_S), _FEW)
            now = time.monotonic()
            with _logged():
                counts = self.metrics.take_counts()
                await self.active.follow_load(now, counts, self.metrics.waiting_without_deadline)
                if now >= due:
                    due = now + _POLL_S
                    await self.active.follow_drift()
                    recent = self.active.recent(self.metrics, now).of_all_workers()
                    self.workers = recent.workers
                    event = snapshot(self.active, recent)
                    self.metrics.set_estimates(event)
                    self.events.send(event)
            if not self.metrics.waiting and tick_s < _POLL_S:  # else nothing would be missed for so long
                idle_s = _POLL_S if self.active.at_rest else _POLL_S / 10
                await self._until_asked(min(idle_s, max(due - now, tick_s)), 0)

    async def _until_asked(self, most_s: float, few: int) -> None:
        """Wait until a request comes while so many rows wait, but for so many seconds at most."""
        self._asked, self._few = asyncio.get_running_loop().create_future(), few
        request = self._asked
        timer = request.get_loop().call_later(most_s, _set, request)
        await request
        timer.cancel()

    async def _follow_file(self) -> None:
        """Follow the live budget. Loading a run takes long; meanwhile the previous one follows the load."""
        while True:
            await asyncio.sleep(_POLL_S)
            with _logged():
                if not await asyncio.to_thread(self._live.changed):
                    continue
                live = await asyncio.to_thread(self._live.read)
                try:
                    await self._replace(live.loads)
                finally:  # after it: the previous run may have no policy for the new budget
                    async with self._setting:
                        live = await asyncio.to_thread(self._live.read)
                        await self._follow(self.active, live.budget)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@contextmanager
def _logged() -> Iterator[None]:
    """Log an error in the background: what is active stays so."""
    try:
        yield
    except Exception as error:
        _log.error(one_line(error), exc_info=None if isinstance(error, ExeuntError) else error)


async def run_rows(
    engine: EngineThread | LiveEngine, rows: Rows, *, payer: Payer | None = None, **options: Any
) -> list[tuple[Integers, Any]]:
    """Run the rows that could be read. Return their places and their ticket; if the network fails, one for each row.

    `payer`: pays for them. `options`: what `EngineThread.answer` takes beside inputs and keys.
    """

    async def run(which: slice) -> tuple[Integers, Any]:
        inputs = rows.inputs
        chosen = {k: v[which] for k, v in inputs.items()} if hasattr(inputs, "items") else inputs[which]
        keys = None if rows.keys is None or engine.ties == "row" else rows.keys[which]
        places = rows.places[which]
        if payer is None:
            return places, await engine.answer(chosen, id=keys, **options)
        return places, await engine.paid_answer(payer, len(places), chosen, id=keys, **options)

    if len(rows.places) == 0:
        return []
    together = await run(slice(None))
    if together[1].error is None or len(rows.places) == 1:
        return [together]
    each = (run(slice(i, i + 1)) for i in range(len(rows.places)))
    apart = await asyncio.gather(*each, return_exceptions=True)  # none goes on once the request is answered
    for outcome in apart:
        if isinstance(outcome, BaseException):
            raise outcome
    return apart  # type: ignore[return-value]
