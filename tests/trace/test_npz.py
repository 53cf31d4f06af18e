"""NumPy archives of raw outputs become traces, or are refused."""

from __future__ import annotations

import numpy as np
import pytest

import exeunt as ex


def test_an_archive_of_logits_is_a_trace(tmp_path):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((20, 3, 4)), rng.integers(0, 4, 20)
    np.savez(tmp_path / "a.npz", logits=logits, labels=labels, macs=[1, 2, 4])
    trace = ex.ExitTrace.from_archive(tmp_path / "a.npz")
    expected = ex.ExitTrace.from_logits(logits, cost=ex.CostModel([1, 2, 4]), label=labels)
    np.testing.assert_array_equal(trace.scores["margin"], expected.scores["margin"])
    assert trace.cost == expected.cost
    even = np.full((20, 3, 4), 0.25)
    np.savez(tmp_path / "b.npz", probabilities=even, labels=labels, cost=[1, 2, 4])
    assert ex.ExitTrace.from_archive(tmp_path / "b.npz").scores["max_probability"].max() == 0.25


def test_archives_that_hold_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", logits=np.zeros((2, 2, 2)), y=[0, 1])
    (tmp_path / "b.npz").write_text("x")
    wrong = {"a": "needs an array labels, it has logits, y", "b": "not a readable", "c": "no file"}
    for name, told in wrong.items():
        with pytest.raises(ex.InputError, match=told):
            ex.ExitTrace.from_archive(tmp_path / f"{name}.npz")
