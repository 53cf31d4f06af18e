"""Proposals: plans that the fit half of a gateway's units suggests, which the other half then tests.

All of a proposal comes from the units that fit: how many requests of a unit a policy answers, the kind of policy, the
plans and their order. So the units that are held out are independent of it (docs/explanation/live-traffic.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt.errors import InfeasibleBudget
from exeunt.gateway.config import Promise
from exeunt.gateway.evidence import Evidence, RowOutcomes
from exeunt.policy import Policy
from exeunt.policy.calibration import RankedInMemory
from exeunt.policy.watched_cells import cells_of_first_exit
from exeunt.rules.by_name import rule_for
from exeunt.rules.promises import ROUNDING
from exeunt.score.tie_breaking import tie_breaks
from exeunt.stream import bets
from exeunt.trace import CascadeTrace
from exeunt.trace.derived import score_matrix
from exeunt.trace.groups import n_units
from exeunt.trace.splitting import shaping_and_testing_rows

FEWEST = 150
"""Of fewer units that fit, a router cannot learn, and hardly any loss can be certified."""
_FEWEST_TO_LEARN = 60
"""Units of which a policy is made, at least."""
_ROWS = (1, 2, 3, 5, 8, 13, 20, 30, 50)
"""How many requests of a unit a policy may answer."""
_PLANS = 12
_FOLDS = 2
_SHAPING = 0.2
"""The share of the units that fit which thresholds come from."""
SAVES = 0.05
"""A plan that saves less of the reference's cost is not what anybody waits for."""
LOSS, BUDGET, EARLY_LOSS, EARLY_WORSE, TAIL = (
    "max_loss",
    "budget",
    "max_early_loss",
    "max_early_worse",
    "max_tail",
)
"""The promises."""


@dataclass(frozen=True)
class Proposal:
    """Plans in the order in which they are tested. `rows`: of a unit that they answer; `kind`: of their policies.

    `needed`: about how many units each plan takes to be certified; `saved`: what it saves of the reference's cost over
    all requests, of which each costs `reference_cost` US dollars there. These are estimates by the units that fit.
    """

    rows: int
    kind: str
    plans: tuple[Policy, ...]
    needed: tuple[float, ...]
    saved: tuple[float, ...]
    reference_cost: float


class _Candidate(NamedTuple):
    """A policy's kind at a budget, by units that it did not learn from: what becomes of each row."""

    budget: float
    outcomes: RowOutcomes

    @classmethod
    def unjudged(cls, budget: float, n: int) -> _Candidate:
        """Return a candidate of which nothing is known yet: NaN for each row."""
        return cls(budget, RowOutcomes(np.full(n, np.nan), np.full(n, np.nan), np.ones(n, bool)))


class _Prospect(NamedTuple):
    """What candidates are worth that answer so many rows: the share of the cost that is saved, and the units needed."""

    rows: int
    saved: Floats
    needed: Floats


