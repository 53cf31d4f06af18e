"""Parts that overlap are found; traces of one network become one trace, or are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt.trace import concatenate


def test_inputs_follow_one_another_with_all_that_is_known_of_them(make_trace):
    parts = [make_trace(30, seed=1), make_trace(50, seed=2)]
    whole = concatenate(parts)
    assert whole.n == 80
    for k, rows in enumerate([slice(0, 30), slice(30, None)]):
        np.testing.assert_array_equal(whole.prediction[rows], parts[k].prediction)
        np.testing.assert_array_equal(whole.label[rows], parts[k].label)
        np.testing.assert_array_equal(whole.id[rows], parts[k].id)
        np.testing.assert_array_equal(whole.scores["score"][rows], parts[k].scores["score"])
    assert whole.cost == parts[0].cost


def test_only_what_all_parts_have_is_kept(make_trace):
    one, two = make_trace(30, seed=1), make_trace(50, seed=2, labelled=False)
    more = replace(one, scores={**one.scores, "other": one.scores["score"]})
    for whole in (concatenate([more, two]), concatenate([two, more])):
        assert list(whole.scores) == ["score"]
        assert whole.label is None


def test_traces_of_two_networks_or_none_are_refused(make_trace):
    one = make_trace(30)
    with pytest.raises(ex.InputError, match="all of the same costs"):
        concatenate([one, one.with_cost(ex.CostModel([1, 2, 3, 4]))])
    with pytest.raises(ex.InputError, match="at least one trace"):
        concatenate([])


def test_overlap_is_found_with_and_without_keys(make_trace):
    trace = make_trace(100)
    with pytest.raises(ex.InputError, match="share 10 inputs"):
        ex.eero(trace.take(slice(0, 60)), trace.take(slice(50, 100)), budget="60%")
    bare = ex.ExitTrace.from_scores(
        trace.scores["score"], trace.prediction, cost=trace.cost, label=trace.label
    )
    with pytest.raises(ex.InputError, match="share 100 inputs"):
        ex.eero(bare, bare, budget="60%")
