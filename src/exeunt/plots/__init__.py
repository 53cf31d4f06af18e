"""Figures from results. Every function takes `ax=` (made if left out), and none touches pyplot.

    axes = plots.accuracy_against_budget(frontier, trace)
    plots.save_figure(axes.figure, "figures/accuracy")       # PNG and SVG

Needs the extra `plots`; Matplotlib is imported when the first figure is made.
"""

from exeunt.plots.evaluation import compared_presets, evaluate_figures, even_budgets
from exeunt.plots.exits import rates_and_shares, rates_for_budgets, risk_per_exit
from exeunt.plots.frontiers import accuracy_against_budget, spent_against_allowed
from exeunt.plots.image_sheet import Picked, SheetRow, image_sheet, pick_inputs, sheet_rows
from exeunt.plots.pairs import head_pairs, pair_frontiers, pair_trace
from exeunt.plots.style import save_figure

__all__ = [
    "Picked",
    "SheetRow",
    "accuracy_against_budget",
    "compared_presets",
    "evaluate_figures",
    "even_budgets",
    "head_pairs",
    "image_sheet",
    "pair_frontiers",
    "pair_trace",
    "pick_inputs",
    "rates_and_shares",
    "rates_for_budgets",
    "risk_per_exit",
    "save_figure",
    "sheet_rows",
    "spent_against_allowed",
]
