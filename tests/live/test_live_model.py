"""What all live models share: waiting for money that others hold."""

import asyncio
import math
import os
import signal
import threading
import time

import pytest
from tests.ledger.made_stores import made_store

import exeunt as ex
from exeunt.errors import OverBudget
from exeunt.ledger.ledger import Reservation
from exeunt.live.live_cascade import run_in_own_thread
from exeunt.live.live_model import FailedAttempt, LiveModel, Reply, work_through


class Cheap(LiveModel):
    """May cost 10 and costs 1."""

    def most(self, given):
        return 10.0

    async def _call(self, given, client):
        await asyncio.sleep(0.02)
        return Reply("yes", 0.9, 1.0)


async def ask_all(model, n, ledger):
    return await asyncio.gather(*(model.ask(i, ledger=ledger) for i in range(n)))


def test_an_attempt_waits_for_money_that_others_hold_and_do_not_need():
    ledger = ex.Ledger(total="50 usd")
    replies = asyncio.run(ask_all(Cheap(), 40, ledger))  # at most four fit at the same time, then fewer
    assert [one.answer for one in replies] == ["yes"] * 40
    assert (ledger.spent, ledger.reserved) == (40.0, 0.0)
    refused = asyncio.run(ask_all(Cheap(), 12, ledger))  # one more is affordable, whatever it costs
    assert ([one.answer for one in refused].count("yes"), ledger.spent) == (1, 41.0)
    assert {one.failed.partition(":")[0] for one in refused if one.answer is None} == {"not asked"}


def test_slow_answers_within_their_time_limit_cost_what_they_cost():
    """As of a model that takes 90 s, in a day's money, beside others that look for room."""
    with made_store("memory") as (store, clock):
        day = ex.Ledger(rate="100 usd/day", store=store)

        class Slowly(Cheap):
            async def _call(self, given, client):
                clock.move(80)
                await asyncio.sleep(0)
                with pytest.raises(OverBudget):
                    day.reserve(99.0)  # charges what is under way for longer than its lease
                clock.move(10)
                return Reply("yes", 0.9, 0.002)

        model = Slowly(timeout_s=120, concurrency=1)
        asyncio.run(ask_all(model, 20, day))
        assert day.unsettled() == []
        assert day.spent <= 20 * 0.002 + 1e-9
        assert day.left >= 100 - 20 * 0.002 - 1e-9


def test_a_ledger_that_is_lost_is_an_error_and_no_want_of_money():
    ledger = ex.Ledger(total="50 usd")
    asyncio.run(ask_all(Cheap(), 1, ledger))
    ledger._store.books.by_name.clear()
    with pytest.raises(ex.InputError, match="there is no ledger"):
        asyncio.run(ask_all(Cheap(), 1, ledger))


def test_it_waits_no_longer_than_for_an_answer():
    ledger = ex.Ledger(total="15 usd")
    held = ledger.reserve(10)
    model, begun = Cheap(timeout_s=0.2), time.monotonic()
    (reply,) = asyncio.run(ask_all(model, 1, ledger))
    assert reply.failed.startswith("not asked: ")
    assert reply.attempts == 0
    assert time.monotonic() - begun < 2
    held.release()
    (reply,) = asyncio.run(ask_all(model, 1, ledger))
    assert reply.answer == "yes"


@pytest.mark.parametrize(("amount", "passing"), [(16, False), (14, True)])
def test_what_no_waiting_mends_is_refused_at_once(amount, passing):
    ledger = ex.Ledger(total="15 usd")
    ledger.reserve(2)
    with pytest.raises(ex.OverBudget) as caught:
        ledger.reserve(amount)
    assert caught.value.passing == passing


def test_settled_attempts_without_a_key_do_not_stay(tmp_path):
    ledger = ex.Ledger(total="500 usd", file=tmp_path / "money.db")
    asyncio.run(ask_all(Cheap(), 5, ledger))
    asyncio.run(Cheap().ask(0, ledger=ledger, key="mine"))
    holds = ledger._store.run(lambda books, _: books._execute("SELECT key FROM hold", ()).fetchall())
    assert len(holds) == 1
    assert holds[0][0].startswith("mine/model/")


