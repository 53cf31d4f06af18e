"""One auxiliary head with the last exit, as if the network had no other: Figure 8 and overthinking."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from replay import Comparison, compare
from report import heading, save_png

import exeunt as ex
from exeunt.plots.style import COLOURS, legend_beside, new_axes, percent_ticks, series_style, styled
from exeunt.torch import attach
from exeunt.torch.models.by_name import build_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from exeunt.run.folder import RunFolder

N_BUDGETS = 12
EERO = "eero"


def own_cost(run: RunFolder, head: int) -> ex.CostModel:
    """Return the two costs of the same network with this head alone."""
    model, network = run.manifest["model"], dict(run.manifest["network"])
    network["exits"] = [network["exits"][head]]
    height, width = run.manifest["inputs"]["size"]
    example = torch.zeros(2, 3, height, width)
    return attach(
        build_model(model["spec"], n_classes=model["n_classes"]), example, verbose=False, **network
    ).cost


def figure8(
    run: RunFolder,
    trace: ex.ExitTrace,
    heads: tuple[int, ...],
    folder: Path,
    *,
    shares: Mapping[str, float],
    splits: int,
) -> tuple[dict[str, Any], str]:
    """Draw Figure 8; return its numbers, and a table of what each pair recovers."""
    found = {}
    for head in heads:
        pair = trace.selected([head, trace.n_exits - 1]).with_cost(own_cost(run, head))
        budgets = np.linspace(pair.cost.first, pair.cost.full, N_BUDGETS).tolist()
        found[head] = compare(pair, budgets, shares=shares, splits=splits, policies={EERO: ex.eero})
    axes = head_pairs({head: one.frontier for head, one in found.items()}, trace)
    save_png(axes.figure, folder / "figure8-head-pairs.png")
    numbers = {str(head): pair_numbers(one) for head, one in found.items()}
    return numbers, "\n".join(pairs_table(numbers))


def head_pairs(frontiers: Mapping[int, ex.Frontier], trace: ex.ExitTrace) -> Axes:
    """Draw accuracy against mean cost of each head with the last exit, under EERO and the oracle (Figure 8)."""
    with styled():
        axes = new_axes(None, width_in=8.6, height_in=4.8)
        level, best = 1.0 - float(trace.risk[-1]), 0.0
        for index, (head, found) in enumerate(frontiers.items()):
            style, oracle = series_style(index), found.oracle.mean(axis=1)
            accuracy, cost = found.accuracy[0].mean(axis=1), found.mean_cost[0].mean(axis=1)
            axes.plot(cost, accuracy, label=f"head {head}: EERO", **style)
            axes.plot(
                found.budgets, oracle, label=f"head {head}: oracle",
                **{**style, "linestyle": (0, (1, 2)), "linewidth": 1.2, "markerfacecolor": "white", "markersize": 3.5},
            )  # fmt: skip
            best = max(best, float(oracle.max()))
        axes.axhline(level, color=COLOURS["black"], linewidth=1.0, label="last exit alone", zorder=1)
        if best > level:
            axes.axhspan(level, best, color="#F3F0EC", linewidth=0, zorder=0, label="overthinking recovered")
        size, unit = trace.cost.scale
        axes.set_xlabel(f"mean cost per input ({unit})")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / size:g}")
        axes.set_ylabel("accuracy (% of inputs)")
        percent_ticks(axes.yaxis)
        axes.set_title("One auxiliary head with the last exit")
        legend_beside(axes)
    return axes


def pair_numbers(found: Comparison) -> dict[str, Any]:
    """Return one pair's curve, and its gain over the last exit at the best of the budgets below the full cost."""
    table = found.frontier
    accuracy = table.accuracy[0].mean(axis=1)
    best = int(np.argmax(accuracy[:-1]))
    right = found.trace.correct
    return {
        "cost": table.cost.to_dict(),
        "budgets": table.budgets.tolist(),
        "accuracy": accuracy.tolist(),
        "spend": table.mean_cost[0].mean(axis=1).tolist(),
        "oracle": table.oracle.mean(axis=1).tolist(),
        "head_alone": float(right[:, 0].mean()),
        "last_alone": float(right[:, 1].mean()),
        "best_budget": float(table.budgets[best]),
        "best_accuracy": float(accuracy[best]),
        "best_minus_last": asdict(found.against_exit(EERO, best, 1)),
        "head_right_last_wrong": float((right[:, 0] & ~right[:, 1]).mean()),
    }


def pairs_table(numbers: Mapping[str, dict[str, Any]]) -> list[str]:
    columns = (
        "head", "its cost, M", "head alone", "last exit alone", "best of EERO's budgets", "its accuracy",
        "minus last exit, points (95 %)", "oracle", "head right, last wrong",
    )  # fmt: skip
    lines = heading(columns)
    for head, row in numbers.items():
        cost, gain = row["cost"]["cumulative"], row["best_minus_last"]
        lines.append(
            f"| {head} | {cost[0] / 1e6:.1f} of {cost[1] / 1e6:.1f} | {row['head_alone']:.4f} | "
            f"{row['last_alone']:.4f} | {row['best_budget'] / 1e6:.1f} M | {row['best_accuracy']:.4f} | "
            f"{100 * gain['mean']:+.2f} ({100 * gain['low']:+.2f} to {100 * gain['high']:+.2f}) | "
            f"{row['oracle'][-1]:.4f} | {row['head_right_last_wrong']:.1%} |"
        )
    return lines
