"""Curves: accuracy and mean cost against the budget (Figures 2 and 3 of the paper), accuracy against time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.evaluation.figures import style
from exeunt.evaluation.frontiers import Frontier
from exeunt.evaluation.replay import Result
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from exeunt.timing.bench import TimedAlternative

_JUDGED_FROM = 0.3  # share of the full cost: the y axis holds the accuracies at budgets from here on
_APART = 0.035  # of the axis: exits closer than this are not numbered
_ALTERNATIVES = ("*", "P", "X", "D", "v", "s", "^", "p")


def accuracy_against_budget(
    frontier: Frontier,
    trace: ExitTrace,
    *,
    results: Sequence[Result] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy against budget (Figure 2): every policy, the oracle, and each exit alone.

    There is one line per policy of `frontier` (mean over its splits) with its 95% interval as a band, against the
    mean cost as a share of the full cost. The first policy stands out. The oracle is known only at the budget. Each
    exit of the labelled `trace` is a point; the upper axis has its number. `results`: measured policies to mark, with
    the 95% interval of their accuracy.
    The y axis holds what policies reach at budgets from 30% on, so that they can be told apart. The oracle and the
    accuracies at small budgets may lie outside.

    Raises InputError for a result without accuracy.
    """
    with style.drawing(ax, width_in=8.6, height_in=4.8) as axes:
        for index, name in enumerate(frontier.names):
            _draw_line(axes, frontier, name, "mean_cost_share", "accuracy", index)
        oracle = _columns(frontier, "oracle")
        axes.plot(
            oracle["budget_share"],
            oracle["accuracy"],
            color=style.COLOURS["black"],
            linewidth=1.1,
            zorder=2,
            linestyle=(0, (1, 2)),
            label=f"oracle (at the budget), up to {oracle['accuracy'].max():.1%}",
        )
        _draw_exits_alone(axes, trace)
        for result in results:
            _draw_result(axes, result)
        axes.set_xlim(0.0, 1.03)
        axes.set_ylim(*_judged_range(frontier, trace, results))
        full = frontier.cost.show(frontier.cost.full)
        title, y = f"{frontier.measure} against budget", style.shares_of(frontier.measure)
        style.label_shares(axes, title[:1].upper() + title[1:], f"mean cost per input (% of {full})", y)
        style.legend_beside(axes, title=_splits_note(frontier))
    return axes


def cost_against_budget(frontier: Frontier, *, ax: Axes | None = None) -> Axes:
    """Draw the mean cost of each policy against its budget (Figure 3), with 95% bands over splits.

    On the diagonal the whole budget is used; above it a policy costs more.
    """
    with style.drawing(ax, width_in=7.4, height_in=4.8) as axes:
        axes.plot(
            [0, 1.03],
            [0, 1.03],
            color=style.COLOURS["black"],
            linewidth=1.0,
            label="mean cost = budget",
            zorder=1,
        )
        axes.fill_between([0, 1.03], [0, 1.03], [1.03, 1.03], color="#F3F0EC", linewidth=0, zorder=0)
        axes.text(0.03, 0.97, "over budget", va="top", fontsize=8.5, color=style.COLOURS["grey"])
        for index, name in enumerate(frontier.names):
            _draw_line(axes, frontier, name, "budget_share", "mean_cost", index, scale=1 / frontier.cost.full)
        full = frontier.cost.show(frontier.cost.full)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal")
        x, y = (f"{quantity} per input (% of {full})" for quantity in ("budget", "mean cost"))
        style.label_shares(axes, "Mean cost against budget", x, y)
        style.legend_beside(axes, title=_splits_note(frontier))
    return axes


def accuracy_against_time(
    timed: Sequence[TimedAlternative], *, measure: str = "accuracy", ax: Axes | None = None
) -> Axes:
    """Draw accuracy against time as a share of the first alternative's: policies as a line, the others as marks.

    Each batch size has a colour of its own; an alternative has the same mark in all. Bars are the 10% to 90% range of
    the repeats. `measure`: what the accuracies are, see `ExitTrace`.
    """
    with style.drawing(ax, width_in=8.6, height_in=4.8) as axes:
        names = list(dict.fromkeys(timing.name for timing in timed if not timing.on_line))
        for index, size in enumerate(sorted({timing.batch_size for timing in timed})):
            look: dict[str, Any] = style.series_style(index)
            here = [timing for timing in timed if timing.batch_size == size]
            line = sorted(
                (timing for timing in here if timing.on_line), key=lambda timing: timing.share.median
            )
            shares = [timing.share for timing in line]
            axes.errorbar(
                [share.median for share in shares],
                [timing.accuracy for timing in line],
                xerr=style.errors_of(shares),
                capsize=2.5,
                elinewidth=1.1,
                zorder=3,
                label=f"policies, batch {size}",
                **look,
            )
            for timing in here:
                if not timing.on_line:
                    axes.errorbar(
                        [timing.share.median],
                        [timing.accuracy],
                        xerr=style.errors_of([timing.share]),
                        capsize=2.5,
                        zorder=4,
                        marker=_mark(names, timing.name),
                        markersize=9,
                        color=look["color"],
                    )
        for name in names:  # for the legend alone
            axes.errorbar(
                [np.nan],
                [np.nan],
                linestyle="none",
                marker=_mark(names, name),
                markersize=8,
                color=style.COLOURS["grey"],
                label=name,
            )
        axes.set_xlim(0.0, max(1.1, *(1.05 * timing.share.median for timing in timed)))
        axes.margins(y=0.12)
        x = f"time per input (% of {timed[0].name})"
        style.label_shares(axes, f"{measure.capitalize()} against time", x, style.shares_of(measure))
        style.legend_beside(axes)
    return axes


