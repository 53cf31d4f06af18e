"""The engine that a server opens, and its controller, on a clock that only calls of the network move."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_server import PixelExecutor, classes_of, made_images, made_run, prepared, shared_of
from simulated_server import poisson

pytest.importorskip("fastapi")

from benchmarks.serving.virtual_time import answered

from exeunt.engine.plan import Plan
from exeunt.serve import latency_controller, loaded_run
from exeunt.serve.settings import Settings

ROW_S, CALL_S, SLO_S = np.array([1.0, 1.0, 1.5]) * 1e-4, np.array([2.0, 3.0, 10.0]) * 1e-4, 0.05
CAPACITY = 1 / ROW_S.sum()  # rows a second through the whole network
SETTINGS = Settings(run=Path(), slo_s=SLO_S)


class TimedExecutor(PixelExecutor):
    """`took`: seconds that calls have taken."""

    took = 0.0

    def run(self, segment, state, wanted):
        self.took += CALL_S[segment] + ROW_S[segment] * len(state)
        return super().run(segment, state, wanted)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("virtual") / "pixels"
    return made_run(folder, budgets=("35%", "50%", "65%", "80%", "95%"))


def opened_with(run, monkeypatch, plan=None):
    """Open a run whose executor's times are those of the clock."""
    executor = TimedExecutor()
    monkeypatch.setattr(loaded_run, "open_shared", shared_of(executor, plan))
    monkeypatch.setattr(loaded_run, "time", SimpleNamespace(perf_counter=lambda: executor.took))
    return loaded_run.load_run(Settings(run=run.path))


@pytest.fixture
def opened(run, monkeypatch):
    return opened_with(run, monkeypatch)


def test_calls_are_reckoned_as_they_take_at_the_sizes_that_are_planned(run, monkeypatch):
    pieces = (64, 8, 16)
    plan = Plan("pixels", TimedExecutor.segments, pieces, (2, 96), ((1, 48),) * 3)
    opened = opened_with(run, monkeypatch, plan)
    assert set(opened.seconds) == {1, 2, 8, 16, 64, 96}
    assert opened.engine.plan is plan
    np.testing.assert_allclose(opened.engine.scheduler.seconds, CALL_S + ROW_S * pieces)
    np.testing.assert_allclose(opened.engine.scheduler.single_row_seconds, CALL_S + ROW_S)
    np.testing.assert_allclose(opened.call_seconds, [CALL_S, ROW_S])


def latencies(opened, rate, size, seconds, controller=None, own=None):
    """Seconds to the answer of each request of `size` rows, rows answered by policy active, and which share expired and
    is right.

    `own`: a policy that every second request names.
    """
    engine, executor = opened.engine, opened.shared.executor
    images = made_images(2000)
    pixels, classes, right = prepared(images), classes_of(images), 0
    due = poisson(np.random.default_rng(0), rate / size, seconds)
    latency, whole, expired = np.zeros(len(due)), Counter(), 0

    def rows_of(place):
        first = place * size % (len(pixels) - size)
        return slice(first, first + size)

    for place, ticket, latency[place] in answered(
        engine, executor, due, size, lambda place: (pixels[rows_of(place)], {}), controller=controller,
        call_seconds=opened.call_seconds, row_seconds=opened.row_seconds,
        own=lambda place: own if place % 2 else None,
    ):  # fmt: skip
        right += int((ticket.answers.label == classes[rows_of(place)]).sum())
        whole[engine.active] += size
        expired += int(ticket.answers.expired.sum())
    return latency, whole, expired / (size * len(due)), right / (size * len(due))


@pytest.mark.parametrize("size", [1, 16])
def test_hard_rows_do_not_wait_for_those_that_come_after_them(opened, size):
    """At seven tenths of the load that it can answer, nobody waits many times as long as a full call takes."""
    latency, *_ = latencies(opened, 0.7 * CAPACITY, size, 1)
    whole_s = (CALL_S + 64 * ROW_S).sum()
    assert np.quantile(latency, 0.5) < whole_s
    assert latency.max() < 4 * whole_s


@pytest.mark.parametrize(("size", "load"), [(1, 0.7), (1, 1.6), (16, 0.3), (16, 1.6)])
def test_the_controller_keeps_the_latency_with_the_engine(opened, size, load):
    controller = opened.controller(SETTINGS)
    opened.engine.active = controller.active.name
    latency, rows, expired, _ = latencies(opened, load * CAPACITY, size, 1.5, controller)
    assert (latency <= SLO_S).mean() >= 0.99
    assert (rows[controller.without_load.name] == rows.total()) == (load < 1)
    assert (expired == 0) == (load < 1)
    assert controller.slowness == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("own", [False, True])
def test_rows_that_name_a_policy_count_by_what_it_takes(opened, own):
    """Where half of them ask for the cheapest, the others can have the best at a load at which not all could."""
    controller = opened.controller(SETTINGS)
    opened.engine.active = controller.active.name
    cheapest = next(iter(opened.policies)) if own else None
    latency, rows, *_ = latencies(opened, 1.4 * CAPACITY, 16, 3, controller, own=cheapest)
    assert (latency <= SLO_S).mean() >= 0.99
    assert (rows[controller.without_load.name] > 0.8 * rows.total()) == own


def test_in_a_burst_rows_begin_under_cheaper_policies_instead_of_being_cut_off(opened, monkeypatch):
    """Also below the least accuracy, which what is cut off would be further below."""
    found = {}
    for share in (latency_controller._BEFORE_DEADLINE, np.inf):
        monkeypatch.setattr(latency_controller, "_BEFORE_DEADLINE", share)
        least = opened.accuracy[list(opened.policies)[3]]
        controller = opened.controller(replace(SETTINGS, min_accuracy=least))
        found[share] = latencies(opened, 2 * CAPACITY, 16, 1.5, controller)
        assert (found[share][0] <= SLO_S).mean() >= 0.99
        assert controller.settled.accuracy == least
    (_, _, few, right), (_, _, many, without) = found.values()
    assert few < 0.2 * many
    assert right > without + 0.01
