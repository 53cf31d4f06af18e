"""Features of inputs are kept in files, in parts joined, and in the order of exits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt.trace import concatenate
from exeunt.trace.cascade_step import CascadeStep


@pytest.fixture
def trace():
    rng, cost = np.random.default_rng(0), ex.CostModel([1, 2, 4])
    made = ex.ExitTrace.from_scores(rng.random((40, 3)), rng.integers(0, 4, (40, 3)), cost=cost)
    return replace(made, features={0: rng.normal(size=(40, 5)), 2: rng.normal(size=(40, 2))})


def test_a_file_keeps_them(trace, tmp_path):
    trace.save(tmp_path / "trace.parquet")
    again = ex.ExitTrace.load(tmp_path / "trace.parquet")
    assert again.features.keys() == {0, 2}
    for exit_, told in trace.features.items():
        np.testing.assert_array_equal(again.features[exit_], told)


def test_parts_that_are_joined_keep_those_of_all(trace):
    whole = concatenate([trace.take(slice(0, 15)), trace.take(slice(15, 40))])
    np.testing.assert_array_equal(whole.features[2], trace.features[2])
    bare = replace(trace, features={0: trace.features[0]})
    assert concatenate([trace.take(slice(0, 15)), bare.take(slice(15, 40))]).features.keys() == {0}


def test_exits_of_several_models_keep_theirs(trace):
    models = ex.CascadeTrace({"a": trace.exits(1, 2), "b": trace})
    row = models.along([CascadeStep("a", 1), CascadeStep("b", 3)])
    assert row.features.keys() == {1, 3}
    np.testing.assert_array_equal(row.features[3], trace.features[2])
