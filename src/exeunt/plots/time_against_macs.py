"""Time left against multiply-adds left: whether a saving on paper is one on the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exeunt.errors import InputError
from exeunt.plots.style import COLOURS, legend_beside, new_axes, percent, series_style, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from exeunt.runtime.savings import TimedBudget

__all__ = ["time_against_macs"]


def time_against_macs(timed: Sequence[TimedBudget], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the share of time left against the share of multiply-adds left, both of the uncut network's.

    A line per batch size, with the 10 % to 90 % range of the repeats as bars. On the diagonal, time falls as the
    multiply-adds do; above it, part of the saving is lost; below it, the stages are faster than the whole.

    Raises InputError without anything timed.
    """
    if not timed:
        raise InputError("there is nothing to draw: time at least one budget")
    with styled():
        axes = new_axes(ax, width_in=7.4, height_in=4.8)
        # A single disturbed turn must not flatten the picture: the ends of bars may lie outside.
        top = max(1.05, *(min(1.05 * one.time_share.high, 1.3 * one.time_share.median) for one in timed))
        axes.plot([0, top], [0, top], color=COLOURS["black"], linewidth=1.0, label="ideal: as multiply-adds")
        axes.plot([1], [1], marker="*", markersize=11, linestyle="none", color=COLOURS["black"], zorder=5,
                  label="uncut network")  # fmt: skip
        axes.text(0.02, 0.97, "slower than its multiply-adds", transform=axes.transAxes, va="top",
                  fontsize=8.5, color=COLOURS["grey"])  # fmt: skip
        for place, size in enumerate(sorted({one.batch_size for one in timed})):
            _draw_size(axes, [one for one in timed if one.batch_size == size], place)
        axes.set_xlabel("multiply-adds left, heads included (% of the uncut network)")
        axes.set_ylabel("time left (% of the uncut network)")
        axes.set_xlim(0.0, max(1.05, *(1.05 * one.macs_share for one in timed)))
        axes.set_ylim(0.0, top)
        percent(axes.xaxis)
        percent(axes.yaxis)
        axes.set_title(title or "Time against multiply-adds")
        legend_beside(axes)
    return axes


def _draw_size(axes: Axes, timed: Sequence[TimedBudget], place: int) -> None:
    ordered = sorted(timed, key=lambda one: one.macs_share)
    shares = [one.time_share for one in ordered]
    style: dict[str, Any] = series_style(place)
    axes.errorbar(
        [one.macs_share for one in ordered],
        [share.median for share in shares],
        yerr=[[share.median - share.low for share in shares], [share.high - share.median for share in shares]],
        capsize=2.5, elinewidth=1.1, zorder=3,
        label=f"batch {ordered[0].batch_size}: uncut {ordered[0].uncut_ms.median:.3g} ms per input", **style,
    )  # fmt: skip
