"""The figure of the README, from the recorded ResNet-56: python experiments/readme_figure.py."""

from __future__ import annotations

from pathlib import Path

import exeunt as ex
from exeunt import plots

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    trace = ex.ExitTrace.load(ROOT / "docs/results/traces/resnet56-cifar10-grid.parquet")
    budgets = plots.evenly_spaced_budgets(trace.cost, 17)
    found = ex.frontier(plots.compared_presets(), trace, budgets, splits=10)
    axes = plots.accuracy_against_budget(found, trace, x="allowed")
    _, svg = plots.save_figure(axes.figure, ROOT / "docs/figures/resnet56-accuracy", dpi=110)
    svg.unlink()  # the page needs one form


if __name__ == "__main__":
    main()
