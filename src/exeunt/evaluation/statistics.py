"""The statistics of a comparison: per point, and over all points.

Means are over splits, with 95% t intervals; differences are paired by split. The parts of different splits overlap, so
the intervals describe how much this procedure varies on this trace, not what new data would give.

Do certified policies keep their guarantee? A certificate is about the mean cost in the long run; the mean cost of a
test part varies around it. Given the fit part, the other inputs are divided at random into those that calibrate and
those that test. So, for any inputs, a test part exceeds the budget with the probability that the distribution of the
mean cost gives to a batch of its size. Each split is drawn anew. Given the inputs, the splits are therefore
independent, though their parts overlap: the number of test parts over the budget is a sum of independent events of
known probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from exeunt._support.arrays import Booleans, Floats
from exeunt.evaluation.frontiers import exceeds
from exeunt.evaluation.results import TraceResult, none_for_nan
from exeunt.guarantees.confidence_intervals import interval_columns, mean_interval
from exeunt.trace.grades import named

CHOOSER = "auto"  # it chooses among the other policies, so it is measured against the best of them


def point_rows(trace: TraceResult, reference: str) -> list[dict[str, Any]]:
    """Return one flat row per policy and budget, and per budget of the oracle."""
    rows = [
        {"trace": trace.name, "policy": policy, **_point(trace, reference, p, q)}
        for p, policy in enumerate(trace.policies)
        for q in range(len(trace.amounts))
    ]
    empty = dict.fromkeys(rows[0])
    return rows + [{**empty, "trace": trace.name, "policy": "oracle", **point} for point in _oracle(trace)]


def trace_statistics(trace: TraceResult, reference: str, delta: float | None) -> dict[str, Any]:
    """Return what the report shows of one trace, in JSON-able form (see `Comparison.to_dict`)."""
    mean, low, high = mean_interval(trace.exits[-1], within=(0.0, 1.0))
    of_mixture = zip(trace.mixture_accuracy.mean(axis=-1), trace.mixture_cost.mean(axis=-1), strict=True)
    exits = zip(trace.exit_names, trace.cost.share(trace.cost.cumulative), trace.exits, strict=True)
    statistics = {
        "name": trace.name,
        "n": trace.n,
        "parts": dict(zip(("fit", "calibrate", "test"), trace.parts.astype(int).tolist(), strict=True)),
        "exits": trace.cost.n_exits,
        "models": list(trace.models),
        "one_exit": trace.one_exit,
        "whole": trace.whole,
        **named(trace.measure),
        "unit": trace.cost.unit,
        "full_cost": trace.cost.full,
        "full_accuracy": {"mean": mean, "low": low, "high": high},
        "budgets": trace.shares.tolist(),
        "may_exceed": None if delta is None else share_over_budget(trace, delta),
        "policies": [
            {
                "name": name,
                "fit_seconds": float(trace.seconds[p, 0]),
                "fit_seconds_all_budgets": float(trace.seconds[p, 1]),
                "points": [_point(trace, reference, p, q) for q in range(len(trace.amounts))],
            }
            for p, name in enumerate(trace.policies)
        ],
        "oracle": _oracle(trace),
        "mixture": [
            {"budget": float(share), "accuracy": float(accuracy), "mean_cost": float(trace.cost.share(cost))}
            for share, (accuracy, cost) in zip(trace.shares, of_mixture, strict=True)
        ],
        "exit_points": [
            {"name": name, "cost": float(cost), **interval_columns("accuracy", accuracy, within=(0.0, 1.0))}
            for name, cost, accuracy in exits
        ],
    }
    return none_for_nan(statistics)  # type: ignore[no-any-return]


def _point(trace: TraceResult, reference: str, p: int, q: int) -> dict[str, Any]:
    """Return one policy at one budget; where it was infeasible on some splits, only the other splits count."""
    feasible = ~np.isnan(trace.accuracy[p, q])
    gains = trace.accuracy[p, q] - trace.accuracy[trace.policies.index(reference), q]
    return {
        "budget": float(trace.shares[q]),
        **interval_columns("accuracy", trace.accuracy[p, q, feasible], within=(0.0, 1.0)),
        **interval_columns(
            "mean_cost", trace.cost.share(trace.mean_cost[p, q, feasible]), within=(0.0, np.inf)
        ),
        "over_budget": int(exceeds(trace.mean_cost[p, q], trace.amounts[q]).sum()),
        "of": int(feasible.sum()),
        **interval_columns("gain", gains[~np.isnan(gains)]),
        "rates": trace.rates[p, q].tolist(),
        "at_random": float(trace.rates[p, q] @ trace.exits.mean(axis=-1)),
    }


def _oracle(trace: TraceResult) -> list[dict[str, float]]:
    return [
        {"budget": float(share), **interval_columns("accuracy", accuracy, within=(0.0, 1.0))}
        for share, accuracy in zip(trace.shares, trace.oracle, strict=True)
    ]


def overall_rows(traces: Sequence[TraceResult], reference: str) -> list[dict[str, Any]]:
    """Return one row per policy. A cell is a budget of a trace; cells that are infeasible on some split are left out.

    `mean_gain` over the reference: its mean over the cells of a split, with a t interval over splits. `mean_shortfall`:
    the mean distance below the best single policy of each cell; negative for `auto` where it beats all policies that
    it chooses among. `worst_...`: of one cell. `fit_seconds`: for one budget, mean over the traces.
    """
    policies = traces[0].policies
    accuracy = np.concatenate([trace.accuracy for trace in traces], axis=1)  # (p, cells, s)
    over = np.concatenate([over_budget(trace) for trace in traces], axis=1)
    mean = accuracy.mean(axis=-1)  # NaN where a policy is infeasible
    single = np.array([name != CHOOSER for name in policies])
    best = np.nan_to_num(mean[single if single.any() else ~single], nan=-np.inf).max(axis=0)
    rows = []
    for p, name in enumerate(policies):
        gains = accuracy[p] - accuracy[policies.index(reference)]
        gains = gains[~np.isnan(gains).any(axis=-1)]
        gain, low, high = mean_interval(gains.mean(axis=0)) if len(gains) else (float("nan"),) * 3
        below = (best - mean[p])[np.isfinite(best) & ~np.isnan(mean[p])]
        rows.append(
            {
                "policy": name,
                "mean_gain": gain,
                "gain_low": low,
                "gain_high": high,
                "worst_gain": _or_nan(gains.mean(axis=-1), np.min),
                "mean_shortfall": _or_nan(below, np.mean),
                "worst_shortfall": _or_nan(below, np.max),
                "over_budget": int(over[p].sum()),
                "of": int((~np.isnan(accuracy[p])).sum()),
                "fit_seconds": float(np.mean([trace.seconds[p, 0] for trace in traces])),
            }
        )
    return rows


def _or_nan(values: Floats, of: Callable[[Floats], Any]) -> float:
    """Return a statistic of values, NaN of none."""
    return float(of(values)) if len(values) else float("nan")


class Guarantee(NamedTuple):
    """How often one policy exceeded one budget of one trace, and how likely that is if its guarantee holds.

    `least_p_value`: what the p-value would be if every split had exceeded it. If even this is large, the splits are too
    few to show a broken guarantee.
    """

    trace: str
    policy: str
    budget: float
    over_budget: int
    of: int
    p_value: float
    least_p_value: float


def guarantees(traces: Sequence[TraceResult], delta: float) -> list[Guarantee]:
    """Return the guarantee of every policy at every budget of every trace, the most suspicious first.

    The p-values are one-sided, and multiplied by the number of guarantees (Bonferroni).
    """
    tested = []
    for trace in traces:
        over, feasible, chance = over_budget(trace), ~np.isnan(trace.accuracy), _chance(trace, delta)
        for p, q in np.argwhere(feasible.any(axis=-1)):
            k, chances = int(over[p, q].sum()), chance[p, q, feasible[p, q]]
            p_values = at_least(k, chances), at_least(len(chances), chances)
            budget = float(trace.shares[q])
            tested.append(Guarantee(trace.name, trace.policies[p], budget, k, len(chances), *p_values))
    tested.sort(key=lambda guarantee: guarantee.p_value)
    return [
        guarantee._replace(
            p_value=min(guarantee.p_value * len(tested), 1.0),
            least_p_value=min(guarantee.least_p_value * len(tested), 1.0),
        )
        for guarantee in tested
    ]


def at_least(count: int, chances: Floats) -> float:
    """Return P(at least `count` of independent events happen), by the Poisson binomial distribution.

    `chances` (s,): the probability of each event.
    """
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return float(distribution[count:].sum())


def share_over_budget(trace: TraceResult, delta: float) -> float:
    """Return the largest share of test parts that may exceed one budget though its guarantee is kept."""
    chance, feasible = _chance(trace, delta), ~np.isnan(trace.accuracy)
    means = [chance[p, q, feasible[p, q]].mean() for p, q in np.argwhere(feasible.any(axis=-1))]
    return float(max(means, default=0.0))


def over_budget(trace: TraceResult) -> Booleans:
    """Return where a test part cost more than the budget, (p, q, s); False where the budget was infeasible."""
    return exceeds(trace.mean_cost, trace.amounts[:, None])


def _chance(trace: TraceResult, delta: float) -> Floats:
    """Return the probability (p, q, s) that a test part exceeds the budget, by the distribution of the mean cost.

    Where the distribution is not known, return the probability for a guarantee that is just kept, by normal
    approximation: both calibration and test part vary by the same variance per input.
    """
    _, calibrate, test = trace.parts
    usual = float(ndtr(ndtri(delta) / (1 + calibrate / test) ** 0.5))
    return np.where(np.isnan(trace.chance), usual, trace.chance)
