"""What an answer costs at each exit, and in which unit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats
from exeunt._support.checked_types import check_kind
from exeunt.costs.budget_text import amount_text, parse_budget, readable_unit
from exeunt.errors import ExeuntWarning, InfeasibleBudget, InputError

_Amount = TypeVar("_Amount", float, "Floats")
_UNKNOWN = "unknown"  # JSON has no infinity

LEAST_RISE = 1e-9
"""Costs must rise from exit to exit. Two exits that really cost the same differ by this share of the full cost."""


class _Costs(TypedDict):
    cumulative: list[float]
    unit: str
    source: str


class _MoreOfCosts(_Costs, total=False):
    heads: list[float]
    highest: float | Literal["unknown"]
    reference: float


@dataclass(frozen=True, eq=False)
class CostModel:
    """Cumulative cost per input of answering at each exit, everything run so far included.

    `cumulative` (m,): positive, finite, strictly increasing, auxiliary heads before the exit included. If inputs
    differ in cost, give (n, m), a row per input of a trace: `per_input` holds them, `cumulative` their mean.
    `highest`: the most that any input can cost, now or later, such as the price of the longest text. By default it is
    the full cost, or infinite if inputs differ in cost, so that no mean cost can be certified.
    `heads` (m,): the part of each exit's cost that is its own head. Leaving the exit out saves it, see `selected`.
    `unit`: "MACs" (also kMACs, MMACs, GMACs), "ms", "J", "usd", or any word of your own. `source`: how the numbers were
    obtained, in a few words ("measured", "flop counter", "price list").
    `reference`: the amount that shares such as "50%" refer to, by default the full cost; for a cascade the cost of the
    model that a user would run instead.

    Raises InputError unless the costs are positive, finite and strictly increasing.

    >>> cost = CostModel([2.7, 9.9, 15.3], unit="MMACs")
    >>> cost.full, cost.n_exits, cost.budget("50%"), cost.budget("9900 kMACs")
    (15.3, 3, 7.65, 9.9)
    """

    cumulative: Floats
    unit: str = "MACs"
    source: str = "given"
    reference: float = 0.0
    highest: float = 0.0
    per_input: Floats | None = None
    heads: Floats | None = None

    def __init__(
        self,
        cumulative: ArrayLike,
        *,
        unit: str = "MACs",
        source: str = "given",
        reference: float | None = None,
        highest: float | None = None,
        heads: ArrayLike | None = None,
    ) -> None:
        costs = arrays.floats(cumulative, "cost", ndim=(1, 2))
        rows = arrays.frozen(_checked(costs).copy()) if costs.ndim > 1 else None
        if rows is not None and highest == rows[0, -1] and (rows == rows[0]).all():
            costs, rows = rows[0], None  # no input differs, now or later
        means = checked_costs(costs.copy() if rows is None else _means(rows))
        limit = float(means[-1] if rows is None else np.inf) if highest is None else float(highest)
        least = float(means[-1] if rows is None else rows.max())
        if not limit >= least:
            raise InputError(
                f"highest is the most that any input can cost, got {limit:g}, but one costs {least:g}: "
                "give at least that"
            )
        self.__dict__.update(
            cumulative=arrays.frozen(means),
            unit=str(unit),
            source=str(source),
            highest=limit,
            per_input=rows,
            reference=float(means[-1] if reference is None else reference),
            heads=None if heads is None else _checked_heads(heads, means),
        )

    @property
    def n_exits(self) -> int:
        """Number of exits m, the last one included."""
        return len(self.cumulative)

    @property
    def first(self) -> float:
        """Cost of answering at the first exit: no budget can be lower."""
        return float(self.cumulative[0])

    @property
    def full(self) -> float:
        """Cost of the full network, heads included."""
        return float(self.cumulative[-1])

    @property
    def varies(self) -> bool:
        """Whether inputs may differ in cost: then `cumulative` holds means."""
        return self.per_input is not None or self.highest > self.full

    @property
    def _rows(self) -> Floats:
        return self.cumulative if self.per_input is None else self.per_input

    def of_inputs(self, n: int) -> Floats:
        """Return the cost of each of n inputs at each exit, (n, m)."""
        # Rows of other inputs than these must not be repeated: a trace would not notice.
        return (
            np.broadcast_to(self.cumulative, (n, self.n_exits)) if self.per_input is None else self.per_input
        )

    def take(self, rows: Any) -> CostModel:
        """Return the costs of these inputs, and their means; shares refer to the same amount."""
        return self if self.per_input is None else self._with_rows(self.per_input[rows])

    def joined(self, parts: Sequence[CostModel]) -> CostModel:
        """Return these costs for the inputs of several parts, one after the other."""
        if self.per_input is None:
            return self
        return self._with_rows(np.concatenate([part._rows for part in parts if part.per_input is not None]))

    def exits(self, start: int, stop: int) -> CostModel:
        """Return the costs of these exits, counted from the exit before them."""
        before = self._rows[..., start - 1, None] if start else 0.0
        return CostModel(
            self._rows[..., start:stop] - before,
            unit=self.unit,
            source=self.source,
            highest=self.highest if self.varies else None,
            heads=None if self.heads is None else self.heads[start:stop],
        )

    def selected(self, exits: Sequence[int]) -> CostModel:
        """Return the costs of these exits, ascending, where the other exits have no heads."""
        chosen = list(exits)
        idle = np.zeros(self.n_exits) if self.heads is None else self.heads.copy()
        idle[chosen] = 0.0
        saved = np.cumsum(idle)
        return CostModel(
            (self._rows - saved)[..., chosen],
            unit=self.unit,
            source=self.source,
            reference=self.reference,
            highest=self.highest - saved[chosen[-1]] if self.varies else None,
            heads=None if self.heads is None else self.heads[chosen],
        )

    @property
    def of_one_look(self) -> CostModel:
        """The costs of inputs that go straight to an exit: no head before it is run.

        Costs must rise: an exit that would cost less than one before it, because its head is small, costs as much.
        """
        if self.heads is None:
            return self
        alone = self.cumulative - np.cumsum(self.heads) + self.heads
        most = np.maximum.accumulate(alone)
        falls = np.diff(most, prepend=0.0) <= 0
        rising = most * np.where(falls, 1 + LEAST_RISE * np.arange(self.n_exits), 1.0)
        return CostModel(rising, unit=self.unit, source=self.source, reference=self.reference)

    def bounded(self, highest: float) -> CostModel:
        """Return the same costs, where no input can cost more than this."""
        return self._with(highest=min(self.highest, highest))

    def relative_to(self, reference: float) -> CostModel:
        """Return the same costs, with shares that refer to `reference`."""
        return self._with(reference=reference)

    def weighted(self, weight: Floats) -> CostModel:
        """Return the same costs, whose means are those of inputs with these weights (n,)."""
        if self.per_input is None or not len(weight):
            return self
        means = _means(self.per_input, weight)
        reference = float(means[-1]) if self.reference == self.full else self.reference
        return self._with(cumulative=arrays.frozen(means), reference=reference)

    @property
    def means(self) -> CostModel:
        """The same costs without `per_input`."""
        return self._with(per_input=None)

    @classmethod
    def in_a_row(cls, parts: Sequence[CostModel], *, n: int, reference: float) -> CostModel:
        """Return the costs of several models in one unit, one after the other, for n inputs."""
        varies = any(cost.varies for cost in parts)
        rows = [cost.of_inputs(n if varies else 1) for cost in parts]
        before = np.cumsum([np.zeros(len(rows[0])), *(row[:, -1] for row in rows[:-1])], axis=0)
        costs_in_a_row = np.hstack([row + paid[:, None] for row, paid in zip(rows, before, strict=True)])
        known = [np.zeros(cost.n_exits) if cost.heads is None else cost.heads for cost in parts]
        joined = cls(
            costs_in_a_row if varies else costs_in_a_row[0],
            unit=parts[0].unit,
            source=parts[0].source,
            reference=reference,
            highest=sum(cost.highest for cost in parts) if varies else None,
            heads=None if all(cost.heads is None for cost in parts) else np.concatenate(known),
        )
        # Rows are kept even if they are alike: other inputs may differ.
        return joined._with(per_input=arrays.frozen(costs_in_a_row)) if varies else joined

    @classmethod
    def of_paths(
        cls, paths: Sequence[Sequence[tuple[CostModel, int]]], *, n: int, reference: float
    ) -> CostModel:
        """Return the costs of exits that end paths through several models, for n inputs.

        A path names an exit of each model that it runs. The mean costs of the paths must not fall from exit to exit.
        """
        costs = [cost for path in paths for cost, _ in path]
        varies = any(cost.varies for cost in costs)
        rows = np.zeros((n if varies else 1, len(paths)))
        for place, path in enumerate(paths):
            for cost, exit_ in path:
                rows[:, place] += cost.of_inputs(len(rows))[:, exit_]
        means = np.maximum.accumulate(_means(rows)) * (1 + LEAST_RISE * np.arange(len(paths)))
        highest = max(float(means[-1]), *(sum(cost.highest for cost, _ in path) for path in paths))
        joined = cls(
            means,
            unit=costs[0].unit,
            source=costs[0].source,
            reference=reference,
            highest=highest if varies else None,
        )
        return joined._with(per_input=arrays.frozen(rows)) if varies else joined

    def _with_rows(self, rows: Floats) -> CostModel:
        means = _means(rows) if len(rows) else self.cumulative
        return self._with(per_input=arrays.frozen(rows), cumulative=arrays.frozen(means))

    def _with(self, **fields: Any) -> CostModel:
        changed = copy(self)
        changed.__dict__.update(fields)
        return changed

    def share(self, amount: _Amount) -> _Amount:
        """Return an amount, or an array of them, as a share of `reference`."""
        return amount / self.reference

    def share_to_try(self, share: float) -> float:
        """Return this share if it is a possible budget, else the middle of the possible shares."""
        least = self.share(self.first)
        return share if least < share else (least + 1) / 2

    @property
    def saves_nothing(self) -> bool:
        """Whether all exits cost the same, but for `LEAST_RISE`."""
        return self.first >= self.full * (1 - 2 * LEAST_RISE * self.n_exits)

    def run_whole(self, why: str) -> CostModel:
        """Return the costs of a network that cannot stop early (`why`): every exit costs as much as the last."""
        below = LEAST_RISE * np.arange(self.n_exits - 1, -1, -1)
        return CostModel(self.full * (1 - below), unit=self.unit, source=f"{self.source}; runs whole: {why}")

    def __eq__(self, other: object) -> bool:
        """Whether both price the same exits. If inputs differ in cost, the means may be of other inputs and differ."""
        if not isinstance(other, CostModel):
            return NotImplemented
        if self.varies or other.varies:
            same = (self.n_exits, self.highest) == (other.n_exits, other.highest)
        else:
            same = np.array_equal(self.cumulative, other.cumulative)
        return self.unit == other.unit and same

    def budget(self, value: float | str, *, warn: bool = False) -> float:
        """Return a budget in this model's unit, between the cheapest exit and the full network.

        `value`: a number in this unit, "50%" of the full cost, or a quantity such as "30 MMACs" or "4ms".
        A value above the full cost becomes the full cost; where inputs differ in cost, one above the highest becomes
        the highest, since other inputs may cost more on average than these. `warn`: of a value above the
        highest. Raises InfeasibleBudget below the first exit, and the errors of `amount`.
        """
        amount = self.amount(value)
        if amount < self.first * (1 - 1e-12):
            remedy = "ask for at least that, or add an earlier exit"
            if self.saves_nothing and self.n_exits > 1:
                remedy = f"no exit saves anything ({self.source})"
            raise InfeasibleBudget(
                f"a budget of {self.show(amount)} is below the cheapest exit, which costs "
                f"{self.show(self.first)} ({self.share(self.first):.1%} of {self.whole}): {remedy}",
                smallest_budget=self.first,
            )
        if warn and amount > self.highest * (1 + 1e-6):
            warnings.warn(self._unused(value, amount), ExeuntWarning, stacklevel=3)
        return min(max(amount, self.first), self.highest)

    def _unused(self, value: float | str, amount: float) -> str:
        """Return the warning of a budget that is more than any input costs."""
        bare = not isinstance(value, str) or value.strip().replace(".", "").isdecimal()
        remedy = (
            f"for {float(value):g}% write '{float(value):g}%'"
            if bare and float(value) <= 100
            else "ask for less"
        )
        return (
            f"a budget of {value} is {self.show(amount)}, more than the most expensive path costs "
            f"({self.show(self.highest)}), so nothing is saved: {remedy}"
        )

    def amount(self, value: float | str) -> float:
        """Return a budget as a number in this model's unit, without comparing it with the costs.

        Raises UnitError for a unit that does not convert, InputError for anything that is no budget.
        """
        if isinstance(value, str):
            return parse_budget(value, full=self.reference, unit=self.unit)
        return arrays.finite(value, "budget")

    def show(self, amount: float) -> str:
        """Write an amount with its unit, as people read it."""
        return amount_text(amount, self.unit)

    @property
    def whole(self) -> str:
        """What shares refer to, in words: the full cost, or the amount of `reference`."""
        return "the full cost" if self.reference == self.full else self.show(self.reference)

    @property
    def scale(self) -> tuple[float, str]:
        """Size and unit in which the costs read best: (1e6, "MMACs") for a full cost of 4e7 MACs."""
        return readable_unit(self.full, self.unit)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form without the costs of single inputs; `from_dict` restores it to the last bit."""
        body = {"cumulative": self.cumulative.tolist(), "unit": self.unit, "source": self.source}
        if self.heads is not None:
            body["heads"] = self.heads.tolist()
        if self.varies:
            body["highest"] = self.highest if np.isfinite(self.highest) else _UNKNOWN
        return body if self.reference == self.full else {**body, "reference": self.reference}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> CostModel:
        """Rebuild a model from `to_dict`. Raises InputError for anything else."""
        check_kind(body, _MoreOfCosts, "cost")
        if unknown := sorted(body.keys() - _MoreOfCosts.__annotations__):
            raise InputError(f"cost has {unknown[0]!r}, which no costs have")
        return cls(**{**body, "highest": np.inf if body.get("highest") == _UNKNOWN else body.get("highest")})

    def __repr__(self) -> str:
        costs = ", ".join(f"{b:.4g}" for b in self.cumulative)
        limit = f", highest={self.highest:g}" if self.varies else ""
        return f"CostModel([{costs}], unit={self.unit!r}, source={self.source!r}{limit})"


