"""What a plan is worth on units that are held out, per request, and what one would do otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from exeunt._support.arrays import Booleans, Floats
from exeunt.evaluation.one_split import mixture_curve
from exeunt.gateway.evidence import Evidence
from exeunt.policy import Policy
from exeunt.stream.ratios import LOSSES, Interval, RatioSums
from exeunt.trace import CascadeTrace


class Way(NamedTuple):
    """A way to answer: its mean grade, and its mean cost in US dollars per request."""

    name: str
    grade: float
    cost: float


@dataclass(frozen=True)
class Measured:
    """What a plan is worth on `requests` of `units` that had no part in it; intervals are of 95%, over all looks.

    `missing`: requests of which something is missing, which are left out here, and count as lost in tests. `saved`: of
    the reference's cost, a share; `lost`: of the grade, per request; `lost_answered`: per request that the policy
    answers; `lost_per_unit`: a mean over units. `cost`: US dollars per request. `may_answer`: the share of these
    requests that the policy may answer, and `money` of their cost at the reference. `shares`: of the requests, by the
    model that answers. `ways`: the plan, then what one would do otherwise.
    """

    units: int
    requests: int
    missing: int
    saved: Interval | None
    lost: Interval | None
    lost_answered: Interval | None
    lost_per_unit: float
    cost: float
    reference_cost: float
    may_answer: float
    money: float
    shares: dict[str, float]
    ways: tuple[Way, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows: the plan beside what one would do otherwise."""
        header = ["way to answer", "mean grade", "usd per 1,000", "of the reference's"]
        return header, [
            [way.name, f"{way.grade:.3f}", f"{1000 * way.cost:.4g}", f"{way.cost / self.reference_cost:.1%}"]
            for way in self.ways
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {**self.__dict__, "ways": [way._asdict() for way in self.ways]}


def measured(policy: Policy, rows: int, evidence: Evidence) -> Measured | None:
    """Return what a plan is worth that answers the first `rows` requests of a unit; None if nothing is known."""
    trace, in_trace = evidence.trace, evidence.place >= 0
    if trace is None:
        return None
    lost, cost, _ = evidence.outcomes(policy)
    outside = evidence.outside(policy)
    complete = (in_trace & evidence.graded) | (outside & evidence.has_reference)
    reference = np.where(complete, evidence.reference_cost, 0.0)
    answers = (evidence.row < rows) & ~outside & complete
    lost, cost = np.where(answers, lost, 0.0), np.where(answers, cost, reference)
    weight, (later, later_cost) = evidence.weight[evidence.unit] * complete, evidence.later
    ones = complete.astype(float)
    sizes = np.bincount(evidence.unit, weights=ones, minlength=evidence.n_units)
    per_unit = np.bincount(evidence.unit, weights=lost, minlength=evidence.n_units) / np.maximum(sizes, 1)
    saved = _ratio(evidence, reference - cost, reference, later_cost)
    if saved is not None:  # nothing costs less than nothing
        saved = saved._replace(high=min(saved.high, 1.0))
    requests = float(weight.sum() + evidence.weight @ later)
    paid_later = float(evidence.weight @ later_cost)
    shares = _shares(policy, evidence, answers, weight)
    ways = _ways(trace, evidence, weight[in_trace], shares)
    of_reference = next(way.grade for way in ways if way.name == f"{evidence.reference} alone")
    mean_cost, mean_lost = float(weight @ cost + paid_later) / requests, float(weight @ lost) / requests
    own = Way(f"this policy ({policy.name})", of_reference - mean_lost, mean_cost)
    best_pair = _best_pair([way for way in ways if way.name.endswith(" alone")], mean_cost)
    return Measured(
        units=evidence.n_units,
        requests=int(complete.sum() + later.sum()),
        missing=int((~complete).sum()),
        saved=saved,
        lost=_ratio(evidence, lost, ones, later, extremes=LOSSES),
        lost_answered=_ratio(evidence, lost, answers.astype(float), extremes=LOSSES),
        lost_per_unit=float(np.average(per_unit, weights=evidence.weight)),
        cost=mean_cost,
        reference_cost=float(weight @ reference + paid_later) / requests,
        may_answer=float(weight @ answers) / requests,
        money=float(weight @ (answers * reference)) / float(weight @ reference + paid_later),
        shares=shares,
        ways=(own, *ways, best_pair),
    )


def _ratio(
    evidence: Evidence,
    over: Floats,
    under: Floats,
    later: Floats | None = None,
    extremes: tuple[float, ...] = (),
) -> Interval | None:
    """Return the ratio of two sums over rows, with an interval over units. `later` (u,): adds to the second sum.
    `extremes`: see `RatioSums.ratio`.

    It is for all looks: it is printed once the plan has passed, which is a moment that its units chose.
    """
    sums = RatioSums()
    above, below = (
        np.bincount(evidence.unit, weights=weights, minlength=evidence.n_units).astype(float)
        for weights in (over, under)
    )
    if later is not None:
        below += later
    for unit, x, y in zip(evidence.units, above.tolist(), below.tolist(), strict=True):
        sums.add(x, y, unit.probability)
    return sums.ratio(extremes, all_looks=True)


def _shares(policy: Policy, evidence: Evidence, answers: Booleans, weight: Floats) -> dict[str, float]:
    """Return the share of the requests that each model answers, the largest first."""
    answering = evidence.answering(policy)
    shares: dict[str, float] = {evidence.reference: float(evidence.weight @ evidence.later[0])}
    for row in np.flatnonzero(weight).tolist():
        name = (answering[row] if answers[row] else "") or evidence.reference
        shares[name] = shares.get(name, 0.0) + float(weight[row])
    total = sum(shares.values())
    largest_first = sorted(shares, key=lambda name: -shares[name])
    return {name: shares[name] / total for name in largest_first if shares[name]}


def _ways(trace: CascadeTrace, evidence: Evidence, weight: Floats, shares: dict[str, float]) -> list[Way]:
    """Return each model alone, and the same shares at random, on the rows of which all is known."""
    places = np.argsort(evidence.place[evidence.place >= 0])
    weight = weight[places]
    grades, costs = {}, {}
    for name in trace.answering.names:
        grades[name] = float(weight @ trace[name].quality[:, 0] / weight.sum())
        costs[name] = float(weight @ trace[name].cost.of_inputs(trace.n)[:, 0] / weight.sum())
    at_random = [sum(share * of.get(name, 0.0) for name, share in shares.items()) for of in (grades, costs)]
    return [
        *(Way(f"{name} alone", grades[name], costs[name]) for name in grades),
        Way("the same shares at random", *at_random),
    ]


def _best_pair(alone: list[Way], cost: float) -> Way:
    """Return the mixture of two models by lot, at about this cost, that has the best grade."""
    by_cost = sorted(alone, key=lambda way: way.cost)
    costs, grades = np.array([way.cost for way in by_cost]), np.array([way.grade for way in by_cost])
    grade, spent = mixture_curve(costs, grades, grades, np.array([max(cost, costs[0])]))
    return Way("the best pair mixed at random", float(grade[0]), float(spent[0]))
