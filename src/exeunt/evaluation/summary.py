"""A comparison in plain sentences, and as a small table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exeunt._support.text import counted, text_table
from exeunt.evaluation.frontiers import exceeds
from exeunt.evaluation.results import TraceResult, usual_splits
from exeunt.evaluation.statistics import CHOOSER, guarantees, overall_rows, share_over_budget
from exeunt.guarantees.confidence_intervals import mean_interval
from exeunt.trace.grades import answers

_LEVEL = 0.01  # the share of comparisons that seem to show a broken guarantee though all guarantees are kept


def summary(traces: Sequence[TraceResult], reference: str, delta: float | None) -> list[str]:
    """Return the main results, one sentence each."""
    rows = overall_rows(traces, reference)
    if CHOOSER in traces[0].policies:
        chosen = traces[0].policies.index(CHOOSER)
    else:
        chosen = int(np.argmax([-np.inf if np.isnan(row["mean_gain"]) else row["mean_gain"] for row in rows]))
    half = [int(np.argmin(np.abs(trace.shares - 0.5))) for trace in traces]
    places = [_place(trace, q, alone=len(traces) == 1) for trace, q in zip(traces, half, strict=True)]
    each = list(zip(traces, half, places, strict=True))
    sentences = [f"{where}, {_accuracy(trace, chosen, q, delta)}" for trace, q, where in each]
    sentences += remarks(traces)
    sentences += [f"{where}, {_oracle(trace, chosen, q)}" for trace, q, where in each]
    sentences += _against_other_policies(rows, chosen, reference)
    sentences += _below_mixture(traces)
    sentences += _infeasible(traces)
    sentences += [
        f"On {trace.name} {counted(trace.left_out, 'budget')} below the cheapest {trace.one_exit}, which costs "
        f"{_share(trace.cost.share(trace.cost.first))} of {trace.whole}, "
        f"{'was' if trace.left_out == 1 else 'were'} left out."
        for trace in traces
        if trace.left_out
    ]
    if delta is not None:
        sentences += _guarantees_kept(traces, delta)
    return [*sentences, _about_splits(traces[0].splits, max(trace.n for trace in traces))]


def _about_splits(splits: int, n: int) -> str:
    if splits == 1:
        return (
            "Every policy was fitted, calibrated and tested on one random split, so nothing shows how much the "
            "procedure varies."
        )
    text = (
        f"Every policy was fitted, calibrated and tested on the same {splits} random splits; splits of one trace "
        "overlap, so intervals show how much the procedure varies on these inputs, not what new data would give."
    )
    if splits == usual_splits(n) < usual_splits(0):
        text += (
            f" {splits} splits are the default for {counted(n, 'input')}: large parts vary little from split to "
            "split, so more would take longer and tell little."
        )
    return text


def remarks(traces: Sequence[TraceResult]) -> list[str]:
    """Return what is wrong with traces, or was left out of them, a sentence or more for each of which there is any."""
    return [f"On {trace.name}: {trace.remark}" for trace in traces if trace.remark]


def budget_text(trace: TraceResult) -> str:
    """Return a line per budget: the best policy, how good it is and what it costs, beside what is simpler.

    The best policy of a budget is that of the highest mean over the splits that it is measured on.
    """
    one = trace.one_exit
    header = ["budget", "best policy", trace.measure, "cost", "random mixture", f"best {one} alone"]
    accuracy, costs = trace.accuracy, trace.mean_cost
    exits, rows = trace.exits.mean(axis=-1), list[list[str]]()
    for q, amount in enumerate(trace.amounts):
        complete = ~np.isnan(accuracy[:, q]).any(axis=-1)
        affordable = trace.cost.cumulative <= amount * (1 + 1e-9)
        single = int(np.argmax(np.where(affordable, exits, -np.inf)))
        simpler = [
            f"{trace.mixture_accuracy[q].mean():.1%}",
            f"{trace.exit_names[single]} {exits[single]:.1%}",
        ]
        budget = f"{_share(trace.shares[q])}"
        if not complete.any():
            rows.append([budget, "none meets it", "", "", *simpler])
            continue
        best = int(np.argmax(np.where(complete, accuracy[:, q].mean(axis=-1), -np.inf)))
        quality, cost = accuracy[best, q].mean(), costs[best, q].mean()
        rows.append([budget, trace.policies[best], f"{quality:.1%}", trace.cost.show(cost), *simpler])
    title = (
        f"{trace.name}: of {counted(len(trace.policies), 'policy', 'policies')} the best at each budget, a share of "
        f"what {trace.whole} costs; means of {counted(trace.splits, 'split')}"
    )
    return f"{title}\n{text_table(header, rows)}"


def overall_text(traces: Sequence[TraceResult], reference: str, delta: float | None) -> str:
    """Return a line per policy: gain over the reference, distance below the best, splits over the budget, time."""
    gain = f"gain over {reference}"
    header = ["policy", gain, "95% interval", "worst", "below the best", "worst", "over budget", "fit (s)"]
    rows = [
        [
            row["policy"],
            _points(row["mean_gain"]),
            f"[{_points(row['gain_low'])}, {_points(row['gain_high'])}]",
            _points(row["worst_gain"]),
            _points(row["mean_shortfall"], sign=""),
            _points(row["worst_shortfall"], sign=""),
            f"{row['over_budget']}/{row['of']}",
            _two_digits(row["fit_seconds"]),
        ]
        for row in overall_rows(traces, reference)
    ]
    measures = dict.fromkeys(trace.measure for trace in traces)
    title = (
        f"{counted(len(traces[0].policies), 'policy', 'policies')} on {counted(len(traces), 'trace')}, "
        f"{counted(traces[0].splits, 'split')}: points of {' or '.join(measures)}, mean over budgets"
    )
    if delta is None:
        title += (
            "\n(no delta: budgets are kept on average, so about half of the splits exceed them by chance)"
        )
    return title + "\n" + text_table(header, rows)


def _accuracy(trace: TraceResult, p: int, q: int, delta: float | None) -> str:
    policy, feasible = _named(trace.policies[p]), ~np.isnan(trace.accuracy[p, q])
    if not feasible.any():
        return f"no {policy} policy meets the budget."
    accuracy, cost = trace.accuracy[p, q, feasible].mean(), trace.mean_cost[p, q, feasible]
    below = trace.exits[-1, feasible].mean() - accuracy
    text = f"{policy} {answers(trace.measure, accuracy)}, {_distance(below)} {trace.whole}, and "
    if delta is None:  # half of the splits exceed the budget by design, so their number says nothing
        return f"{text}costs {cost.mean() / trace.amounts[q]:.1%} of the budget on average."
    over = int(exceeds(cost, trace.amounts[q]).sum())
    return f"{text}exceeds the budget in {over} of {counted(len(cost), 'split')}."


def _oracle(trace: TraceResult, p: int, q: int) -> str:
    feasible, room = ~np.isnan(trace.accuracy[p, q]), ""
    if feasible.any():
        more = 100 * (trace.oracle[q, feasible] - trace.accuracy[p, q, feasible]).mean()
        room = f", {more:.1f} points more than {_named(trace.policies[p])}"
    best, mixture = float(trace.oracle[q].mean()), float(trace.mixture_accuracy[q].mean())
    knows = f"which {trace.one_exit}s are right" if trace.measure == "accuracy" else "how good each answer is"
    return (
        f"an oracle that knows {knows} {answers(trace.measure, best, would=True)}{room}; the best random mixture of "
        f"two {trace.one_exit}s {answers(trace.measure, mixture)}."
    )


def _against_other_policies(rows: list[dict[str, Any]], chosen: int, reference: str) -> list[str]:
    row, sentences = rows[chosen], []
    name = _named(row["policy"])
    if row["policy"] != reference and not np.isnan(row["mean_gain"]):
        interval = ""
        if not np.isnan(row["gain_low"]):
            interval = f" (95% interval {_points(row['gain_low'])} to {_points(row['gain_high'])})"
        sentences.append(
            f"Over all budgets {name} lies {_distance(-row['mean_gain'], 2)} {_named(reference)} on average{interval}, "
            f"and {_distance(-row['worst_gain'], 2)} it where it does worst."
        )
    if len(rows) > 1 and not np.isnan(row["mean_shortfall"]):
        sentences.append(
            f"{name} lies {_distance(row['mean_shortfall'])} the best single policy of each budget on average, "
            f"and {_distance(row['worst_shortfall'])} it at worst."
        )
    return [*sentences, f"Making one {name} policy took {_two_digits(row['fit_seconds'])} s."]


def _below_mixture(traces: Sequence[TraceResult]) -> list[str]:
    """Warn of policies that are less accurate than a random mixture of two exits.

    By a t interval over splits, at a level of 95% for all policies and budgets together (Bonferroni).
    """
    sentences = []
    level = 1 - 0.05 / sum(trace.amounts.size for trace in traces) / len(traces[0].policies)
    for trace in traces:
        for p, policy in enumerate(trace.policies):
            apart = trace.accuracy[p] - trace.mixture_accuracy
            lost = [
                not np.isnan(difference).any() and mean_interval(difference, level)[2] < 0
                for difference in apart
            ]
            if any(lost):
                sentences.append(
                    f"Warning: on {trace.name}, a random mixture of two {trace.one_exit}s is better than "
                    f"{_named(policy)} at {', '.join(map(_share, trace.shares[lost]))} of {_cost(trace)}."
                )
    return sentences


def _infeasible(traces: Sequence[TraceResult]) -> list[str]:
    """Say which policies cannot meet which budgets, and why not the highest of these."""
    sentences = []
    policies = (
        (trace, *row)
        for trace in traces
        for row in zip(trace.policies, trace.accuracy, trace.refusals, strict=True)
    )
    for trace, policy, accuracy, refusal in policies:
        missing = np.isnan(accuracy).sum(axis=-1)
        if missing.any():
            sentences.append(
                f"On {trace.name}, {_named(policy)} cannot meet {', '.join(map(_share, trace.shares[missing > 0]))} of "
                f"{_cost(trace)} in up to {missing.max()} of {counted(trace.splits, 'split')}; its figures there are "
                f"those of the other splits.{f' The reason: {refusal}.' if refusal else ''}"
            )
    return sentences


def _guarantees_kept(traces: Sequence[TraceResult], delta: float) -> list[str]:
    """Say whether the certified policies kept their guarantee."""
    if not (tested := guarantees(traces, delta)):
        return []
    worst = tested[0]
    trace = next(trace for trace in traces if trace.name == worst.trace)
    guarantee = (
        f"Each policy guaranteed that its mean cost in the long run is within the budget with probability "
        f"{_share(1 - delta)}; a test part of this size may then exceed it in up to "
        f"{share_over_budget(trace, delta):.1%} of splits."
    )
    if worst.p_value <= _LEVEL:
        verdict = "this guarantee looks broken"
    elif worst.least_p_value > _LEVEL:
        verdict = f"{counted(worst.of, 'split')} cannot show a broken guarantee, however it turns out"
    else:
        verdict = "no guarantee is seen to be broken"
    suspicious = (
        f"The most suspicious is {_named(worst.policy)} at {_share(worst.budget)} of {_cost(trace)} on {worst.trace}: "
        f"{worst.over_budget} of {counted(worst.of, 'split')}. Allowing for the {counted(len(tested), 'guarantee')} "
        f"made, chance does that with probability {worst.p_value:.2g}"
    )
    if worst.over_budget == 0:
        suspicious = "No policy exceeded any budget in any split"
    return [f"{guarantee} {suspicious}: {verdict}."]


def _place(trace: TraceResult, q: int, *, alone: bool) -> str:
    share = trace.shares[q]
    budget = f"half {_cost(trace)}" if abs(share - 0.5) < 5e-4 else f"{_share(share)} of {_cost(trace)}"
    return f"At {budget}" if alone else f"On {trace.name}, at {budget}"


def _cost(trace: TraceResult) -> str:
    """Return what budgets are shares of; for a network "the cost" is clear enough."""
    return f"the cost of {trace.whole}" if trace.models else "the cost"


def _named(policy: str) -> str:
    """Return a policy's name in backticks: it may begin a sentence or be a word such as "patience"."""
    return f"`{policy}`"


def _distance(below: float, digits: int = 1) -> str:
    """Say how far below something a policy lies, as "0.3 points below"."""
    if 100 * abs(below) < 0.5 * 10**-digits:
        return "level with"
    return f"{100 * abs(below):.{digits}f} points {'below' if below > 0 else 'above'}"


def _two_digits(number: float) -> str:
    """Write 120 rather than 1.2e+02."""
    return f"{float(f'{number:.2g}'):g}"


def _points(difference: float, sign: str = "+") -> str:
    return "-" if np.isnan(difference) else f"{100 * difference:{sign}.2f}"


def _share(share: float) -> str:
    return f"{100 * share:.3g}%"
