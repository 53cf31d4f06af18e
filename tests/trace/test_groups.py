"""Rows that come in groups: parts, folds and files keep groups together, and a group has one value."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from same_traces import same_trace

import exeunt as ex
from exeunt.policy.certificates import Certificate
from exeunt.trace import check_disjoint, concatenate
from exeunt.trace.groups import mean, mean_text, mean_weight, neighbours_alike, per_unit, units_text
from exeunt.trace.splitting import bootstrap_rows, folds_of, shaping_and_testing_rows

COST = ex.CostModel([1.0, 3.0])
SIZES = [1, 5, 2, 9, 1, 4, 3, 7, 2, 6]


def grouped(sizes=SIZES, most=1, seed=0, names=None):
    """A trace with groups of these sizes, whose rows are mixed."""
    rng = np.random.default_rng(seed)
    key = rng.permutation(np.repeat(np.arange(len(sizes)) + 100 * seed, sizes))
    n = len(key)
    groups = ex.Groups(key if names is None else names[key], most)
    return ex.ExitTrace.from_scores(
        rng.random((n, 2)), rng.integers(0, 2, (n, 2)), cost=COST, label=rng.integers(0, 2, n), groups=groups
    )


def test_groups_are_numbered_in_the_order_in_which_they_appear():
    groups = ex.Groups(np.array(["b", "a", "b", "c", "a", "b"]), 2)
    assert (groups.n, groups.index.tolist(), groups.sizes.tolist()) == (3, [0, 1, 0, 2, 1, 0], [3, 2, 1])
    assert groups.weight.tolist() == [1.0, 1.0, 0.5]
    assert groups.row_weight.tolist() == [1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 2, 1 / 3]
    assert groups.means(np.array([1.0, 2, 3, 4, 6, 8])).tolist() == [4.0, 4.0, 4.0]
    assert groups.rows(np.array([2, 0, 2])).tolist() == [3, 0, 2, 5, 3]
    assert groups.take([1, 2, 4]).index.tolist() == [0, 1, 0]
    assert groups.names.tolist() == ex.Groups(np.array(["b", "a", "c"])).key.tolist()
    assert (mean_weight(groups), mean_weight(None)) == (2.5 / 3, 1.0)
    assert type(ex.Groups([1, 2], np.int64(2)).rows_per_group) is int  # as files hold it


def test_rows_of_groups_are_in_their_order():
    groups = ex.Groups(np.random.default_rng(0).integers(0, 3, 1000))
    rows = groups.rows(np.array([2, 0]))
    assert rows.tolist() == [*np.flatnonzero(groups.index == 2), *np.flatnonzero(groups.index == 0)]
    none = groups.rows(np.array([], dtype=int))
    assert (none.tolist(), none.dtype) == ([], np.int64)


@pytest.mark.parametrize(("correlation", "found"), [(0.5, 0.5), (0.05, 0.0)])
def test_the_correlation_of_neighbours_is_measured_where_it_matters(correlation, found):
    """A stationary sequence whose ranks have about the correlation of its values."""
    noise = np.random.default_rng(0).normal(size=50_000)
    values = np.zeros(50_000)
    for i in range(1, 50_000):
        values[i] = correlation * values[i - 1] + (1 - correlation**2) ** 0.5 * noise[i]
    measured = neighbours_alike(values[:, None], np.zeros(50_000), np.arange(50_000))
    assert measured == pytest.approx(found, abs=0.03)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=30)


@given(ROWS, st.integers(1, 6), st.floats(0, 1))
def test_the_values_of_groups_are_within_a_bound_where_the_weighted_mean_is(rows, most, bound):
    """Oracle: the definition, row by row. Row weights are min(1, most / size), relative to a group of `most` rows."""
    key, values = np.array([k for k, _ in rows]), np.array([x for _, x in rows])
    groups = ex.Groups(key, most)
    size = np.array([np.count_nonzero(key == k) for k in key])
    weight = np.minimum(1.0, most / size)
    found = per_unit(values, groups, bound)
    np.testing.assert_allclose(found.sum() - groups.n * bound, weight @ (values - bound) / most, atol=1e-12)
    assert mean(values, groups) == pytest.approx(weight @ values / weight.sum())
    assert found.min() >= min(values.min(), bound) - 1e-12
    assert found.max() <= max(values.max(), bound) + 1e-12
    assert per_unit(values, None, bound) is values
    assert mean(values, None) == values.mean()


def read(**options):
    columns = {"c": [0.1, 0.2], "p": ["a", "b"], "y": ["a", "b"], "user": ["u", ""]}
    named = {"confidence": "c", "prediction": "p", "label": "y", "cost": [1.0], **options}
    return ex.ExitTrace.from_table(pa.table(columns), **named)


MOST, TYPES = "must be a whole number of 1 or more", "groups must be 2 texts or integers"
FOLDS = "as many groups, got 11 folds for 10: give more labelled groups"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        *((partial(ex.Groups, np.arange(3), most), MOST) for most in (0, -1, 1.5, "2")),
        *((partial(ex.Groups, wrong), TYPES) for wrong in ([0.5, 1.5], [None, "a"])),
        (lambda: replace(grouped(), groups=[1, 2]), "groups must have shape"),
        (lambda: ex.Groups("user", rows_per_group=5), "got 'user': from_table alone takes columns"),
        (lambda: read(rows_per_group=5), "rows_per_group is about groups: name their column"),
        (lambda: read(groups=np.array(["u", "v"])), "must name a column of the table, got ndarray"),
        (lambda: read(groups="user"), "column 'user' has 1 empty cell in row 1"),
        (lambda: read(groups="users"), "the table has no column users"),
        (lambda: grouped().split(fit=0.01, calibrate=0.3, test=0.4), r"0\.01 of 10 groups is none"),
        (lambda: folds_of(grouped().id, 11, 1, grouped().groups), FOLDS),
        (lambda: shaping_and_testing_rows(3, 0.5, 0, ex.Groups([0, 0, 0])), "1 calibration group is too few"),
    ],
)
def test_what_are_no_groups_or_too_few_is_refused(make, told):
    with pytest.raises(ex.InputError, match=told):
        make()


def test_groups_are_texts_as_in_pandas_too():
    names = ["b", "a", "b"]
    assert ex.Groups(np.array(names, dtype=object)).key.tolist() == ex.Groups(names).key.tolist()


def test_no_group_lies_in_two_parts():
    trace = grouped()
    assert repr(trace).startswith("ExitTrace(40 inputs in 10 groups, 2 exits, labelled")
    for one in (trace, ex.CascadeTrace({"a": trace.exits(0, 1), "b": trace.exits(1, 2)})):
        parts = one.split(fit=0.3, calibrate=0.3, test=0.4, seed=2)
        assert [part.groups.n for part in parts] == [3, 3, 4]
        assert sum(part.n for part in parts) == trace.n
    for rest, rows in folds_of(trace.id, 5, 1, trace.groups):
        keys = [set(trace.groups.key[one].tolist()) for one in (rest, rows)]
        assert not keys[0] & keys[1]
        assert len(keys[1]) == 2
        assert sorted([*rest, *rows]) == list(range(trace.n))


def test_parts_depend_on_the_names_of_groups_and_not_on_the_order_of_rows():
    trace = grouped()
    turned = trace.take(np.arange(trace.n)[::-1])
    for one, other in zip(trace.split(seed=4), turned.split(seed=4), strict=True):
        assert set(one.groups.key.tolist()) == set(other.groups.key.tolist())


def test_tests_take_groups_in_random_order():
    trace = grouped([3] * 200)
    rows = shaping_and_testing_rows(trace.n, 0.25, 3, trace.groups)
    shaped, tested = (trace.take(one) for one in rows)
    assert (shaped.groups.n, tested.groups.n) == (50, 150)
    assert sorted(np.concatenate(rows).tolist()) == list(range(600))
    assert tested.groups.index.tolist() == np.repeat(np.arange(150), 3).tolist()
    assert abs(np.corrcoef(tested.groups.names.astype(int), np.arange(150))[0, 1]) < 0.4


def test_a_bootstrap_draws_whole_groups():
    trace = grouped()
    rows = bootstrap_rows(trace.n, np.random.default_rng(0), trace.groups)
    drawn = trace.groups.index[rows]
    times = np.bincount(drawn, minlength=10) / trace.groups.sizes
    assert times.sum() == 10
    assert set(times.tolist()) <= set(range(10))


@pytest.mark.parametrize("most", [1, 20])
def test_files_keep_groups(tmp_path, most):
    trace = grouped(most=most, names=np.array([f"drive {i}" for i in range(10)]))
    trace.save(tmp_path / "a.parquet")
    read = ex.ExitTrace.load(tmp_path / "a.parquet")
    assert same_trace(read, trace)
    assert (read.groups.key.tolist(), read.groups.rows_per_group) == (trace.groups.key.tolist(), most)
    assert json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"exeunt"])["version"] == 4
    with pytest.raises(ex.InputError, match="in groups: such a trace must fit in memory"):
        ex.StoredTrace.open(tmp_path)


def test_tables_name_groups_by_a_column():
    table = pa.table({
        "p_0": [1, 1, 0], "p_1": [1, 0, 0], "c_0": [0.1, 0.2, 0.3], "c_1": [0.4, 0.5, 0.6], "y": [1, 0, 0],
        "user": ["ann", "bob", "ann"],
    })  # fmt: skip
    options = {"confidence": "c_{}", "prediction": "p_{}", "label": "y"} | {
        "groups": "user",
        "rows_per_group": 5,
    }
    trace = ex.ExitTrace.from_table(table, cost=[1, 2], **options)
    models = ex.CascadeTrace.from_table(table, price={"0": 1, "1": 2}, **options)
    for one in (trace, models, models.alone, models["0"]):
        assert one.groups.index.tolist() == [0, 1, 0]
        assert one.groups.rows_per_group == 5


def test_traces_are_joined_with_their_groups():
    a, b = grouped(seed=1), grouped(seed=2)
    assert concatenate([a, b]).groups.n == 20
    for parts in ([grouped(most=3)], [grouped(most=3), grouped(seed=2, most=3)]):
        assert ex.Groups.joined([part.groups for part in parts]).rows_per_group == 3
    assert ex.Groups.joined([None]) is None
    for other in (grouped(seed=2, most=3), replace(b, groups=None)):
        with pytest.raises(ex.InputError, match="either all traces have groups or none"):
            concatenate([a, other])


def test_parts_that_share_a_group_are_refused():
    trace = grouped()
    half, other = trace.take(np.arange(20)), trace.take(np.arange(20, 40))
    check_disjoint(*trace.split()[:2])
    shared = r"fit and calibrate share \d+ groups; guarantees hold only for disjoint"
    bare = replace(other, groups=None)
    for wrong, told in ((other, shared), (bare, "either all traces have groups or none")):
        with pytest.raises(ex.InputError, match=told):
            check_disjoint(half, wrong)


def test_models_with_other_groups_are_refused():
    trace = grouped()
    models = {"a": trace.exits(0, 1), "b": trace.exits(1, 2)}
    order = np.random.default_rng(1).permutation(trace.n)
    matched = ex.CascadeTrace({**models, "b": models["b"].take(order)})
    assert matched.groups.key.tolist() == trace.groups.key.tolist()
    with pytest.raises(ex.InputError, match="the groups of 'a' and 'b' differ"):
        ex.CascadeTrace({**models, "b": replace(models["b"], groups=np.zeros(trace.n, dtype=int))})


def test_texts():
    assert units_text(3400, None, "calibration") == "3,400 calibration inputs"
    assert units_text(3400, 120, "calibration") == "120 calibration groups (3,400 inputs)"
    assert mean_text("mean cost", None) == "mean cost"
    assert mean_text("mean cost", 1) == "mean over groups of their mean cost"
    assert mean_text("accuracy", 20) == "accuracy, where inputs of groups of more than 20 weigh 20/size,"


def test_a_bootstrap_without_groups_draws_every_row():
    drawn = [bootstrap_rows(3, np.random.default_rng(seed)) for seed in range(50)]
    assert {len(rows) for rows in drawn} == {3}
    assert set(np.concatenate(drawn)) == {0, 1, 2}


def test_a_certificate_keeps_how_many_groups_there_were_and_how_they_weigh():
    certificate = Certificate(
        budget=2.0, delta=0.1, unit="MACs", probability=0.9, expected_cost=1.5, cost_quantile=2.0, n_calibration=60,
        n_groups=20, rows_per_group=4,
    )  # fmt: skip
    assert Certificate(**certificate.to_dict()) == certificate
    assert "n_groups" not in replace(certificate, n_groups=None, rows_per_group=None).to_dict()