def limits_of(promise: Promise) -> dict[str, float | str]:
    """Return the limits of a promise by name: of losses and shares, and of costs as people write them."""
    limits: dict[str, float | str | None] = {
        LOSS: promise.max_loss,
        BUDGET: promise.budget,
        EARLY_LOSS: promise.max_early_loss,
        EARLY_WORSE: promise.max_early_worse,
        TAIL: None if promise.tail is None else f"{promise.tail[1]!r} above {promise.tail[0]}",
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def values_of(
    promise: str,
    limit: float | str,
    share: float,
    evidence: Evidence,
    outcomes: RowOutcomes,
    rows: int,
) -> tuple[Floats, float]:
    """Return Z of each unit, (u,), and the most that it can be, for a share of a promised limit (see `bets`).

    `outcomes`: what becomes of each row under the plan, which answers the first `rows` of a unit. To a promise of
    answers without the reference, other rows change nothing. A tail is of the rows that the policy may answer, as a
    mean cost is.
    """
    lost, cost, early = outcomes
    first = evidence.row < rows
    counted = {LOSS: lost, EARLY_LOSS: lost, EARLY_WORSE: (lost > 0).astype(np.float64)}
    if promise in counted:
        of_loss = share * float(limit)
        if promise != LOSS:
            first &= early
        values = bets.loss_values(
            counted[promise][first], evidence.unit[first], evidence.n_units, of_loss, rows
        )
        return values, 1 - of_loss
    first &= ~evidence.over_cap
    if promise == TAIL:
        of_requests, _, amount = str(limit).partition(" above ")
        most = allowed_cost(amount, evidence.least_reference_cost) * (1 + ROUNDING)
        dear = (cost > most).astype(np.float64)
        of_tail = share * float(of_requests)
        values = bets.loss_values(dear[first], evidence.unit[first], evidence.n_units, of_tail, rows)
        return values, 1 - of_tail
    allowed = allowed_cost(limit, evidence.least_reference_cost) * share
    values = bets.cost_values(
        cost[first], allowed[first], evidence.unit[first], evidence.n_units, rows, evidence.cap
    )
    return values, 1.0


def allowed_cost(budget: float | str, reference: Floats) -> Floats:
    """Return what each row may cost on average, (n,), by a budget such as "40%" of the reference's, or "0.002 usd"."""
    share, amount = Promise.parts_of(str(budget))
    return share * reference + amount


def propose(
    evidence: Evidence, promise: Promise, weight: float, *, most_rows: int, seed: int
) -> Proposal | None:
    """Return what the units of the fit half suggest; None if nothing is worth a test.

    `weight`: of the proposal among all. `most_rows`: of a unit, that are compared.
    """
    trace = evidence.for_learning()
    if trace is None:
        return None
    level = math.log(len(bets.STAKES) / (promise.delta * weight))
    kind = _best_kind(evidence, trace, seed)
    candidates = _candidates(kind, evidence, _budgets(trace, evidence.reference), seed)
    prospects = [_prospect(rows, candidates, evidence, promise, level) for rows in _ROWS if rows <= most_rows]
    best = min(prospects, key=lambda prospect: _rank(prospect, 2 * evidence.n_units))
    order = [k for k in np.argsort(best.needed, kind="stable").tolist() if np.isfinite(best.needed[k])]
    order = _different(order, candidates)
    policies = dict(_policies(kind, evidence, [candidates[k].budget for k in order], seed))
    worthwhile = [k for k in order if candidates[k].budget in policies]
    if not worthwhile:
        return None
    plans = tuple(policies[candidates[k].budget] for k in worthwhile)
    of_rows = evidence.weight[evidence.unit] * evidence.has_reference
    return Proposal(
        best.rows,
        kind,
        plans,
        tuple(best.needed[worthwhile].tolist()),
        tuple(best.saved[worthwhile].tolist()),
        float(of_rows @ evidence.reference_cost / of_rows.sum()),
    )


def _different(order: list[int], candidates: list[_Candidate]) -> list[int]:
    """Return those that do not do the same as one before them."""
    outcomes_so_far, different = set(), []
    for place in order:
        outcomes = b"".join(part.tobytes() for part in candidates[place].outcomes)
        if outcomes not in outcomes_so_far:
            different.append(place)
        outcomes_so_far.add(outcomes)
    return different


def watched_by(policy: Policy, held_out: Evidence) -> Policy:
    """Return a policy that is watched by its score at the first exit, in cells made of units that are held out.

    The cells do not depend on which of the plans it is. A router that looks at features first cannot be watched so.
    """
    places = held_out.firsts(policy)
    if policy.watched is None or held_out.trace is None or not len(places):
        return replace(policy, watched=None)
    trace = policy.along(held_out.trace.take(places))
    ranked = RankedInMemory(
        score_matrix(policy.score, policy.answer.on(trace)), tie_breaks(trace.keys(policy.ties), policy.seed)
    )
    return replace(policy, watched=cells_of_first_exit(ranked, policy.limits, None, policy.seed))


# -- candidates -------------------------------------------------------------------------------------------------


def _kinds(fit: CascadeTrace) -> list[str]:
    """Return the names of the kinds of policies that can differ on these records, the simplest first.

    Of one model and the reference there is but one threshold, which all kinds of cascades find.
    """
    names, kinds, has_features = fit.answering.names, ["eero"], fit.answering is not fit
    scores = [fit[name].scores[fit[name].default_score] for name in names]
    scored = any(np.ptp(score[np.isfinite(score)]) > 0 for score in scores if np.isfinite(score).any())
    if scored and len(names) > 2:
        kinds.append("auto")
    if scored and (len(names) > 2 or has_features):
        kinds.append("cascade_router")
    if has_features:
        kinds.append("router")
    return kinds


def _best_kind(evidence: Evidence, trace: CascadeTrace, seed: int) -> str:
    """Return the kind of policies that loses the least at equal budgets; the simplest that is as good by its error."""
    kinds = _kinds(trace)
    budgets = _budgets(trace, evidence.reference)[2::3]
    if len(kinds) == 1:
        return kinds[0]
    lost: dict[str, dict[float, Floats]] = {}
    for kind in kinds:
        candidates = _candidates(kind, evidence, budgets, seed)
        lost[kind] = {candidate.budget: candidate.outcomes.lost for candidate in candidates}
    common = [amount for amount in budgets if all(amount in by_budget for by_budget in lost.values())]
    best = kinds[0]
    for kind in kinds[1:] if common else ():
        gain = np.mean([lost[best][amount] - lost[kind][amount] for amount in common], axis=0)
        per_unit = np.bincount(evidence.unit, weights=gain, minlength=evidence.n_units)
        if per_unit.mean() > per_unit.std() / evidence.n_units**0.5:
            best = kind
    return best


def _budgets(fit: CascadeTrace, reference: str) -> list[float]:
    """Return budgets from below the reference's cost down to that of the cheapest model."""
    full, first = fit[reference].cost.full, fit.answering.alone.cost.first
    return [float(amount) for amount in np.linspace(full, first, _PLANS + 1, endpoint=False)[1:]]


def _candidates(kind: str, evidence: Evidence, budgets: list[float], seed: int) -> list[_Candidate]:
    """Return candidates of a kind, each row judged by a policy that learned from the units of other folds."""
    order = np.random.default_rng(seed).permutation(evidence.n_units)
    candidates = {amount: _Candidate.unjudged(amount, len(evidence.unit)) for amount in budgets}
    for fold in range(_FOLDS):
        judging = np.sort(order[fold::_FOLDS])
        training = np.sort(np.delete(order, np.s_[fold::_FOLDS]))
        rows, judged = np.isin(evidence.unit, judging), evidence.only(judging)
        for amount, policy in _policies(kind, evidence.only(training), budgets, seed):
            for part, own in zip(candidates[amount].outcomes, judged.outcomes(policy), strict=True):
                part[rows] = own
    return [candidate for candidate in candidates.values() if not np.isnan(candidate.outcomes.lost).any()]


def _policies(
    kind: str, evidence: Evidence, budgets: list[float], seed: int
) -> Iterator[tuple[float, Policy]]:
    """Yield policies of a kind for those of the budgets that can be kept.

    Where changing the model within a unit costs something, a policy is made twice: the second time at the costs that
    are expected with the changes of the first.
    """
    trace = evidence.for_learning()
    if trace is None or n_units(trace.n, trace.groups) < _FEWEST_TO_LEARN:
        return
    make = _rule(kind, trace, evidence.reference, seed)
    for amount in budgets:
        with suppress(InfeasibleBudget):
            policy = make(budget=amount)
            dearer = evidence.for_learning(policy) if evidence.switches_cost else None
            if dearer is not None:
                policy = _rule(kind, dearer, evidence.reference, seed)(budget=amount)
            yield amount, policy


def _rule(kind: str, trace: CascadeTrace, reference: str, seed: int) -> Callable[..., Policy]:
    """Return what makes policies of a kind for budgets, by the same records."""
    trace = _as_seen(trace)
    shaping, learning = shaping_and_testing_rows(trace.n, _SHAPING, seed, trace.groups, part="fit")
    learn, shape = trace.take(learning), trace.take(shaping)
    return partial(rule_for(learn, kind), learn, shape, reference=reference, seed=seed)


def _as_seen(records: CascadeTrace) -> CascadeTrace:
    """Return the records as if no request could cost more than the dearest of them.

    What a request can cost at most may be a hundred times what any did cost, which an expected cost need not count
    with: one such request more would let no policy keep a budget.
    """
    exits = {}
    for name in records.names:
        cost = records[name].cost
        highest = float(cost.of_inputs(records.n).max()) * (1 + 1e-9)
        exits[name] = records[name].with_cost(cost.bounded(highest))
    return CascadeTrace(exits)


# -- what they are worth ----------------------------------------------------------------------------------------


def _prospect(
    rows: int, candidates: list[_Candidate], evidence: Evidence, promise: Promise, level: float
) -> _Prospect:
    reference, first = evidence.reference_cost, evidence.row < rows
    weight = evidence.weight[evidence.unit] * evidence.has_reference
    later, later_cost = evidence.later
    total = float(weight @ reference + evidence.weight @ later_cost)
    requests = weight.sum() + evidence.weight @ later
    share, amount = (1.0, 0.0) if promise.budget is None else Promise.parts_of(promise.budget)
    saved, needed = [], []
    for candidate in candidates:
        # Of a row of which something is missing nothing is known to be saved.
        spent = np.where(first & (evidence.place >= 0), candidate.outcomes.cost, reference)
        saved.append(float(weight @ (reference - spent)) / total)
        within = (1 - saved[-1]) * total <= share * total + amount * requests
        units = [
            _units_needed(*values_of(name, limit, 1.0, evidence, candidate.outcomes, rows), rows, level)
            for name, limit in limits_of(promise).items()
        ]
        needed.append(max(units) if within or promise.budget is None else math.inf)
    return _Prospect(rows, np.array(saved), np.array(needed))


def _units_needed(values: Floats, highest: float, rows: int, level: float) -> float:
    """Return about how many units it takes until wealth has reached exp(level) / 4 with a chance of 80%.

    One unit more counts, of which one request is as bad as can be: of few units none may have lost yet.
    """
    return bets.units_needed(np.append(values, highest / rows), highest, level)


def _rank(prospect: _Prospect, horizon: int) -> tuple[float, float]:
    """Return what prospects are sorted by: what the cheapest plan saves that can be certified soon, then how soon."""
    soon = prospect.saved[prospect.needed <= horizon]
    worthwhile = prospect.needed[prospect.saved >= SAVES]
    return -float(np.max(soon, initial=0.0)), float(np.min(worthwhile, initial=math.inf))


_PERMUTATIONS, _AT_ONCE, _ENOUGH = 9_999, 500, 50
"""After so many permutations that are as correlated, no more are needed: the p-value is far from small."""
_NUMBERS = 5_000_000
"""Fewer permutations at once where there are so many units that they would fill the memory."""


def dependence(evidence: Evidence, seed: int) -> float:
    """Return the p-value of whether successive units of a client differ alike from the reference.

    What is compared is by how much the cheapest model's grades are below the reference's, on average over a unit. The
    products of successive units of a client are compared with those in random orders of that client's units.
    """
    losses, clients = _losses(evidence)
    return permutation_p_value(losses, clients, np.random.default_rng(seed))


def permutation_p_value(values: Floats, clients: Integers, rng: np.random.Generator) -> float:
    """Return the p-value of the sum of products of successive values (u,) of a client (u,), less their means."""
    order = np.argsort(clients, kind="stable")
    values, clients = values[order], clients[order]
    sizes = np.bincount(clients)
    values = values - (np.bincount(clients, weights=values) / np.maximum(sizes, 1))[clients]
    same = clients[1:] == clients[:-1]
    if not same.any():
        return 1.0
    observed = float(values[1:][same] @ values[:-1][same])
    as_high = tried = 0
    while tried < _PERMUTATIONS and as_high < _ENOUGH:
        n = min(_AT_ONCE, _PERMUTATIONS - tried, max(1, _NUMBERS // len(values)))
        # Clients keep their places: random numbers are sorted within each.
        places = np.argsort(rng.random((n, len(values))) + clients, axis=1)
        shuffled = values[places]
        products = (shuffled[:, 1:] * shuffled[:, :-1])[:, same].sum(axis=1)
        as_high += int((products >= observed - 1e-12).sum())
        tried += n
    return (as_high + 1) / (tried + 1)


def _losses(evidence: Evidence) -> tuple[Floats, Integers]:
    """Return the mean loss of the cheapest model over each unit's graded rows, if it has any, and its client.

    Grades that are missing say nothing: a grader that fails for an hour would make units alike.
    """
    trace = evidence.trace
    if trace is None:
        return np.empty(0), np.empty(0, np.int64)
    cheaper = [name for name in trace.answering.names if name != evidence.reference]
    cheapest = min(cheaper, key=lambda name: trace[name].cost.full)
    rows = (evidence.place >= 0) & evidence.graded
    lost = trace[evidence.reference].quality[:, 0] - trace[cheapest].quality[:, 0]
    unit = evidence.unit[rows]
    sums = np.bincount(unit, weights=lost[evidence.place[rows]], minlength=evidence.n_units)
    sizes = np.bincount(unit, minlength=evidence.n_units)
    graded = np.flatnonzero(sizes)
    names = np.array([evidence.units[k].client for k in graded.tolist()])
    return sums[graded] / sizes[graded], np.unique(names, return_inverse=True)[1]
