"""The cheapest policy that loses at most so much accuracy, with a certificate: learn, then test."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
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
from exeunt.trace import CascadeTrace, ExitTrace, check_disjoint
from exeunt.trace.splitting import shaping_and_testing_rows


def cheapest(
    fit: ExitTrace | CascadeTrace,
    calibrate: ExitTrace | CascadeTrace,
    *,
    max_loss: float = 0.01,
    delta: float = 0.05,
    budget: float | str | None = None,
    policy: str | Callable[..., Policy] = "auto",
    points: int = 20,
    reference: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Return the cheapest policy whose accuracy is at most `max_loss` below that of the last exit's own answers.

    From a `CascadeTrace` it makes cascades (see `cascade`) and measures the loss against the model `reference` alone,
    by default the most expensive one. With a trace of a cascade, `reference` names the model of its last exit.

    The guarantee holds with probability 1 - delta, over fresh inputs and the draw of `calibrate`, which must be
    labelled here. One half of it gives the thresholds of policies at `points` budgets, from the full cost down; the
    other half tests them in this order, and the first that fails ends the test (fixed-sequence testing, so no
    correction is needed). The bound, betting or Hoeffding-Bentkus, is the one that is tighter on `fit`.

    With `budget` the mean cost is guaranteed as well: both guarantees hold together with probability 1 - delta, half of
    which goes to each. `policy`: the name of one, or a callable `(fit, calibrate, *, budget, delta)`. The other
    options, such as `answer`, go to the policy or to `cascade`. The result carries the certificate,
    `policy.loss_certificate`.

    Raises Infeasible where no policy can be certified, saying which guarantee stands in the way.
    """
    _arrays.check_between(max_loss, "max_loss", 0.0, 1.0)
    _arrays.check_between(delta, "delta", 0.0, 1.0)
    if points < 1:
        raise InputError(f"points must be at least 1 budget to try, got {points}")
    make = preset(policy)
    if isinstance(fit, CascadeTrace):
        reference = reference or fit.most_expensive
        make = partial(cascade, policy=make, reference=reference)

    def instead(inputs: ExitTrace | CascadeTrace) -> ExitTrace:
        """Return the trace whose last exit a user would ask otherwise."""
        return inputs if isinstance(inputs, ExitTrace) else inputs[str(reference)]

    check_disjoint(instead(fit), instead(calibrate))
    rows = shaping_and_testing_rows(calibrate.n, 0.5, seed)
    shaped, tested = calibrate.take(rows[0]), calibrate.take(rows[1])
    share, cost = delta if budget is None else delta / 2, instead(fit).cost
    if isinstance(fit, CascadeTrace):  # budgets lie between these costs
        ends = [fit.alone.cost.first, cost.full]
        cost = CostModel(ends if ends[0] < ends[1] else ends[1:], unit=fit.unit)
    # The guarantees of all policies on cost hold together.
    each = None if budget is None else delta / 2 / points
    family: list[Policy] = []
    with suppress(InfeasibleBudget):  # if one budget is infeasible, so are lower ones
        family.extend(
            make(fit, shaped, budget=amount, delta=each, seed=seed, **options)
            for amount in np.linspace(cost.full, cost.first, points + 1)[:-1].tolist()
        )
    bound = _tighter([_loss(one, fit, instead(fit)) for one in family], max_loss, share)
    losses = [_loss(one, tested, instead(tested)) for one in family]
    p_values = [LOSS_BOUNDS[bound](loss, max_loss, share) for loss in losses]
    passed = _passed(p_values, share)
    allowed = cost.full if budget is None else cost.budget(budget)
    within = [k for k in range(passed) if family[k].budget <= allowed * (1 + 1e-12)]
    if not within:
        raise _infeasible(cost, family, losses, bound, share, max_loss, passed, allowed, reference)
    k = within[-1]
    proof = LossCertificate(max_loss, share, p_values[k], bound, float(losses[k].mean()), tested.n, reference)
    return replace(family[k], loss_certificate=proof)


def _loss(policy: Policy, inputs: ExitTrace | CascadeTrace, instead: ExitTrace) -> Floats:
    """Return what each input loses by the policy: 1 right answer, 0, or -1 where it gains one."""
    answered = policy.answers(inputs) == instead.label
    lost: Floats = instead.correct[:, -1].astype(np.float64) - answered
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
    bound: str,
    delta: float,
    max_loss: float,
    passed: int,
    allowed: float,
    reference: str | None,
) -> Infeasible:
    """Return the error that names the guarantee in the way and the nearest pair that can be certified."""
    instead_of, whole = "The full network", "the full cost"
    if reference is not None:
        instead_of, whole = f"{reference} alone", f"the cost of {reference} alone"

    def share(amount: float) -> str:
        return f"{cost.show(amount)} ({cost.share(amount):.1%} of {whole})"

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
        key=lambda step: all(LOSS_BOUNDS[bound](x, step, delta) <= delta for x in losses[: reached + 1]),
    )
    nearest_loss = steps[at] if at < len(steps) else None
    nearest_budget = family[passed - 1].budget if passed else None
    could = []
    if nearest_budget is not None:
        could.append(f"a loss of {100 * max_loss:.4g}% at a budget of {share(nearest_budget)}")
    if nearest_loss is not None:
        could.append(f"a loss of {100 * nearest_loss:.4g}% at {share(family[reached].budget)}")
    return Infeasible(
        f"the loss stands in the way: {counted(len(losses[0]), 'labelled input')} cannot show that at most "
        f"{100 * max_loss:.4g}% is lost at {share(allowed)} by answering early; what can be shown: "
        f"{' or '.join(could) or 'nothing with so few'}. More labelled inputs show more. {instead_of} loses nothing, "
        "at its full cost",
        binding="max_loss",
        nearest_budget=nearest_budget,
        nearest_max_loss=nearest_loss,
    )