class Slow(Cheap):
    """Answers after a while, and bills what it is told to."""

    def __init__(self, bill=1.0, seconds=0.05, **options):
        super().__init__(**options)
        self.bill, self.seconds, self.calls = bill, seconds, 0

    async def _call(self, given, client):
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return Reply("yes", 0.9, self.bill)


def test_a_bill_that_no_amount_holds_counts_at_the_most_and_stops_the_model():
    ledger = ex.Ledger(total="1000 usd")
    reply = asyncio.run(Slow(bill=1e30).ask(0, name="odd", ledger=ledger))
    assert (reply.lied, reply.cost, reply.bound, reply.billed) == (True, 10.0, 10.0, 10.0)
    assert ledger.spent == 10.0
    assert ledger.stopped == ("odd",)
    assert [one.claimed for one in ledger.disputed] == [1e9]


def test_at_its_deadline_an_attempt_counts_at_its_maximum_and_is_not_made_again():
    ledger, model = ex.Ledger(total="1000 usd"), Slow(seconds=5, timeout_s=60)

    async def ask():
        return await model.ask(0, ledger=ledger, until=asyncio.get_running_loop().time() + 0.1)

    reply = asyncio.run(ask())
    assert (reply.answer, reply.failed, reply.cost, reply.bound) == (None, "the deadline passed", 10.0, 10.0)
    assert (ledger.spent, model.calls, ledger.unsettled()[0].state) == (10.0, 1, "charged")


def test_what_failed_attempts_may_have_cost_is_no_part_of_what_was_billed():
    class Fails(Cheap):
        failures = iter([True, True, False])

        async def _call(self, given, client):
            if next(self.failures):
                raise FailedAttempt("status 500", again=True)
            return Reply("yes", 0.9, 1.0)

    ledger = ex.Ledger(total="1000 usd")
    reply = asyncio.run(Fails().ask(0, ledger=ledger))
    assert (reply.answer, reply.cost, reply.bound, reply.unbilled, reply.billed) == ("yes", 21, 20, 20, 1)
    assert ledger.spent == 21
    Fails.failures = iter([True] * 9)
    assert asyncio.run(Fails(retries=1).ask(0)).billed == 0


def test_an_answer_without_a_bill_counts_at_its_most():
    class Silent(Cheap):
        async def _call(self, given, client):
            return Reply("yes", 0.9, math.nan)

    assert asyncio.run(Silent().ask(0)).billed == 10


class Waiting(ex.Ledger):
    """A store that takes its time."""

    def reserve(self, *given, **options):
        time.sleep(0.2)
        return super().reserve(*given, **options)


def test_who_is_cancelled_while_money_is_held_sends_and_pays_nothing():
    ledger, model = Waiting(total="1000 usd"), Slow()

    async def ask():
        asking = asyncio.ensure_future(model.ask(0, ledger=ledger))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.5)

    asyncio.run(ask())
    assert (model.calls, ledger.spent, ledger.reserved) == (0, 0.0, 0.0)


@pytest.mark.parametrize("asleep_s", [0.0, 0.9])
def test_what_was_admitted_for_who_is_cancelled_is_given_back_beside_the_event_loop(monkeypatch, asleep_s):
    """`asleep_s`: how long the loop is, so that it is cancelled while the money is marked as sent, or after that."""
    ledger, model, loop_thread = ex.Ledger(total="1000 usd"), Slow(), threading.current_thread()
    dispatch, settle, threads = Reservation.dispatch, Reservation.settle, []

    def slow_dispatch(self):
        time.sleep(0.5)
        return dispatch(self)

    def seen_settle(self, *given, **options):
        threads.append(threading.current_thread())
        return settle(self, *given, **options)

    monkeypatch.setattr(Reservation, "dispatch", slow_dispatch)
    monkeypatch.setattr(Reservation, "settle", seen_settle)

    async def ask():
        asking = asyncio.ensure_future(model.ask(0, ledger=ledger))
        await asyncio.sleep(0.05)
        time.sleep(asleep_s)
        asking.cancel()
        begun = time.monotonic()
        await asyncio.gather(asking, return_exceptions=True)
        return time.monotonic() - begun

    assert asyncio.run(ask()) < 0.25
    end = time.monotonic() + 10
    while (not threads or ledger.reserved) and time.monotonic() < end:
        time.sleep(0.01)
    assert (model.calls, ledger.spent, ledger.reserved, len(threads)) == (0, 0.0, 0.0, 1)
    assert loop_thread not in threads


