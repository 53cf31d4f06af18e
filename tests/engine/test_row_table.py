"""The table of rows in flight, by itself: what it keeps while it grows, and its look-ups about deadlines."""

from __future__ import annotations

import numpy as np
import pytest

from exeunt.engine.row_table import RowTable

LATE = 2.0


def recorded(table, ticket, label, *, probabilities=None, exit_=1):
    rows = np.arange(ticket.base, ticket.base + ticket.n)
    confidence = np.linspace(0.5, 0.9, ticket.n)
    table.record(rows, np.full(ticket.n, label), confidence, exit_, 0.25, 0, probabilities)
    return rows


def test_outputs_are_kept_while_the_table_grows():
    table = RowTable(size=4)
    table.policy_number("half")
    before = table.admit(4)
    assert len(table._entries) == 4
    table.drop(before)
    first = table.admit(3)  # where `before` was; in a larger table it lies elsewhere
    assert len(table._entries) == 4
    chances = np.arange(6.0).reshape(3, 2)
    rows = recorded(table, first, 7, probabilities=chances)
    table.mark_borderline(rows[1:2])
    others = [table.admit(5, LATE) for _ in range(20)]
    table.finish(rows, valid=True)
    assert first.answers.label.tolist() == [7, 7, 7]
    assert first.answers.confidence.tolist() == [0.5, 0.7, 0.9]
    assert first.answers.borderline.tolist() == [False, True, False]
    assert first.answers.probabilities.dtype == np.float64
    assert np.array_equal(first.answers.probabilities, chances)
    assert first.policies == ["half"] * 3
    assert all(table.expiring(recorded(table, other, 3), LATE).all() for other in others)
    for other in others:
        table.fail(other, ValueError("broken"))
    assert np.isnan(others[0].answers.probabilities).all()
    assert table._open == {}


def test_rows_that_were_answered_meanwhile_wait_no_more():
    """`stale` counts them, so that rows that wait are looked through while there are any, and no longer."""
    table = RowTable()
    ticket, dropped = table.admit(4), table.admit(2)
    rows = recorded(table, ticket, 1)
    table.end_early(rows[:3], expired=True)
    table.drop(dropped)
    assert table.stale == 5
    assert table.still_waiting(rows).tolist() == [False, False, False, True]
    assert table.stale == 2
    assert not table.still_waiting(np.array([dropped.base, dropped.base + 1])).any()
    assert table.stale == 0


@pytest.mark.parametrize("exit_", [0, 1])
@pytest.mark.parametrize(("has_output", "at"), [(True, LATE), (True, 1.9), (False, LATE)])
def test_a_row_with_an_output_ends_at_its_deadline(has_output, at, exit_):
    table = RowTable()
    ticket = table.admit(1, LATE)
    rows = recorded(table, ticket, 1, exit_=exit_) if has_output else table.unfinished(ticket)
    assert table.expiring(rows, at).tolist() == [has_output and at == LATE]
    assert table.overdue(rows, at) == (not has_output and at == LATE)


def test_a_row_without_a_deadline_cannot_do_without_being_run():
    table = RowTable()
    timed, patient = table.admit(1, LATE), table.admit(1)
    both = np.concatenate([recorded(table, timed, 1), recorded(table, patient, 1)])
    assert table.has_fallback(both[:1])
    assert not table.has_fallback(both[1:])
    assert not table.has_fallback(both)
    assert not table.has_fallback(table.unfinished(table.admit(1, LATE)))