def _mark(names: Sequence[str], name: str) -> str:
    return _ALTERNATIVES[names.index(name) % len(_ALTERNATIVES)]


def _splits_note(frontier: Frontier) -> str:
    splits = frontier.accuracy.shape[2]
    return "one split" if splits == 1 else f"mean of {splits} splits, 95% bands"


def _columns(frontier: Frontier, name: str) -> dict[str, Floats]:
    """Return the columns of `frontier.rows()` for one policy, or for "oracle", by name, a value per budget."""
    rows = [row for row in frontier.rows() if row["policy"] == name]
    return {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0] if key != "policy"}


def _draw_line(
    axes: Axes, frontier: Frontier, name: str, x: str, y: str, index: int, *, scale: float = 1.0
) -> None:
    """Draw a policy's column `y`, times `scale`, against its column `x`, with its interval as a band.

    `index`: number of the series, which decides its style. The first one lies on top.
    """
    columns, look = _columns(frontier, name), style.series_style(index)
    axes.plot(
        columns[x], columns[y] * scale, label=name, zorder=4.0 if index == 0 else 3.0 - 0.1 * index, **look
    )
    low, high = columns[f"{y}_low"] * scale, columns[f"{y}_high"] * scale
    if np.isfinite(low).any():
        alpha = 0.2 if index == 0 else 0.12
        axes.fill_between(columns[x], low, high, color=look["color"], alpha=alpha, linewidth=0, zorder=1)


def _judged_range(frontier: Frontier, trace: ExitTrace, results: Sequence[Result]) -> tuple[float, float]:
    """Return the accuracies between which policies are told apart, from the budgets that are not the smallest."""
    means = frontier.accuracy.mean(axis=2)
    judged = means[:, frontier.budgets >= _JUDGED_FROM * frontier.cost.full]
    shown = judged[np.isfinite(judged)] if np.isfinite(judged).any() else means[np.isfinite(means)]
    marked = [end for result in results for end in result.accuracy_interval or ()]
    low, high = min([*shown, *marked]), max([*shown, *marked, float(1.0 - trace.risk.min())])
    margin = 0.08 * max(high - low, 0.02)
    return low - margin, high + margin


def _draw_exits_alone(axes: Axes, trace: ExitTrace) -> None:
    share, accuracy = trace.cost.cumulative / trace.cost.full, 1.0 - trace.risk
    axes.plot(
        share,
        accuracy,
        linestyle="none",
        marker="o",
        markersize=5.5,
        markerfacecolor="white",
        markeredgecolor=style.COLOURS["grey"],
        label="each exit alone (numbered above)",
        zorder=5,
    )
    numbered: list[int] = []
    for exit_ in style.every_exit(trace.n_exits):
        if not numbered or share[exit_] - share[numbered[-1]] >= _APART:
            numbered.append(exit_)
    above = axes.secondary_xaxis("top")
    above.set_xticks(
        share[numbered], [str(exit_) for exit_ in numbered], fontsize=7.5, color=style.COLOURS["grey"]
    )
    above.tick_params(length=2.5, color=style.COLOURS["grey"])


def _draw_result(axes: Axes, result: Result) -> None:
    if result.accuracy is None or result.accuracy_interval is None:
        raise InputError(f"the result {result.name!r} has no accuracy to mark: evaluate on a labelled trace")
    low, high = result.accuracy_interval
    axes.errorbar(
        [result.cost / result.cost_model.full],
        [result.accuracy],
        yerr=[[result.accuracy - low], [high - result.accuracy]],
        color=style.COLOURS["black"],
        marker="*",
        markersize=11,
        linestyle="none",
        capsize=3,
        zorder=7,
        label=f"{result.name} as calibrated, {counted(result.n, 'input')}",
    )
