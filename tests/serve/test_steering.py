"""What the controller is told: of which requests and rows, and what they were expected to take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from exeunt.serve.controller import Controller, OperatingPoint
from exeunt.serve.steering import Steering
from exeunt.serve.traffic import Counts

ROWS_S = {("dear", 0): 1e-3, ("dear", 1): 3e-3, ("asked for", 1): 5e-3}


@pytest.fixture
def told():
    """Return what the controller is told of counts, with so many calls and seconds of the engine, twice."""

    def tell(calls=0, busy_s=0.0, **counts):
        controller = Controller([OperatingPoint("dear", 1.0, 0.9, 1e-3, pass_s=0.01)], slo_s=0.05)
        engine, loads = SimpleNamespace(calls=7, busy_s=1.0, segments=4), []
        controller.observe = lambda _, load: (loads.append(load), controller.in_force)[1]
        steering = Steering(controller, engine, ROWS_S)
        engine.calls, engine.busy_s = 7 + calls, 1.0 + busy_s
        for _ in range(2):
            assert steering.chosen(0.0, Counts(**counts), 3) == "dear"
        return loads

    return tell


def test_requests_with_a_deadline_of_their_own_are_neither_late_nor_in_time(told):
    load, _ = told(seconds=[(0.0449, 2, False), (0.0451, 5, False), (9.0, 100, True)])
    assert (load.answered, load.late) == (7, 5)


def test_rows_without_an_answer_are_late_with_their_request(told):
    """They leave at no exit."""
    load, _ = told(seconds=[(0.06, 16, False)], exits={("dear", 0): 1})
    assert (load.answered, load.late) == (16, 16)


def test_each_row_is_expected_to_take_what_was_run_for_it(told):
    """Under whatever policy. Of an exit that the run does not have, since it was loaded again, nothing is known."""
    exits = {("dear", 0): 10, ("dear", 1): 20, ("asked for", 1): 2, ("before", 5): 99}
    load, again = told(calls=8, busy_s=0.25, exits=exits)
    assert load.expected_s == pytest.approx(2 * 0.01 + 10 * 1e-3 + 20 * 3e-3 + 2 * 5e-3)
    assert load.busy_s == pytest.approx(0.25)
    assert (again.busy_s, again.expected_s) == (
        0.0,
        pytest.approx(load.expected_s - 0.02),
    )  # what is new counts
