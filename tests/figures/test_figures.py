"""What the artists show is what the results say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial

import matplotlib
import numpy as np
import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

import exeunt as ex
from exeunt.errors import InputError
from exeunt.evaluation import figures
from exeunt.evaluation.replay import score_exits
from exeunt.guarantees.confidence_intervals import wilson_interval
from exeunt.rules.baselines import msdnet
from exeunt.trace.grades import Grades


def line(ax, label):
    (found,) = [each for each in ax.get_lines() if each.get_label() == label]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


@pytest.fixture(scope="module")
def compared(found, trace):
    """The axes of two policies."""
    return figures.accuracy_against_budget(found, trace)


def test_accuracy_lines_are_the_means_over_splits_at_the_mean_cost_in_bands_of_their_intervals(
    compared, found, trace
):
    for p, name in enumerate(found.names):
        x, y = line(compared, name)
        np.testing.assert_allclose(x, found.mean_cost[p].mean(axis=1) / trace.cost.full)
        np.testing.assert_allclose(y, found.accuracy[p].mean(axis=1))
    x, y = line(compared, f"oracle (at the budget), up to {found.oracle.mean(axis=1).max():.1%}")
    np.testing.assert_allclose(x, [0.3, 0.6, 0.9])
    np.testing.assert_allclose(y, found.oracle.mean(axis=1))
    rows = [row for row in found.rows() if row["policy"] == "mine"]
    band = compared.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(min(row["accuracy_low"] for row in rows))
    assert band.max() == pytest.approx(max(row["accuracy_high"] for row in rows))


def test_each_exit_alone_stands_at_its_cost_and_accuracy_with_its_number(compared, trace):
    x, y = line(compared, "each exit alone (numbered above)")
    np.testing.assert_allclose(x, trace.cost.cumulative / trace.cost.full)
    np.testing.assert_allclose(y, (trace.prediction == trace.label[:, None]).mean(axis=0))
    (above,) = compared.child_axes
    numbers = {text.get_text(): text.get_position()[0] for text in above.get_xticklabels()}
    assert numbers == pytest.approx({str(exit_): x[exit_] for exit_ in range(4)})
    assert not compared.texts  # nothing is written over the lines


def test_the_axis_begins_where_policies_can_be_told_apart(trace):
    presets = {"mine": ex.eero, "theirs": msdnet}
    wide = ex.frontier(presets, trace, ["20%", "60%", "90%"], splits=3)
    low, high = figures.accuracy_against_budget(wide, trace).get_ylim()
    judged = wide.accuracy[:, 1:].mean(axis=2)
    assert wide.accuracy[:, 0].mean() < low < judged.min()
    assert judged.max() < high


def test_a_result_is_marked_with_its_interval(found, trace, parts, policy):
    result = ex.evaluate(policy, parts[2])
    ax = figures.accuracy_against_budget(found, trace, results=[result])
    (marked,) = ax.containers
    x, y = marked.lines[0].get_xydata()[0]
    assert (x, y) == pytest.approx((result.cost / trace.cost.full, result.accuracy))
    ends = marked.lines[2][0].get_segments()[0][:, 1]
    assert tuple(ends) == pytest.approx(result.accuracy_interval)


def test_results_without_labels_or_of_another_network_are_refused(found, trace, parts, policy):
    blind = ex.ExitTrace(parts[2].prediction, parts[2].scores, trace.cost, None, parts[2].id)
    with pytest.raises(InputError, match="labelled"):
        figures.accuracy_against_budget(found, trace, results=[ex.evaluate(policy, blind)])
    pair = trace.selected([1, 3])
    with pytest.raises(InputError, match="4 exits"):
        figures.rates_and_shares(policy, score_exits(pair, np.zeros(pair.n, dtype=int)))


def test_infeasible_budgets_leave_a_gap_not_a_zero_and_a_single_split_has_no_band(trace):
    def picky(fit, calibrate, *, budget):
        if budget < 0.5 * trace.cost.full:
            raise ex.InfeasibleBudget("too little")
        return ex.eero(fit, calibrate, budget=budget)

    gappy = ex.frontier({"picky": picky}, trace, ["30%", "60%", "90%"], splits=1)
    ax = figures.accuracy_against_budget(gappy, trace)
    y = line(ax, "picky")[1]
    assert np.isnan(y[0])
    assert np.isfinite(y[1:]).all()
    assert len(ax.collections) == 0
    assert ax.get_legend().get_title().get_text() == "one split"


def test_cost_against_budget(found, trace):
    ax = figures.cost_against_budget(found)
    x, y = line(ax, "theirs")
    np.testing.assert_allclose(x, [0.3, 0.6, 0.9])
    np.testing.assert_allclose(y, found.mean_cost[1].mean(axis=1) / trace.cost.full)
    np.testing.assert_array_equal(*line(ax, "mean cost = budget"))
    assert ax.get_aspect() == 1.0


def bars_of(ax):
    """The heights of the rates that were planned and of the shares, and the ends of the intervals of these."""
    planned, shares = (group for group in ax.containers if isinstance(group, BarContainer))
    ends = [segment[:, 1] for segment in shares.errorbar.lines[2][0].get_segments()]
    return [bar.get_height() for bar in planned], [bar.get_height() for bar in shares], ends


def test_rates_and_shares_are_the_bars(parts, policy):
    result = ex.evaluate(policy, parts[2])
    ax = figures.rates_and_shares(policy, result)
    planned, shares, ends = bars_of(ax)
    np.testing.assert_allclose(planned, policy.rates)
    np.testing.assert_allclose(shares, result.shares)
    assert ax.get_ylim()[0] == 0.0
    assert f"mean cost {result.cost / policy.cost.full:.1%}" in ax.get_title(loc="left")
    np.testing.assert_allclose(ends, [wilson_interval(round(each * result.n), result.n) for each in shares])


def test_shares_of_weighted_inputs_may_be_1_but_for_rounding(parts, policy):
    """The bars show them as they are, and the intervals are those of all inputs and of none."""
    result = replace(ex.evaluate(policy, parts[2]), shares=np.eye(4)[0] * (1 + 2**-52))
    planned, shares, ends = bars_of(figures.rates_and_shares(policy, result))
    np.testing.assert_allclose(planned, policy.rates)
    np.testing.assert_allclose(shares, [1, 0, 0, 0])
    whole, none = (wilson_interval(k, result.n) for k in (result.n, 0))
    np.testing.assert_allclose(ends, [whole, none, none, none], atol=1e-12)


def test_risk_has_wilson_intervals_and_marks_where_depth_harms(trace):
    before = dict(matplotlib.rcParams)
    ax = figures.risk_per_exit(trace)
    assert dict(matplotlib.rcParams) == before  # the style leaves global settings alone
    (drawn,) = ax.containers
    np.testing.assert_allclose(drawn.lines[0].get_ydata(), trace.risk)
    z, n, risk = 1.959963984540054, trace.n, trace.risk
    centre = (risk + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(risk * (1 - risk) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    ends = [segment[:, 1] for segment in drawn.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, np.stack([centre - half, centre + half], 1), atol=1e-9)
    worse = [e for e in range(4) if (risk[e] > risk[:e]).any()]
    assert worse == [3]
    np.testing.assert_array_equal(line(ax, "worse than an earlier exit")[0], worse)
    improving = figures.risk_per_exit(trace.selected([0, 3]))
    assert all(each.get_label() != "worse than an earlier exit" for each in improving.get_lines())


@pytest.mark.parametrize("risk", [0.0, 1.0])
def test_risk_at_the_ends_of_its_range(risk):
    label = np.zeros(20, dtype=int)
    prediction = np.full((20, 1), int(risk))
    sure = ex.ExitTrace.from_scores(np.ones((20, 1)), prediction, cost=ex.CostModel([1.0]), label=label)
    low, high = figures.risk_per_exit(sure).get_ylim()
    assert low == 0.0 if risk == 0.0 else 0.5 < low < 1.0
    assert low < high <= 1.0 + 1e-9


def test_axes_are_labelled_with_units_and_given_axes_are_used(found, trace, parts, policy):
    panels = Figure(figsize=(12, 8)).subplots(2, 2).ravel()
    draws = (
        partial(figures.accuracy_against_budget, found, trace),
        partial(figures.cost_against_budget, found),
        partial(figures.rates_and_shares, policy, ex.evaluate(policy, parts[2])),
        partial(figures.risk_per_exit, trace),
    )
    for draw, ax in zip(draws, panels, strict=True):
        assert draw(ax=ax) is ax
        assert "%" in ax.get_ylabel()
        assert "%" in ax.get_xlabel() or "exit (0 = first, 3 = last)" in ax.get_xlabel()
        assert ax.yaxis.get_major_formatter()(0.25, 0) == "25%"
    assert f"{trace.cost.full / 1e6:.3g} MMACs" in panels[0].get_xlabel()


def test_pyplot_is_never_imported_and_matplotlib_only_for_a_figure():
    code = """
