"""The cheapest policy that loses at most so much accuracy, with a certificate: learn, then test."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from exeunt import _arrays
from exeunt._arrays import Floats
from exeunt._text import counted
from exeunt.costs import CostModel
from exeunt.errors import Infeasible, InfeasibleBudget, InputError
from exeunt.p_values import LOSS_BOUNDS
from exeunt.policies.cascade import cascade
from exeunt.policies.catalogue import preset
from exeunt.policy import LossCertificate, Policy
from exeunt.policy.certificates import CERTAIN
from exeunt.policy.compose import compose
from exeunt.trace import CascadeTrace, ExitTrace, check_disjoint
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.cascade_trace import agreeing, single_exits
from exeunt.trace.grades import known_by
from exeunt.trace.groups import Groups, counts_of, mean, n_groups, per_unit, units_text
from exeunt.trace.splitting import rows_to_test, shaping_and_testing_rows

_SHAPING = 0.2
"""The share of the fit inputs that thresholds come from, without a budget."""


def cheapest(
    fit: ExitTrace | CascadeTrace,
    calibrate: ExitTrace | CascadeTrace,
    *,
    max_loss: float | None = None,
    agree: float | None = None,
    delta: float = 0.05,
    budget: float | str | None = None,
    policy: str | Callable[..., Policy] = "auto",
    points: int = 20,
    reference: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> Policy:
    """Return the cheapest policy whose accuracy is at most `max_loss` below that of the last exit's own answers.

    `max_loss` is 0.01 by default. Where answers are graded, the same holds of their mean quality.

    `agree`, in its place, needs no labels: at most the share 1 - `agree` of the answers differ from those of the last
    exit, or of the model `reference`, by default the most expensive one. The same holds of traces that are measured by
    agreement (`with_reference`), of which at most `max_loss` differ.

    From a `CascadeTrace` it makes cascades (see `cascade`) and measures the loss against the model `reference` alone,
    by default the one that answers best on `fit`; of equally good ones, the cheapest. With a trace of a cascade,
    `reference` names the model of its last exit.

    The guarantee holds with probability 1 - delta, over fresh inputs and the draw of `calibrate`, which must be
    labelled or graded unless agreement is measured. Inputs set aside from `fit` give the thresholds of policies at
    `points` budgets, from the full cost of the network or of the reference down, closer together where the loss on
    `fit` is near the limit; `calibrate` tests them in this order, and the first that fails ends the test (fixed-
    sequence testing, so no correction is needed). The bound, betting or Hoeffding-Bentkus, is the one that is tighter
    on `fit`.

    `max_loss` 0: only a policy that is better than the last exit, or the reference, can pass, so the test begins with
    the best policy on `fit`. If none passes, the result always gives the answers of the last exit, or asks the
    reference alone: that loses nothing, for certain.

    With `budget` the mean cost is guaranteed as well: both guarantees hold together with probability 1 - delta, half of
    which goes to each; one half of `calibrate` then gives the thresholds, and the other tests. `policy`: the name of
    one, or a callable `(fit, calibrate, *, budget, delta)`. `progress`: called with (policies made, points). The other
    options, such as `answer`, go to the policy or to `cascade`. The result carries the certificate,
    `policy.loss_certificate`.

    Raises Infeasible where no policy can be certified, saying which guarantee stands in the way.
    """
    max_loss = _checked_loss(max_loss, agree)
    _arrays.check_between(delta, "delta", 0.0, 1.0)
    if points < 1:
        raise InputError(f"points must be at least 1 budget to try, got {points}")
    fit, calibrate = _measured(fit, reference, agree), _measured(calibrate, reference, agree)
    make, notes = preset(policy), {}
    if isinstance(fit, CascadeTrace):
        reference = fit.reference or reference
        if reference is None:
            reference = fit.most_accurate
            notes = {"cheapest": {"reference": reference, "text": _chosen(fit, reference)}}
        make = partial(cascade, policy=make, reference=reference)

    def instead(inputs: ExitTrace | CascadeTrace) -> ExitTrace:
        """Return the trace whose last exit a user would ask otherwise."""
        return inputs if isinstance(inputs, ExitTrace) else inputs[str(reference)]

    check_disjoint(instead(fit), instead(calibrate))
    fit, shaped, tested = _parts(fit, calibrate, budget is None, seed)
    share, cost = delta if budget is None else delta / 2, instead(fit).cost
    if isinstance(fit, CascadeTrace):  # budgets lie between these costs
        ends = [fit.alone.cost.first, cost.full]
        cost = CostModel(ends if ends[0] < ends[1] else ends[1:], unit=fit.unit)
    # The guarantees of all policies on cost hold together.
    each = None if budget is None else delta / 2 / points
    make = partial(make, fit, shaped, delta=each, seed=seed, **options)
    lowest = cost.full + (cost.first - cost.full) * (1 - 1 / points)
    coarse = points if budget is not None or max_loss == 0 else min(points, max(2, points // 2))
    family, on_fit = _made(
        make, np.linspace(cost.full, lowest, coarse).tolist(), points, lambda one: _loss(one, fit, instead(fit)),
        0.0 if coarse == points else max_loss, progress,
    )  # fmt: skip
    if max_loss == 0 and family:
        best = int(np.argmin([mean(loss, fit.groups) for loss in on_fit]))
        family, on_fit = family[best:], on_fit[best:]
    groups = tested.groups
    bound = _tighter([per_unit(loss, fit.groups, max_loss) for loss in on_fit], max_loss, share)
    losses = [_loss(one, tested, instead(tested)) for one in family]
    p_values = [LOSS_BOUNDS[bound](per_unit(loss, groups, max_loss), max_loss, share) for loss in losses]
    passed = _passed(p_values, share)
    allowed = cost.full if budget is None else cost.budget(budget)
    within = [k for k in range(passed) if family[k].budget <= allowed * (1 + 1e-12)]
    if within:
        k = within[-1]
        lost = float(mean(losses[k], groups))
        proof = LossCertificate(
            max_loss,
            share,
            p_values[k],
            bound,
            lost,
            tested.n,
            fit.reference or reference,
            **counts_of(groups),
            measure=fit.measure,
        )
        return replace(family[k], loss_certificate=proof, notes={**family[k].notes, **notes})
    is_reference = not fit.reference or bool(instead(fit).quality[:, -1].all())
    if max_loss == 0 and allowed >= cost.full and is_reference:
        with suppress(InfeasibleBudget):
            of_cascade = reference if isinstance(fit, CascadeTrace) else None
            alone = _alone(instead(fit), instead(shaped), of_cascade, delta=each, seed=seed)
            proof = LossCertificate(
                0.0, share, 0.0, CERTAIN, 0.0, tested.n, fit.reference or reference, measure=fit.measure
            )
            return replace(alone, loss_certificate=proof, notes=notes)
    raise _infeasible(
        cost, family, losses, groups, bound, share, max_loss, passed, allowed, reference,
        fit.measure,
    )  # fmt: skip


def _checked_loss(max_loss: float | None, agree: float | None) -> float:
    """Return the loss that is allowed, of accuracy or of agreement."""
    if agree is not None:
        if max_loss is not None:
            raise InputError("give agree or max_loss, not both: agreement of 98% is a loss of 2% of it")
        if not 0 < agree <= 1:
            raise InputError(f"agree must be above 0 and at most 1, which is 100%, got {agree!r}")
        return round(1 - agree, 12)
    if max_loss != 0:
        _arrays.check_between(0.01 if max_loss is None else max_loss, "max_loss", 0.0, 1.0)
    return 0.01 if max_loss is None else max_loss


def _measured(
    inputs: ExitTrace | CascadeTrace, reference: str | None, agree: float | None
) -> ExitTrace | CascadeTrace:
    """Return the trace that measures the loss; where agreement is asked for, or measured, that with the reference."""
    if agree is None and not inputs.reference:
        return inputs
    if single_exits(inputs).n_exits == 1:
        raise InputError(
            "there is a single exit, which always agrees with itself: add an exit, or a cheaper model to ask first"
        )
    of_models = isinstance(inputs, CascadeTrace) and reference not in (None, inputs.reference)
    return agreeing(inputs, reference) if of_models or not inputs.reference else inputs


def _parts(fit: Any, calibrate: Any, all_test: bool, seed: int) -> tuple[Any, Any, Any]:
    """Return what policies learn from, what gives their thresholds, and what tests them.

    Where a budget is certified, calibration inputs give the thresholds, half of them; else fit inputs do.
    """
    if not all_test:
        rows = shaping_and_testing_rows(calibrate.n, 0.5, seed, calibrate.groups)
        return fit, calibrate.take(rows[0]), calibrate.take(rows[1])
    shaping, learning = shaping_and_testing_rows(fit.n, _SHAPING, seed, fit.groups)
    return (
        fit.take(learning),
        fit.take(shaping),
        calibrate.take(rows_to_test(calibrate.n, seed, calibrate.groups)),
    )


def _made(
    make: Callable[..., Policy],
    budgets: Sequence[float],
    points: int,
    lost: Callable[[Policy], Floats],
    limit: float,
    progress: Callable[[int, int], object] | None,
) -> tuple[list[Policy], list[Floats]]:
    """Return a policy for each budget, from the highest that is feasible down to the lowest, and what each loses.

    The highest may not be: where inputs differ in cost, the calibration inputs may cost more than the fit inputs.
    With a `limit`, further policies follow, up to `points`: between those whose losses differ most near it.
    """
    family: list[Policy] = []
    for amount in budgets:
        try:
            family.append(make(budget=amount))
        except InfeasibleBudget:
            if family:  # then lower ones are infeasible as well
                break
        if progress is not None:
            progress(len(family), points)
    losses = [lost(one) for one in family]
    while limit and len(family) < points and (k := _widest([float(loss.mean()) for loss in losses], limit)):
        family.insert(k, make(budget=(family[k - 1].budget + family[k].budget) / 2))
        losses.insert(k, lost(family[k]))
        if progress is not None:
            progress(len(family), points)
    return family, losses


def _widest(losses: Sequence[float], limit: float) -> int:
    """Return before which policy one is missing, between two whose losses differ most near the limit; 0 for none."""
    low, high = limit / 4, 1.25 * limit
    steps = [min(max(pair), high) - max(min(pair), low) for pair in pairwise(losses)]
    return int(np.argmax(steps)) + 1 if steps and max(steps) > 0 else 0


def _chosen(fit: CascadeTrace, reference: str) -> str:
    right = [f"{name} {1 - float(fit[name].risk[-1]):.1%}" for name in fit.names]
    return (
        f"The loss is measured against {reference}, the model of the highest {fit.measure} on the "
        f"{counted(fit.n, 'fit input')} "
        f"({', '.join(right)}); another can be named as the reference."
    )


def _alone(fit: ExitTrace, calibrate: ExitTrace, reference: str | None, **options: Any) -> Policy:
    """Return the policy that always gives the own answers of the last exit; `reference`: the model it belongs to."""
    last = np.eye(fit.n_exits)[-1]
    made = compose("reference", lambda _: last, fit, calibrate, budget=fit.cost.full, **options)
    return made if reference is None else replace(made, cascade=(CascadeStep(reference, fit.n_exits),))


def _loss(policy: Policy, inputs: ExitTrace | CascadeTrace, instead: ExitTrace) -> Floats:
    """Return the quality that each input loses by the policy, in [-1, 1]: 1 is a right answer, -1 a wrong one."""
    answered = policy.answer.on(inputs.along(policy.cascade)).quality
    # The reference agrees with itself, also where it is no exit of the trace.
    best = 1.0 if instead.reference else instead.quality[:, -1]
    lost: Floats = best - answered[np.arange(len(answered)), policy.route(inputs)]
    return lost


def _tighter(losses: Sequence[Floats], max_loss: float, delta: float) -> str:
    """Return the bound that certifies the cheaper policy by losses on the fit inputs, which guarantee nothing."""
    reach = {
        name: (_passed(p := [test(loss, max_loss, delta) for loss in losses], delta), -sum(p))
        for name, test in LOSS_BOUNDS.items()
    }
    return max(reach, key=lambda name: reach[name])


def _passed(p_values: Sequence[float], delta: float) -> int:
    """Return how many hypotheses are rejected in a row from the start."""
    return next((k for k, p in enumerate(p_values) if p > delta), len(p_values))


def _infeasible(
    cost: CostModel,
    family: Sequence[Policy],
    losses: Sequence[Floats],
    groups: Groups | None,
    bound: str,
    delta: float,
    max_loss: float,
    passed: int,
    allowed: float,
    reference: str | None,
    measure: str,
) -> Infeasible:
    """Return the error that names the guarantee in the way and the nearest pair that can be certified."""
    known, agrees = known_by(measure), measure == "agreement"
    instead_of, whole = "The full network", "the full cost"
    if reference is not None:
        instead_of, whole = f"{reference} alone", f"the cost of {reference} alone"

    def share(amount: float) -> str:
        return f"{cost.show(amount)} ({cost.share(amount):.1%} of {whole})"

    def at_most(loss: float) -> str:
        return f"an agreement of {100 * (1 - loss):.4g}%" if agrees else f"a loss of {100 * loss:.4g}%"

    reached = next((k for k, policy in enumerate(family) if policy.budget <= allowed * (1 + 1e-12)), None)
    if reached is None:
        smallest = family[-1].budget if family else None
        smallest_text = "none can" if smallest is None else f"the smallest that can is {share(smallest)}"
        return Infeasible(
            f"the budget stands in the way: {share(allowed)} cannot be certified with these calibration "
            f"inputs, {smallest_text}; give more of them or a higher budget",
            binding="budget",
            nearest_budget=smallest,
            nearest_max_loss=max_loss,
        )
    # The least loss, in steps of 0.1 points, that all policies down to this budget pass.
    steps = np.arange(max_loss, 1.0, 0.001).tolist()
    at = bisect_left(
        steps,
        True,
        key=lambda step: all(
            LOSS_BOUNDS[bound](per_unit(x, groups, step), step, delta) <= delta for x in losses[: reached + 1]
        ),
    )
    nearest_loss = steps[at] if at < len(steps) else None
    nearest_budget = family[passed - 1].budget if passed else None
    could = []
    if nearest_budget is not None:
        could.append(f"{at_most(max_loss)} at a budget of {share(nearest_budget)}")
    if nearest_loss is not None:
        could.append(f"{at_most(nearest_loss)} at {share(family[reached].budget)}")
    tested = units_text(len(losses[0]), n_groups(groups), known)
    return Infeasible(
        f"the {'agreement' if agrees else 'loss'} stands in the way: {tested} cannot show that at most "
        f"{100 * max_loss:.4g}% {'of the answers differ' if agrees else 'is lost'} at "
        f"{share(allowed)} by answering early; what can be shown: {' or '.join(could) or 'nothing with so few'}. More "
        f"{f'{known} inputs' if groups is None else 'groups'} show more. {instead_of} "
        + ("agrees with itself" if agrees else "loses nothing")
        + f", at its full cost: it is what {'agree=1' if agrees else 'max_loss=0'} gives where nothing better is found",
        binding="max_loss",
        nearest_budget=nearest_budget,
        nearest_max_loss=nearest_loss,
    )
