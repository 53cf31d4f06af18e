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


def drained(engine, tickets):
    engine.drain()
    return [ticket.answers for ticket in tickets]


@pytest.mark.parametrize("keyed", [True, False])
def test_answers_are_the_same(case, policy, keyed):
    given = [Submission(case.inputs(rows), rows if keyed else None) for rows in PARTS]
    one, all_ = (Engine(case.executor(), policy) for _ in range(2))
    apart = drained(one, [one.submit(each.inputs, id=each.id) for each in given])
    together = drained(all_, all_.submit_together(given))
    assert [found.n for found in together] == [len(rows) for rows in PARTS]
    for found, wanted in zip(together, apart, strict=True):
        for name in ("label", "exit", "cost", "valid"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert len(set(np.concatenate([found.exit for found in together]).tolist())) > 1


def test_each_has_its_deadline(case, policy):
    engine = Engine(case.executor(), policy)
    parts = zip(np.split(ROWS[:90], 3), (5.0, None, 1.0), strict=True)
    given = [Submission(case.inputs(rows), None, deadline) for rows, deadline in parts]
    tickets = engine.submit_together(given, 0.0, soft=True)
    assert [ticket.deadline for ticket in tickets] == [5.0, np.inf, 1.0]
    done = engine.step(0.0, force=True) + engine.step(1.5, force=True)
    assert tickets[2] in done
    assert tickets[0] not in done


def test_what_cannot_be_joined_is_not_submitted(case, policy):
    engine = Engine(case.executor(), policy)
    with pytest.raises(ex.InputError):
        engine.submit_together([Submission(case.inputs(ROWS[:2])), Submission("nothing")])
    with pytest.raises(ex.InputError, match="all have keys, or none has"):
        engine.submit_together(
            [Submission(case.inputs(ROWS[:2]), ROWS[:2]), Submission(case.inputs(ROWS[:1]))]
        )
    assert engine.rows == 0
    assert engine.drain() == []


def test_only_arrays_of_equal_sizes_and_types_are_joined():
    a, b = np.zeros((2, 3)), np.ones((1, 3))
    np.testing.assert_array_equal(joined_inputs([a, b]), [[0] * 3, [0] * 3, [1] * 3])
    assert joined_inputs([{"x": a, "y": a}, {"y": b, "x": b}])["x"].shape == (3, 3)
    for other in (np.zeros((1, 4)), np.zeros((1, 3), dtype=int), [[1.0] * 3], {"0": b}):
        with pytest.raises(ex.InputError, match="equal sizes and types"):
            joined_inputs([a, other])
    with pytest.raises(ex.InputError, match="equal sizes and types"):
        joined_inputs([{"x": a}, {"y": b}])
