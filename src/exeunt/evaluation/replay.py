"""Replay a policy on recorded outputs: its accuracy, its mean cost, and which exits answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers
from exeunt._support.text import counted, html_table, text_table
from exeunt.errors import InputError
from exeunt.guarantees.confidence_intervals import (
    NORMAL_95,
    is_right_or_wrong,
    weighted_interval,
    wilson_interval,
)
from exeunt.policy.exchangeability import difference
from exeunt.trace.grades import named
from exeunt.trace.groups import Groups, counts_of, weights_text

if TYPE_CHECKING:
    from exeunt.costs.cost_model import CostModel
    from exeunt.policy import Policy
    from exeunt.trace import ExitTrace
    from exeunt.trace.cascade_trace import CascadeTrace

Interval: TypeAlias = "tuple[float, float]"

_BAR = 24  # characters


@dataclass(frozen=True, eq=False)
class Result:
    """The result of answering `n` inputs at given exits.

    `accuracy` in [0, 1] and its 95% interval, None on unlabelled traces; where answers are graded, or compared with a
    reference, it is their mean quality, which `measure` names. `cost`: mean cost per input, in the unit of the costs,
    with its 95% normal interval. `shares` (m,): share answered per exit. `exits` (n,): exit of each input. `exit_names`
    (m,): as tables show them. `budget`: the mean cost allowed, if there was a limit. `warning`: how the inputs differ
    from the calibration inputs, so that the policy's guarantee does not describe them; "" if they do not (see
    `evaluate`).
    `caveat`: that the policy was made from some of these inputs, and looks better than on others; "" if not known.
    `groups`: of the inputs, if they come in groups. All means are then weighted as the guarantees are, and intervals
    are t intervals over groups (cluster-robust).
    """

    name: str
    exits: Integers
    shares: Floats
    cost: float
    cost_interval: Interval
    accuracy: float | None
    accuracy_interval: Interval | None
    cost_model: CostModel
    exit_names: tuple[str, ...]
    budget: float | None = None
    warning: str = ""
    caveat: str = ""
    groups: Groups | None = None
    measure: str = "accuracy"

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(self.exits)

    @property
    def saved(self) -> float:
        """Share of the full cost that was saved, below 1; of a cascade see `CostModel.reference`."""
        return 1.0 - self.cost_model.share(self.cost)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers in JSON-able form, without the exit of each input."""
        names = ("n", "accuracy", "accuracy_interval", "cost", "cost_interval", "budget", "saved")
        return {
            "policy": self.name,
            **{name: getattr(self, name) for name in names},
            **counts_of(self.groups),
            **named(self.measure),
            "unit": self.cost_model.unit,
            "shares": self.shares.tolist(),
            "warning": self.warning,
        }

    def __str__(self) -> str:
        warnings = [f"WARNING: {text}" for text in (self.warning, self.caveat) if text]
        return "\n".join([*self._lines(), text_table(*self._table()), *warnings])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        warnings = [f"<p><strong>{escape(text)}</strong></p>" for text in (self.warning, self.caveat) if text]
        return html_table("; ".join(self._lines()), *self._table()) + "".join(warnings)

    def _lines(self) -> list[str]:
        model = self.cost_model
        low, high = self.cost_interval
        accuracy = "unlabelled"
        if self.accuracy is not None and self.accuracy_interval is not None:
            a, b = self.accuracy_interval
            accuracy = f"{self.measure} {self.accuracy:.2%} [{a:.2%}, {b:.2%}]"
        allowed = "" if self.budget is None else f" of {model.show(self.budget)} allowed"
        cost = (
            f"mean cost {model.show(self.cost)} [{model.show(low)}, {model.show(high)}]{allowed}, "
            f"{round(self.saved, 3) + 0.0:.1%} of {model.whole} saved"  # the mean of equal costs is not quite one
        )
        on = counted(self.n, "input")
        if self.groups is not None:
            on += f" in {counted(self.groups.n, 'group')} ({weights_text(self.groups.rows_per_group)})"
        return [f"{self.name} on {on}: {accuracy}", cost]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        size, unit = self.cost_model.scale
        header = ["exit", f"cost ({unit})", "share", " " * _BAR]
        rows = [
            [name, f"{cost / size:.4g}", f"{share:.2%}", ("█" * round(share * _BAR)).ljust(_BAR)]
            for name, cost, share in zip(
                self.exit_names, self.cost_model.cumulative, self.shares, strict=True
            )
        ]
        return header, rows


