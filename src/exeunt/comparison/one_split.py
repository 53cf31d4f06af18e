"""One split of one trace: every policy at every budget, and what they are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt.frontiers import measure
from exeunt.policies.cascade import cascade
from exeunt.policies.catalogue import preset
from exeunt.policy import Policy
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_trace import single_exits

__all__ = [
    "Settings", "SplitRecord", "array_from_json", "measure_split", "mixture_curve", "none_for_nan", "upper_hull",
]  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How one trace is compared: `policies` by name, `amounts` in the unit of its costs, and how it is split.

    Split number s is drawn with seed + s. How many splits there are changes none of them, so it is not here.
    """

    policies: tuple[str, ...]
    amounts: tuple[float, ...]
    seed: int
    fit: float
    calibrate: float
    test: float
    delta: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Settings:
        """Rebuild settings from `to_dict`."""
        lists = {name: tuple(value[name]) for name in ("policies", "amounts")}
        return cls(**{**value, **lists})


@dataclass(frozen=True, eq=False)
class SplitRecord:
    """What p policies reach at q budgets on the test part of one split.

    `accuracy`, `spend` (p, q), `shares` (p, q, m): NaN where the budget was infeasible. `chance` (p, q): that of
    overspending on the test part, as in `Measured`. `oracle` (q,): accuracy.
    `exits` (m,): accuracy of each exit alone. `mixture_accuracy`, `mixture_spend` (q,): of lotteries between
    two exits. `parts` (3,): inputs to fit, calibrate and test. `seconds` (p, 2): processor time to make
    the policy for one budget, and for all; NaN on all splits but the first.
    """

    accuracy: Floats
    spend: Floats
    shares: Floats
    oracle: Floats
    exits: Floats
    mixture_accuracy: Floats
    mixture_spend: Floats
    parts: Floats
    seconds: Floats
    chance: Floats

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form: nested lists, with None for NaN."""
        return {field.name: none_for_nan(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SplitRecord:
        """Rebuild a record from `to_dict`, to the last bit."""
        return cls(**{field.name: array_from_json(value[field.name]) for field in fields(cls)})


def measure_split(trace: ExitTrace | CascadeTrace, settings: Settings, split: int) -> SplitRecord:
    """Measure the policies on split number `split`, and on the first also the time that making them takes."""
    parts = trace.split(
        fit=settings.fit, calibrate=settings.calibrate, test=settings.test, seed=settings.seed + split
    )
    options = {} if settings.delta is None else {"delta": settings.delta}
    presets = {
        name: partial(_made_by(name, trace), seed=settings.seed, **options) for name in settings.policies
    }
    timed = {name: _TimedPreset(make) for name, make in presets.items()} if split == 0 else {}
    amounts = np.array(settings.amounts)
    measured = measure(timed or presets, parts, amounts)
    fit, _, test = (single_exits(part) for part in parts)
    exits = test.correct.mean(axis=0)
    mixture = mixture_curve(fit.cost.cumulative, fit.correct.mean(axis=0), exits, amounts)
    return SplitRecord(
        accuracy=measured.accuracy,
        spend=measured.spend,
        shares=measured.shares,
        oracle=measured.oracle,
        exits=exits,
        mixture_accuracy=mixture[0],
        mixture_spend=mixture[1],
        parts=np.array([part.n for part in parts], dtype=np.float64),
        seconds=np.array([timed[name].seconds() if timed else (np.nan, np.nan) for name in presets]),
        chance=measured.chance,
    )


def _made_by(name: str, trace: ExitTrace | CascadeTrace) -> Callable[..., Policy]:
    return partial(cascade, policy=name) if isinstance(trace, CascadeTrace) else preset(name)


class _TimedPreset:
    """A preset that learns on a copy of the fit part that no other has learned from, and notes its time.

    What is learned is kept per fit part, and the budgets share it, as do policies: with a copy of its own the
    first budget costs what a single policy costs.
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
        """Return the time for one budget, the longest as it includes what the others shared, and for all."""
        return max(self.taken), sum(self.taken)


def mixture_curve(
    cost: Floats, fit_accuracy: Floats, test_accuracy: Floats, amounts: Floats
) -> tuple[Floats, Floats]:
    """Return expected accuracy and spend (q,) of the best lottery between two exits for each budget: no score needed.

    `cost`, `fit_accuracy`, `test_accuracy` (m,): the lottery is chosen by the fit accuracy and measured by the
    test accuracy. `amounts` (q,): budgets, none below the first exit's cost. Beyond the exit that is best on
    the fit part nothing more is spent.
    """
    hull = upper_hull(cost, fit_accuracy)
    spend: Floats = np.minimum(amounts, cost[hull[-1]])
    # Between two corners of the hull accuracy and cost are both linear in the odds.
    accuracy: Floats = np.interp(spend, cost[hull], test_accuracy[hull])
    return accuracy, spend


def upper_hull(x: Floats, y: Floats) -> Integers:
    """Return the corners of the upper concave hull of points in order of x, from the first up to the highest.

    `x` (m,) strictly increasing. What lies beyond the highest point is left out: it gains nothing. Of points
    equally high the cheapest is the highest.
    """

    def bends_down(a: int, b: int, c: int) -> bool:
        return bool((y[b] - y[a]) * (x[c] - x[a]) > (y[c] - y[a]) * (x[b] - x[a]))

    hull: list[int] = []
    for point in range(int(np.argmax(y)) + 1):
        while len(hull) > 1 and not bends_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull, dtype=np.int64)


def none_for_nan(value: Any) -> Any:
    """Return arrays as nested lists, and None for NaN, also inside lists and dicts: JSON has neither."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: none_for_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [none_for_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def array_from_json(value: Any) -> Floats:
    """Return nested lists as an array, with NaN for None."""
    return np.array(value, dtype=np.float64)
