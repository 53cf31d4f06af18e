"""The figure of a watch: evidence over time with its threshold, since when inputs differ, and shares against plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt.errors import require
from exeunt.evaluation.figures import style
from exeunt.watch import Watch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST = 0.1
"""Less evidence is drawn as this, since a logarithmic axis has no 0."""


def draw_watch(watch: Watch, *, width_in: float = 7.4) -> Figure:
    """Draw the evidence over time, with the alarm if there is one, and the shares of the exits against the plan.

    Legends stand beside the data, or below them in a figure of less than six inches.
    """
    with style.styled():
        figure: Figure = require("matplotlib.figure", extra="plots").Figure(
            figsize=(width_in, 5.2), layout="constrained"
        )
        above, below = figure.subplots(2, 1, height_ratios=[3, 2])
        _draw_evidence(watch, above)
        _draw_shares(watch, below)
        return figure


def _draw_evidence(watch: Watch, axes: Axes) -> None:
    numbers, peaks = zip(*watch.curve.points, strict=True) if watch.curve.peaks else ((0,), (0.0,))
    axes.plot(
        np.minimum(numbers, watch.n),
        np.maximum(peaks, _LEAST),
        color=style.COLOURS["blue"],
        linewidth=1.4,
        label="evidence",
    )
    axes.axhline(
        watch.threshold,
        color=style.COLOURS["grey"],
        linestyle="--",
        linewidth=1.0,
        label=f"alarm at {watch.threshold:,.0f}",
    )
    if (alarm := watch.alarm) is not None:
        colour = style.COLOURS["vermillion"]
        axes.axvspan(alarm.earliest, alarm.latest, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(
            alarm.since,
            color=colour,
            linewidth=1.2,
            label=f"since about input {alarm.since:,} (95% interval)",
        )
        axes.axvline(
            alarm.at, color=colour, linewidth=1.2, linestyle=":", label=f"noticed at input {alarm.at:,}"
        )
    axes.set_yscale("log")
    axes.set(title="Evidence for drift", xlabel="input", ylabel="highest evidence")
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    style.legend_beside(axes)


def _draw_shares(watch: Watch, axes: Axes) -> None:
    policy, alarm = watch.policy, watch.alarm
    shares = watch.shares if alarm is None else np.array(alarm.shares)
    place, width = np.arange(policy.n_exits), 0.4
    axes.bar(
        place - width / 2,
        policy.planned_shares,
        width,
        label="calibration",
        facecolor="white",
        edgecolor=style.COLOURS["grey"],
        hatch="////",
        linewidth=0.9,
    )
    if shares is not None:
        when = "recently" if alarm is None else "since then"
        axes.bar(place + width / 2, shares, width, label=when, facecolor=style.COLOURS["blue"])
    style.label_exits(axes, policy.n_exits)
    axes.set(title="Where inputs are answered", ylabel="share of inputs")
    style.percent_ticks(axes.yaxis)
    style.legend_beside(axes)
