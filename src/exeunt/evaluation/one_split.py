"""One split of one trace: every policy at every budget, and what they are compared with."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt.errors import ExeuntWarning
from exeunt.evaluation.frontiers import measure
from exeunt.evaluation.results import SplitRecord
from exeunt.policy import Policy
from exeunt.rules.by_name import rule_for
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_trace import single_exits
from exeunt.trace.groups import mean


@dataclass(frozen=True)
class Settings:
    """How one trace is compared: `policies` by name, `amounts` in the unit of its costs, and how it is split.

    Split number s is drawn with seed + s. The number of splits is no part of the settings, since it changes no split.
    """

    policies: tuple[str, ...]
    amounts: tuple[float, ...]
    seed: int
    fit: float
    calibrate: float
    test: float
    delta: float | None


def measure_split(trace: ExitTrace | CascadeTrace, settings: Settings, split: int) -> SplitRecord:
    """Measure the policies on split number `split`, and on the first also the time that making them takes."""
    parts = trace.split(
        fit=settings.fit, calibrate=settings.calibrate, test=settings.test, seed=settings.seed + split
    )
    options = {} if settings.delta is None else {"delta": settings.delta}
    rules = {name: rule_for(trace, name) for name in settings.policies}
    presets = {name: partial(rule, seed=settings.seed, **options) for name, rule in rules.items()}
    timed = {name: _TimedPreset(make) for name, make in presets.items()} if split == 0 else {}
    amounts = np.array(settings.amounts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExeuntWarning)  # `compare` warns once, of all inputs
        measured = measure(timed or presets, parts, amounts)
    fit, _, test = (single_exits(part) for part in parts)
    exits = mean(test.quality, test.groups)
    mixture = mixture_curve(fit.cost.cumulative, mean(fit.quality, fit.groups), exits, amounts)
    return SplitRecord(
        **vars(measured),
        exits=exits,
        mixture_accuracy=mixture[0],
        mixture_cost=mixture[1],
        parts=np.array([part.n for part in parts], dtype=np.float64),
        seconds=np.array([timed[name].seconds() if timed else (np.nan, np.nan) for name in presets]),
    )


class _TimedPreset:
    """A preset that measures the processor time of making each of its policies.

    Policies share what they learn from the same fit part, across presets and budgets. This preset learns from a copy of
    its own, so its first budget takes as long as making a single policy.
    """

    def __init__(self, make: Callable[..., Policy]) -> None:
        self.make = make
        self.taken: list[float] = []
        self._own: ExitTrace | CascadeTrace | None = None

    def __call__(self, fit: Any, calibrate: Any, *, budget: float) -> Policy:
        self._own = self._own or fit.take(slice(None))
        started = time.process_time()
        try:
            return self.make(self._own, calibrate, budget=budget)
        finally:
            self.taken.append(time.process_time() - started)

    def seconds(self) -> tuple[float, float]:
        """Return the time for one budget (the longest, which includes what the other budgets share), and for all."""
        return max(self.taken), sum(self.taken)


def mixture_curve(
    cost: Floats, fit_accuracy: Floats, test_accuracy: Floats, amounts: Floats
) -> tuple[Floats, Floats]:
    """Return expected accuracy and mean cost (q,) of the best random mixture of two exits at each budget.

    A mixture sends each input to one exit or the other at random, so it needs no score. `cost`, `fit_accuracy`,
    `test_accuracy` (m,): the mixture is chosen by the fit accuracy and measured by the test accuracy. `amounts` (q,):
    budgets, none below the first exit's cost. A mixture never costs more than the exit that is best on the fit part.
    """
    hull = upper_hull(cost, fit_accuracy)
    mean_cost: Floats = np.minimum(amounts, cost[hull[-1]])
    # Between two corners of the hull accuracy and cost are both linear in the odds.
    accuracy: Floats = np.interp(mean_cost, cost[hull], test_accuracy[hull])
    return accuracy, mean_cost


def upper_hull(x: Floats, y: Floats) -> Integers:
    """Return the corners of the upper concave hull of points in order of x, from the first up to the highest.

    `x` (m,) strictly increasing. Points beyond the highest one are left out. Of points equally high, the first counts
    as the highest.
    """

    def bends_down(a: int, b: int, c: int) -> bool:
        return bool((y[b] - y[a]) * (x[c] - x[a]) > (y[c] - y[a]) * (x[b] - x[a]))

    hull: list[int] = []
    for point in range(int(np.argmax(y)) + 1):
        while len(hull) > 1 and not bends_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull, dtype=np.int64)
