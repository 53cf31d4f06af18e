"""What the controller is measured: of which requests and rows, and what they were expected to take."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("fastapi")

from exeunt.serve.active_run import LoadMeter
from exeunt.serve.metrics import Counts

SECONDS = np.array([[0.01, 0.02], [1e-3, 3e-3]])  # of a call of either segment, and of each of its rows
ROW_SECONDS = {"dear": 1e-3, "gold": 4e-3}
LATE_S = 0.045
BEFORE = np.array([[7, 3], [100, 40]])


@pytest.fixture
def measured():
    """Return the loads that are measured of counts, after so much work and so many seconds of the engine, twice."""

    def measure(work=((0, 0), (0, 0)), busy_s=0.0, **counts):
        engine = SimpleNamespace(work=BEFORE, busy_s=1.0)
        meter = LoadMeter(engine, SECONDS, ROW_SECONDS)
        engine.work, engine.busy_s = BEFORE + np.array(work), 1.0 + busy_s
        return [meter.measure(Counts(**counts), 3, LATE_S) for _ in range(2)]

    return measure


def test_requests_with_a_deadline_of_their_own_are_neither_late_nor_in_time(measured):
    load, _ = measured(seconds=[(0.0449, 2, False), (0.0451, 5, False), (9.0, 100, True)])
    assert (load.answered, load.late) == (7, 5)


def test_rows_without_an_answer_are_late_with_their_request(measured):
    """They leave at no exit."""
    load, _ = measured(seconds=[(0.06, 16, False)], exits={("dear", 0): 1})
    assert (load.answered, load.late) == (16, 16)


def test_what_the_network_did_is_expected_to_take_its_time(measured):
    """Whoever it was for, and whether it was answered."""
    load, again = measured(work=((2, 1), (30, 10)), busy_s=0.25, exits={("dear", 0): 5})
    assert load.expected_s == pytest.approx(2 * 0.01 + 0.02 + 30 * 1e-3 + 10 * 3e-3)
    assert load.busy_s == pytest.approx(0.25)
    assert (again.busy_s, again.expected_s) == (0.0, 0.0)  # what is new counts


def test_rows_that_name_a_policy_count_by_what_it_takes(measured):
    """Of a policy that the run does not have, since it was loaded again, nothing is known."""
    load, _ = measured(arrived=32, requests=2, together=20, own={"gold": 10, "dear": 5, "before": 9})
    assert (load.rows, load.requests, load.together, load.waiting) == (32, 2, 20, 3)
    assert load.own_s == pytest.approx(10 * 4e-3 + 5 * 1e-3)