def evaluate(
    policy: Policy,
    inputs: ExitTrace | CascadeTrace,
    *,
    calibration: ExitTrace | CascadeTrace | None = None,
) -> Result:
    """Replay a policy on a trace, or on the models of its cascade, and measure it.

    Labels are not needed for cost and shares. The result has a `warning` if the inputs are not exchangeable with the
    calibration inputs (p < 0.001): then no guarantee of the policy describes them. How many inputs leave at each exit
    is compared with the policy's counts; with `calibration`, the inputs that the policy was calibrated on, scores and
    correctness are compared too, which shows more (see `exeunt.policy.exchangeability`).
    It has a `caveat` if the policy was fitted or calibrated on some of these rows.

    Raises InputError if the trace is empty or has another number of exits or other costs.
    """
    result, trace = replayed(policy, inputs)
    calibrated_on = None if calibration is None else policy.along(calibration)
    differing = difference(policy, result.exits, trace, calibrated_on)
    warning = "" if differing is None else str(differing)
    return replace(result, warning=warning, caveat=_seen(policy, trace))


def replayed(policy: Policy, inputs: ExitTrace | CascadeTrace) -> tuple[Result, ExitTrace]:
    """Return the result without the tests for a warning, which take as long as the rest, and the trace of the exits."""
    trace = policy.along(inputs)
    if trace.cost != policy.cost:
        raise InputError(
            f"the policy was made for {policy.cost} but the trace has {trace.cost}: "
            "evaluate on a trace of the same network and unit"
        )
    answered = policy.answer.on(policy.priced(inputs))
    result = score_exits(answered, policy.route(trace), name=policy.name, budget=policy.limit)
    return replace(result, exit_names=policy.exit_names), trace


def _seen(policy: Policy, trace: ExitTrace) -> str:
    """Return that a policy was made from rows of a trace, by those that it keeps (`ExitTrace.some_rows`); else ""."""
    for how, rows in policy.notes.get("rows", {}).items():
        if shared := np.isin(np.array(rows, dtype=np.uint64), trace.row).mean():
            return (
                f"About {shared:.0%} of the inputs that the policy was {how} on are among these, where it looks better "
                "than on inputs to come: evaluate it on others, such as the test part of trace.split(...). If they are "
                "others, give them other ids."
            )
    return ""


def score_exits(
    trace: ExitTrace, exits: ArrayLike, *, name: str = "routing", budget: float | None = None
) -> Result:
    """Measure any routing (n,) of a trace, such as that of `route_batch`.

    Raises InputError if the trace is empty, or an exit is not one of 0..m-1.
    """
    if trace.n == 0:
        raise InputError("nothing to evaluate: the trace is empty")
    exits = arrays.integers(exits, "exits", ndim=1)
    arrays.check_length(exits, "exits", trace.n)
    if (bad := (exits < 0) | (exits >= trace.n_exits)).any():
        row = int(np.argmax(bad))
        raise InputError(f"exits must be 0 to {trace.n_exits - 1}, got {exits[row]} at row {row}")
    costs, groups = trace.cost.of_inputs(trace.n), trace.groups
    rows, weight = np.arange(trace.n), _weights(trace)
    paid, within = costs[rows, exits], (float(costs.min()), float(costs.max()))
    quality = trace.quality[rows, exits] if trace.has_loss else None
    if groups is None:
        half = NORMAL_95 * (float(paid.std(ddof=1)) / trace.n**0.5 if trace.n > 1 else 0.0)
        mean = float(paid.mean())
        cost_interval = max(mean - half, within[0]), min(mean + half, within[1])
    else:
        mean, cost_interval = weighted_interval(groups.means(paid), groups.weight, within=within)
    accuracy, interval = (None, None) if quality is None else mean_quality(quality, groups)
    return Result(
        name=name,
        exits=exits,
        shares=np.bincount(exits, weight, trace.n_exits) / weight.sum(),
        cost=mean,
        cost_interval=cost_interval,
        accuracy=accuracy,
        accuracy_interval=interval,
        cost_model=trace.cost,
        exit_names=tuple(map(str, range(trace.n_exits))),
        budget=budget,
        groups=groups,
        measure=trace.measure,
    )


