"""Routers: whom to ask, and whether to ask on, decided for each input by what is known of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from exeunt._support.arrays import Floats, check_delta, places_of
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.policy.allocation_search import beats
from exeunt.policy.calibration import ALWAYS, NEVER, RankedInMemory, Thresholds, exits_under
from exeunt.policy.certificate_search import SMALLEST_DELTA, Costed, most_expensive_plan, with_highest
from exeunt.policy.ensemble_fitting import ANSWERS
from exeunt.policy.watched_cells import cells_of_first_exit
from exeunt.rules.cascade import cascade, check_models, noting_reference, noting_unasked, right_within
from exeunt.rules.router_plans import (
    DEVIATIONS,
    FAR,
    NEAR,
    Plan,
    Seen,
    learned_router,
    told_models,
)
from exeunt.score.tie_breaking import Ties
from exeunt.trace import CascadeTrace, check_disjoint
from exeunt.trace.groups import mean, n_groups

_FEWEST = 40
_SURELY = 2.0
"""By how many standard errors a router must answer fit inputs better than a cascade."""


def router(
    fit: CascadeTrace,
    calibrate: CascadeTrace,
    *,
    budget: float | str,
    reference: str | None = None,
    seed: int = 0,
    delta: float | None = None,
    ties: Ties = "content",
) -> Policy:
    """Ask one model, chosen for each input by its features.

    The traces have features (`CascadeTrace.with_features`). It is `cascade_router` with paths of one model, which is
    what there is to choose where models say nothing of how sure they are. See there for the options.
    """
    _check(fit, calibrate, delta)
    if not told_models(fit):
        raise InputError(
            "a router looks at features of the input, and these traces have none: give them with "
            "models.with_features(name, features, cost=...), or for a table with --features, or take cascade_router, "
            "which looks at answers"
        )
    return _made("router", fit, calibrate, budget, delta, reference, seed, ties, "own", depth=1)


def cascade_router(
    fit: CascadeTrace,
    calibrate: CascadeTrace,
    *,
    budget: float | str,
    answer: str = "auto",
    reference: str | None = None,
    order: Sequence[str] | None = None,
    seed: int = 0,
    delta: float | None = None,
    ties: Ties = "content",
) -> Policy:
    """Decide for each input which model to ask, and after each answer whether to ask on and whom.

    With what is known so far, z, it predicts the value V of answering now and of each model that may follow: the
    quality of the answer in the end, less the further cost at a price per unit; and it does what has the largest
    E[V | z] (docs/explanation/method.md; fitted Q-iteration, Ernst et al. 2005, along the paths through models in the
    order of their prices). z is features of the input, if there are any (`CascadeTrace.with_features`, whose cost
    counts), and the outputs on the path: a model may be skipped at any point. An input whose features are like those of
    no fit input is sent to the model that answers best on the fit part.

    The fit part gives the price at which the mean cost is the budget, and `calibrate` a common threshold: an input is
    answered where answering is worth so much more than going on. It is the most generous one that keeps the budget, in
    expectation or, with `delta`, with a certificate: P(mean cost <= budget) >= 1 - delta (see
    `most_expensive_plan`). Where paths are of one model, `calibrate` chooses the price.
    `cheapest(policy="cascade_router")` certifies a loss. Where no router answers the fit inputs better than a `cascade`
    by two standard errors, it is that cascade.

    `budget`, `reference`: as for `cascade`, and so is `order`, of a cascade in its place. A `PolicySet` needs the order
    of prices, since routers ask in it. `answer`: "own", each model's own; "ensemble", that of all models on the
    path; "auto", the better of both on held-out fit inputs. `seed`: of folds, landmarks and the order of tests.

    Raises InputError for traces without labels or losses, and as `cascade` does; InfeasibleBudget for a budget that
    cannot be kept.
    """
    _check(fit, calibrate, delta)
    if answer not in ANSWERS or answer == "best":
        raise InputError(f"answer must be 'own', 'ensemble' or 'auto', got {answer!r}")
    amount = fit.answering.budget(budget, reference=reference)
    learned = learned_router(fit, answer, None, seed)
    if not _router_is_better(
        learned.by_cost(amount, calibrate.n).plan(amount), fit, amount, answer, order, seed
    ):
        options: dict[str, Any] = {"reference": reference, "delta": delta, "seed": seed, "ties": ties}
        in_a_row = cascade(fit, calibrate, budget=amount, answer=answer, order=order, **options)
        reason = "It asks models in a row: no router answers the fit inputs better."
        return replace(
            in_a_row, name="cascade_router", notes={**in_a_row.notes, "cascade_router": {"text": reason}}
        )
    return _made("cascade_router", fit, calibrate, budget, delta, reference, seed, ties, answer, depth=None)


def _check(fit: CascadeTrace, calibrate: CascadeTrace, delta: float | None) -> None:
    check_models(fit, calibrate)
    if delta is not None:
        check_delta(delta, low=SMALLEST_DELTA)
    if not isinstance(calibrate, CascadeTrace):
        raise InputError("a router is calibrated on a CascadeTrace, in memory")
    if not fit.has_loss:
        raise InputError(
            "a router learns how good answers are, and the fit part has no labels: give label=... or losses"
        )
    if fit.n < _FEWEST:
        raise InputError(
            f"a router learns from at least {_FEWEST} inputs, and the fit part has {fit.n}: give more, or take cascade"
        )
    check_disjoint(fit[fit.names[0]], calibrate[calibrate.names[0]])


def _made(
    name: str,
    fit: CascadeTrace,
    calibrate: CascadeTrace,
    budget: float | str,
    delta: float | None,
    reference: str | None,
    seed: int,
    ties: Ties,
    answer: str,
    *,
    depth: int | None,
) -> Policy:
    amount = fit.answering.budget(budget, reference=reference)
    learned = learned_router(fit, answer, depth, seed)
    by_cost = learned.by_cost(amount, calibrate.n)
    at_budget = by_cost.plan(amount)
    by_inputs = {id(part): learned.seen(part, ties, seed) for part in (fit, calibrate)}

    def costed(plan: Plan, inputs: CascadeTrace) -> Costed:
        return _on_paths(plan, by_inputs[id(inputs)])

    on_fit = costed(at_budget, fit)
    limits_at_budget = [*_limits(at_budget, on_fit, amount, calibrate.n)]
    # Thresholds are of no use where nothing follows, or where the first answers cost too much already.
    by_thresholds = (
        len(limits_at_budget) > 1 and mean(on_fit.paid(limits_at_budget[0]), fit.groups) < by_cost.near[0]
    )

    def plans() -> Iterator[tuple[tuple[Plan, Thresholds], Floats]]:
        if by_thresholds:
            of_plan = costed(at_budget, calibrate)
            yield from (((at_budget, limit), of_plan.paid(limit)) for limit in limits_at_budget)
            return
        for plan in by_cost.plans():
            natural = _common(plan, (0.0, 0.0))
            yield (plan, natural), costed(plan, calibrate).paid(natural)

    cost = fit.along(learned.steps, reference=reference).cost
    highest = with_highest(cost, by_inputs[id(fit)].costs, by_inputs[id(calibrate)].costs, delta)
    (plan, limits), fields = most_expensive_plan(
        plans(), highest, amount, calibrate.n, calibrate.groups, delta, seed
    )
    parts = costed(plan, fit), costed(plan, calibrate)
    shares = [
        np.bincount(exits_under(part.scores, part.ties, limits), minlength=len(plan.steps)) for part in parts
    ]
    watched = None
    # Watched is the score at the first exit, if all inputs have one, and the same under all plans that were tried.
    if by_thresholds and 0 not in plan.score.known.silent:
        ranked = RankedInMemory(parts[1].scores, parts[1].ties)
        watched = cells_of_first_exit(ranked, limits, calibrate.groups, seed)
    policy = Policy(
        name=name,
        score=plan.score,
        rates=shares[0] / fit.n,
        limits=limits,
        counts=shares[1],
        budget=amount,
        cost=fit.along(plan.steps, reference=reference).cost.means,
        n_calibration=calibrate.n,
        seed=seed,
        ties=ties,
        n_groups=n_groups(calibrate.groups),
        cascade=plan.steps,
        answer=plan.answer,
        watched=watched,
        **fields,
    )
    reason = "is not asked: at this budget no input of the fit part gains enough by it."
    return noting_unasked(
        noting_reference(policy, reference),
        {name: f"{name} {reason}" for name in fit.names if name not in policy.models},
    )


def _router_is_better(
    plan: Plan, fit: CascadeTrace, amount: float, answer: str, order: Sequence[str] | None, seed: int
) -> bool:
    """Return whether a router answers fit inputs better than the cascade does that would be chosen in its place."""
    rows, right = right_within(fit.answering, amount, answer, seed, None if order is None else tuple(order))
    return beats(plan.right[places_of(fit.row, rows)], right, by=_SURELY)


def _on_paths(plan: Plan, inputs: Seen) -> Costed:
    """Return inputs with their scores at the exits that they come to if they are answered as late as possible.

    Other exits have NaN, which is never at least a threshold.
    """
    scores = np.full((len(inputs.ties), len(plan.kept)), np.nan)
    came = np.zeros(scores.shape, dtype=np.bool_)
    came[:, 0] = True
    for exit_, place in enumerate(plan.kept):
        score, follows = plan.score.decided(exit_, inputs.columns[place], inputs.unlike.get(place))
        scores[:, exit_] = np.where(came[:, exit_], score, np.nan)
        for k in plan.score.following[exit_]:
            came[:, k] = came[:, exit_] & (follows == k)
    return Costed(scores, inputs.ties, inputs.costs[:, plan.kept], inputs.groups)


def _common(plan: Plan, pair: tuple[float, float]) -> Thresholds:
    """Return thresholds under which inputs are answered where (advantage, tie) is at least this pair."""
    silent = plan.score.known.silent
    return Thresholds.of(
        [
            (NEVER, NEVER) if exit_ in silent else pair if following else (ALWAYS, ALWAYS)
            for exit_, following in enumerate(plan.score.following)
        ]
    )


def _limits(plan: Plan, fit: Costed, amount: float, n: int) -> Iterator[Thresholds]:
    """Yield thresholds from the cheapest up: an input is answered where (advantage, tie) is at least a common pair.

    The advantages are those for one price, at which the mean cost is about the budget; the closer to it, the closer
    together the pairs are. `n`: calibration inputs.
    """
    answering = np.array([bool(some) for some in plan.score.following])
    answering[list(plan.score.known.silent)] = False
    inner = fit.scores[:, answering]
    of_inner = np.stack([inner, np.broadcast_to(fit.ties[:, None], inner.shape)], axis=-1)[~np.isnan(inner)]
    pairs = np.append(of_inner[np.lexsort(of_inner.T[::-1])], [[NEVER, NEVER]], axis=0)

    def limits(k: int) -> Thresholds:
        """Return the thresholds under which the k lowest pairs are not answered."""
        return _common(plan, tuple(pairs[k]))

    def cost(k: int) -> float:
        return float(mean(fit.paid(limits(k)), fit.groups))

    def dearest(budget: float) -> int:
        return max(bisect_right(range(len(pairs)), budget, key=cost) - 1, 0)

    spread = fit.paid(limits(dearest(amount))).std() * (1 / n + 1 / len(fit.ties)) ** 0.5
    near = amount + spread * np.linspace(*DEVIATIONS, NEAR)
    amounts = np.append(np.linspace(cost(0), near[0], FAR, endpoint=False), near)
    for k in sorted({0, *map(dearest, amounts.tolist())}):
        yield limits(k)
