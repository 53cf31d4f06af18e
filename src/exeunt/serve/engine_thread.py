"""The thread that owns an engine. The event loop passes it rows and awaits their answers."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt._arrays import Integers
from exeunt.engine.answers import Ticket
from exeunt.engine.engine import Engine
from exeunt.errors import ExeuntError
from exeunt.score.tie_breaking import Ties
from exeunt.serve.decoding import Rows
from exeunt.serve.live_engine import LiveEngine
from exeunt.serve.spending import Payer

_log = logging.getLogger("exeunt.serve")


class EngineStopped(ExeuntError):  # noqa: N818 - named for what it says
    """The engine takes no more rows: it was closed, or an unexpected error ended it."""


@dataclass(eq=False, slots=True)
class _Job:
    """What the thread is to do with the engine. `done` gets the result; a ticket, from `submits`, once it is done."""

    action: Callable[[Engine], Any]
    done: asyncio.Future[Any]
    submits: bool = False
    ticket: Ticket | None = None


class EngineThread:
    """Runs an engine in a thread of its own. All methods are for the thread of the event loop.

    While a call of the network runs, new rows gather in an inbox, so calls are as large as the load makes them.
    `failure`: what ended the thread, if it was not `close`. `busy_s`: seconds that the engine has worked.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: BaseException | None = None
        self.busy_s = 0.0
        self._engine, self._clock = engine, clock
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._jobs: dict[int, _Job] = {}  # whose ticket is in the engine, by its id
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="exeunt-engine", daemon=True)
        self._thread.start()

    @property
    def work(self) -> Integers:
        """Calls of each segment of the network so far, and their rows (2, s)."""
        return np.array(self._engine.work)

    @property
    def ties(self) -> Ties:
        """The keys by which the policies break ties; see `Engine.add`."""
        return self._engine.ties

    @property
    def alive(self) -> bool:
        """Whether it takes rows."""
        return not (self._ended or self._closing)

    async def answer(
        self,
        inputs: Any,
        *,
        policy: str | None = None,
        deadline: float | None = None,
        soft: bool = False,
        id: ArrayLike | None = None,  # noqa: A002
    ) -> Ticket:
        """Submit prepared inputs and return their ticket when it is done (see `Engine.submit`).

        If the awaiting task is cancelled, so is the ticket. Raises what `submit` raises, EngineStopped after the end.
        """

        def submit(engine: Engine) -> Ticket:
            return engine.submit(inputs, self._clock(), policy=policy, deadline=deadline, soft=soft, id=id)

        job = self._enqueue(submit, submits=True)
        try:
            ticket: Ticket = await job.done
        except asyncio.CancelledError:
            self._enqueue(lambda engine: self._cancel(engine, job))
            raise
        return ticket

    async def paid_answer(self, payer: Payer, n: int, inputs: Any, **options: Any) -> Ticket:
        """Return the ticket of n inputs as `answer` does; `payer` holds the most that they may cost, then pays."""
        async with payer.paying(n * self._engine.highest_cost) as bill:
            ticket = await self.answer(inputs, **options)
            bill(0.0 if ticket.error else float(ticket.answers.cost.sum()))
        return ticket

    async def call(self, action: Callable[[Engine], Any]) -> Any:
        """Call a function with the engine, in its thread and between two steps, and return the result."""
        return await self._enqueue(action).done

    async def close(self) -> None:
        """Answer all rows in the engine, then end the thread."""
        self._closing = True
        self._enqueue(lambda _: None)  # wakes it
        await asyncio.to_thread(self._thread.join)

    def _enqueue(self, action: Callable[[Engine], Any], *, submits: bool = False) -> _Job:
        job = _Job(action, self._loop.create_future(), submits)
        self._inbox.put(job)
        if self._ended:  # perhaps before it saw the job
            self._fail([job], EngineStopped("the engine has stopped"))
        return job

    def _deliver(self, results: Iterable[tuple[Any, _Job]]) -> None:
        for result, job in results:
            if not job.done.done():  # it may have been cancelled meanwhile
                job.done.set_result(result)

    def _fail(self, jobs: Iterable[_Job], error: Exception) -> None:
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(error)
                job.done.exception()  # nobody may be waiting for it

    # -- in the engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing or self._engine.rows or not self._inbox.empty():
                self._do_jobs()
                begun = self._clock()
                done = self._engine.step(begun, force=True)
                self.busy_s += self._clock() - begun
                if done:
                    results = [(ticket, self._jobs.pop(id(ticket))) for ticket in done]
                    self._loop.call_soon_threadsafe(self._deliver, results)
        except BaseException as error:
            self.failure = error
            _log.critical("the engine has stopped", exc_info=error)
        self._ended = True  # first: whoever enqueues a job from now on looks at it afterwards
        left = list(self._jobs.values())
        with suppress(queue.Empty):
            while True:
                left.append(self._inbox.get_nowait())
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(
                self._fail, left, EngineStopped(f"the engine has stopped: {self.failure!r}")
            )

    def _do_jobs(self) -> None:
        """Do all jobs; if the engine is empty, wait for one."""
        if not self._engine.rows:
            self._do(self._inbox.get())
        with suppress(queue.Empty):
            while True:
                self._do(self._inbox.get_nowait())

    def _do(self, job: _Job) -> None:
        if job.done.cancelled():
            return
        try:
            result = job.action(self._engine)
        except Exception as error:  # of this job alone
            self._loop.call_soon_threadsafe(self._fail, [job], error)
            return
        if job.submits:
            job.ticket = result
            self._jobs[id(result)] = job
        else:
            self._loop.call_soon_threadsafe(self._deliver, [(result, job)])

    def _cancel(self, engine: Engine, job: _Job) -> None:
        if job.ticket is not None and self._jobs.pop(id(job.ticket), None) is not None:
            engine.cancel(job.ticket)


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
    whole = await run(slice(None))
    if whole[1].error is None or len(rows.places) == 1:
        return [whole]
    each = (run(slice(i, i + 1)) for i in range(len(rows.places)))
    found = await asyncio.gather(*each, return_exceptions=True)  # none goes on once the request is answered
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found  # type: ignore[return-value]
