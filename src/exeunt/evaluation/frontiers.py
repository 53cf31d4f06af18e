"""Accuracy against mean cost of several policies over many budgets, on repeated splits of one trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exeunt._support.arrays import Booleans, Floats
from exeunt._support.text import counted, html_table, text_table
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InfeasibleBudget, InputError, require
from exeunt.evaluation.replay import oracle, replayed
from exeunt.guarantees.confidence_intervals import interval_columns
from exeunt.policy import Policy
from exeunt.trace import ExitTrace
from exeunt.trace.cascade_trace import CascadeTrace, single_exits


@dataclass(frozen=True, eq=False)
class Frontier:
    """Accuracy and mean cost of p policies at q budgets over s splits.

    `accuracy`, `mean_cost` (p, q, s): on each split's test part; NaN where a budget was infeasible. `oracle` (q, s):
    the highest accuracy within the budget of any policy that answers with the prediction of a single exit. Every policy
    saw the same splits, so differences are paired: the first policy is the reference. `measure`: what `accuracy` is
    called where answers are graded.
    """

    names: tuple[str, ...]
    budgets: Floats
    cost: CostModel
    accuracy: Floats
    mean_cost: Floats
    oracle: Floats
    measure: str = "accuracy"

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per policy and budget: means, 95% t intervals over splits, paired differences.

        The parts of different splits overlap, so the intervals describe the spread of this procedure on this trace
        rather than what new data would give.
        """
        budgets = range(len(self.budgets))
        rows = [self._row(p, q) for p in range(len(self.names)) for q in budgets]
        unknown = dict.fromkeys(rows[0])
        return rows + [unknown | self._accuracy("oracle", q, self.oracle[q]) for q in budgets]

    def to_arrow(self) -> Any:
        """Return the rows as a `pyarrow.Table`."""
        import pyarrow as pa

        return pa.Table.from_pylist(self.rows())

    def to_pandas(self) -> Any:
        """Return the rows as a `pandas.DataFrame` (needs the extra `pandas`)."""
        return require("pandas", extra="pandas").DataFrame(self.rows())

    def __str__(self) -> str:
        return text_table(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        splits = counted(self.accuracy.shape[2], "split")
        caption = f"{self.measure} @ mean cost (share of the full cost), mean of {splits}"
        return html_table(caption, *self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return a row per budget: accuracy @ mean cost as a share of the full cost, for each policy."""
        rows = []
        for q, budget in enumerate(self.budgets):
            cells = [self._cell(p, q) for p in range(len(self.names))]
            rows.append([f"{self.cost.share(budget):.0%}", *cells, f"{self.oracle[q].mean():.4f}"])
        return ["budget", *self.names, "oracle"], rows

    def _cell(self, p: int, q: int) -> str:
        accuracy, cost = self.accuracy[p, q].mean(), self.mean_cost[p, q].mean()
        return "infeasible" if np.isnan(accuracy) else f"{accuracy:.4f} @ {self.cost.share(cost):.3f}"

    def _row(self, p: int, q: int) -> dict[str, Any]:
        costs = self.mean_cost[p, q]
        over = exceeds(costs, float(self.budgets[q])).mean()
        return {
            **self._accuracy(self.names[p], q, self.accuracy[p, q]),
            **interval_columns("mean_cost", costs, within=(0.0, np.inf)),
            "mean_cost_share": self.cost.share(float(costs.mean())),
            "over_budget_share": float("nan") if np.isnan(costs).any() else float(over),
            **interval_columns("gain", self.accuracy[p, q] - self.accuracy[0, q]),
        }

    def _accuracy(self, name: str, q: int, accuracy: Floats) -> dict[str, Any]:
        budget = float(self.budgets[q])
        return {
            "policy": name,
            "budget": budget,
            "budget_share": float(self.cost.share(budget)),
            **interval_columns("accuracy", accuracy, within=(0.0, 1.0)),
        }


def frontier(
    presets: Mapping[str, Callable[..., Policy]],
    trace: ExitTrace,
    budgets: Iterable[float | str],
    *,
    splits: int = 10,
    seed: int = 0,
    fit: float = 0.3,
    calibrate: float = 0.2,
    test: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> Frontier:
    """Compare presets on a labelled trace: each is fitted, calibrated and tested on the same disjoint parts.

    `presets`: name -> callable `(fit, calibrate, *, budget) -> Policy`; use functools.partial for options. The first is
    the reference of the paired differences. `budgets`: numbers in the unit of the costs or "50%". `progress(done,
    splits)` is called after each split.

    Raises InputError without presets, budgets or labels, for fewer than 1 split, or a policy named "oracle".
    """
    if isinstance(budgets, str):
        raise InputError(f"budgets must be several, got {budgets!r}: write [{budgets!r}]")
    if "oracle" in presets:
        raise InputError("a policy cannot be named 'oracle': the table has a row of that name of its own")
    names, amounts = tuple(presets), np.array([trace.cost.budget(b) for b in budgets])
    if not names or len(amounts) == 0 or splits < 1:
        raise InputError(
            "a frontier needs presets, budgets and at least 1 split, got "
            f"{counted(len(names), 'preset')}, {counted(len(amounts), 'budget')}, {counted(splits, 'split')}"
        )
    measured = []
    for s in range(splits):
        parts = trace.split(fit=fit, calibrate=calibrate, test=test, seed=seed + s)
        measured.append(measure(presets, parts, amounts))
        if progress is not None:
            progress(s + 1, splits)
    every = [(part.accuracy, part.mean_cost, part.oracle) for part in measured]
    accuracy, mean_cost, best = (np.stack(curve, axis=-1) for curve in zip(*every, strict=True))
    return Frontier(names, amounts, trace.cost, accuracy, mean_cost, best, trace.measure)


@dataclass(frozen=True, eq=False)
class Measured:
    """Results of p policies at q budgets on the test part of one split, of a trace with m exits.

    `accuracy`, `mean_cost` (p, q) and `rates` (p, q, m), the share of inputs answered at each exit: NaN where a budget
    was infeasible. `oracle` (q,): the highest accuracy within the budget of any policy that answers with the
    prediction of a single exit. `chance` (p, q): the probability that a certified policy exceeds the budget on a test
    part of this size, by the distribution of its mean cost; NaN where nothing is certified. `refusals` (p,): why the
    last infeasible budget was; "" where all were feasible.
    """

    accuracy: Floats
    mean_cost: Floats
    rates: Floats
    oracle: Floats
    chance: Floats
    refusals: tuple[str, ...]


def measure(
    presets: Mapping[str, Callable[..., Policy]],
    parts: Sequence[ExitTrace] | Sequence[CascadeTrace],
    amounts: Floats,
) -> Measured:
    """Fit, calibrate and test every preset on the same parts, at budgets in the unit of the costs.

    A preset sees all its budgets one after the other, and every preset the same fit part, so that it learns there once.
    Raises InputError without labels.
    """
    fit, calibrate, test = parts
    if not test.has_loss:
        raise InputError(
            "policies are compared by accuracy, which needs labels or losses, and the trace has none"
        )
    shape = (len(presets), len(amounts))
    accuracy, mean_cost, chance = np.full((3, *shape), np.nan)
    alone = single_exits(test)
    rates, refusals = np.full((*shape, alone.n_exits), np.nan), [""] * len(presets)
    for p, preset in enumerate(presets.values()):
        for q, amount in enumerate(amounts):
            try:
                policy = preset(fit, calibrate, budget=float(amount))
            except InfeasibleBudget as error:
                refusals[p] = str(error)
                continue
            result, _ = replayed(policy, test)
            accuracy[p, q], mean_cost[p, q], rates[p, q] = result.accuracy, result.cost, 0.0
            places = (
                test.places(policy.cascade) if isinstance(test, CascadeTrace) else np.arange(alone.n_exits)
            )
            np.add.at(rates[p, q], places, result.shares)
            if policy.cost_certificate is not None and policy.distribution is not None:
                chance[p, q] = 1.0 - policy.distribution.batch_probability_within(policy.budget, test.n)
    best = [_oracle(alone, float(amount)) for amount in amounts]
    return Measured(accuracy, mean_cost, rates, np.array(best, dtype=np.float64), chance, tuple(refusals))


def _oracle(alone: ExitTrace, amount: float) -> float:
    """Return the oracle's accuracy; NaN where inputs differ in cost, and those tested cost more at the first exit."""
    try:
        return float(oracle(alone, amount).accuracy or 0.0)
    except InfeasibleBudget:
        return float("nan")


def exceeds(mean_cost: Floats, budget: float | Floats) -> Booleans:
    """Return where the mean cost exceeds the budget by more than rounding; False for NaN."""
    return mean_cost > budget * (1 + 1e-12)
