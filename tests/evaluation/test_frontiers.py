"""The frontier measures what a loop by hand measures, and its intervals are paired."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import ttest_rel

import exeunt as ex
from exeunt.guarantees.confidence_intervals import mean_interval
from exeunt.rules import baselines

PRESETS = {"eero": ex.eero, "msdnet": baselines.msdnet, "certified": partial(ex.eero, delta=0.1)}
BUDGETS = ["40%", 5.0]


@pytest.fixture(scope="module")
def trace(make_trace):
    return make_trace(900)


@pytest.fixture(scope="module")
def table(trace):
    return ex.frontier(PRESETS, trace, BUDGETS, splits=4, seed=3)


def test_every_cell_is_one_fit_and_one_replay(trace, table):
    for s in range(4):
        fit, calibrate, test = trace.split(fit=0.3, calibrate=0.2, test=0.5, seed=3 + s)
        for q, budget in enumerate(BUDGETS):
            for p, preset in enumerate(PRESETS.values()):
                result = ex.evaluate(preset(fit, calibrate, budget=budget), test)
                assert table.accuracy[p, q, s] == result.accuracy
                assert table.mean_cost[p, q, s] == result.cost
            assert table.oracle[q, s] == ex.oracle(test, budget).accuracy


def test_rows_are_means_with_paired_intervals(trace, table):
    rows = table.rows()
    assert len(rows) == 3 * 2 + 2
    row = next(r for r in rows if r["policy"] == "msdnet" and r["budget"] == 5.0)
    assert row["accuracy"] == pytest.approx(table.accuracy[1, 1].mean())
    paired = ttest_rel(table.accuracy[1, 1], table.accuracy[0, 1]).confidence_interval(0.95)
    assert (row["gain_low"], row["gain_high"]) == pytest.approx((paired.low, paired.high))
    assert row["gain"] == pytest.approx((table.accuracy[1, 1] - table.accuracy[0, 1]).mean())
    assert row["over_budget_share"] == np.mean(table.mean_cost[1, 1] > 5.0)
    assert row["mean_cost_share"] == pytest.approx(table.mean_cost[1, 1].mean() / trace.cost.full)
    assert row["budget_share"] == pytest.approx(5.0 / trace.cost.full)
    reference = rows[0]
    assert reference["policy"] == "eero"
    assert reference["gain"] == reference["gain_low"] == reference["gain_high"] == 0.0


def test_it_becomes_arrow_and_pandas_in_one_call(table):
    arrow = table.to_arrow()
    assert arrow.num_rows == 8
    assert arrow["policy"].to_pylist()[-1] == "oracle"
    pandas = pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["accuracy"].tolist() == arrow["accuracy"].to_pylist()


def test_budgets_that_nobody_can_certify_are_empty_not_zero(trace):
    table = ex.frontier({"c": partial(ex.eero, delta=1e-6)}, trace, [1.01, "60%"], splits=2)
    assert np.isnan(table.accuracy[0, 0]).all()
    infeasible, feasible, *_ = table.rows()
    assert np.isnan(infeasible["accuracy"])
    assert np.isnan(infeasible["over_budget_share"])
    assert feasible["over_budget_share"] == 0.0
    assert "infeasible" in str(table)
    assert "nan" not in str(table)


def test_one_split_has_no_interval_and_progress_is_told(trace):
    reported = []
    told = {"splits": 1, "progress": lambda *done: reported.append(done)}
    table = ex.frontier({"eero": ex.eero}, trace, ["50%"], **told)
    assert np.isnan(table.rows()[0]["accuracy_low"])
    assert reported == [(1, 1)]


@pytest.mark.parametrize(
    ("presets", "budgets", "splits", "shown"),
    [
        ({}, ["50%"], 1, "0 presets"),
        ({"eero": ex.eero}, [], 1, "0 budgets"),
        ({"eero": ex.eero}, ["50%"], 0, "0 splits"),
        ({"eero": ex.eero}, ["1%"], 1, "cheapest exit"),
        ({"eero": ex.eero}, "50%", 1, r"write \['50%'\]"),
        ({"oracle": ex.eero}, ["50%"], 1, "row of that name"),
    ],
)
def test_empty_frontiers_are_refused(trace, presets, budgets, splits, shown):
    with pytest.raises(ex.InputError, match=shown):
        ex.frontier(presets, trace, budgets, splits=splits)


def test_labels_are_needed(make_trace):
    with pytest.raises(ex.InputError, match="labels"):
        ex.frontier({"msdnet": baselines.msdnet}, make_trace(100, labelled=False), ["50%"], splits=1)


def test_intervals_of_shares_end_at_0_and_1_and_those_of_spend_do_not_begin_below_0(make_trace):
    high = np.array([0.9, 1.0, 1.0])
    mean, low, end = mean_interval(high, within=(0.0, 1.0))
    assert (mean, low) == mean_interval(high)[:2]
    assert end == 1.0 < mean_interval(high)[2]
    assert mean_interval(1 - high, within=(0.0, 1.0))[1:] == pytest.approx((0.0, 1 - low))
    assert np.isnan(mean_interval(high[:1], within=(0.0, 1.0))[1:]).all()
    two = np.array([0.2, 0.4])  # t with one degree of freedom: 12.7 standard errors to each side
    mean, low, high = mean_interval(two)
    assert low < 0
    assert mean_interval(two, within=(0.0, np.inf)) == (mean, 0.0, high)
    assert mean_interval(two + 9, within=(0.0, np.inf)) == mean_interval(two + 9)
    rows = ex.frontier({"msdnet": baselines.msdnet}, make_trace(40), ["40%", "70%"], splits=2).rows()
    assert all(row["mean_cost_low"] >= 0 for row in rows if row["policy"] != "oracle")
