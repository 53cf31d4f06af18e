"""Figures per exit: rates planned and shares of inputs that answered (Figures 4 and 6), risk (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._text import counted
from exeunt.errors import InputError
from exeunt.evaluation import Result, score_exits
from exeunt.plots.style import (
    COLOURS,
    label_exits,
    legend_above,
    new_axes,
    new_figure,
    percent_ticks,
    styled,
)
from exeunt.policy import Policy
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["rates_and_shares", "rates_for_budgets", "risk_per_exit"]


def rates_and_shares(policy: Policy, result: Result, *, ax: Axes | None = None) -> Axes:
    """Draw, per exit, the share of inputs planned to answer there and the share that did (Figures 4, 6).

    Raises InputError if policy and result differ in the number of exits.
    """
    m = policy.n_exits
    if len(result.shares) != m:
        raise InputError(f"the policy has {counted(m, 'exit')} but the result has {len(result.shares)}")
    with styled():
        axes = new_axes(ax, width_in=6.6, height_in=3.4)
        place, width = np.arange(m), 0.4
        axes.bar(
            place - width / 2, policy.rates, width, label="planned rate", facecolor="white",
            edgecolor=COLOURS["blue"], hatch="////", linewidth=0.9,
        )  # fmt: skip
        axes.bar(
            place + width / 2, result.shares, width, label=f"share answered ({counted(result.n, 'input')})",
            facecolor=COLOURS["vermillion"], edgecolor=COLOURS["vermillion"], linewidth=0.9,
        )  # fmt: skip
        label_exits(axes, m)
        axes.set_ylabel("share of inputs (%)")
        percent_ticks(axes.yaxis)
        axes.set_title(f"{policy.name}: {_budget_line(policy, result)}", pad=22)
        legend_above(axes)
    return axes


def rates_for_budgets(
    policies: Sequence[Policy], results: Sequence[Result], *, figure: Figure | None = None
) -> Figure:
    """Draw `rates_and_shares` for several budgets side by side, on one scale (Figures 4, 6).

    Raises InputError unless there is one result per policy, and at least one policy.
    """
    if not policies or len(policies) != len(results):
        raise InputError(
            f"give one result per policy, got {counted(len(policies), 'policy', 'policies')}, "
            f"{counted(len(results), 'result')}"
        )
    with styled():
        count = len(policies)
        sheet = new_figure(4.1 * count, 3.4, layout="constrained") if figure is None else figure
        panels = sheet.subplots(1, count, sharey=True, squeeze=False)[0]
        for panel, policy, result in zip(panels, policies, results, strict=True):
            rates_and_shares(policy, result, ax=panel)
            panel.label_outer()
            panel.set_title(_budget_line(policy, result), pad=22)
            if panel is not panels[0]:
                panel.get_legend().remove()
                panel.set_ylabel("")
        names = ", ".join(dict.fromkeys(policy.name for policy in policies))
        sheet.suptitle(f"Rates planned and shares answered: {names}", x=0.01, ha="left", fontsize=11)
    return sheet


def risk_per_exit(trace: ExitTrace, *, ax: Axes | None = None) -> Axes:
    """Draw the error rate of each exit over all inputs, with 95 % Wilson intervals (Figure 7).

    An exit with a higher error rate than some exit before it is marked: there, depth does harm (overthinking).
    """
    with styled():
        axes = new_axes(ax, width_in=6.6, height_in=3.6)
        risk, place = trace.risk, np.arange(trace.n_exits)
        intervals = [
            score_exits(trace, np.full(trace.n, exit_)).accuracy_interval or (np.nan, np.nan)
            for exit_ in range(trace.n_exits)
        ]
        high, low = 1.0 - np.array(intervals).T
        # Rounding may make a length slightly negative.
        lengths = np.clip([risk - low, high - risk], 0.0, None)
        worse = risk > np.minimum.accumulate(risk)
        bars = axes.errorbar(
            place, risk, yerr=lengths, color=COLOURS["blue"], marker="o", linewidth=1.2, elinewidth=1.2,
            capsize=2.5, label="error rate, 95% interval",
        )  # fmt: skip
        handles: list[Any] = [bars]
        if worse.any():
            handles += axes.plot(
                place[worse], risk[worse], linestyle="none", marker="s", markersize=5.5, zorder=3,
                color=COLOURS["vermillion"], label="worse than an earlier exit",
            )  # fmt: skip
        label_exits(axes, trace.n_exits)
        axes.set_ylim(0.0, min(1.0, float(high.max()) * 1.06))
        axes.set_ylabel("error rate (% of inputs)")
        percent_ticks(axes.yaxis)
        axes.set_title(f"Risk of each exit alone ({counted(trace.n, 'input')})", pad=22)
        legend_above(axes, handles)
    return axes


def _budget_line(policy: Policy, result: Result) -> str:
    full = policy.cost.full
    whole = policy.cost.show(full)
    return f"allowed {policy.budget / full:.1%}, spent {result.cost / full:.1%} of {whole}"
