"""Inputs of several tickets that are submitted at once, against one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from made_executors import N

import exeunt as ex
from exeunt.engine.engine import Engine, Submission
from exeunt.engine.inputs import joined_inputs

ROWS = np.arange(N)
PARTS = [ROWS[:1], ROWS[1:1], ROWS[1:30], ROWS[30:31], ROWS[31:200]]


@pytest.mark.parametrize("keyed", [True, False])
def test_answers_are_the_same(case, policy, keyed):
    given = [Submission(case.inputs(rows), rows if keyed else None) for rows in PARTS]
    one, all_ = (Engine(case.executor(), policy) for _ in range(2))
    apart = [one.submit(each.inputs, id=each.id) for each in given]
    together = all_.submit_together(given)
    one.drain()
    all_.drain()
    pairs = [(ticket.answers, other.answers) for ticket, other in zip(together, apart, strict=True)]
    assert [found.n for found, _ in pairs] == [len(rows) for rows in PARTS]
    for found, wanted in pairs:
        for name in ("label", "exit", "cost", "valid"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert len(set(np.concatenate([found.exit for found, _ in pairs]).tolist())) > 1


def test_each_has_its_deadline(case, policy):
    engine = Engine(case.executor(), policy)
    parts = zip(np.split(ROWS[:90], 3), (5.0, None, 1.0), strict=True)
    given = [Submission(case.inputs(rows), None, deadline) for rows, deadline in parts]
    tickets = engine.submit_together(given, 0.0, soft=True)
    assert [ticket.deadline for ticket in tickets] == [5.0, np.inf, 1.0]
    done = engine.step(0.0, force=True) + engine.step(1.5, force=True)
    assert [ticket in done for ticket in tickets[::2]] == [False, True]


def test_what_cannot_be_joined_is_not_submitted(case, policy):
    engine, two = Engine(case.executor(), policy), case.inputs(ROWS[:2])
    for given, told in (
        ([Submission(two), Submission("nothing")], None),
        ([Submission(two, ROWS[:2]), Submission(two)], "all have keys, or none has"),
    ):
        with pytest.raises(ex.InputError, match=told):
            engine.submit_together(given)
    assert (engine.rows, engine.drain()) == (0, [])


def test_only_arrays_of_equal_sizes_and_types_are_joined():
    a, b = np.zeros((2, 3)), np.ones((1, 3))
    np.testing.assert_array_equal(joined_inputs([a, b]), [[0] * 3, [0] * 3, [1] * 3])
    assert joined_inputs([{"x": a, "y": a}, {"y": b, "x": b}])["x"].shape == (3, 3)
    for other in (np.zeros((1, 4)), np.zeros((1, 3), dtype=int), [[1.0] * 3], {"0": b}):
        with pytest.raises(ex.InputError, match="equal sizes and types"):
            joined_inputs([a, other])
    with pytest.raises(ex.InputError, match="equal sizes and types"):
        joined_inputs([{"x": a}, {"y": b}])
