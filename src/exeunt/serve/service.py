"""What a server does, without HTTP: answers rows, keeps a budget, loads its run again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from exeunt.errors import ArtefactError, ExeuntError, InputError, QueueFull, one_line
from exeunt.serve.answering import Answered, Asked, Options, answer_columns, called, tickets
from exeunt.serve.decoders import Decoders
from exeunt.serve.events import about, snapshot
from exeunt.serve.input_reading import InputReader
from exeunt.serve.live_file import LiveFile
from exeunt.serve.opened_run import OpenedRun, open_run
from exeunt.serve.served_run import Served

if TYPE_CHECKING:
    from exeunt.serve.settings import Settings
    from exeunt.serve.traffic import Traffic

__all__ = ["Service"]

_log = logging.getLogger("exeunt.serve")
_LEAST_TICK_S = 0.005
"""The controller looks ten times within the latency asked for, but not more often than this."""
_POLL_S = 1.0
"""How often the live file is looked at, and the page told."""


class Service:
    """Answers rows with the run of its settings. All methods are for the thread of the event loop.

    `opened`: the run in service. `draining`: no new requests are wanted.
    """

    def __init__(self, settings: Settings, traffic: Traffic) -> None:
        self.settings, self.traffic = settings, traffic
        self.draining = False
        self._live = LiveFile(settings.watched)
        self._decoded = Decoders(settings.decoders)
        self._loads = 0
        self._asked: str | float | None = None  # as somebody wrote it; None is the budget of the settings
        self._loading, self._setting = asyncio.Lock(), asyncio.Lock()
        self._listeners: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._behind: set[asyncio.Task[None]] = set()

    async def start(self, opened: OpenedRun | None = None) -> None:
        """Load the run, unless it is given, and begin to watch. Raises what loading raises."""
        try:
            self._loads = self._live.read().loads
        except ExeuntError as error:  # what was set before is no reason not to start
            _log.error(one_line(error))
        self._served = await self._loaded(opened)
        self.traffic.begin_anew(time.monotonic())
        whole = self.about
        fields = {
            name: whole[name] for name in ("model", "policy", "budget", "unit", "slo_ms", "slo_quantile")
        }
        _log.info("ready", extra={"fields": fields | {"policies": list(self.opened.policies)}})
        self._in_background(self._watch())
        self._in_background(self._follow_file())

    async def stop(self) -> None:
        """Answer what is inside, then stop."""
        self.drain()
        await self._served.close()
        for task in self._behind:
            task.cancel()
        self._decoded.close()

    def drain(self) -> None:
        """Say that no new requests are wanted, and end the streams of events, which have no end of their own."""
        self.draining = True
        self._tell(None)

    @property
    def opened(self) -> OpenedRun:
        """The run in service."""
        return self._served.opened

    @property
    def alive(self) -> bool:
        """Whether the engine works, be it on what is left."""
        return self._served.engine.failure is None

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self.draining and self._served.engine.alive

    # -- answers ----------------------------------------------------------------------------------------

    async def answer(self, read: Callable[[InputReader], Asked], begun: float, whole: float) -> Answered:
        """Answer the rows that `read`, called in a thread of the decoders, makes of a request.

        `begun`, `whole`: when the request began to come in, and when it had, on the monotonic clock. Deadlines count
        from the first, latencies from the second: how slowly a client sends is no sign of load. If the task is
        cancelled, its rows are dropped.
        Raises what `read` raises, InputError for options that cannot be met and QueueFull.
        """
        with self._served as served:
            with self.traffic.reading():
                rows, options = await self._decoded(read, served.opened.reader)
            policy = self._chosen(served.opened, options)
            ms = options.deadline_ms
            deadline = served.answers_by(whole) if ms is None else begun + ms / 1e3
            try:
                with self.traffic.inside(len(rows), policy, own_deadline=ms is not None):
                    parts = await tickets(
                        served.engine, rows, policy=policy, deadline=deadline, soft=ms is None
                    )
            except QueueFull:
                self.traffic.refused()
                raise
            names, places = served.opened.class_names, served.opened.shared.places
            columns = await called(answer_columns, len(rows), rows, parts, names, places)
            self.traffic.answered(columns, time.monotonic() - whole, policy, own_deadline=ms is not None)
            return Answered(columns, served.opened.unit)

    def _chosen(self, opened: OpenedRun, options: Options) -> str | None:
        if options.budget is not None and options.tier is not None:
            raise InputError("give a budget or a tier, not both")
        if options.tier is None:
            return None if options.budget is None else opened.at(options.budget)
        tiers = self.settings.tiers
        if options.tier not in tiers:
            known = f"choose one of {', '.join(tiers)}" if tiers else "start it with --tier NAME=BUDGET"
            raise InputError(f"the server has no tier {options.tier!r}: {known}")
        return opened.at(tiers[options.tier])

    # -- what is active -------------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, Any]:
        """See `exeunt.serve.events.about`."""
        return about(self._served, self.settings)

    async def set_budget(self, budget: str | float) -> None:
        """Activate a budget, here and on all servers that watch the file.

        Raises InfeasibleBudget below the smallest, InputError for what is no budget, FileError if the file cannot be
        written.
        """
        async with self._setting:  # who looks at the file meanwhile would put back what it said before
            before = self._asked
            await self._put(self._served, budget)
            try:
                await asyncio.to_thread(self._live.set_budget, budget)
            except ExeuntError:  # nobody else would follow
                await self._put(self._served, before)
                raise
        _log.info("budget set", extra={"fields": {"budget": budget, "policy": self._served.active}})

    async def load_again(self) -> None:
        """Load the run again, here and on all servers that watch the file; the one before goes on until then."""
        async with self._setting:  # else one of two who read the file and write it loses what it wrote
            loads = await asyncio.to_thread(self._live.load_again)
        await self._replace(loads)

    async def _replace(self, loads: int) -> None:
        async with self._loading:
            if loads in (0, self._loads):  # 0: the file is gone, or new, and nobody has asked
                self._loads = loads
                return
            before, self._served = self._served, await self._loaded()
            await self._served.take_over(before)
            self._loads = loads
            self.traffic.begin_anew(time.monotonic())
            self._in_background(before.close())
            _log.info("run loaded again", extra={"fields": {"run": self.opened.run.digest[:12]}})

    async def _loaded(self, opened: OpenedRun | None = None) -> Served:
        opened = await asyncio.to_thread(open_run, self.settings) if opened is None else opened
        served = Served(opened, self.settings)
        try:
            budget = self._live.read().budget
        except ExeuntError as error:
            _log.error(one_line(error))
            budget = self._asked
        try:
            rows = await self._decoded(lambda reader: reader.warm_up(), opened.reader)
            warm = await tickets(served.engine, rows)
            answer_columns(rows, warm, opened.class_names, opened.shared.places)
            try:
                await self._follow(served, budget)
                if budget is not None:
                    fields = {"budget": budget, "file": str(self._live.path), "policy": served.active}
                    _log.info("budget set earlier", extra={"fields": fields})
            except ExeuntError as error:  # nor is a budget for another run
                _log.error(one_line(error))
                await self._put(served, None)
        except BaseException:
            await served.close()
            raise
        return served

    async def _follow(self, served: Served, budget: str | float | None) -> None:
        """Put the budget of the live file active. Raises ArtefactError, naming the file, if it cannot be."""
        try:
            await self._put(served, budget)
        except ExeuntError as error:
            raise ArtefactError(
                f"the budget in {self._live.path} cannot be kept: {one_line(error)}"
            ) from error

    async def _put(self, served: Served, budget: str | float | None) -> None:
        """Activate a budget; None is that of the settings."""
        await served.set_most(self.settings.budget if budget is None else budget)
        self._asked = budget
        self.traffic.budget.set(served.most)

    # -- in the background ------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the page shows, once a second, until the server stops."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(1)
        self._listeners.add(queue)
        try:
            while not self.draining and (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)

    def _tell(self, event: dict[str, Any] | None) -> None:
        for queue in self._listeners:
            if event is None and queue.full():
                queue.get_nowait()
            if not queue.full():  # else it reads more slowly than once a second
                queue.put_nowait(event)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _watch(self) -> None:
        due, slo_s = time.monotonic(), self.settings.slo_s
        tick_s = _POLL_S / 10 if slo_s is None else max(slo_s / 10, _LEAST_TICK_S)
        while True:
            await asyncio.sleep(tick_s)
            now = time.monotonic()
            with _logged():
                await self._served.steer(now, self.traffic.taken(now), self.traffic.pressing)
                if now >= due:
                    due = now + _POLL_S
                    event = snapshot(self._served, self.traffic, now)
                    self.traffic.tell(event)
                    self._tell(event)

    async def _follow_file(self) -> None:
        """Look at the live file. Loading a run takes long, and the one before is steered meanwhile."""
        while True:
            await asyncio.sleep(_POLL_S)
            with _logged():
                await self._poll()

    async def _poll(self) -> None:
        if await asyncio.to_thread(self._live.changed):
            live = await asyncio.to_thread(self._live.read)
            try:
                await self._replace(live.loads)
            finally:  # after it: it may be a budget that the run before could not keep
                async with self._setting:
                    live = await asyncio.to_thread(self._live.read)
                    await self._follow(self._served, live.budget)


@contextmanager
def _logged() -> Iterator[None]:
    """Log an error in the background: what is active stays so."""
    try:
        yield
    except Exception as error:
        _log.error(one_line(error), exc_info=None if isinstance(error, ExeuntError) else error)