def _means(rows: Floats, weight: Floats | None = None) -> Floats:
    """Return mean costs (m,) of rows (n, m), by weight (n,): rounding must not lift them above the highest."""
    means = rows.mean(axis=0) if weight is None else np.average(rows, axis=0, weights=weight)
    return np.asarray(np.minimum(means, rows.max(axis=0)))


def checked_costs(cost: ArrayLike | CostModel) -> Floats:
    """Return cumulative costs (m,) from an array or a CostModel. Raises InputError, naming the exit, for bad costs."""
    return cost.cumulative if isinstance(cost, CostModel) else _checked(arrays.floats(cost, "cost", ndim=1))


def _checked(costs: Floats) -> Floats:
    """Return costs (m,) or (n, m). Raises InputError, naming the exit and the row, for bad costs."""
    if costs.size == 0:
        raise InputError(f"cost is empty, of shape {costs.shape}: give one cumulative cost per exit")
    before = np.concatenate([np.zeros_like(costs[..., :1]), costs[..., :-1]], axis=-1)
    if len(bad := np.argwhere(~(np.isfinite(costs) & (costs > before)))):
        *row, exit_ = bad[0].tolist()
        wrong = costs[tuple(row)]
        raise InputError(
            "costs must be positive, finite and strictly increasing from exit to exit (cumulative, not per stage), "
            f"got {wrong[exit_]:g} at exit {exit_}"
            + (f" after {wrong[exit_ - 1]:g}" if exit_ else "")
            + (f": {np.array2string(wrong, precision=4)} in row {row[0]}" if row else "")
        )
    return costs


def _checked_heads(heads: ArrayLike, cumulative: Floats) -> Floats:
    """Return the costs of heads (m,). Raises InputError, naming the exit, for bad costs."""
    values = arrays.floats(heads, "heads", ndim=1)
    arrays.check_length(values, "heads", len(cumulative))
    steps = np.diff(cumulative, prepend=0.0)
    if len(bad := np.flatnonzero(~((values >= 0) & (values < steps * (1 + 1e-9))))):
        raise InputError(
            f"the head of exit {bad[0]} must cost between 0 and what the exit adds, {steps[bad[0]]:g}, got "
            f"{values[bad[0]]:g}"
        )
    return arrays.frozen(values.copy())
