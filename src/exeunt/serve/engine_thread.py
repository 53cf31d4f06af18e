"""The thread that owns an engine. The event loop passes it rows and awaits their answers."""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt._arrays import Integers
from exeunt.engine.answers import Ticket
from exeunt.engine.engine import Engine, Submission
from exeunt.errors import ExeuntError
from exeunt.score.tie_breaking import Ties
from exeunt.serve.input_reader import Rows
from exeunt.serve.live_engine import LiveEngine
from exeunt.serve.spending import Payer

_log = logging.getLogger("exeunt.serve")
_SHARE = 0.2
"""Of the time to a deadline, for more rows to gather."""


class EngineStopped(ExeuntError):  # noqa: N818 - named for what it says
    """The engine takes no more rows: it was closed, or an unexpected error ended it."""


@dataclass(eq=False, slots=True)
class _Job:
    """What the thread is to do with the engine. `done` gets the result of `action`, or the ticket of what it submits.

    `options`: policy and whether the deadline is soft.
    """

    done: asyncio.Future[Any]
    action: Callable[[Engine], Any] | None = None
    given: Submission | None = None
    options: tuple[str | None, bool] = None, False
    ticket: Ticket | None = None


class EngineThread:
    """Runs an engine in a thread of its own. All methods are for the thread of the event loop.

    While a call of the network runs, new rows gather in an inbox, so calls are as large as the load makes them. An idle
    thread gives rows `patience_s` to gather, if they come more often than that: a call of two takes hardly longer.
    `failure`: what ended the thread, if it was not `close`. `busy_s`: seconds that the engine has worked.
    """

    def __init__(
        self, engine: Engine, *, patience_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failure: BaseException | None = None
        self.busy_s = 0.0
        self._engine, self._clock, self._patience_s, self._woken = engine, clock, patience_s, -math.inf
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[_Job] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes the thread if it is `_asleep`
        self._asleep = self._will_ring = False
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
        job = _Job(self._loop.create_future(), None, Submission(inputs, id, deadline), (policy, soft))
        self._enqueue(job)
        try:
            ticket: Ticket = await job.done
        except asyncio.CancelledError:
            self._enqueue(self._job(lambda engine: self._cancel(engine, job)))
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
        self._enqueue(job := self._job(action))
        return await job.done

    async def close(self) -> None:
        """Answer all rows in the engine, then end the thread."""
        self._closing = True
        self._enqueue(self._job(lambda _: None))  # wakes it
        await asyncio.to_thread(self._thread.join)

    def _job(self, action: Callable[[Engine], Any]) -> _Job:
        return _Job(self._loop.create_future(), action)

    def _enqueue(self, job: _Job) -> None:
        """Put a job into the inbox. The thread is woken once for all that the event loop has ready now."""
        self._inbox.append(job)
        if not self._will_ring:
            self._will_ring = True
            self._loop.call_soon(self._ring)

    def _ring(self) -> None:
        self._will_ring = False
        if self._asleep:
            self._asleep = False
            self._bell.put(None)
        if self._ended:  # perhaps before it saw the jobs
            self._fail(self._jobs_taken(), EngineStopped("the engine has stopped"))

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
            while not self._closing or self._engine.rows or self._inbox:
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
        left = [*self._jobs.values(), *self._jobs_taken()]
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(
                self._fail, left, EngineStopped(f"the engine has stopped: {self.failure!r}")
            )

    def _jobs_taken(self) -> list[_Job]:
        """Take the jobs out of the inbox."""
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._inbox.popleft())
        return taken

    def _do_jobs(self) -> None:
        """Do all jobs; if there are none and the engine is empty, wait for one."""
        if not self._engine.rows:
            self._asleep = True
            if not self._inbox:  # looked at after that was set: who adds a job from now on rings
                self._bell.get()
            self._asleep = False
            self._wait_for_more()
        wanted = (job for job in self._jobs_taken() if not job.done.cancelled())
        for options, jobs in groupby(wanted, key=lambda job: job.given and job.options):
            if options is None:
                for job in jobs:
                    self._do(job)
            else:
                self._submit(list(jobs), *options)

    def _submit(self, jobs: Sequence[_Job], policy: str | None, soft: bool) -> None:
        """Submit together; what cannot be submitted or joined, apart."""
        given: Any = [job.given for job in jobs]
        try:
            tickets = self._engine.submit_together(given, self._clock(), policy=policy, soft=soft)
        except Exception as error:
            if len(jobs) == 1:
                self._loop.call_soon_threadsafe(self._fail, jobs, error)
            for job in jobs if len(jobs) > 1 else ():
                self._submit([job], policy, soft)
            return
        for job, ticket in zip(jobs, tickets, strict=True):
            job.ticket = ticket
            self._jobs[id(ticket)] = job

    def _wait_for_more(self) -> None:
        """Let more rows gather, unless the previous ones came long ago, or a deadline is near."""
        before, self._woken = self._woken, self._clock()
        if self._woken - before < self._patience_s:
            given = [job.given for job in list(self._inbox)]
            deadlines = [one.deadline for one in given if one is not None and one.deadline is not None]
            soonest = min(deadlines, default=math.inf)
            time.sleep(min(self._patience_s, max(_SHARE * (soonest - self._woken), 0.0)))

    def _do(self, job: _Job) -> None:
        try:
            result = job.action(self._engine)  # type: ignore[misc]
        except Exception as error:  # of this job alone
            self._loop.call_soon_threadsafe(self._fail, [job], error)
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
