"""One split of one trace: every policy at every budget, and what they are compared with."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.arena.mixture import mixture_curve
from exeunt.catalogue import preset
from exeunt.frontier import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt._arrays import Floats
    from exeunt.arena.settings import Settings
    from exeunt.policy import Policy
    from exeunt.trace import ExitTrace

__all__ = ["SplitRecord", "measure_split", "nested", "unnested"]


@dataclass(frozen=True, eq=False)
class SplitRecord:
    """What p policies came to at q budgets on one split, on its test part.

    `accuracy`, `spend` (p, q), `shares` (p, q, m): NaN where the budget was infeasible. `oracle` (q,): accuracy.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form: nested lists, with None for NaN."""
        return {field.name: nested(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SplitRecord:
        """Rebuild a record from `to_dict`, to the last bit."""
        return cls(**{field.name: unnested(value[field.name]) for field in fields(cls)})


def measure_split(trace: ExitTrace, settings: Settings, split: int) -> SplitRecord:
    """Measure the policies on split number `split`, and on the first also the time that making them takes."""
    parts = trace.split(
        fit=settings.fit, calibrate=settings.calibrate, test=settings.test, seed=settings.seed + split
    )
    options = {} if settings.delta is None else {"delta": settings.delta}
    presets = {name: partial(preset(name), seed=settings.seed, **options) for name in settings.policies}
    clocks = {name: _Clock(make) for name, make in presets.items()} if split == 0 else {}
    amounts = np.array(settings.amounts)
    measured = measure(clocks or presets, parts, amounts)
    fit, _, test = parts
    exits = test.correct.mean(axis=0)
    mixture = mixture_curve(trace.cost.cumulative, fit.correct.mean(axis=0), exits, amounts)
    return SplitRecord(
        accuracy=measured.accuracy,
        spend=measured.spend,
        shares=measured.shares,
        oracle=measured.oracle,
        exits=exits,
        mixture_accuracy=mixture[0],
        mixture_spend=mixture[1],
        parts=np.array([part.n for part in parts], dtype=np.float64),
        seconds=np.array([_seconds(make) for make in (clocks or presets).values()]),
    )


class _Clock:
    """A preset that is timed. It learns on a copy of the fit part that no other has learned from.

    What is learned is kept per fit part, and the budgets share it, as do policies: with a copy of its own the
    first budget costs what a single policy costs.
    """

    def __init__(self, make: Callable[..., Policy]) -> None:
        self.make = make
        self.taken: list[float] = []
        self._own: ExitTrace | None = None

    def __call__(self, fit: ExitTrace, calibrate: ExitTrace, *, budget: float) -> Policy:
        self._own = self._own or fit.take(slice(None))
        started = time.process_time()
        try:
            return self.make(self._own, calibrate, budget=budget)
        finally:
            self.taken.append(time.process_time() - started)


def _seconds(make: Callable[..., Policy]) -> tuple[float, float]:
    """Return the time for one budget, the dearest since it paid for what the others shared, and for all."""
    return (max(make.taken), sum(make.taken)) if isinstance(make, _Clock) else (np.nan, np.nan)


def nested(array: Floats) -> Any:
    """Return an array as nested lists, with None for NaN: JSON has no word for it."""
    values = array.astype(object)
    values[np.isnan(array)] = None
    return values.tolist()


def unnested(value: Any) -> Floats:
    """Return nested lists as an array, with NaN for None."""
    return np.array(value, dtype=np.float64)
