"""Parts that overlap are found; traces of one network become one trace, or are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from same_traces import same_trace

import exeunt as ex
from exeunt.trace import check_disjoint, concatenate


def test_inputs_follow_one_another_with_all_that_is_known_of_them(make_trace):
    parts = [make_trace(30, seed=1), make_trace(50, seed=2)]
    whole = concatenate(parts)
    assert whole.n == 80
    for part, rows in zip(parts, (slice(0, 30), slice(30, None)), strict=True):
        assert same_trace(whole.take(rows), part)


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
    with pytest.raises(ex.InputError, match="share 10 rows"):
        ex.eero(trace.take(slice(0, 60)), trace.take(slice(50, 100)), budget="60%")
    bare = replace(trace, id=None, row=None)
    with pytest.raises(ex.InputError, match="share 100 rows"):
        ex.eero(bare, bare, budget="60%")


@pytest.mark.parametrize("copies", [1, 2])
def test_overlap_is_found_after_parts_were_saved_joined_and_cut_again(make_trace, tmp_path, copies):
    trace = make_trace(100)
    trace = replace(trace, id=trace.id // copies, row=None)
    parts = [trace.take(slice(0, 60)), trace.take(slice(50, 100))]
    for name, part in zip("ab", parts, strict=True):
        part.save(tmp_path / name)
    loaded = [ex.ExitTrace.load(tmp_path / name) for name in "ab"]
    assert [part.row.tolist() for part in loaded] == [part.row.tolist() for part in parts]
    for one, other in (loaded, (loaded[0], parts[1]), loaded[::-1], (loaded[0].take(slice(55, 60)), trace)):
        shared = len(np.intersect1d(one.row, other.row))
        assert shared in (10, 5)
        told = f"fit and calibrate share {shared} rows; guarantees hold only"
        with pytest.raises(ex.InputError, match=told):
            check_disjoint(one, other)
    fit, calibrate, _ = concatenate([loaded[0], loaded[1].take(slice(10, None))]).split()
    check_disjoint(fit, calibrate)
    with pytest.raises(ex.InputError, match="share 30 rows"):
        check_disjoint(fit, trace)


def test_copies_in_two_parts_are_no_overlap(make_trace):
    """A query log: most of its contents are in both parts, and no row is."""
    log = replace(make_trace(400), id=np.random.default_rng(0).zipf(1.5, 400) % 50, row=None)
    fit, calibrate, _ = log.split()
    assert np.isin(calibrate.id, fit.id).mean() > 0.7
    check_disjoint(fit, calibrate)
    assert ex.eero(fit, calibrate, budget="60%", delta=0.2).n_calibration == calibrate.n
