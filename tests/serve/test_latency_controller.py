"""The controller: its rule, and what it does to a simulated server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_server import PixelExecutor, made_run, shared_of
from simulated_server import affordable, poisson, simulate

from exeunt.errors import InputError
from exeunt.evaluation.replay import evaluate
from exeunt.serve import loaded_run
from exeunt.serve.latency_controller import Controller, Load, OperatingPoint
from exeunt.serve.server import serve
from exeunt.serve.settings import Settings

SLO_S = 0.05
EIGHT = [
    OperatingPoint(
        str(i), 18 + 4 * i, 0.94 - 0.03 * (1 - i / 7) ** 2, 1.7e-4 + 4.15e-4 * (i / 7) ** 1.3, 1e-3
    )
    for i in range(8)
]
"""Policies like those of a cascade: the cheapest takes 29% of the time of the last one and loses three points."""
CAPACITY = 1 / EIGHT[-1].row_s  # rows per second, of the most expensive policy


def run(arrived, size, points=EIGHT):
    true = {point.name: point for point in points}
    return simulate(Controller(points, slo_s=SLO_S), arrived, size, true, np.random.default_rng(0))


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
def test_what_cannot_be_kept_is_an_error_before_it_starts(tmp_path, monkeypatch, budget, above, message):
    made = made_run(tmp_path / "run")
    monkeypatch.setattr(loaded_run, "open_shared", shared_of(PixelExecutor()))
    monkeypatch.setattr("uvicorn.Server.run", lambda _: pytest.fail("it started"))
    best = max(evaluate(policy, made.trace("fit")).accuracy for policy in made.policy_set)
    settings = Settings(run=made.path, slo_s=0.05, min_accuracy=best + above, budget=budget, port=0)
    with pytest.raises(InputError, match=message):
        serve(settings)


# -- on a simulated server ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "size"), [(0.3, 16), (0.7, 1), (1.0, 16), (1.5, 1), (2.0, 1), (3.0, 16)])
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
