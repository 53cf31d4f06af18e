"""A comparison in plain sentences, and as a small table."""

from __future__ import annotations

from typing import Any

import numpy as np

from exeunt._text import counted, text_table
from exeunt.comparison.guarantees import guarantees, overspent_share
from exeunt.comparison.result import ComparisonResult, TraceResult
from exeunt.comparison.statistics import CHOOSER, overall_rows
from exeunt.confidence_intervals import mean_interval
from exeunt.frontiers import overspends

__all__ = ["overall_text", "summary"]

_LEVEL = 0.01  # of comparisons in which every guarantee is kept, so many seem to show a broken one


def summary(comparison: ComparisonResult) -> list[str]:
    """Return the main results, one sentence each."""
    rows = overall_rows(comparison)
    chosen = _chosen_policy(comparison, rows)
    sentences = [_at_half(comparison, trace, chosen) for trace in comparison.traces]
    sentences += [_oracle(comparison, trace, chosen) for trace in comparison.traces]
    sentences += _against_other_policies(comparison, rows, chosen)
    sentences += _below_lottery(comparison) + _infeasible(comparison) + _left_out(comparison)
    if comparison.delta is not None:
        sentences += _guarantees_kept(comparison, comparison.delta)
    sentences.append(
        f"Every policy was fitted, calibrated and tested on the same {counted(comparison.splits, 'random split')}; "
        "splits of one trace overlap, so intervals show how much the procedure varies on these inputs, not what "
        "new data would give."
    )
    return sentences


def overall_text(comparison: ComparisonResult) -> str:
    """Return a line per policy: gain over the reference, distance below the best, overspends, time."""
    header = [
        "policy", f"gain over {comparison.reference}", "95 % interval", "worst", "below the best", "worst",
        "overspent", "fit (s)",
    ]  # fmt: skip
    rows = [
        [
            row["policy"], _points(row["mean_gain"]),
            f"[{_points(row['gain_low'])}, {_points(row['gain_high'])}]", _points(row["worst_gain"]),
            _points(row["mean_shortfall"], sign=""), _points(row["worst_shortfall"], sign=""),
            f"{row['overspent']}/{row['of']}", _two_digits(row["fit_seconds"]),
        ]
        for row in overall_rows(comparison)
    ]  # fmt: skip
    title = (
        f"{counted(len(comparison.policies), 'policy', 'policies')} on {counted(len(comparison.traces), 'trace')}, "
        f"{counted(comparison.splits, 'split')}: points of accuracy, mean over budgets"
    )
    if comparison.delta is None:
        title += "\n(no delta: budgets are kept on average, so about half of the splits overspend by chance)"
    return title + "\n" + text_table(header, rows)


def _chosen_policy(comparison: ComparisonResult, rows: list[dict[str, Any]]) -> int:
    """Return the policy that the sentences are about: `auto`, or else the best on average."""
    if CHOOSER in comparison.policies:
        return comparison.policies.index(CHOOSER)
    return int(np.argmax([-np.inf if np.isnan(row["mean_gain"]) else row["mean_gain"] for row in rows]))


def _at_half(comparison: ComparisonResult, trace: TraceResult, p: int) -> str:
    q, policy = _half(trace), comparison.policies[p]
    there = ~np.isnan(trace.accuracy[p, q])
    if not there.any():
        return f"{_where(comparison, trace, q)}, no {_named(policy)} policy meets the budget."
    accuracy, spend = trace.accuracy[p, q, there].mean(), trace.spend[p, q, there]
    below = trace.exits[-1, there].mean() - accuracy
    told = (
        f"{_where(comparison, trace, q)}, {_named(policy)} answers {_percent(accuracy)} right, "
        f"{_distance(below)} {trace.whole}, and "
    )
    if comparison.delta is None:  # then half of the splits may overspend, which is no news
        return f"{told}spends {_percent(spend.mean() / trace.amounts[q])} of the budget on average."
    over = int(overspends(spend, float(trace.amounts[q])).sum())
    return f"{told}overspent in {over} of {counted(int(there.sum()), 'split')}."


def _oracle(comparison: ComparisonResult, trace: TraceResult, p: int) -> str:
    q = _half(trace)
    there = ~np.isnan(trace.accuracy[p, q])
    best, room = trace.oracle[q].mean(), ""
    if there.any():
        more = 100 * (trace.oracle[q, there] - trace.accuracy[p, q, there]).mean()
        room = f", {more:.1f} points more than {_named(comparison.policies[p])}"
    return (
        f"{_where(comparison, trace, q)}, an oracle that knows which {trace.one_exit}s are right would answer "
        f"{_percent(best)} right{room}; the best random mixture of two {trace.one_exit}s answers "
        f"{_percent(trace.mixture_accuracy[q].mean())} right."
    )


def _against_other_policies(
    comparison: ComparisonResult, rows: list[dict[str, Any]], chosen: int
) -> list[str]:
    row, sentences = rows[chosen], []
    name, reference = _named(comparison.policies[chosen]), _named(comparison.reference)
    if name != reference and not np.isnan(row["mean_gain"]):
        interval = ""
        if not np.isnan(row["gain_low"]):
            interval = f" (95 % interval {_points(row['gain_low'])} to {_points(row['gain_high'])})"
        sentences.append(
            f"Over all budgets {name} lies {_distance(-row['mean_gain'], 2)} {reference} on average{interval}, "
            f"and {_distance(-row['worst_gain'], 2)} it where it does worst."
        )
    if len(comparison.policies) > 1 and not np.isnan(row["mean_shortfall"]):
        sentences.append(
            f"{name} lies {_distance(row['mean_shortfall'])} the best single policy of each budget on average, "
            f"and {_distance(row['worst_shortfall'])} it at worst."
        )
    sentences.append(f"Making one {name} policy took {_two_digits(row['fit_seconds'])} s.")
    return sentences


