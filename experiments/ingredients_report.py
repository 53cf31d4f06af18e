"""The tables of `ingredients.py`: every variant on the same test images, at the same multiply-adds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from replay import Gain, compare
from report import heading

import exeunt as ex
from exeunt._files import atomic_path, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

POLICIES = {"auto": ex.auto, "eero": ex.eero}
PARTS = {"fit": 0.3, "calibrate": 0.2, "test": 0.5}


@dataclass(frozen=True)
class Measured:
    """One variant on the n inputs that a split tested: m exits, p policies at q budgets.

    `correct` (n, m): whether each exit alone is right; `right` (p, q, n): how often the policy was, of the
    splits that tested the input. `cost` (m,) of each exit and `budgets` (q,): shares of what the network costs
    without heads.
    """

    correct: np.ndarray
    right: np.ndarray
    cost: np.ndarray
    budgets: tuple[float, ...]

    def at(self, budget: float, policy: str) -> np.ndarray:
        """Return how often a policy was right on each input, (n,)."""
        row: np.ndarray = self.right[list(POLICIES).index(policy), self.budgets.index(budget)]
        return row

    def accuracy(self, budget: float, policy: str) -> float:
        return float(self.at(budget, policy).mean())

    def minus(self, other: Measured, budget: float, policy: str) -> Gain:
        """Return the difference in accuracy, with its 95 % interval over inputs."""
        return Gain.of(self.at(budget, policy) - other.at(budget, policy))

    def minus_network(self, network: np.ndarray, budget: float, policy: str) -> Gain:
        """Return the difference from `network` (n,), what the network as given gets right."""
        return Gain.of(self.at(budget, policy) - network)


def measure(
    trace: ex.ExitTrace, kept: Path, budgets: Sequence[float], *, own_cost: float, splits: int
) -> Measured:
    """Replay the policies on a trace; what was found is kept in the folder `kept`.

    `budgets`: shares of `own_cost`, what the network costs without heads. Splits, and the few inputs that none
    of them tests, are the same for all traces of the same inputs.
    """
    trace = trace.take(np.argsort(trace.id, kind="stable"))  # the same order for every variant
    asked = {"budgets": list(budgets), "splits": splits, "policies": list(POLICIES), "version": 2}
    file, marker = kept / "replayed.npz", kept / "replayed.json"
    if not (marker.is_file() and asked == read_json(marker)):
        amounts = [share * own_cost for share in budgets]
        found = compare(trace, amounts, shares=PARTS, splits=splits, policies=POLICIES)
        kept.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary, temporary.open("wb") as opened:
            right = found.right[:, :, found.rows].astype(np.float32)
            np.savez_compressed(opened, right=right, rows=found.rows)
        write_json(marker, asked)
    with np.load(file) as loaded:
        right, rows = loaded["right"].astype(np.float64), loaded["rows"]
    return Measured(trace.correct[rows], right, trace.cost.cumulative / own_cost, tuple(budgets))


def points(gain: Gain) -> str:
    """Write a difference in points of accuracy."""
    return f"{100 * gain.mean:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def worth_table(
    runs: Mapping[str, Measured], base: Measured, labels: Mapping[str, str], budgets: Sequence[float]
) -> list[str]:
    """Return the accuracy of `auto` per variant and budget, and its difference from the baseline."""
    columns = (f"at {budget:.0%}, points (95 %)" for budget in budgets)
    lines = heading(("variant", "heads cost", *columns, "own classifier", "with EERO"))
    for name, run in runs.items():
        told = ["" if run is base else f", {points(run.minus(base, b, 'auto'))}" for b in budgets]
        cells = [f"{run.accuracy(b, 'auto'):.4f}{more}" for b, more in zip(budgets, told, strict=True)]
        eero = ", ".join(f"{run.accuracy(b, 'eero'):.3f}" for b in budgets)
        last = run.correct[:, -1].mean()
        lines.append(
            f"| {labels[name]} | {run.cost[-1] - 1:.1%} | {' | '.join(cells)} | {last:.4f} | {eero} |"
        )
    return lines


def exits_table(runs: Mapping[str, Measured], names: Sequence[str]) -> list[str]:
    """Return the accuracy of each exit alone, one row per variant."""
    lines = heading(("run", *names))
    for name, run in runs.items():
        cells = " | ".join(f"{value:.3f}" for value in run.correct.mean(axis=0))
        lines.append(f"| `{name}` | {cells} |")
    return lines


def frontier_table(
    runs: Mapping[str, Measured], rival: str, network: np.ndarray, budgets: Sequence[float], policy: str
) -> list[str]:
    """Return accuracies at all budgets: the last run's against a rival's and against the network as given."""
    *_, best = runs
    lines = heading(
        ("budget", *(f"`{name}`" for name in runs), f"`{best}` minus `{rival}`", "minus the network as given")
    )
    for budget in budgets:
        cells = [f"{run.accuracy(budget, policy):.4f}" for run in runs.values()]
        cells.append(points(runs[best].minus(runs[rival], budget, policy)))
        cells.append(points(runs[best].minus_network(network, budget, policy)))
        lines.append(f"| {budget:.0%} | {' | '.join(cells)} |")
    return lines


def numbers(run: Measured, base: Measured, network: np.ndarray) -> dict[str, Any]:
    """Return what the JSON says of one variant."""
    own = Gain.of(run.correct[:, -1] - network)
    return {
        "cost_share": run.cost.tolist(),
        "accuracy_per_exit": run.correct.mean(axis=0).tolist(),
        "own_classifier_minus_as_given": asdict(own),
        "budgets": [
            {
                "policy": policy,
                "budget_share": budget,
                "accuracy": run.accuracy(budget, policy),
                "minus_baseline": asdict(run.minus(base, budget, policy)) if budget in base.budgets else None,
                "minus_network_as_given": asdict(run.minus_network(network, budget, policy)),
            }
            for policy in POLICIES
            for budget in run.budgets
        ],
    }


def write_results(page: Path, text: str, found: dict[str, Any]) -> None:
    """Write the page, and its numbers as JSON beside it."""
    with atomic_path(page) as temporary:
        temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    write_json(page.with_suffix(".json"), found)
