"""Traces: what they refuse, how they split, what they say of themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from same_traces import same_trace

import exeunt as ex
from exeunt.trace import check_disjoint

COST = ex.CostModel([1.0, 2.0], unit="ms")
HALF = np.full((3, 2, 2), 0.5)


def edited(array, index, value):
    copy = np.array(array, dtype=float)
    copy[index] = value
    return copy


@pytest.mark.parametrize(
    ("probabilities", "options", "shown"),
    [
        (edited(HALF, (1, 1, 0), 0.7), {}, r"input 1 at exit 1 sums to 1.2"),
        (edited(edited(HALF, (2, 0, 0), -0.5), (2, 0, 1), 1.5), {}, "-0.5"),
        (edited(HALF, (2, 1, 0), np.nan), {}, "exit 1 has 1 NaN"),
        (HALF[0], {}, r"\(2, 2\)"),
        (np.empty((3, 2, 0)), {}, r"\(3, 2, 0\)"),
        (np.full((3, 4, 2), 0.5), {}, "4 exits but the costs are of 2"),
        (HALF, {"label": [0, 1, 2]}, "got 2 at row 2"),
        (HALF, {"label": [0, -1, 1]}, "got -1 at row 1"),
        (HALF, {"label": [0, 1]}, r"\(2,\)"),
        (HALF, {"label": [0, 1, 0.5]}, "0.5"),
        (HALF, {"id": [1, 2]}, r"\(2,\)"),
        (HALF, {"id": [1.5, 2, 3]}, "1.5"),
    ],
)
def test_bad_probabilities_labels_and_keys_are_refused_by_value(probabilities, options, shown):
    with pytest.raises(ex.InputError, match=shown):
        ex.ExitTrace.from_probabilities(probabilities, cost=COST, **options)


def scored(score, prediction=((0, 0),), **options):
    return ex.ExitTrace.from_scores(score, prediction, cost=COST, **options)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: scored([[0.1, np.nan]]), r"1 NaN, the first at index \(0, 1\)"),
        (lambda: scored([[0.1, 0.2, 0.3]]), r"\(1, 3\)"),
        (lambda: scored([0.1, 0.2]), r"\(2,\): of a single column write \[:, None\]"),
        (lambda: scored([[0.1, 0.2]], label=[[0]]), r"label .*\(1, 1\): write \[:, 0\]"),
        (
            lambda: scored([[0.1, 0.2]], label=["a"]),
            r"label .*\['a'\]: number the classes, predictions and labels",
        ),
        (
            lambda: scored([[0.1, 0.2]], [["a", "b"]]),
            "prediction .*: number the classes, predictions and labels",
        ),
        (lambda: scored([[0.1, 0.2]], [[0, 0.5]]), "0.5"),
        (lambda: scored([["sure", "vague"]]), "sure"),
        (lambda: scored([[1j, 0.2]]), "numbers"),
        (lambda: scored([[0.1, 0.2]], [[0, np.inf]]), "inf"),
        (lambda: scored([[0.1, 0.2]], [[0, 1], [0]]), "regular"),
        (lambda: ex.ExitTrace.from_scores([[0.1, 0.2]], [[0, 1]], cost=[1, 2]), "CostModel"),
        (lambda: ex.ExitTrace.from_logits([[[1, 2]], [[1]]], cost=COST), "regular"),
        (lambda: ex.ExitTrace.from_logits(edited(HALF, (2, 0, 1), -np.inf), cost=COST), "input 2 at exit 0"),
        (lambda: ex.ExitTrace(np.zeros((1, 2), dtype=int), {}, COST), "at least one score"),
        (lambda: scored([[0.1, 0.2]]).risk, "labels"),
        (lambda: scored([[0.1, 0.2]], label=[0]).take(slice(0)).risk, "empty"),
        (lambda: replace(scored([[0.1, 0.2]]), row=[1, 2, 3]), r"^row .*\(3,\)"),
    ],
)
def test_bad_scores_and_traces_that_cannot_tell_are_refused(make, shown):
    with pytest.raises(ex.InputError, match=shown):
        make()


def test_logits_give_the_probabilities_of_a_softmax():
    logits = np.random.default_rng(0).normal(0, 30, (50, 2, 5)).astype(np.float16)
    wide = logits.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=2, keepdims=True))
    expected = ex.ExitTrace.from_probabilities(weights / weights.sum(axis=2, keepdims=True), cost=COST)
    trace = ex.ExitTrace.from_logits(logits, cost=COST)
    np.testing.assert_array_equal(trace.prediction, wide.argmax(axis=2))
    for name in ("max_probability", "margin", "entropy"):
        np.testing.assert_allclose(trace.scores[name], expected.scores[name], atol=1e-14)


def test_take_keeps_rows_together(make_trace):
    trace = make_trace(50)
    mask = trace.prediction[:, 0] > 4
    for rows in (mask, np.flatnonzero(mask), list(np.flatnonzero(mask))):
        assert same_trace(trace.take(rows), trace.take(mask))
    some = trace.take([7, 3])
    np.testing.assert_array_equal(some.id, trace.id[[7, 3]])
    np.testing.assert_array_equal(some.label, trace.label[[7, 3]])
    np.testing.assert_array_equal(some.scores["score"], trace.scores["score"][[7, 3]])
    assert trace.take([]).n == 0


def test_rows_have_keys_of_their_own_that_parts_keep(make_trace):
    trace = make_trace(50)
    doubled = replace(trace, id=np.arange(50) // 2, row=None)
    assert len(np.unique(doubled.row)) == 50
    assert len(np.unique(np.concatenate([doubled.row, doubled.id]))) == 75
    same = replace(doubled, scores={"other": doubled.scores["score"]}, row=None)
    np.testing.assert_array_equal(same.row, doubled.row)  # of the same inputs, recorded again
    for rows in ([7, 3], slice(10, 30), doubled.prediction[:, 0] > 4):
        np.testing.assert_array_equal(doubled.take(rows).row, doubled.row[rows])
        np.testing.assert_array_equal(doubled.take(rows).keys("row"), doubled.row[rows])
        np.testing.assert_array_equal(doubled.take(rows).keys("content"), doubled.id[rows])
    for changed in (doubled.exits(1, 3), doubled.with_cost(ex.CostModel([1, 2, 3, 4]))):
        np.testing.assert_array_equal(changed.row, doubled.row)


def test_other_inputs_have_other_rows(make_trace):
    """Logs of one length too, and though they begin with many copies of one input, as sorted ones do."""
    news = [np.random.default_rng(seed).integers(1, 9**9, 50) for seed in (1, 2)]
    ids = [np.sort(np.r_[np.zeros(100, dtype=int), new]) for new in news]
    logs = [replace(make_trace(150, seed=k), id=id_, row=None) for k, id_ in enumerate(ids)]
    logs += [logs[0].take(slice(149)), make_trace(150), make_trace(149)]
    logs[2] = replace(logs[2], row=None)
    assert len(np.unique(np.concatenate([log.row for log in logs]))) == sum(log.n for log in logs)
    check_disjoint(logs[0], logs[1])


@pytest.mark.parametrize(
    ("n", "shares", "shown"),
    [
        (100, {"fit": 0.5, "calibrate": 0.4, "test": 0.3}, "1.2"),
        (100, {"fit": 0.0}, "got 0.0"),
        (100, {"test": -0.1}, "-0.1: write a share, such as 0.05 for 5%"),
        (100, {"test": "30%"}, "test must be a number, got '30%': write a share"),
        (100, {"fit": 0.001}, "'fit' is empty"),
        *((few, {}, "is empty") for few in (2, 1, 0)),
    ],
)
def test_splits_that_leave_a_part_empty_are_refused(make_trace, n, shares, shown):
    with pytest.raises(ex.InputError, match=shown):
        make_trace(n).split(**shares)


def test_keys_made_from_content_differ_between_rows_and_traces():
    rng = np.random.default_rng(0)
    made = [scored(rng.random((500, 2)), np.zeros((500, 2))).id for _ in range(3)]
    assert len(np.unique(np.concatenate(made))) == 1500


def test_a_trace_cannot_be_changed_from_outside(make_trace):
    with pytest.raises(ValueError, match="read-only"):
        make_trace(3).scores["score"][0, 0] = 9


def test_a_repr_is_short_and_true(make_trace):
    assert repr(make_trace(7, labelled=False)) == "ExitTrace(7 inputs, 4 exits, unlabelled, scores: score)"
