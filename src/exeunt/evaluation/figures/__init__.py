"""Figures of results. Functions that draw one panel take `ax=` and make new axes by default. None uses pyplot.

    axes = plots.accuracy_against_budget(frontier, trace)
    plots.save_figure(axes, "figures/accuracy")              # PNG and SVG

Needs the extra `plots`; Matplotlib is imported when the first figure is made.
"""

from exeunt.evaluation.figures.curves import accuracy_against_budget, cost_against_budget
from exeunt.evaluation.figures.drift import draw_watch
from exeunt.evaluation.figures.one_evaluation import draw_evaluation, rates_and_shares, risk_per_exit
from exeunt.evaluation.figures.style import save_figure, svg_of

__all__ = [
    "accuracy_against_budget",
    "cost_against_budget",
    "draw_evaluation",
    "draw_watch",
    "rates_and_shares",
    "risk_per_exit",
    "save_figure",
    "svg_of",
]
