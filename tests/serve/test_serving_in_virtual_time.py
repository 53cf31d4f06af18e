"""The engine that a server opens, and its controller, on a clock that only calls of the network move."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_server import PixelExecutor, made_images, made_run, prepared, shared_of
from simulated_server import poisson

pytest.importorskip("fastapi")

from exeunt.engine.waiting import Waiting
from exeunt.serve import opened_run
from exeunt.serve.controller import Controller, Load
from exeunt.serve.settings import Settings
from exeunt.serve.steering import operating_points, seconds_at

ROW_S, CALL_S, SLO_S = np.array([1.0, 1.0, 1.5]) * 1e-4, 5e-4, 0.05
CAPACITY = 1 / ROW_S.sum()  # rows a second through the whole network
TICK_S = 0.005


class TimedExecutor(PixelExecutor):
    """`took`: seconds that calls have taken."""

    took = 0.0

    def run(self, segment, state, wanted):
        self.took += CALL_S + ROW_S[segment] * len(state)
        return super().run(segment, state, wanted)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(
        tmp_path_factory.mktemp("virtual") / "pixels", budgets=("35%", "50%", "65%", "80%", "95%")
    )


@pytest.fixture
def opened(run, monkeypatch):
    executor = TimedExecutor()
    monkeypatch.setattr(opened_run, "open_shared", shared_of(executor))
    found = opened_run.open_run(Settings(run=run.path))
    seconds = {rows: CALL_S + ROW_S * rows for rows in (1, 64)}
    found.engine.waiting = Waiting(found.engine.plan, (1,) * 3, seconds[64], seconds[1])
    return replace(found, seconds=seconds)


def latencies(opened, rate, size, seconds, controller=None):
    """Seconds to the answer of each request of `size` rows, and rows answered by policy in force."""
    engine, executor = opened.engine, opened.shared.executor
    pixels = prepared(made_images(2000))
    due = poisson(np.random.default_rng(0), rate / size, seconds)
    latency, begun, now, told = np.zeros(len(due)), 0, 0.0, 0.0
    late_s = SLO_S if controller is None else controller.late_s
    open_tickets, news, whole, expired = {}, Counter(), Counter(), 0
    profile = seconds_at(opened)
    while begun < len(due) or engine.rows:
        while begun < len(due) and due[begun] <= now:
            first = begun * size % (len(pixels) - size)
            by = None if controller is None else due[begun] + controller.within_s
            ticket = engine.submit(pixels[first : first + size], now, deadline=by, soft=True)
            open_tickets[id(ticket)] = begun, ticket
            news.update(rows=size, requests=1)
            begun += 1
        if controller is not None and now - told >= TICK_S:
            news["expected_s"] += news.pop("calls", 0) / 3 * controller.in_force.pass_s
            engine.in_force = controller.observe(now, Load(waiting=len(open_tickets) * size, **news)).name
            told, news = now, Counter()
        executor.took = 0.0
        done = engine.step(now, force=True)
        now += executor.took
        news.update(busy_s=executor.took, calls=int(executor.took > 0))
        for ticket in done:
            place, _ = open_tickets.pop(id(ticket))
            latency[place] = now - due[place]
            news["late"] += size * int(latency[place] > late_s)
            news["answered"] += size
            answered_at = Counter(zip(ticket.policies, ticket.answers.exit.tolist(), strict=True))
            news["expected_s"] += sum(rows * profile[place] for place, rows in answered_at.items())
            whole[engine.in_force] += size
            expired += int(ticket.answers.expired.sum())
        if not executor.took:
            now = max(now, min(due[begun] if begun < len(due) else now, now + TICK_S))
    return latency, whole, expired / (size * len(due))


@pytest.mark.parametrize("size", [1, 16])
def test_hard_rows_do_not_wait_for_those_that_come_after_them(opened, size):
    """At seven tenths of the load that it can answer, nobody waits many times as long as a full call takes."""
    latency, *_ = latencies(opened, 0.7 * CAPACITY, size, 2)
    whole_s = (CALL_S + 64 * ROW_S).sum()
    assert np.quantile(latency, 0.5) < whole_s
    assert latency.max() < 4 * whole_s


@pytest.mark.parametrize(("size", "load"), [(1, 0.7), (1, 1.6), (16, 0.3), (16, 1.6)])
def test_the_controller_keeps_the_latency_with_the_engine(opened, size, load):
    controller = Controller(operating_points(opened), slo_s=SLO_S)
    opened.engine.in_force = controller.in_force.name
    latency, rows, expired = latencies(opened, load * CAPACITY, size, 3, controller)
    assert (latency <= SLO_S).mean() >= 0.99
    assert (rows[controller.most.name] == rows.total()) == (load < 1)
    assert (expired == 0) == (load < 1)
    assert controller.slowness == pytest.approx(1.0, abs=0.05)
