"""The thread that owns the engine, with a made engine."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from exeunt.serve.engine_thread import EngineStopped, EngineThread


class MadeEngine:
    """Finishes a ticket a step, the last one first. A step waits for `go`, if there is one."""

    def __init__(self):
        self.inside, self.cancelled, self.threads, self.work = [], [], set(), ([0, 0], [0, 0])
        self.go: threading.Event | None = None
        self.breaks: BaseException | None = None

    @property
    def rows(self):
        return len(self.inside)

    def submit_together(self, given, now, *, policy, soft):
        self.threads.add(threading.get_ident())
        if any(one.inputs == "wrong" for one in given):
            raise ValueError("wrong inputs")
        tickets = [SimpleNamespace(**one._asdict(), policy=policy) for one in given]
        self.inside += tickets
        return tickets

    def cancel(self, ticket):
        self.cancelled.append(ticket.inputs)
        self.inside.remove(ticket)

    def step(self, now, *, force):
        self.threads.add(threading.get_ident())
        if self.go is not None and self.inside:
            self.go.wait(5)
        if self.breaks is not None:
            raise self.breaks
        self.work[0][0] += 1
        return [self.inside.pop()] if self.inside else []


def run(test, **options):
    """Run a coroutine with an engine and its thread, and end the thread."""

    async def ran():
        thread = EngineThread(engine := MadeEngine(), **options)
        await asyncio.wait_for(test(engine, thread), 10)
        if engine.go is not None:
            engine.go.set()
        await asyncio.wait_for(thread.close(), 10)
        assert (thread.alive, thread._thread.is_alive()) == (False, False)
        assert thread.failure is not None or engine.rows == 0

    asyncio.run(ran())


def test_everybody_gets_the_ticket_of_their_own():
    async def test(engine, thread):
        asked = [thread.answer(i, policy="p", deadline=i + 0.5, id=[i]) for i in range(100)]
        found = await asyncio.gather(*asked)
        for i, ticket in enumerate(found):
            assert (ticket.inputs, ticket.policy, ticket.deadline, ticket.id) == (i, "p", i + 0.5, [i])
        assert len(engine.threads) == 1
        assert threading.get_ident() not in engine.threads
        assert thread.work[0, 0] >= 100
        assert thread.work.shape == (2, 2)
        assert thread.busy_s > 0

    run(test)


def test_what_is_wrong_with_inputs_is_theirs_alone():
    async def test(engine, thread):
        asked = [thread.answer(one) for one in (1, "wrong", 2)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [getattr(one, "inputs", None) for one in found] == [1, None, 2]
        assert str(found[1]) == "wrong inputs"

    run(test)


@pytest.mark.parametrize("taken_in", [True, False])
def test_a_cancelled_task_cancels_its_ticket(taken_in):
    async def test(engine, thread):
        engine.go = threading.Event()
        first = asyncio.create_task(thread.answer("first"))
        while not engine.inside:
            await asyncio.sleep(0.001)
        if taken_in:  # else the step with the first one goes on
            engine.go.set()
            await first
            engine.go.clear()
        others = [asyncio.create_task(thread.answer(i)) for i in range(3)]
        while taken_in and len(engine.inside) < 3:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        others[1].cancel()
        await asyncio.sleep(0.01)
        engine.go.set()
        found = await asyncio.gather(*others, return_exceptions=True)
        assert [getattr(one, "inputs", None) for one in found] == [0, None, 2]
        assert (await first).inputs == "first"
        await thread.call(lambda _: None)  # the cancelling was done before
        assert engine.cancelled == ([1] if taken_in else [])

    run(test)


def test_a_call_is_made_in_the_thread():
    async def test(engine, thread):
        await thread.answer(0)
        found = await thread.call(lambda given: (given is engine, threading.get_ident()))
        assert found == (True, *engine.threads)
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda _: 1 / 0)
        assert (await thread.answer(3)).inputs == 3

    run(test)


def test_close_answers_what_is_inside():
    async def test(engine, thread):
        engine.go = threading.Event()
        waiting = [asyncio.create_task(thread.answer(i)) for i in range(5)]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(thread.close())
        await asyncio.sleep(0.01)
        assert not thread.alive
        engine.go.set()
        await closing
        assert sorted([(await one).inputs for one in waiting]) == list(range(5))
        with pytest.raises(EngineStopped):
            await thread.answer(6)
        with pytest.raises(EngineStopped):
            await thread.call(lambda _: None)

    run(test)


class LateLoop:
    """An event loop that keeps the thread which calls it a little longer."""

    def __init__(self, loop):
        self.loop = loop

    def __getattr__(self, name):
        return getattr(self.loop, name)

    def call_soon_threadsafe(self, *args):
        self.loop.call_soon_threadsafe(*args)
        time.sleep(0.3)


def test_an_engine_that_breaks_fails_everybody_at_once():
    async def test(engine, thread):
        thread._loop = LateLoop(thread._loop)
        engine.go = threading.Event()
        waiting = [asyncio.create_task(thread.answer(i)) for i in range(5)]
        await asyncio.sleep(0.01)
        engine.breaks = SystemError("a bug")
        engine.go.set()
        for one in waiting:
            with pytest.raises(EngineStopped, match="a bug"):
                await asyncio.wait_for(one, 5)
        assert isinstance(thread.failure, SystemError)
        assert thread._thread.is_alive()
        with pytest.raises(EngineStopped):
            await asyncio.wait_for(thread.answer(6), 5)

    run(test)


def in_loop(test, most=9):
    """Run a coroutine with an engine of which up to so many rows run in the event loop."""
    run(test, seconds=lambda rows: 0.0 if rows <= most else 1.0)


def test_few_rows_run_in_the_event_loop():
    async def test(engine, thread):
        here = {threading.get_ident()}
        for i in range(3):
            assert (await thread.answer([[i]], policy="p")).inputs == [[i]]
        asked = thread.answer([[3]]), thread.answer("wrong"), thread.call(lambda _: 4)
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert (found[0].inputs, str(found[1]), found[2]) == ([[3]], "wrong inputs", 4)
        assert engine.threads == here
        found = await asyncio.gather(*(thread.answer([[i]]) for i in range(10)))
        assert [one.inputs for one in found] == [[[i]] for i in range(10)]
        assert len(engine.threads) == 2
        engine.threads.clear()
        await thread.answer([[0]])
        assert engine.threads == here  # again
        assert thread.busy_s > 0

    in_loop(test)


def test_rows_that_take_longer_than_expected_go_on_in_the_thread():
    async def test(engine, thread):
        engine.go = threading.Event()
        threading.Timer(0.1, engine.go.set).start()
        assert len(await asyncio.gather(thread.answer([[0]]), thread.answer([[1]]))) == 2
        assert len(engine.threads) == 2

    in_loop(test)


def test_an_engine_that_breaks_in_the_event_loop_fails_everybody():
    async def test(engine, thread):
        engine.breaks = SystemError("a bug")
        for found in await asyncio.gather(thread.answer([[0]]), thread.answer([[1]]), return_exceptions=True):
            assert isinstance(found, EngineStopped)
        assert isinstance(thread.failure, SystemError)
        assert not thread.alive
        with pytest.raises(EngineStopped):
            await thread.answer([[2]])

    in_loop(test)
