"""The simulation of live traffic: virtual time, the provider's books, and that a world is always the same."""

import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context

import pytest
from scipy.stats import binom
from tests.gateway.simulation.after import After
from tests.gateway.simulation.drive import driven
from tests.gateway.simulation.fixed_worlds import FIXED
from tests.gateway.simulation.kinds import Kind
from tests.gateway.simulation.measures import measured
from tests.gateway.simulation.page import cost_is_inside, last_interval, over_budget, saves_half
from tests.gateway.simulation.virtual_time import BEGIN, run, virtual_time
from tests.gateway.simulation.weeks import CHANGE_AT
from tests.gateway.simulation.worlds import Look, World
from tests.gateway.simulation.worlds_by_name import lived


def clocks_now():
    return time.time, time.monotonic, time.time_ns, time.monotonic_ns, time.sleep, asyncio.to_thread


def test_a_week_passes_at_once_and_clocks_are_as_before():
    clocks = clocks_now()
    started = time.monotonic()

    async def week():
        await asyncio.gather(asyncio.sleep(7 * 86_400), asyncio.sleep(60))
        assert await asyncio.to_thread(lambda: 3) == 3
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().create_future(), 3.0)
        return time.time()

    with virtual_time(0) as clock:
        assert run(clock, week()) == pytest.approx(BEGIN + 7 * 86_400 + 3)
    assert clocks_now() == clocks
    assert time.monotonic() - started < 30


def test_who_waits_for_what_never_happens_is_told():
    async def forever():
        await asyncio.get_running_loop().create_future()

    with virtual_time(0) as clock, pytest.raises(RuntimeError, match="never happens"):
        run(clock, forever())


WORLD = World(
    "all", 1, (Kind(), Kind(share=0.1, turns=(1, 5)), Kind(prompts=20), Kind(client="clinic", tools=True)), n=80,
    again=0.1, fails=0.05, grader_fails=0.1, private=("clinic",), looks=(Look(70),),
)  # fmt: skip


def test_a_world_is_always_the_same_and_has_what_it_says():
    found, again = (driven(WORLD, After, measured) for _ in range(2))
    for one in (found, again):
        del one["seconds"]
        for look in one["looks"]:
            del look["seconds"]
    assert found == again
    assert found["requests"] == 80
    assert found["compared"]["the grader failed"] > 0
    assert all(one["compared"] == 0 for one in found["included"] if one["kind"] == 3)


def test_fixed_worlds_are_of_their_size():
    for name, made in FIXED.items():
        world = made(0)
        events = world.events()
        assert (world.name, len(events)) == (name, world.n)
        assert all(one.time <= other.time for one, other in pairwise(events))


def _drawn(drive):
    return {"drawn": {prompt for prompt, asked in drive.provider.asked.items() if len(asked) > 1}}


def test_what_is_compared_does_not_depend_on_content():
    world = World("one", 5, (Kind(),), n=120, share=0.5, looks=(Look(120),))
    other = Kind(sure=0.1, wrong=(0.9, 1.0), letters=3_000, tokens=300, scores=((-3.0, -2.0), (-9.0, -8.0)))
    found = driven(world, After, _drawn)["drawn"]
    assert found == driven(replace(world, kinds=(other,)), After, _drawn)["drawn"]
    assert 30 <= len(found) <= 90  # of 120, each with probability 1/2: five standard deviations and more


def _measured_with_books(drive):
    books = {"books": drive.provider.spent, "ledger": drive.side.gateway.money.total.spent}
    return {**measured(drive), **books}


def test_what_is_saved_and_spent_is_what_the_providers_books_say():
    kind = Kind(sure=0.7, wrong=(0.02, 0.5))
    looks = (Look(400, max_loss=0.2, use="yes"), Look(440, max_loss=0.2))
    found = driven(World("bill", 7, (kind,), n=440, period="10 s", looks=looks), After, _measured_with_books)
    bill = found["live"]
    assert bill["by_policy"] > 0
    _, low, high = bill["printed_in_all"]
    books = bill["reference_alone_before"] + bill["reference_alone"] - bill["spent_before"] - bill["spent"]
    assert low - 1e-9 <= books <= high + 1e-9
    assert found["ledger"] == pytest.approx(found["books"], abs=1e-6)


def _worlds(name, n):
    """Return what is measured in worlds of n seeds; a core has one at a time."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        return list(pool.map(partial(lived, "after", name), range(n)))


@pytest.mark.slow
def test_in_100_weeks_of_owners_what_is_promised_is_true():
    worlds = _worlds("weeks", 100)
    # Of traffic that has changed nothing is promised until the alarm: what notices that is the watch.
    looks = [[look for look in world["looks"] if look["name"] and not look["stale"]] for world in worlds]
    at_most = binom.ppf(1 - 1e-6, 100, 0.05)
    assert sum(any(look["loss"] > look["max_loss"] for look in some) for some in looks) <= at_most
    assert sum(any(map(over_budget, some)) for some in looks) <= at_most
    assert sum(map(bool, looks)) >= 20  # what certifies nothing is never wrong
    # Where a few units hold many requests, or users come back, what comes is not like what was drawn.
    last = [look for look in map(last_interval, worlds) if look and not look["unlike"]]
    assert len(last) >= 10
    assert sum(not cost_is_inside(look) for look in last) <= binom.ppf(1 - 1e-6, len(last), 0.05)


@pytest.mark.slow
def test_in_four_of_five_worlds_a_plan_is_certified_that_saves_half_of_what_can_be_saved():
    enough = sum(saves_half(world["looks"][-1]) for world in _worlds("enough", 20))
    assert enough >= binom.ppf(1e-6, 20, 0.8)


@pytest.mark.slow
def test_alarms_come_after_a_change_and_seldom_before():
    worlds = _worlds("change", 20)
    early = sum(bool(world["alarms"]) and world["requests"] < CHANGE_AT for world in worlds)
    # 500 requests of a run length of 2,000, and audits' own.
    assert early <= binom.ppf(1 - 1e-6, 20, 1 - 0.5**0.5)
    assert sum(bool(world["alarms"]) for world in worlds) >= 18
