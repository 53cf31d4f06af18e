"""Networks with two exits, one auxiliary head and the last exit (Figure 8 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.frontiers import Frontier, frontier
from exeunt.plots.frontiers import columns, draw_line
from exeunt.plots.style import (
    COLOURS,
    legend_beside,
    new_axes,
    percent_ticks,
    series_style,
    styled,
)
from exeunt.policies.eero import eero
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["head_pairs", "pair_frontiers", "pair_trace"]


def pair_trace(trace: ExitTrace, head: int, *, cost: CostModel | None = None) -> ExitTrace:
    """Return the trace of a network that has only the auxiliary head `head` and the last exit.

    `cost`: costs of the two in such a network; by default those of the trace, which include the heads in between (a
    few percent). Raises InputError unless `head` is an exit before the last.
    """
    last = trace.n_exits - 1
    if not 0 <= head < last:
        raise InputError(f"head must be an exit before the last, 0 to {last - 1}, got {head}")
    both = [head, last]
    return ExitTrace(
        trace.prediction[:, both],
        {name: score[:, both] for name, score in trace.scores.items()},
        CostModel(trace.cost.cumulative[both], unit=trace.cost.unit, source=trace.cost.source)
        if cost is None
        else cost,
        trace.label,
        trace.id,
    )


def pair_frontiers(
    trace: ExitTrace,
    heads: Sequence[int],
    *,
    n_budgets: int = 12,
    splits: int = 10,
    seed: int = 0,
    score: str | None = None,
    costs: Mapping[int, CostModel] | None = None,
    **options: Any,
) -> dict[int, Frontier]:
    """Return the frontier of EERO for each head alone with the last exit (paper, Prop. C.1), by head.

    `n_budgets`: evenly spaced from the head's cost to the last exit's. `costs`: the two costs by head, see
    `pair_trace`. `options`: of `frontier`, such as the shares `fit`, `calibrate`, `test`, and `progress`.
    """
    found = {}
    for head in heads:
        pair = pair_trace(trace, head, cost=None if costs is None else costs[head])
        budgets = np.linspace(pair.cost.first, pair.cost.full, n_budgets).tolist()
        found[head] = frontier(
            {"eero": partial(eero, seed=seed, score=score)},
            pair,
            budgets,
            splits=splits,
            seed=seed,
            **options,
        )
    return found


def head_pairs(frontiers: Mapping[int, Frontier], trace: ExitTrace, *, ax: Axes | None = None) -> Axes:
    """Draw accuracy against mean cost of each head with the last exit, under EERO and the oracle (Figure 8).

    `frontiers`: by head, from `pair_frontiers`. The horizontal line is the last exit of `trace` alone: accuracy above
    it is recovered from overthinking. EERO is drawn at the cost it spent, the oracle at the budget.

    Raises InputError without heads.
    """
    if not frontiers:
        raise InputError("there is no head to draw: give pair_frontiers at least one")
    with styled():
        axes = new_axes(ax, width_in=8.6, height_in=4.8)
        level, best = 1.0 - float(trace.risk[-1]), 0.0
        for index, (head, found) in enumerate(frontiers.items()):
            best = max(best, _draw_pair(axes, head, found, index))
        axes.axhline(level, color=COLOURS["black"], linewidth=1.0, label="last exit alone", zorder=1)
        if best > level:
            axes.axhspan(level, best, color="#F3F0EC", linewidth=0, zorder=0, label="overthinking recovered")
        _label_costs(axes, trace.cost)
        axes.set_ylabel("accuracy (% of inputs)")
        percent_ticks(axes.yaxis)
        axes.set_title("One auxiliary head with the last exit")
        legend_beside(axes)
    return axes


def _draw_pair(axes: Axes, head: int, found: Frontier, index: int) -> float:
    """Draw EERO (with its band) and the oracle of one pair; return the oracle's best accuracy."""
    eero_columns, oracle = columns(found, found.names[0]), columns(found, "oracle")["accuracy"]
    draw_line(axes, eero_columns, "spend", "accuracy", index, label=f"head {head}: EERO")
    style = series_style(index)
    axes.plot(
        found.budgets, oracle, color=style["color"], linestyle=(0, (1, 2)), linewidth=1.2, zorder=2,
        marker=style["marker"], markerfacecolor="white", markersize=3.5, label=f"head {head}: oracle",
    )  # fmt: skip
    return float(oracle.max())


def _label_costs(axes: Axes, cost: CostModel) -> None:
    """Label the x axis with costs, in the unit in which the full cost reads best."""
    size, unit = cost.scale
    axes.set_xlabel(f"mean cost per input ({unit})")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / size:g}")
