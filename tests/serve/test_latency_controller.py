"""The controller: its rule, and what it does to a simulated server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_server import PixelExecutor, made_run, shared_of
from simulated_server import affordable, poisson, simulate, thinned

from exeunt.errors import InputError
from exeunt.evaluation.replay import evaluate
from exeunt.serve import loaded_run
from exeunt.serve.latency_controller import Controller, Load, OperatingPoint
from exeunt.serve.server import serve
from exeunt.serve.settings import Settings

SLO_S = 0.05
EIGHT = [
    OperatingPoint(
        f"{i}", 18 + 4 * i, 0.94 - 0.03 * (1 - i / 7) ** 2, 1.7e-4 + 4.15e-4 * (i / 7) ** 1.3, 1e-3
    )
    for i in range(8)
]
"""Policies like those of a cascade: the cheapest takes 29% of the time of the last one and loses three points."""
CAPACITY = 1 / EIGHT[-1].row_s  # rows per second, of the most expensive policy


def true(points=EIGHT, times=1.0):
    return {
        p.name: OperatingPoint(p.name, p.budget, p.accuracy, p.row_s * times, p.pass_s * times)
        for p in points
    }


def run(arrived, size, points=EIGHT, times=1.0, seed=0, **options):
    controller = Controller(points, slo_s=SLO_S, **options)
    return simulate(controller, arrived, size, true(points, times), np.random.default_rng(seed))


# -- the rule -----------------------------------------------------------------------------------------------

loads = st.floats(0, 10 * CAPACITY)
backlogs = st.integers(0, 5000)
sizes = st.floats(1, 64)


@given(loads, loads, backlogs, backlogs, sizes, sizes, st.integers(0, 7))
def test_more_load_never_leads_to_a_more_expensive_policy(rate, more, waiting, others, size, larger, most):
    controller = Controller(EIGHT, slo_s=SLO_S, budget=EIGHT[most].budget)
    here = affordable(controller, rate, waiting=waiting, size=size)
    loaded = affordable(controller, rate + more, waiting=waiting + others, size=size + larger)
    assert loaded.budget <= here.budget <= EIGHT[most].budget


@given(loads, backlogs, st.floats(0.91, 0.94), st.integers(0, 7))
def test_neither_the_most_nor_the_least_is_left(rate, waiting, least, most):
    points = [point for point in EIGHT if point.accuracy >= least]
    if EIGHT[most].budget < points[0].budget:
        with pytest.raises(InputError, match="ask for at least that"):
            Controller(EIGHT, slo_s=SLO_S, min_accuracy=least, budget=EIGHT[most].budget)
        return
    controller = Controller(EIGHT, slo_s=SLO_S, min_accuracy=least, budget=EIGHT[most].budget)
    controller.observe(0.0, Load())
    found = controller.observe(60.0, Load(rows=60 * rate, requests=1, together=1, waiting=waiting))
    assert controller.settled.accuracy >= least
    assert found.budget <= controller.settled.budget <= EIGHT[most].budget
    # Below the least only where rows would be cut off, and then no further than it takes.
    cut_off = [point for point in EIGHT if waiting * point.row_s > 0.6 * controller.within_s]
    assert found == max((p for p in EIGHT[: most + 1] if p not in cut_off and p.budget <= controller.settled.budget),
                        key=lambda p: p.budget, default=EIGHT[0])  # fmt: skip


def test_without_load_the_budget_decides_and_with_too_much_the_least_policy():
    controller = Controller(EIGHT, slo_s=SLO_S)
    assert affordable(controller, 0.0) == EIGHT[-1]
    assert affordable(controller, 100 * CAPACITY) == EIGHT[0]
    assert affordable(controller, 0.0, waiting=10**6) == EIGHT[0]
    assert affordable(controller, 0.0, size=10**6) == EIGHT[0]


@pytest.mark.parametrize(
    ("pass_s", "rate", "size", "kept"),
    [
        # A row takes 1 ms: of each second 799 and 801 are used.
        (0.0, 799, 1, True),
        (0.0, 801, 1, False),
        # A request alone takes 39 and 41 ms, of 50.
        (0.0, 0, 39, True),
        (0.0, 0, 41, False),
        # And with two passes.
        (0.011, 0, 17, True),
        (0.012, 0, 17, False),
    ],
)
def test_where_a_policy_ceases_to_sustain_the_load(pass_s, rate, size, kept):
    cheap = OperatingPoint("cheap", 1.0, 0.8, 1e-6)
    dear = OperatingPoint("dear", 2.0, 0.9, 1e-3, pass_s)
    found = affordable(Controller([cheap, dear], slo_s=SLO_S), rate, size=size)
    assert found == (dear if kept else cheap)


def test_a_backlog_is_met_at_once():
    controller = Controller(EIGHT, slo_s=SLO_S)
    assert controller.observe(0.0, Load()) == EIGHT[-1]
    assert controller.observe(0.01, Load(rows=3000, requests=3000, together=3000, waiting=3000)) == EIGHT[0]


def test_the_budget_changes_while_it_runs():
    controller = Controller(EIGHT, slo_s=SLO_S)
    controller.set_budget(EIGHT[3].budget)
    assert controller.observe(0.0, Load()) == controller.without_load == EIGHT[3]
    controller.set_budget(EIGHT[5].budget)
    seen = [controller.observe(now, Load()).name for now in np.arange(0.1, 5, 0.1)]
    assert seen[-1] == "5"
    assert seen == sorted(seen)
    with pytest.raises(InputError, match=r"least budget that may be active is .*: ask for at least that"):
        controller.set_budget(17.0)


def test_a_policy_no_better_than_a_cheaper_one_is_never_chosen():
    worse = OperatingPoint("worse", 100.0, 0.93, 1e-3)
    assert Controller([*EIGHT, worse], slo_s=SLO_S).without_load == EIGHT[-1]


def test_the_accuracy_of_the_best_policy_may_be_asked_for():
    assert Controller(EIGHT, slo_s=SLO_S, min_accuracy=EIGHT[-1].accuracy).active == EIGHT[-1]


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [([], {}, "no policy .* the best 0.00%"), (EIGHT, {"min_accuracy": 0.99}, r"the best 94.00%")],
)
def test_what_cannot_be_kept_is_refused(points, options, message):
    with pytest.raises(InputError, match=message):
        Controller(points, **{"slo_s": SLO_S, **options})


@pytest.mark.parametrize(
    ("budget", "above", "message"),
    [("50%", 0.0, "the least budget that may be active"), (None, 0.2, "no policy is estimated")],
)
def test_what_cannot_be_kept_is_an_error_before_the_server_starts(
    tmp_path, monkeypatch, budget, above, message
):
    made = made_run(tmp_path / "run")
    monkeypatch.setattr(loaded_run, "open_shared", shared_of(PixelExecutor()))
    monkeypatch.setattr("uvicorn.Server.run", lambda _: pytest.fail("it started"))
    best = max(evaluate(policy, made.trace("fit")).accuracy for policy in made.policy_set)
    settings = Settings(run=made.path, slo_s=0.05, min_accuracy=best + above, budget=budget, port=0)
    with pytest.raises(InputError, match=message):
        serve(settings)


# -- on a simulated server ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "size"), [(0.3, 16), (0.7, 1), (1.0, 16), (1.5, 1), (1.5, 16), (2.0, 1), (3.0, 16)]
)
def test_the_latency_is_kept_where_the_cheapest_policy_can(load, size):
    arrived = poisson(np.random.default_rng(1), load * CAPACITY / size, 15)
    found, begun = run(arrived, size), arrived[arrived < 7]
    fixed = [run(begun, size, points=[point]).quantile(since=2) <= SLO_S for point in EIGHT[::2]]
    if fixed[0]:
        assert found.quantile(since=2) <= SLO_S
    # Not much more accuracy is given away than the most accurate policy that would keep the latency by itself.
    share = found.rows_at / found.rows_at.sum()
    assert share @ np.arange(8) >= max(2 * np.flatnonzero(fixed), default=0) - 2.5


@pytest.mark.parametrize(("load", "size"), [(0.5, 16), (1.0, 1), (2.0, 16)])
def test_a_constant_load_leads_to_ever_fewer_changes(load, size):
    found = run(poisson(np.random.default_rng(2), load * CAPACITY / size, 90), size)
    assert len([time for time, _ in found.changes if time >= 45]) <= 10
    assert found.turns(since=45) <= 6


@pytest.mark.parametrize("size", [1, 16])  # rows of a request
def test_a_burst_that_the_cheapest_policy_can_serve(size):
    rng, base = np.random.default_rng(3), 0.3 * CAPACITY / size
    arrived = np.sort(np.concatenate([poisson(rng, base, 50), poisson(rng, 9 * base, 5, start=20)]))
    found = run(arrived, size)
    # It comes at 87% of the cheapest policy's capacity.
    assert found.quantile(since=21, until=25) <= 4 * SLO_S
    assert found.quantile(since=26) <= SLO_S
    lowest = min(place for time, place in found.changes if 20 < time < 25)
    assert lowest == 0
    assert min(time for time, place in found.changes if time > 25 and place >= 5) < 45


def test_a_slow_drift_is_followed():
    def rate(t):
        return CAPACITY * (0.3 + 1.2 * np.sin(np.pi * t / 90) ** 2)

    found = run(thinned(np.random.default_rng(4), rate, 1.5 * CAPACITY, 90), 1)
    assert found.quantile() <= SLO_S
    places = np.array([place for _, place in found.changes])
    assert places[np.searchsorted([time for time, _ in found.changes], 45) - 1] < 5
    assert len(places) <= 40
    assert found.turns() <= 4


@pytest.mark.parametrize(("times", "size"), [(0.5, 16), (2.0, 1)])
def test_a_profile_of_another_machine_is_mended_by_what_is_measured(times, size):
    arrived = poisson(np.random.default_rng(5), 0.7 * CAPACITY / size / times, 40)
    controller = Controller(EIGHT, slo_s=SLO_S)
    found = simulate(controller, arrived, size, true(times=times), np.random.default_rng(0))
    assert controller.slowness == pytest.approx(times, rel=0.2)
    assert found.quantile(since=20) <= SLO_S


@pytest.mark.parametrize(("quantile", "way_ms"), [(0.9, 4.0), (0.99, 1.0)])
def test_in_the_long_run_the_allowed_share_is_late_whatever_the_answers_way_takes(quantile, way_ms):
    """Rows end in time, and then take a random time of which the controller knows nothing."""
    controller, rng = Controller(EIGHT, slo_s=SLO_S, quantile=quantile), np.random.default_rng(6)
    late = []
    for step in range(1, 20_000):
        seconds = controller.within_s + rng.exponential(way_ms / 1e3, 10)
        late.append(int((seconds > controller.late_s).sum()))
        load = Load(10, 10, answered=10, late=late[-1])
        assert controller.observe(step / 100, load) == EIGHT[-1]
    assert np.mean(late[2000:]) / 10 == pytest.approx(1 - quantile, rel=0.1)


@pytest.mark.parametrize(("busy", "least"), [(0.6, 2), (0.45, 7)])
def test_what_the_model_does_not_know_of_lowers_the_policy(busy, least):
    """Rows are late at the largest reserve although the engine could do more.

    Where it is idle most of the time the policy is no reason.
    """
    controller = Controller(EIGHT, slo_s=SLO_S)
    seen = []
    for step in range(1, 6000):
        late = 10 if int(controller.active.name) > 2 else 0
        load = Load(10, 10, answered=10, late=late, busy_s=busy / 100, expected_s=busy / 100)
        seen.append(int(controller.observe(step / 100, load).name))
    assert min(seen) == least
    if least == 2:
        assert np.mean(np.array(seen[-2000:]) > 2) < 0.25  # it tries again, ever more seldom
