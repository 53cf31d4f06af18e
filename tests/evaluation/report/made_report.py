"""What a comparison would hand to its report, made by formula: any number of traces, policies, exits and budgets."""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = (
    "auto", "eero", "eero marginal", "msdnet", "gaussian", "common threshold", "patience", "confident patience",
    "random routing", "optimised", "stopping", "learned correctness", "genetic", "risk controlled",
)  # fmt: skip


def made_report(
    *, traces: int = 1, policies: int = 6, exits: int = 5, budgets: int = 7, splits: int = 20, **parts: Any
) -> dict[str, Any]:
    """Return a whole report; the first policy is called auto, the second is the reference. `parts` replace."""
    rng = np.random.default_rng(0)
    shares = [round(float(b), 4) for b in np.linspace(0.2, 0.95, budgets)]
    made = [_trace(rng, f"net{t}-cifar10", NAMES[:policies], exits, shares, splits) for t in range(traces)]
    return {
        "version": "1.2.3",
        "command": "exeunt compare net0.parquet --budgets 20%:95%:5% --splits 20 --out 'a b.html'",
        "splits": splits, "seed": 0, "delta": 0.05, "reference": "eero",
        "summary": ["At half the cost, `auto` answers 92.1% right.", "It never exceeded the budget."],
        "overall": [_overall(name, made) for name in NAMES[:policies]],
        "traces": made,
    } | parts  # fmt: skip


def _trace(
    rng: np.random.Generator, name: str, names: tuple[str, ...], exits: int, budgets: list[float], splits: int
) -> dict[str, Any]:
    cost = np.linspace(0.12, 1.0, exits) if exits > 1 else np.ones(1)
    level = {policy: -0.004 * i + 0.004 for i, policy in enumerate(names)}
    return {
        "name": name, "n": 10_000, "parts": {"fit": 3000, "calibrate": 2000, "test": 5000}, "exits": exits,
        "models": [], "one_exit": "exit", "whole": "the full network",
        "unit": "MACs", "full_cost": 125_700_000.0,
        "full_accuracy": _interval("mean", 0.934, 0.002, ""),
        "budgets": budgets,
        "policies": [
            {"name": policy, "fit_seconds": 0.01 * 2.1**i,
             "points": [_point(rng, b, level[policy], i, cost, splits) for b in budgets]}
            for i, policy in enumerate(names)
        ],
        "oracle": [{"budget": b, **_interval("accuracy", min(0.97, 0.75 + b), 0.002)} for b in budgets],
        "mixture": [{"budget": b, "accuracy": 0.4 + 0.53 * b, "mean_cost": b} for b in budgets],
        "exit_points": [
            {"name": str(j), "cost": float(c), **_interval("accuracy", 0.35 + 0.58 * c**1.5, 0.003)}
            for j, c in enumerate(cost)
        ],
    }  # fmt: skip


def _point(
    rng: np.random.Generator, budget: float, level: float, i: int, cost: np.ndarray, splits: int
) -> dict[str, Any]:
    mean_cost = budget * (0.985 + 0.004 * rng.standard_normal()) * (0.7 if i == 2 else 1.0)
    weights = np.exp(-np.abs(cost - budget) * 4) * rng.uniform(0.4, 1.0, len(cost))
    gain = 0.0 if i == 1 else level * (1.3 - budget) + 0.0007 * rng.standard_normal()
    return {
        "budget": budget,
        **_interval("accuracy", 0.55 + 0.384 * (1 - (1 - mean_cost) ** 2) + gain, 0.0025),
        **_interval("mean_cost", mean_cost, 0.004),
        "over_budget": int(rng.integers(0, 3)), "of": splits,
        **_interval("gain", gain, 0.0 if i == 1 else 0.0011),
        "rates": [float(w) for w in weights / weights.sum()], "at_random": 0.4 + 0.4 * float(budget),
    }  # fmt: skip


def _interval(name: str, mean: float, half: float, prefix: str | None = None) -> dict[str, float]:
    before = f"{name}_" if prefix is None else prefix
    return {name: float(mean), f"{before}low": float(mean - half), f"{before}high": float(mean + half)}


def _overall(name: str, traces: list[dict[str, Any]]) -> dict[str, Any]:
    policies = [p for t in traces for p in t["policies"] if p["name"] == name]
    points = [point for policy in policies for point in policy["points"]]
    gains = [point["gain"] for point in points]
    return {
        "policy": name, **_interval("mean_gain", float(np.mean(gains)), 0.0008, "gain_"), "worst_gain": min(gains),
        "mean_shortfall": max(0.0, 0.004 - float(np.mean(gains))), "worst_shortfall": 0.02 - min(gains),
        "over_budget": sum(p["over_budget"] for p in points), "of": sum(p["of"] for p in points),
        "fit_seconds": float(np.mean([p["fit_seconds"] for p in policies])),
    }  # fmt: skip
