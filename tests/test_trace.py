"""Traces: what they refuse, how they split, and that files give back what was written."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.trace import check_disjoint

COST = ex.CostModel([1.0, 2.0], unit="ms")
HALF = np.full((3, 2, 2), 0.5)


def same(a: ex.ExitTrace, b: ex.ExitTrace) -> bool:
    labels = (a.label is None and b.label is None) or np.array_equal(a.label, b.label)
    return (
        labels
        and a.cost == b.cost
        and np.array_equal(a.id, b.id)
        and np.array_equal(a.prediction, b.prediction)
        and a.scores.keys() == b.scores.keys()
        and all(a.scores[name].tobytes() == b.scores[name].tobytes() for name in a.scores)
    )


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


@pytest.mark.parametrize(
    ("score", "prediction", "shown"),
    [
        ([[0.1, np.nan]], [[0, 0]], r"1 NaN, the first at index \(0, 1\)"),
        ([[0.1, 0.2, 0.3]], [[0, 0]], r"\(1, 3\)"),
        ([0.1, 0.2], [[0, 0]], r"\(2,\)"),
        ([[0.1, 0.2]], [[0, 0.5]], "0.5"),
        ([["sure", "vague"]], [[0, 0]], "sure"),
    ],
)
def test_bad_scores_are_refused_by_value(score, prediction, shown):
    with pytest.raises(ex.InputError, match=shown):
        ex.ExitTrace.from_scores(score, prediction, cost=COST)


def test_infinite_logits_are_refused_and_no_score_is_no_trace():
    with pytest.raises(ex.InputError, match="input 2 at exit 0"):
        ex.ExitTrace.from_logits(edited(HALF, (2, 0, 1), -np.inf), cost=COST)
    with pytest.raises(ex.InputError, match="at least one score"):
        ex.ExitTrace(np.zeros((1, 2), dtype=int), {}, COST)


def test_logits_give_the_probabilities_of_a_softmax():
    logits = np.random.default_rng(0).normal(0, 30, (50, 2, 5)).astype(np.float16)
    wide = logits.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=2, keepdims=True))
    expected = ex.ExitTrace.from_probabilities(weights / weights.sum(axis=2, keepdims=True), cost=COST)
    trace = ex.ExitTrace.from_logits(logits, cost=COST)
    np.testing.assert_array_equal(trace.prediction, wide.argmax(axis=2))
    for name in ("max_probability", "margin", "entropy"):
        np.testing.assert_allclose(trace.scores[name], expected.scores[name], atol=1e-14)


def test_risk_counts_errors_over_all_inputs():
    trace = ex.ExitTrace.from_scores(
        np.zeros((4, 2)), [[0, 0], [1, 1], [1, 0], [0, 0]], cost=COST, label=[0, 1, 0, 1]
    )
    np.testing.assert_allclose(trace.risk, [0.5, 0.25])
    with pytest.raises(ex.InputError, match="labels"):
        _ = ex.ExitTrace.from_scores(np.zeros((1, 2)), [[0, 0]], cost=COST).risk
    with pytest.raises(ex.InputError, match="empty"):
        _ = trace.take(slice(0)).risk


def test_take_keeps_rows_together(make_trace):
    trace = make_trace(50)
    mask = trace.prediction[:, 0] > 4
    for rows in (mask, np.flatnonzero(mask), list(np.flatnonzero(mask))):
        assert same(trace.take(rows), trace.take(mask))
    some = trace.take([7, 3])
    np.testing.assert_array_equal(some.id, trace.id[[7, 3]])
    np.testing.assert_array_equal(some.label, trace.label[[7, 3]])
    np.testing.assert_array_equal(some.scores["score"], trace.scores["score"][[7, 3]])
    assert trace.take([]).n == 0


def test_split_is_disjoint_sized_seeded_and_complete(make_trace):
    trace = make_trace(1000)
    first, again, other = trace.split(seed=1), trace.split(seed=1), trace.split(seed=2)
    assert [part.n for part in first] == [300, 200, 500]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].id, other[0].id)
    assert len(np.unique(np.concatenate([part.id for part in first]))) == 1000
    check_disjoint(first[0], first[1])


def test_copies_of_an_input_stay_in_one_part(make_trace):
    trace = make_trace(300)
    doubled = trace.take(np.concatenate([np.arange(300), np.arange(300)]))
    parts = [set(part.id.tolist()) for part in doubled.split(seed=5)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


@pytest.mark.parametrize(
    ("n", "shares", "shown"),
    [
        (100, {"fit": 0.5, "calibrate": 0.4, "test": 0.3}, "1.2"),
        (100, {"fit": 0.0}, "got 0.0"),
        (100, {"test": -0.1}, "-0.1"),
        (100, {"fit": 0.001}, "'fit' is empty"),
        (2, {}, "is empty"),
        (1, {}, "is empty"),
        (0, {}, "is empty"),
    ],
)
def test_splits_that_leave_a_part_empty_are_refused(make_trace, n, shares, shown):
    with pytest.raises(ex.InputError, match=shown):
        make_trace(n).split(**shares)


def test_overlap_is_found_with_and_without_keys(make_trace):
    trace = make_trace(100)
    with pytest.raises(ex.InputError, match="share 10 inputs"):
        ex.eero(trace.take(slice(0, 60)), trace.take(slice(50, 100)), budget="60%")
    bare = ex.ExitTrace.from_scores(
        trace.scores["score"], trace.prediction, cost=trace.cost, label=trace.label
    )
    with pytest.raises(ex.InputError, match="share 100 inputs"):
        ex.eero(bare, bare, budget="60%")


def test_keys_made_from_content_differ_between_rows_and_traces():
    rng = np.random.default_rng(0)
    made = [
        ex.ExitTrace.from_scores(rng.random((500, 2)), np.zeros((500, 2)), cost=COST).id for _ in range(3)
    ]
    assert len(np.unique(np.concatenate(made))) == 1500


@pytest.mark.parametrize("n", [0, 1, 2, 333])
@pytest.mark.parametrize("labelled", [True, False])
def test_parquet_round_trip(tmp_path, make_trace, n, labelled):
    trace = make_trace(n, labelled=labelled)
    trace.save(tmp_path / "trace.parquet")
    assert same(ex.ExitTrace.load(tmp_path / "trace.parquet"), trace)
    assert [file.name for file in tmp_path.iterdir()] == ["trace.parquet"]


def test_parquet_keeps_infinities_extreme_keys_and_every_score(tmp_path):
    score = np.array([[np.inf, -np.inf], [5e-324, -0.0]])
    trace = ex.ExitTrace(
        np.zeros((2, 2), dtype=int),
        {"a": score, "b": -score},
        COST,
        None,
        np.array([0, 2**64 - 1], np.uint64),
    )
    trace.save(tmp_path / "t")
    assert same(ex.ExitTrace.load(tmp_path / "t"), trace)


def test_anyone_with_pyarrow_can_read_a_trace(tmp_path, make_trace):
    trace = make_trace(20)
    trace.save(tmp_path / "trace.parquet")
    table = pq.read_table(tmp_path / "trace.parquet")
    assert table.column_names == ["id", "label", "prediction", "score:score"]
    assert table["prediction"].to_pylist() == trace.prediction.tolist()
    assert table["score:score"].to_pylist() == trace.scores["score"].tolist()
    cost = json.loads(table.schema.metadata[b"exeunt"])["cost"]
    assert cost["cumulative"] == trace.cost.cumulative.tolist()


def test_damaged_foreign_and_newer_files_are_refused(tmp_path, make_trace):
    path = tmp_path / "trace.parquet"
    with pytest.raises(ex.InputError, match=r"trace\.parquet"):
        ex.ExitTrace.load(path)
    make_trace(50).save(path)
    whole, table = path.read_bytes(), pq.read_table(path)

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ex.ArtefactError, match="not a readable"):
        ex.ExitTrace.load(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ex.ArtefactError, match="not written by"):
        ex.ExitTrace.load(path)
    header = json.loads(table.schema.metadata[b"exeunt"])
    for wrong in (
        json.dumps(header | {"version": 99}),
        json.dumps({"cost": header["cost"]}),
        json.dumps({"version": 1}),
        json.dumps([1]),
        "no JSON",
        json.dumps(header | {"cost": header["cost"] | {"cumulative": [3, 2, 1, 0]}}),
    ):
        pq.write_table(table.replace_schema_metadata({"exeunt": wrong}), path)
        with pytest.raises(ex.ArtefactError):
            ex.ExitTrace.load(path)
    pq.write_table(table.drop_columns(["prediction"]), path)
    with pytest.raises(ex.ArtefactError, match="prediction"):
        ex.ExitTrace.load(path)


def test_writing_into_a_missing_folder_says_so(tmp_path, make_trace):
    with pytest.raises(ex.InputError, match="nowhere"):
        make_trace(3).save(tmp_path / "nowhere" / "trace.parquet")


def test_a_trace_cannot_be_changed_from_outside(make_trace):
    with pytest.raises(ValueError, match="read-only"):
        make_trace(3).scores["score"][0, 0] = 9
