"""Figures and tables of the paper's experiments, from one recorded trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from experiments.pages import Curve, Panel, at, draw_panels, points, save_png, table
from experiments.replay import CERTIFIED, MARGINAL, PRESETS, SEQUENTIAL, Replay, replay
from matplotlib.figure import Figure

import exeunt as ex
from exeunt.evaluation.figures import rates_and_shares, risk_per_exit
from exeunt.evaluation.figures.style import styled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHARES = (0.3, 0.5, 0.7)
DRAWN = (SEQUENTIAL, MARGINAL, "geometric", "Gaussian, σ = 0.5")
PAIR_BUDGETS = 12
MSDNETS_RULE = "geometric"


# -- figures ---------------------------------------------------------------------------------------------------------


def figures(found: Replay, folder: Path, prefix: str) -> None:
    """Draw Figures 2, 3 and 7."""
    cost = found.trace.cost
    axis = f"mean cost per input (% of the full network, {cost.show(cost.full)})"
    curves = [Curve.over_splits(name, found.cost_shares(name), found.accuracies(name)) for name in DRAWN]
    exits = np.stack([cost.cumulative / cost.full, 1 - found.trace.risk])
    title = "Accuracy against mean cost (95% bands over splits; circles: single exits)"
    draw_panels(
        [Panel(title, axis, "accuracy", curves, dots=exits)], folder / f"{prefix}figure2-accuracy.png"
    )
    used = []
    for name in (SEQUENTIAL, MARGINAL, CERTIFIED):
        ratio = found.mean_cost[found.names.index(name)] / found.budgets[:, None]
        known = np.isfinite(ratio).all(axis=1)
        used.append(Curve.over_splits(name, found.shares[known], ratio[known]))
    draw_panels(
        [Panel("Mean cost against budget (95% bands)", "budget (% of the full network)", "share of the budget", used)],
        folder / f"{prefix}figure3-mean-cost.png",
    )  # fmt: skip
    save_png(risk_per_exit(found.trace).figure, folder / f"{prefix}figure7-risk.png")


def figure8(
    trace: ex.ExitTrace, costs: dict[str, Any], folder: Path, **options: Any
) -> tuple[dict[str, Any], str]:
    """Draw one head with the last exit, as if the network had no other; return numbers and a table.

    `costs`: by head, the costs of the two exits in a network that has no other head.
    """
    numbers, curves, rows = {}, [], []
    for head, cost in costs.items():
        pair = trace.selected([int(head), trace.n_exits - 1]).with_cost(ex.CostModel.from_dict(cost))
        budgets = np.linspace(pair.cost.first, pair.cost.full, PAIR_BUDGETS).tolist()
        found = replay(pair, budgets, policies={"eero": ex.eero}, **options)
        accuracy = found.accuracies("eero").mean(axis=1)
        best = int(np.argmax(accuracy[:-1]))
        right = pair.correct
        gain = found.against_exit("eero", best, 1)
        mean_cost = found.mean_cost[0] / trace.cost.full
        curves.append(
            Curve.over_splits(f"head {head} and the last exit", mean_cost, found.accuracies("eero"))
        )
        one_right = float((right[:, 0] & ~right[:, 1]).mean())
        numbers[head] = {
            "cost": cost, "budgets": budgets, "accuracy": accuracy.tolist(),
            "mean_cost": found.mean_cost[0].mean(axis=1).tolist(),
            "best_budget": budgets[best], "best_minus_last": gain, "head_right_last_wrong": one_right,
        }  # fmt: skip
        first, full = (million / 1e6 for million in cost["cumulative"])
        rows.append([
            head, f"{first:.1f} of {full:.1f}", f"{right[:, 0].mean():.4f}", f"{right[:, 1].mean():.4f}",
            f"{budgets[best] / 1e6:.1f} M", f"{accuracy[best]:.4f}", points(gain), f"{found.oracle[-1].mean():.4f}",
            f"{one_right:.1%}",
        ])  # fmt: skip
    last = 1 - float(trace.risk[-1])
    flat = Curve("the last exit alone", [curve.x.min() for curve in curves[:1]] + [1.0], [[last] * 3] * 2)
    axis = "mean cost per input (% of the full network with all heads)"
    panel = Panel("EERO on one head and the last exit (95% bands)", axis, "accuracy", [*curves, flat])
    draw_panels([panel], folder / "figure8-head-pairs.png")
    columns = (
        "head", "its cost, M", "head alone", "last exit alone", "best of EERO's budgets", "its accuracy",
        "minus last exit, points (95%)", "oracle", "head right, last wrong",
    )  # fmt: skip
    return numbers, table(columns, rows)


# -- tables ----------------------------------------------------------------------------------------------------------


def accuracy_table(found: Replay) -> str:
    """Return accuracy @ mean cost for a spread of budgets, means over the splits."""
    names = [name for name in PRESETS if not name.endswith(", marginal")]
    rows = []
    for q in np.unique(np.linspace(0, len(found.budgets) - 1, 9).round().astype(int)):
        cells = []
        for name in names:
            accuracy, cost = found.accuracies(name)[q].mean(), found.cost_shares(name)[q].mean()
            cells.append(at(accuracy, cost) if np.isfinite(cost) else "cannot be guaranteed")
        rows.append([f"{found.shares[q]:.3f}", *cells, f"{found.oracle[q].mean():.4f}"])
    return table(("budget", *names, "oracle"), rows)


def rates(trace: ex.ExitTrace, parts: Mapping[str, float], folder: Path, prefix: str) -> str:
    """Draw Figures 4 and 6 (rates and shares at three budgets, one split); return the paper's Table 3."""
    fit, calibrate, test = trace.split(**parts, seed=0)
    made = {}
    for name, figure in ((SEQUENTIAL, "figure4-rates-sequential"), (MARGINAL, "figure6-rates-marginal")):
        policies = [
            replace(PRESETS[name](fit, calibrate, budget=share * trace.cost.full), name=name)
            for share in SHARES
        ]
        results = [ex.evaluate(policy, test) for policy in policies]
        made[name] = policies, results
        draw_rates(name, policies, results, folder / f"{prefix}{figure}.png")
    full, (policies, sequential), (_, marginal) = trace.cost.full, made[SEQUENTIAL], made[MARGINAL]
    prior = 1 / trace.cost.cumulative
    columns = ["exit", "cost", "risk", "prior"]
    for share in SHARES:
        columns += [f"budget {share:.0%}: rate", "sequential", "marginal"]
    rows = []
    for exit_ in range(trace.n_exits):
        cells = [
            f"{100 * values[exit_]:.1f}"
            for policy, one, other in zip(policies, sequential, marginal, strict=True)
            for values in (policy.rates, one.shares, other.shares)
        ]
        about = (trace.cost.cumulative / full, fit.risk, prior / prior.sum())
        rows.append([exit_, *(f"{values[exit_]:.3f}" for values in about), *cells])
    ends = ["accuracy @ mean cost", "", "", ""]
    for one, other in zip(sequential, marginal, strict=True):
        ends += ["", at(one.accuracy, one.cost / full), at(other.accuracy, other.cost / full)]
    return table(columns, [*rows, ends])


