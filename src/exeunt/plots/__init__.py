"""Figures of results. Functions that draw one panel take `ax=` and make new axes by default. None uses pyplot.

    axes = plots.accuracy_against_budget(frontier, trace)
    plots.save_figure(axes.figure, "figures/accuracy")       # PNG and SVG

Needs the extra `plots`; Matplotlib is imported when the first figure is made.
"""

from exeunt.plots.evaluation import compared_presets, draw_evaluation, evenly_spaced_budgets
from exeunt.plots.exits import rates_and_shares, rates_for_budgets, risk_per_exit
from exeunt.plots.frontiers import accuracy_against_budget, spent_against_allowed
from exeunt.plots.head_pairs import head_pairs, pair_frontiers, pair_trace
from exeunt.plots.image_sheet import PickedInputs, SheetRow, image_sheet, pick_inputs, sheet_rows
from exeunt.plots.style import save_figure

__all__ = [
    "PickedInputs",
    "SheetRow",
    "accuracy_against_budget",
    "compared_presets",
    "draw_evaluation",
    "evenly_spaced_budgets",
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
