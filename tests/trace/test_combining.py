"""Parts that overlap are found; traces of one network become one trace, or are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt.trace import check_disjoint, concatenate


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


def test_ids_that_cannot_tell_inputs_apart_are_refused_or_noted(make_trace):
    trace = make_trace(200)
    with pytest.raises(
        ex.InputError, match=r"all 60 fit inputs have the id 7, and other scores: .*id=range\(n\)"
    ):
        ex.eero(*replace(trace, id=np.full(200, 7), row=None).split(fit=0.3)[:2], budget="60%")
    twice, (fit, calibrate, _) = replace(trace, id=np.arange(200) // 2, row=None), trace.split()
    told = "of the inputs have the id of another input that gets other scores."
    assert told in str(ex.eero(*twice.split()[:2], budget="60%"))
    copies = [part.take(np.repeat(np.arange(part.n), 2)) for part in (fit, calibrate)]
    for parts in ((fit, calibrate), copies):
        assert told not in str(ex.eero(*parts, budget="60%"))
    check_disjoint(fit.take([0, 0]), calibrate.take([0]))