def test_a_cancelled_job_asks_about_no_further_input():
    model = Slow(seconds=0.0)

    async def ask():
        asked = []

        async def work(item):
            asked.append(item)
            await asyncio.wait_for(asyncio.sleep(0), 1)
            await model.ask(item)

        job = asyncio.ensure_future(work_through(range(100_000), work, 8))
        await asyncio.sleep(0.02)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        n = len(asked)
        await asyncio.sleep(0.05)
        return n, len(asked)

    before, after = asyncio.run(ask())
    assert 0 < before == after < 100_000


def test_an_interruption_of_a_thread_of_its_own_cancels_the_work():
    ended = []

    async def work():
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    def interrupt():
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)  # to the main thread, as Ctrl-C does

    begun = time.monotonic()
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_in_own_thread(work())
    finally:
        signal.signal(signal.SIGINT, usual)
    assert ended == [True]
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("key", ["sk-live-123456", "key"])
def test_a_key_in_the_place_of_a_variable_is_refused_and_not_repeated(key):
    with pytest.raises(ex.InputError, match="not the key") as caught:
        ex.OpenAICompatible("m", key=key, price={"input": 1, "output": 1})
    assert key == "key" or key not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ex.FunctionModel("services:small", price=1), "give a function"),
        (lambda: ex.FunctionModel(len, price=1, classes="anger"), "a list of texts"),
        (lambda: ex.FunctionModel(len, price=1, classes=[True, False]), "in quotes"),
        (
            lambda: ex.FunctionModel(len, price=1, concurrency=0),
            "at least 1 and retries at least 0, got 0 an",
        ),
        (
            lambda: ex.FunctionModel(len, price=1, retries=-1),
            "at least 1 and retries at least 0, got 64 and -1",
        ),
        (
            lambda: ex.FunctionModel(len, price=1, timeout_s=1e10),
            r"s must lie in \(0, 1e\+09\), got 10000000000",
        ),
    ],
)
def test_what_can_be_no_model_is_refused(make, why):
    with pytest.raises(ex.InputError, match=why):
        make()


def test_after_the_deadline_nothing_is_sent_or_paid():
    ledger, model = ex.Ledger(total="1000 usd"), Slow(seconds=0.3, concurrency=4)

    async def ask():
        until = asyncio.get_running_loop().time() + 0.1
        return await asyncio.gather(*(model.ask(i, ledger=ledger, until=until) for i in range(40)))

    replies = asyncio.run(ask())
    assert (model.calls, sum(one.attempts for one in replies)) == (4, 4)
    assert {one.failed for one in replies} == {"the deadline passed"}
    assert ledger.spent == sum(one.cost for one in replies) == 40.0


def test_who_waits_for_money_holds_no_slot():
    poor, rich = ex.Ledger(total="15 usd"), ex.Ledger(total="1000 usd")
    poor.reserve(10)
    model = Slow(seconds=0.01, concurrency=2)

    async def ask():
        waiting = [asyncio.ensure_future(model.ask(i, ledger=poor)) for i in range(4)]
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        reply = await model.ask(9, ledger=rich)
        took = time.monotonic() - begun
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return reply, took

    reply, took = asyncio.run(ask())
    assert reply.answer == "yes"
    assert took < 2


@pytest.mark.parametrize("raised", [SystemExit, StopIteration, ValueError])
def test_whatever_a_function_raises_is_a_failure(raised):
    def function(_):
        raise raised("no")

    reply = asyncio.run(ex.FunctionModel(function, price=1, timeout_s=5).ask(0))
    assert reply.answer is None
    assert raised.__name__ in reply.failed


def test_calls_that_were_given_up_still_count_as_running():
    running, most, lock = 0, 0, threading.Lock()

    def slow(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.3)
        with lock:
            running -= 1
        return "yes", 0.5

    model = ex.FunctionModel(slow, price=1, timeout_s=0.05, concurrency=1)

    async def ask():
        return await asyncio.gather(*(model.ask(i) for i in range(4)))

    asyncio.run(ask())
    assert most == 1
