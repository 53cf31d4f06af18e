"""Who runs the engine of a server: few rows at a time run in the event loop itself, all others in a thread.

To wake a thread and be woken by it takes as long as a small network does.
"""

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

from exeunt._support.arrays import Integers
from exeunt.engine.answers import Ticket
from exeunt.engine.engine import Engine, Submission
from exeunt.engine.inputs import n_rows
from exeunt.errors import ExeuntError
from exeunt.score.tie_breaking import Ties
from exeunt.serve.spending import Payer

_log = logging.getLogger("exeunt.serve")
_SHARE = 0.2
"""Of the time to a deadline, for more rows to gather."""
_SHORT_S, _LONG_S = 0.002, 0.005
"""Rows that are expected to take at most the first time run in the event loop. What takes longer than the second one
goes on in the thread.
"""


class EngineStopped(ExeuntError):  # noqa: N818 - named for what it says
    """The engine takes no more rows: it was closed, or an unexpected error ended it."""


@dataclass(eq=False, slots=True)
class _Job:
    """What is to be done with the engine. `done` gets the result of `action`, or the ticket of what it submits.

    `options`: policy and whether the deadline is soft.
    """

    done: asyncio.Future[Any]
    action: Callable[[Engine], Any] | None = None
    given: Submission | None = None
    options: tuple[str | None, bool] = None, False
    ticket: Ticket | None = None


class EngineThread:
    """Runs an engine, in the event loop or in a thread of its own. All methods are for the thread of the event loop.

    While a call of the network runs, new rows gather in an inbox, so calls are as large as the load makes them. Rows
    for an idle engine have `patience_s` to gather, if they come more often than that: a call of two takes hardly
    longer. `seconds`: that so many rows are expected to take; if it is little, they run in the event loop.
    `failure`: what ended the engine, if it was not `close`. `busy_s`: seconds that the engine has worked.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        patience_s: float = 0.0,
        seconds: Callable[[int], float] = lambda _: math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: BaseException | None = None
        self.busy_s = 0.0
        self._engine, self._clock, self._patience_s, self._seconds = engine, clock, patience_s, seconds
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[_Job] = deque()
        self._owned = threading.Lock()  # by the thread, or by the event loop, while it works with the engine
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes the thread if it is `_asleep`
        self._asleep = self._is_due = False
        self._begun = -math.inf  # when the event loop last looked at the inbox
        self._look: asyncio.Handle | None = None  # with which it looks next
        self._looks_at = math.inf
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
        """Put a job into the inbox. The event loop looks at it once for all that it has ready now, or soon."""
        self._inbox.append(job)
        now = self._clock()
        due = now + self._pause(job, now)
        if due < self._looks_at:
            if self._look is not None:
                self._look.cancel()
            self._looks_at = due
            look, later = self._take_care, due - now
            self._look = self._loop.call_later(later, look) if later else self._loop.call_soon(look)

    def _pause(self, job: _Job, now: float) -> float:
        """Return for how long more rows may gather: not if the previous ones came long ago, or a deadline is near."""
        if job.given is None or now - self._begun >= self._patience_s:
            return 0.0
        deadline = math.inf if job.given.deadline is None else job.given.deadline
        return min(self._patience_s, max(_SHARE * (deadline - now), 0.0))

    def _take_care(self) -> None:
        """Do the jobs, or let the thread do them."""
        self._look, self._looks_at, self._begun, self._is_due = None, math.inf, self._clock(), True
        if self._asleep and not self._ended and self._owned.acquire(blocking=False):
            try:
                submissions = [job.given for job in self._inbox if job.given is not None]
                if self._seconds(sum(n_rows(submission.inputs) for submission in submissions)) <= _SHORT_S:
                    self._work(lambda function, *arguments: function(*arguments), self._begun + _LONG_S)
            finally:
                self._owned.release()
        if self._asleep and (self._is_due or self._engine.rows or self._closing):
            self._asleep = False
            self._bell.put(None)
        if self._ended:  # perhaps before the thread saw the jobs
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

    # -- in the engine's thread, or in the event loop ---------------------------------------------------

    def _run(self) -> None:
        while not self._ended and not (self._closing and not self._inbox and not self._engine.rows):
            self._asleep = True
            # Looked at after that was set: from now on the event loop rings.
            if not (self._is_due or self._engine.rows):
                self._bell.get()
            self._asleep = False
            with self._owned:
                self._work(self._loop.call_soon_threadsafe)
        self._end(self._loop.call_soon_threadsafe)

    def _work(self, tell: Callable[..., Any], until: float = math.inf) -> None:
        """Do jobs and run rows until none are left, or until some time. `tell`: calls a function in the event loop."""
        try:
            while self._is_due or self._engine.rows:
                self._is_due = False
                self._do_jobs(tell)
                begun = self._clock()
                done = self._engine.step(begun, force=True)
                now = self._clock()
                self.busy_s += now - begun
                if done:
                    tell(self._deliver, [(ticket, self._jobs.pop(id(ticket))) for ticket in done])
                if now > until:
                    return
        except BaseException as error:
            self.failure = error
            _log.critical("the engine has stopped", exc_info=error)
            self._end(tell)

    def _end(self, tell: Callable[..., Any]) -> None:
        self._ended = True  # first: whoever enqueues a job from now on looks at it afterwards
        left = [*self._jobs.values(), *self._jobs_taken()]
        with suppress(RuntimeError):  # the loop is closed
            tell(self._fail, left, EngineStopped(f"the engine has stopped: {self.failure!r}"))

    def _jobs_taken(self) -> list[_Job]:
        """Take the jobs out of the inbox."""
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._inbox.popleft())
        return taken

    def _do_jobs(self, tell: Callable[..., Any]) -> None:
        wanted = (job for job in self._jobs_taken() if not job.done.cancelled())
        for options, jobs in groupby(wanted, key=lambda job: job.given and job.options):
            if options is None:
                for job in jobs:
                    self._do(job, tell)
            else:
                self._submit(list(jobs), tell, *options)

    def _submit(self, jobs: Sequence[_Job], tell: Callable[..., Any], policy: str | None, soft: bool) -> None:
        """Submit together; what cannot be submitted or joined, apart."""
        submissions: Any = [job.given for job in jobs]
        try:
            tickets = self._engine.submit_together(submissions, self._clock(), policy=policy, soft=soft)
        except Exception as error:
            if len(jobs) == 1:
                tell(self._fail, jobs, error)
            for job in jobs if len(jobs) > 1 else ():
                self._submit([job], tell, policy, soft)
            return
        for job, ticket in zip(jobs, tickets, strict=True):
            job.ticket = ticket
            self._jobs[id(ticket)] = job

    def _do(self, job: _Job, tell: Callable[..., Any]) -> None:
        try:
            result = job.action(self._engine)  # type: ignore[misc]
        except Exception as error:  # of this job alone
            tell(self._fail, [job], error)
        else:
            tell(self._deliver, [(result, job)])

    def _cancel(self, engine: Engine, job: _Job) -> None:
        if job.ticket is not None and self._jobs.pop(id(job.ticket), None) is not None:
            engine.cancel(job.ticket)