def draw_rates(name: str, policies: list[ex.Policy], results: list[ex.Result], path: Path) -> None:
    """Draw the shares planned and answered for each budget side by side, on one scale."""
    with styled():
        sheet = Figure(figsize=(4.1 * len(policies), 3.4), layout="constrained")
        panels = sheet.subplots(1, len(policies), sharey=True, squeeze=False)[0]
        for panel, policy, result in zip(panels, policies, results, strict=True):
            rates_and_shares(policy, result, ax=panel).label_outer()
            panel.set_title(panel.get_title(loc="left").removeprefix(f"{name}: "), pad=22)
            if panel is not panels[0]:
                panel.get_legend().remove()
        sheet.suptitle(f"Share of inputs planned and answered at each exit: {name}", x=0.01, ha="left")
        save_png(sheet, path)


def against_own_rule(found: Replay) -> str:
    """Return EERO against MSDNet's rule at each budget."""
    names, rows = (SEQUENTIAL, MARGINAL, MSDNETS_RULE), []
    for q, share in enumerate(found.shares):
        cells = [at(found.accuracies(name)[q].mean(), found.cost_shares(name)[q].mean()) for name in names]
        gain = found.against(SEQUENTIAL, MSDNETS_RULE, q)
        rows.append([f"{share:.3f}", *cells, "-" if gain is None else points(gain)])
    return table(("budget", *names, "sequential minus geometric, points (95%)"), rows)