import sys, numpy as np, exeunt as ex
from exeunt.evaluation import figures
assert "matplotlib" not in sys.modules
cost = ex.CostModel([1, 2])
trace = ex.ExitTrace.from_scores(np.ones((9, 2)), np.zeros((9, 2), int), cost=cost, label=[0] * 9)
figures.risk_per_exit(trace)
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_of_graded_answers_show_their_measure(trace):
    grades = Grades(np.random.default_rng(0).beta(2, 3, (trace.n, 4)), "IoU")
    graded = replace(trace, label=None, log_probability=None, grades=grades)
    found = ex.frontier({"mine": ex.eero}, graded, ["60%", "90%"], splits=2)
    ax = figures.accuracy_against_budget(found, graded, results=[score_exits(graded, np.full(trace.n, 1))])
    assert ax.get_title(loc="left") == "IoU against budget"
    assert ax.get_ylabel() == "IoU (%)"
    risk = figures.risk_per_exit(graded)
    assert risk.get_ylabel() == "mean loss (%)"
    bars = risk.containers[0]
    np.testing.assert_allclose(bars[0].get_ydata(), grades.loss.mean(axis=0))
    low, high = bars[2][0].get_segments()[2][:, 1]
    half = 1.96 * grades.loss[:, 2].std(ddof=1) / trace.n**0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.01)