def mean_quality(quality: Floats, groups: Groups | None) -> tuple[float, Interval]:
    """Return the mean of qualities (n,) with its 95% interval: Wilson's where inputs are answered right or wrong."""
    if groups is None and is_right_or_wrong(quality):
        return float(quality.sum()) / len(quality), wilson_interval(float(quality.sum()), len(quality))
    means, weight = (
        (quality, np.ones(len(quality))) if groups is None else (groups.means(quality), groups.weight)
    )
    mean, interval = weighted_interval(means, weight, within=(0.0, 1.0))
    if interval[0] == interval[1]:  # units that are all alike do not show what others are like
        interval = wilson_interval(mean * len(means), len(means))
    return mean, interval


def _weights(trace: ExitTrace) -> Floats:
    """Return the weight of each input in a mean, (n,)."""
    return np.ones(trace.n) if trace.groups is None else trace.groups.row_weight


def oracle(trace: ExitTrace, budget: float | str | None = None) -> Result:
    """Return what the best possible policy would reach: it knows how good each exit's answer is (Figure 8).

    Without a budget every input answers at its cheapest best exit: the cheapest correct one, or the first if none is
    correct. With one, inputs run on to better exits in order of what that costs per quality gained, as far as the mean
    cost allows. Where gains differ, as those of graded answers do, the last step that is not affordable is taken in
    part: an upper bound. No policy that answers with the prediction of a single exit can be more accurate within the
    budget on this trace; an ensemble can.
    """
    quality, cost = trace.quality, trace.cost.of_inputs(trace.n)
    if budget is None:
        return score_exits(trace, quality.argmax(axis=1), name="oracle")
    allowed, weight = trace.cost.budget(budget), _weights(trace)
    row, to, gain, extra = _steps_up(quality, cost)
    order = np.argsort(extra / gain, kind="stable")
    row, to, gain, paid = row[order], to[order], gain[order], (weight[row] * extra)[order]
    spent = (weight * cost[:, 0]).sum() + np.cumsum(paid)
    allowance = allowed * weight.sum() * (1 + 1e-12)
    taken = int(np.searchsorted(spent, allowance, side="right"))
    exits = np.zeros(trace.n, dtype=np.int64)
    np.maximum.at(exits, row[:taken], to[:taken])
    best = score_exits(trace, exits, name="oracle", budget=allowed)
    if taken == len(row) or np.ptp(gain) == 0:
        return best
    part = (allowance - spent[taken]) / paid[taken] + 1
    more = float(part * weight[row[taken]] * gain[taken] / weight.sum())
    low, high = best.accuracy_interval or (0.0, 1.0)
    return replace(
        best,
        accuracy=(best.accuracy or 0.0) + more,
        accuracy_interval=(min(low + more, 1.0), min(high + more, 1.0)),
        cost=allowed,
    )


def _steps_up(quality: Floats, cost: Floats) -> tuple[Integers, Integers, Floats, Floats]:
    """Return the steps of each input from exit to exit along the upper hull of (cost, quality), from the first exit on.

    `quality`, `cost` (n, m). A step is a row, the exit that it leads to, the quality gained, and the cost paid for it.
    The steps of a row are in order, and each gains less per cost than the one before.
    """
    rows, here = np.arange(len(quality)), np.zeros(len(quality), dtype=np.int64)
    steps = []
    for _ in range(quality.shape[1]):
        gain = quality[rows] - quality[rows, here][:, None]
        extra = cost[rows] - cost[rows, here][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(gain > 0, extra / gain, np.inf)  # no exit before `here` gains anything
        there = rate.argmin(axis=1)
        up = np.isfinite(rate[np.arange(len(rows)), there])
        place = np.flatnonzero(up), there[up]
        rows, here = rows[up], there[up]
        steps.append((rows, here, gain[place], extra[place]))
    return tuple(np.concatenate(column) for column in zip(*steps, strict=True))  # type: ignore[return-value]
