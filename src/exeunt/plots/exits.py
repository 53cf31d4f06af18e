"""Figures per exit: rates planned and shares of inputs that answered (Figures 4 and 6), risk (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import Floats
from exeunt._text import counted
from exeunt.confidence_intervals import wilson_interval
from exeunt.errors import InputError
from exeunt.evaluation import Result
from exeunt.plots.style import (
    COLOURS,
    label_exits,
    legend_above,
    new_axes,
    percent_ticks,
    styled,
)
from exeunt.policy import Policy
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["rates_and_shares", "risk_per_exit"]


def rates_and_shares(policy: Policy, result: Result, *, ax: Axes | None = None) -> Axes:
    """Draw, per exit, the share of inputs planned to answer there and the share that did (Figures 4, 6).

    The shares have 95% Wilson intervals.

    Raises InputError if policy and result differ in the number of exits.
    """
    m = policy.n_exits
    if len(result.shares) != m:
        raise InputError(f"the policy has {counted(m, 'exit')} but the result has {len(result.shares)}")
    with styled():
        axes = new_axes(ax, width_in=6.6, height_in=3.4)
        place, width = np.arange(m), 0.4
        axes.bar(
            place - width / 2, policy.rates, width, label="planned", facecolor="white",
            edgecolor=COLOURS["grey"], hatch="////", linewidth=0.9,
        )  # fmt: skip
        counts = np.rint(result.shares * result.n).astype(int)
        intervals = [wilson_interval(count, result.n) for count in counts.tolist()]
        axes.bar(
            place + width / 2, result.shares, width, yerr=_lengths(result.shares, intervals), ecolor="#444444",
            error_kw={"elinewidth": 0.9}, facecolor=COLOURS["blue"],
            label="answered, 95% interval",
        )  # fmt: skip
        label_exits(axes, m)
        axes.set_ylabel(f"share of {counted(result.n, 'input')} (%)")
        percent_ticks(axes.yaxis)
        full = policy.cost.full
        axes.set_title(
            f"{policy.name}: budget {policy.budget / full:.1%}, mean cost {result.cost / full:.1%} of "
            f"{policy.cost.show(full)}", pad=22,
        )  # fmt: skip
        legend_above(axes)
    return axes


def risk_per_exit(trace: ExitTrace, *, ax: Axes | None = None) -> Axes:
    """Draw the error rate of each exit over all inputs, with 95% Wilson intervals (Figure 7).

    An exit with a higher error rate than some exit before it is marked: there, depth does harm (overthinking).
    """
    with styled():
        axes = new_axes(ax, width_in=6.6, height_in=3.6)
        risk, place = trace.risk, np.arange(trace.n_exits)
        intervals = [
            wilson_interval(wrong, trace.n) for wrong in np.rint(risk * trace.n).astype(int).tolist()
        ]
        low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
        worse = risk > np.minimum.accumulate(risk)
        bars = axes.errorbar(
            place, risk, yerr=_lengths(risk, intervals), color=COLOURS["blue"], marker="o", linewidth=1.2, elinewidth=1.2,
            capsize=2.5, label="error rate, 95% interval",
        )  # fmt: skip
        handles: list[Any] = [bars]
        if worse.any():
            handles += axes.plot(
                place[worse], risk[worse], linestyle="none", marker="s", markersize=5.5, zorder=3,
                color=COLOURS["vermillion"], label="worse than an earlier exit",
            )  # fmt: skip
        label_exits(axes, trace.n_exits)
        # The axis begins at 0 unless all exits lie so far above it that they could not be told apart.
        axes.set_ylim(
            0.0 if low < high / 2 else low - 0.1 * (high - low), min(1.0, high + 0.06 * (high - low))
        )
        axes.set_ylabel("error rate (% of inputs)")
        percent_ticks(axes.yaxis)
        axes.set_title(f"Risk of each exit alone ({counted(trace.n, 'input')})", pad=22)
        legend_above(axes, handles)
    return axes


def _lengths(values: Floats, intervals: Sequence[tuple[float, float]]) -> Floats:
    """Return the lengths of error bars below and above values (m,), (2, m); rounding would make some negative."""
    low, high = np.array(intervals).T
    lengths: Floats = np.clip([values - low, high - values], 0.0, None)
    return lengths