def _below_lottery(comparison: ComparisonResult) -> list[str]:
    """Warn of policies that are beaten by drawing lots between two exits.

    By a t interval over splits, at a level of 95 % for all policies and budgets together (Bonferroni).
    """
    sentences = []
    level = 1 - 0.05 / sum(trace.amounts.size for trace in comparison.traces) / len(comparison.policies)
    for trace in comparison.traces:
        for p, policy in enumerate(comparison.policies):
            lost = trace.accuracy[p] - trace.mixture_accuracy
            where = [
                _share(share)
                for share, apart in zip(trace.shares, lost, strict=True)
                if not np.isnan(apart).any() and mean_interval(apart, level)[2] < 0
            ]
            if where:
                sentences.append(
                    f"Warning: on {trace.name}, drawing lots between two {trace.one_exit}s is better than "
                    f"{_named(policy)} at {', '.join(where)} of {_cost(trace)}."
                )
    return sentences


def _infeasible(comparison: ComparisonResult) -> list[str]:
    """Say which policies cannot meet which budgets."""
    sentences = []
    for trace in comparison.traces:
        for p, policy in enumerate(comparison.policies):
            missing = np.isnan(trace.accuracy[p]).sum(axis=-1)
            shares = [_share(trace.shares[q]) for q in np.flatnonzero(missing)]
            if shares:
                sentences.append(
                    f"On {trace.name}, {_named(policy)} cannot meet {', '.join(shares)} of {_cost(trace)} in up to "
                    f"{missing.max()} of {counted(comparison.splits, 'split')}; its figures there are those of the "
                    "other splits."
                )
    return sentences


def _left_out(comparison: ComparisonResult) -> list[str]:
    return [
        f"On {trace.name} {counted(trace.left_out, 'budget')} below the cheapest {trace.one_exit}, which costs "
        f"{_share(trace.cost.share(trace.cost.first))} of {trace.whole}, "
        f"{'was' if trace.left_out == 1 else 'were'} left out."
        for trace in comparison.traces
        if trace.left_out
    ]


def _guarantees_kept(comparison: ComparisonResult, delta: float) -> list[str]:
    """Say whether the certified policies kept their guarantee."""
    found = guarantees(comparison, delta)
    if not found:
        return []
    worst = found[0]
    trace = next(trace for trace in comparison.traces if trace.name == worst.trace)
    guarantee = (
        f"Each policy guaranteed that its mean cost in the long run is within the budget with probability "
        f"{_share(1 - delta)}; a test part of this size may then overspend in up to "
        f"{_percent(overspent_share(trace, delta))} of splits."
    )
    if worst.p_value <= _LEVEL:
        verdict = "this guarantee looks broken"
    elif worst.least_p_value > _LEVEL:
        verdict = f"{counted(worst.of, 'split')} cannot show a broken guarantee, however it turns out"
    else:
        verdict = "no guarantee is seen to be broken"
    if worst.overspent == 0:
        return [f"{guarantee} No policy overspent any budget in any split: {verdict}."]
    sentence = (
        f"{guarantee} The most suspicious is {_named(worst.policy)} at "
        f"{_share(worst.budget)} of {_cost(trace)} on {worst.trace}: {worst.overspent} of "
        f"{counted(worst.of, 'split')}. Allowing for the {counted(len(found), 'guarantee')} made, chance does that "
        f"with probability {worst.p_value:.2g}: {verdict}."
    )
    return [sentence]


def _half(trace: TraceResult) -> int:
    """Return the budget nearest to half the cost."""
    return int(np.argmin(np.abs(trace.shares - 0.5)))


def _where(comparison: ComparisonResult, trace: TraceResult, q: int) -> str:
    share = trace.shares[q]
    where = f"half {_cost(trace)}" if abs(share - 0.5) < 5e-4 else f"{_share(share)} of {_cost(trace)}"
    return f"At {where}" if len(comparison.traces) == 1 else f"On {trace.name}, at {where}"


def _cost(trace: TraceResult) -> str:
    """Return what budgets are shares of, in words that a network needs fewer of."""
    return f"the cost of {trace.whole}" if trace.models else "the cost"


def _named(policy: str) -> str:
    """Return a policy's name in backticks: it may begin a sentence or be a word such as "patience"."""
    return f"`{policy}`"


def _distance(below: float, digits: int = 1) -> str:
    """Say how far below something a policy lies, as "0.3 points below"."""
    if 100 * abs(below) < 0.5 * 10**-digits:
        return "level with"
    return f"{100 * abs(below):.{digits}f} points {'below' if below > 0 else 'above'}"


def _two_digits(value: float) -> str:
    """Write 120 rather than 1.2e+02."""
    return f"{float(f'{value:.2g}'):g}"


def _points(difference: float, sign: str = "+") -> str:
    return "-" if np.isnan(difference) else f"{100 * difference:{sign}.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"
