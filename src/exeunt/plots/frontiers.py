"""Accuracy, spend and time against budget (the first two: Figures 2 and 3 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from exeunt._arrays import Floats
from exeunt._text import counted
from exeunt.errors import InputError
from exeunt.evaluation import Result
from exeunt.frontiers import Frontier
from exeunt.plots.style import (
    COLOURS,
    legend_beside,
    new_axes,
    percent_ticks,
    series_style,
    styled,
    text_halo,
)
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from exeunt.timing.bench import TimedAlternative

__all__ = [
    "accuracy_against_budget",
    "accuracy_against_time",
    "columns",
    "draw_line",
    "spent_against_allowed",
    "time_against_macs",
]


def accuracy_against_budget(
    frontier: Frontier,
    trace: ExitTrace,
    *,
    results: Sequence[Result] = (),
    x: Literal["spent", "allowed"] = "spent",
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy against budget (Figure 2): every policy, the oracle, and each exit alone.

    There is one line per policy of `frontier` (mean over its splits) with its 95 % interval as a band, against the
    share of the full cost that was spent (`x="spent"`) or allowed ("allowed"). The oracle is known only at the
    allowed budget. Each exit of the labelled `trace` is a numbered point. `results`: measured policies to mark, with
    the 95 % Wilson interval of their accuracy.

    Raises InputError for another `x`, or a result without accuracy.
    """
    if x not in ("spent", "allowed"):
        raise InputError(f"x must be 'spent' or 'allowed', got {x!r}")
    with styled():
        axes = new_axes(ax, width_in=8.6, height_in=4.8)
        _draw_exits_alone(axes, trace)
        across = "spend_share" if x == "spent" else "budget_share"
        for index, name in enumerate(frontier.names):
            draw_line(axes, columns(frontier, name), across, "accuracy", index, label=name)
        _draw_oracle(axes, frontier)
        for result in results:
            _draw_result(axes, result)
        verb = "mean cost spent" if x == "spent" else "allowed mean cost"
        axes.set_xlabel(
            f"{verb} per input (% of the full network, 100% = {frontier.cost.show(frontier.cost.full)})"
        )
        axes.set_ylabel("accuracy (% of inputs)")
        axes.set_xlim(0.0, 1.03)
        percent_ticks(axes.xaxis)
        percent_ticks(axes.yaxis)
        axes.set_title("Accuracy against budget")
        legend_beside(axes, title=_splits_note(frontier))
    return axes


def spent_against_allowed(frontier: Frontier, *, ax: Axes | None = None) -> Axes:
    """Draw what each policy spent against what it was allowed (Figure 3), with 95% bands over splits.

    On the diagonal the whole budget is used; above it a policy overspends.
    """
    with styled():
        axes = new_axes(ax, width_in=7.4, height_in=4.8)
        axes.plot(
            [0, 1.03], [0, 1.03], color=COLOURS["black"], linewidth=1.0, label="spent = allowed", zorder=1
        )
        axes.fill_between([0, 1.03], [0, 1.03], [1.03, 1.03], color="#F3F0EC", linewidth=0, zorder=0)
        axes.text(0.03, 0.97, "over budget", va="top", fontsize=8.5, color=COLOURS["grey"])
        for index, name in enumerate(frontier.names):
            found = columns(frontier, name)
            draw_line(axes, found, "budget_share", "spend", index, label=name, scale=1 / frontier.cost.full)
        full = frontier.cost.show(frontier.cost.full)
        axes.set_xlabel(f"allowed mean cost per input (% of {full})")
        axes.set_ylabel(f"spent mean cost per input (% of {full})")
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_aspect("equal")
        percent_ticks(axes.xaxis)
        percent_ticks(axes.yaxis)
        axes.set_title("Spent against allowed budget")
        legend_beside(axes, title=_splits_note(frontier))
    return axes


def _splits_note(frontier: Frontier) -> str:
    splits = frontier.accuracy.shape[2]
    return "one split" if splits == 1 else f"mean of {splits} splits, 95% bands"


def columns(frontier: Frontier, name: str) -> dict[str, Floats]:
    """Return the columns of `frontier.rows()` for one policy, or for "oracle", by name, a value per budget."""
    rows = [row for row in frontier.rows() if row["policy"] == name]
    return {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0] if key != "policy"}


def draw_line(
    axes: Axes, found: Mapping[str, Floats], x: str, y: str, index: int, *, label: str, scale: float = 1.0
) -> None:
    """Draw the column `y`, times `scale`, against the column `x`, with its interval as a band.

    `index`: number of the series, which decides its style. The first one is the reference and lies on top.
    """
    style = series_style(index)
    layer = 4.0 if index == 0 else 3.0 - 0.1 * index
    axes.plot(found[x], found[y] * scale, label=label, zorder=layer, **style)
    low, high = found[f"{y}_low"] * scale, found[f"{y}_high"] * scale
    if np.isfinite(low).any():
        axes.fill_between(found[x], low, high, color=style["color"], alpha=0.15, linewidth=0, zorder=1)


def _draw_oracle(axes: Axes, frontier: Frontier) -> None:
    found = columns(frontier, "oracle")
    axes.plot(
        found["budget_share"],
        found["accuracy"],
        color=COLOURS["black"],
        linewidth=1.1,
        linestyle=(0, (1, 2)),
        label="oracle (at the allowed budget)",
        zorder=2,
    )


