"""The thread that owns an engine. The event loop hands it rows and awaits their answers."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from exeunt._arrays import Integers
from exeunt.errors import ExeuntError

if TYPE_CHECKING:
    from exeunt.engine.answers import Ticket
    from exeunt.engine.engine import Engine

__all__ = ["EngineStopped", "EngineThread"]

_log = logging.getLogger("exeunt.serve")


class EngineStopped(ExeuntError):  # noqa: N818 - named for what it says
    """The engine takes no more rows: it was closed, or an error that it does not know ended it."""


class _Asked(NamedTuple):
    """What the thread is to do with the engine. `done` gets what it returns, or for a ticket the ticket once done."""

    action: Callable[[Engine], Any]
    done: asyncio.Future[Any]
    is_ticket: bool = False


class EngineThread:
    """Runs an engine in a thread of its own. All methods are for the thread of the event loop.

    While a call of the network runs, what arrives gathers in an inbox, so calls are as large as the load makes them.
    `failure`: what ended the thread, if it was not `close`. `busy_s`: seconds that the engine took so far.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: BaseException | None = None
        self.busy_s = 0.0
        self._engine, self._clock = engine, clock
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._waiting: dict[int, asyncio.Future[Any]] = {}  # by id of the ticket
        self._tickets: dict[asyncio.Future[Any], Ticket] = {}
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="exeunt-engine", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Rows inside the engine."""
        return self._engine.rows

    @property
    def work(self) -> Integers:
        """Calls of each segment of the network so far, and their rows (2, s)."""
        return np.array(self._engine.work)

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
            now = self._clock()
            return engine.submit(inputs, now, policy=policy, deadline=deadline, soft=soft, id=id)

        done = self._ask(submit, is_ticket=True)
        try:
            ticket: Ticket = await done
        except asyncio.CancelledError:
            self._ask(lambda engine: self._cancel(engine, done))
            raise
        return ticket

    async def call(self, action: Callable[[Engine], Any]) -> Any:
        """Call a function with the engine, in its thread and between two steps, and return what it returns."""
        return await self._ask(action)

    async def close(self) -> None:
        """Answer all that is inside, then end the thread."""
        self._closing = True
        self._ask(lambda _: None)  # wakes it
        await asyncio.to_thread(self._thread.join)

    def _ask(self, action: Callable[[Engine], Any], *, is_ticket: bool = False) -> asyncio.Future[Any]:
        asked = _Asked(action, self._loop.create_future(), is_ticket)
        self._inbox.put(asked)
        if self._ended:  # maybe before it saw this
            self._fail([asked.done], EngineStopped("the engine has stopped"))
        return asked.done

    def _deliver(self, results: Iterable[tuple[Any, asyncio.Future[Any]]]) -> None:
        for result, done in results:
            if not done.done():  # it may have been cancelled meanwhile
                done.set_result(result)

    def _fail(self, waiting: Iterable[asyncio.Future[Any]], error: Exception) -> None:
        for done in waiting:
            if not done.done():
                done.set_exception(error)
                done.exception()  # nobody may be waiting for it

    # -- in the engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing or self._engine.rows or not self._inbox.empty():
                self._take_in()
                begun = self._clock()
                done = self._engine.step(begun, force=True)
                self.busy_s += self._clock() - begun
                if done:
                    self._loop.call_soon_threadsafe(self._deliver, [(one, self._forget(one)) for one in done])
        except BaseException as error:
            self.failure = error
            _log.critical("the engine has stopped", exc_info=error)
        self._ended = True  # first: who asks from now on looks at it afterwards
        left = list(self._tickets)
        with suppress(queue.Empty):
            while True:
                left.append(self._inbox.get_nowait().done)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(
                self._fail, left, EngineStopped(f"the engine has stopped: {self.failure!r}")
            )

    def _take_in(self) -> None:
        """Do what was asked for; if nothing is inside, wait until something is."""
        if not self._engine.rows:
            self._do(self._inbox.get())
        with suppress(queue.Empty):
            while True:
                self._do(self._inbox.get_nowait())

    def _do(self, asked: _Asked) -> None:
        if asked.done.cancelled():
            return
        try:
            result = asked.action(self._engine)
        except Exception as error:  # of what was asked: nobody else's business
            self._loop.call_soon_threadsafe(self._fail, [asked.done], error)
            return
        if asked.is_ticket:
            self._waiting[id(result)], self._tickets[asked.done] = asked.done, result
        else:
            self._loop.call_soon_threadsafe(self._deliver, [(result, asked.done)])

    def _forget(self, ticket: Ticket) -> asyncio.Future[Any]:
        done = self._waiting.pop(id(ticket))
        del self._tickets[done]
        return done

    def _cancel(self, engine: Engine, done: asyncio.Future[Any]) -> None:
        if (ticket := self._tickets.get(done)) is not None:
            engine.cancel(ticket)
            self._forget(ticket)
