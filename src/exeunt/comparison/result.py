"""What a comparison measured: the numbers of every split of every trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from exeunt._arrays import Floats
from exeunt.comparison.one_split import SplitRecord, array_from_json, none_for_nan
from exeunt.costs import CostModel
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_trace import single_exits

__all__ = ["ComparisonResult", "TraceResult"]


@dataclass(frozen=True, eq=False)
class TraceResult:
    """p policies at q budgets over s splits of one trace with m exits.

    `n`: inputs of the trace. `exit_names`: of its exits, or of those of all models alone. `models`: their names, the
    most expensive last; () for a network. `left_out`: how many budgets asked for lie below the first exit's cost.
    `amounts` (q,): the others, in the unit of `cost`. `accuracy`, `spend` (p, q, s): NaN where infeasible.
    `chance` (p, q, s): that a certified policy overspends on the test part, by its distribution; NaN where that is not known.
    `rates` (p, q, m): mean share answered per exit. `oracle`, `mixture_accuracy`, `mixture_spend` (q, s).
    `exits` (m, s): accuracy of each exit alone. `parts` (3,): inputs to fit, calibrate and test.
    `seconds` (p, 2): time to make a policy for one budget, and for all.
    """

    name: str
    n: int
    left_out: int
    cost: CostModel
    amounts: Floats
    accuracy: Floats
    spend: Floats
    rates: Floats
    oracle: Floats
    exits: Floats
    mixture_accuracy: Floats
    mixture_spend: Floats
    parts: Floats
    seconds: Floats
    chance: Floats
    exit_names: tuple[str, ...]
    models: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        trace: ExitTrace | CascadeTrace,
        amounts: Sequence[float],
        left_out: int,
        records: Sequence[SplitRecord],
    ) -> TraceResult:
        """Gather the records of all splits, the timed one first."""

        def stacked(what: str) -> Floats:
            return np.stack([getattr(record, what) for record in records], axis=-1)

        return cls(
            name, trace.n, left_out, single_exits(trace).cost, np.array(amounts),
            accuracy=stacked("accuracy"), spend=stacked("spend"), rates=_mean_where_known(stacked("shares")),
            oracle=stacked("oracle"), exits=stacked("exits"),
            mixture_accuracy=stacked("mixture_accuracy"), mixture_spend=stacked("mixture_spend"),
            parts=records[0].parts, seconds=records[0].seconds, chance=stacked("chance"),
            exit_names=trace.exit_names if isinstance(trace, CascadeTrace) else _numbers(trace.n_exits),
            models=_by_cost(trace) if isinstance(trace, CascadeTrace) else (),
        )  # fmt: skip

    @property
    def whole(self) -> str:
        """What costs are shares of, and accuracies are compared with: the full network, or a model run alone."""
        return f"{self.models[-1]} alone" if self.models else "the full network"

    @property
    def one_exit(self) -> str:
        """What an exit is called: a model, where each model has a single one."""
        return "model" if len(self.models) == len(self.exit_names) else "exit"

    @property
    def shares(self) -> Floats:
        """Budgets as shares of the cost of the `whole`, (q,)."""
        shares: Floats = self.cost.share(self.amounts)
        return shares

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        arrays = {name: none_for_nan(getattr(self, name)) for name in _arrays_of(type(self))}
        return {name: getattr(self, name) for name in _OF_TRACE} | arrays | {"cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TraceResult:
        """Rebuild a result from `to_dict`, to the last bit."""
        arrays: dict[str, Any] = {
            name: array_from_json(value[name]) for name in _arrays_of(cls) if name in value
        }
        arrays.setdefault("chance", np.full_like(arrays["accuracy"], np.nan))  # files of before 0.1 lack it
        cost = CostModel.from_dict(value["cost"])
        plain = {name: value[name] for name in _OF_TRACE if name in value}
        plain["exit_names"] = tuple(plain.get("exit_names", _numbers(cost.n_exits)))
        plain["models"] = tuple(plain.get("models", ()))
        return cls(**plain, **arrays, cost=cost)


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """Policies compared on traces over `splits` splits; differences are paired, against `reference`.

    `delta`: what every policy was certified at, or None. Split number s was drawn with `seed` + s.
    """

    policies: tuple[str, ...]
    traces: tuple[TraceResult, ...]
    splits: int
    seed: int
    delta: float | None
    reference: str


_OF_TRACE = ("name", "n", "left_out", "exit_names", "models")


def _by_cost(models: CascadeTrace) -> tuple[str, ...]:
    """Return the names of models, the most expensive last."""
    return tuple(sorted(models.names, key=lambda name: models[name].cost.full))


def _numbers(n_exits: int) -> tuple[str, ...]:
    return tuple(map(str, range(n_exits)))


def _arrays_of(cls: type[TraceResult]) -> list[str]:
    return [one.name for one in fields(cls) if one.name not in (*_OF_TRACE, "cost")]


def _mean_where_known(shares: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(shares)
    count = known.sum(axis=-1)
    total = np.where(known, shares, 0.0).sum(axis=-1)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