def _draw_exits_alone(axes: Axes, trace: ExitTrace) -> None:
    share, accuracy = trace.cost.cumulative / trace.cost.full, 1.0 - trace.risk
    axes.plot(
        share, accuracy, linestyle="none", marker="o", markersize=5.5, markerfacecolor="white",
        markeredgecolor=COLOURS["grey"], label="each exit alone (numbered)", zorder=5,
    )  # fmt: skip
    for exit_, (x, y) in enumerate(zip(share, accuracy, strict=True)):
        axes.annotate(
            str(exit_), (x, y), xytext=(0, -6), textcoords="offset points", ha="center", va="top",
            fontsize=7, color="#333333", path_effects=text_halo(), zorder=6,
        )  # fmt: skip


def _draw_result(axes: Axes, result: Result) -> None:
    if result.accuracy is None or result.accuracy_interval is None:
        raise InputError(f"the result {result.name!r} has no accuracy to mark: evaluate on a labelled trace")
    low, high = result.accuracy_interval
    axes.errorbar(
        [result.cost / result.cost_model.full],
        [result.accuracy],
        yerr=[[result.accuracy - low], [high - result.accuracy]],
        color=COLOURS["black"], marker="*", markersize=11, linestyle="none", capsize=3, zorder=7,
        label=f"{result.name} as calibrated, {counted(result.n, 'input')}",
    )  # fmt: skip


def time_against_macs(timed: Sequence[TimedAlternative], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the share of time left against the share of multiply-adds left, both as shares of the original model's.

    `timed`: for each batch size the original model first, then policies of several budgets, which are on its line.
    The bars are the 10% to 90% range of the repeats. On the diagonal, time falls
    as multiply-adds do; above it, part of what is saved is lost; below it, the stages are faster than the whole.

    Raises InputError if `timed` is empty.
    """
    if not timed:
        raise InputError("there is nothing to draw: time at least one budget")
    with styled():
        axes = new_axes(ax, width_in=7.4, height_in=4.8)
        # One disturbed repeat must not flatten the figure: bars may end outside.
        policies = [one for one in timed if one.on_line]
        top = max(1.05, *(min(1.05 * one.share.high, 1.3 * one.share.median) for one in policies))
        axes.plot([0, top], [0, top], color=COLOURS["black"], linewidth=1.0, label="ideal: as multiply-adds")
        axes.plot([1], [1], marker="*", markersize=11, linestyle="none", color=COLOURS["black"], zorder=5,
                  label="original model")  # fmt: skip
        axes.text(0.02, 0.97, "slower than its multiply-adds", transform=axes.transAxes, va="top",
                  fontsize=8.5, color=COLOURS["grey"])  # fmt: skip
        for index, original in enumerate(one for one in timed if not one.on_line):
            _draw_size(
                axes, original, [one for one in policies if one.batch_size == original.batch_size], index
            )
        axes.set_xlabel("multiply-adds left, heads included (% of the original model)")
        axes.set_ylabel("time left (% of the original model)")
        axes.set_xlim(0.0, max(1.05, *(1.05 * one.macs_share for one in policies)))
        axes.set_ylim(0.0, top)
        percent_ticks(axes.xaxis)
        percent_ticks(axes.yaxis)
        axes.set_title(title or "Time against multiply-adds")
        legend_beside(axes)
    return axes


def accuracy_against_time(timed: Sequence[TimedAlternative], *, ax: Axes | None = None) -> Axes:
    """Draw accuracy against time, a share of that of the first way: a line of policies and stars for the others.

    There is one of both for each batch size, in a colour of its own, with the 10% to 90% range of the
    repeats as bars. Raises InputError if `timed` is empty.
    """
    if not timed:
        raise InputError("there is nothing to draw: time at least one way to answer")
    with styled():
        axes = new_axes(ax, width_in=8.6, height_in=4.8)
        for index, size in enumerate(sorted({one.batch_size for one in timed})):
            here = [one for one in timed if one.batch_size == size]
            style: dict[str, Any] = series_style(index)
            ordered = sorted((one for one in here if one.on_line), key=lambda one: one.share.median)
            shares = [one.share for one in ordered]
            axes.errorbar(
                [share.median for share in shares], [one.accuracy for one in ordered],
                xerr=[[share.median - share.low for share in shares], [share.high - share.median for share in shares]],
                capsize=2.5, elinewidth=1.1, zorder=3, label=f"batch {size}", **style,
            )  # fmt: skip
            for one in here:
                if not one.on_line:
                    axes.plot([one.share.median], [one.accuracy], marker="*", markersize=11, linestyle="none",
                              color=style["color"], zorder=4)  # fmt: skip
                    if index == 0:
                        axes.annotate(
                            one.name, (one.share.median, one.accuracy), xytext=(0, -8), textcoords="offset points",
                            ha="center", va="top", fontsize=8.5, path_effects=text_halo(), zorder=5,
                        )  # fmt: skip
        axes.set_xlabel(f"time per input (% of {timed[0].name})")
        axes.set_ylabel("accuracy (% of inputs)")
        axes.set_xlim(0.0, max(1.1, *(1.05 * one.share.median for one in timed)))
        axes.margins(y=0.12)
        percent_ticks(axes.xaxis)
        percent_ticks(axes.yaxis)
        axes.set_title("Accuracy against time")
        legend_beside(axes)
    return axes


def _draw_size(
    axes: Axes, original: TimedAlternative, policies: Sequence[TimedAlternative], index: int
) -> None:
    ordered = sorted(policies, key=lambda one: one.macs_share)
    shares = [one.share for one in ordered]
    style: dict[str, Any] = series_style(index)
    axes.errorbar(
        [one.macs_share for one in ordered],
        [share.median for share in shares],
        yerr=[[share.median - share.low for share in shares], [share.high - share.median for share in shares]],
        capsize=2.5, elinewidth=1.1, zorder=3,
        label=f"batch {original.batch_size}: original {original.ms.median:.3g} ms per input", **style,
    )  # fmt: skip
