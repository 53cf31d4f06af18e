"""The simulation of live traffic: virtual time, the provider's books, and that a world is always the same."""

import asyncio
import time
from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip("httpx")
pytest.importorskip("msgspec")
pytest.importorskip("yaml")

from tests.gateway.simulation.after import After
from tests.gateway.simulation.drive import driven
from tests.gateway.simulation.fixed_worlds import FIXED
from tests.gateway.simulation.kinds import Kind
from tests.gateway.simulation.measures import measured
from tests.gateway.simulation.virtual_time import BEGIN, run, virtual_time
from tests.gateway.simulation.worlds import Look, World


def test_a_week_passes_at_once_and_clocks_are_as_before():
    clocks = time.time, time.monotonic, time.time_ns, time.monotonic_ns, time.sleep, asyncio.to_thread
    started = time.monotonic()

    async def week():
        await asyncio.gather(asyncio.sleep(7 * 86_400), asyncio.sleep(60))
        assert await asyncio.to_thread(lambda: 3) == 3
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().create_future(), 3.0)
        return time.time()

    with virtual_time(0) as clock:
        assert run(clock, week()) == pytest.approx(BEGIN + 7 * 86_400 + 3)
    assert (
        time.time,
        time.monotonic,
        time.time_ns,
        time.monotonic_ns,
        time.sleep,
        asyncio.to_thread,
    ) == clocks
    assert time.monotonic() - started < 30


def test_who_waits_for_what_never_happens_is_told():
    async def forever():
        await asyncio.get_running_loop().create_future()

    with virtual_time(0) as clock, pytest.raises(RuntimeError, match="never happens"):
        run(clock, forever())


WORLD = World(
    "all", 1, (Kind(), Kind(share=0.1, turns=(1, 5)), Kind(prompts=20), Kind(client="clinic", tools=True)), n=250,
    again=0.1, fails=0.05, grader_fails=0.05, private=("clinic",), looks=(Look(200),),
)  # fmt: skip


def test_the_ledger_agrees_with_the_providers_books():
    def books(drive):
        return {"books": drive.provider.spent, "ledger": drive.side.gateway.money.whole.spent}

    found = driven(replace(WORLD, fails=0.0), After, books)
    assert found["ledger"] == pytest.approx(found["books"], abs=1e-6)


def test_a_world_is_always_the_same_and_has_what_it_says():
    found, again = (driven(WORLD, After, measured) for _ in range(2))
    for one in (found, again):
        del one["seconds"]
        for look in one["looks"]:
            del look["seconds"]
    assert found == again
    assert found["requests"] == 250
    assert found["compared"]["the grader failed"] > 0
    assert all(one["compared"] == 0 for one in found["included"] if one["kind"] == 3)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_worlds_are_of_their_size(name):
    world = FIXED[name](0)
    events = world.events()
    assert world.name == name
    assert len(events) == world.n
    assert all(one.time <= other.time for one, other in pairwise(events))
