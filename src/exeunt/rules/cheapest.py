"""The cheapest policy that loses at most so much, with a certificate: learn, then test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from exeunt._support import arrays
from exeunt._support.text import counted
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.policy import Policy
from exeunt.policy.compose import compose
from exeunt.rules.by_name import rule_for
from exeunt.rules.candidates import Candidates
from exeunt.rules.cascade import noting_reference
from exeunt.rules.infeasible import infeasible
from exeunt.rules.outcomes import instead
from exeunt.rules.promises import MeanLoss, Tail, early_promises
from exeunt.trace import CascadeTrace, ExitTrace, check_disjoint
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.cascade_trace import agreeing, single_exits
from exeunt.trace.grades import check_measured_alike
from exeunt.trace.groups import n_units
from exeunt.trace.splitting import rows_to_test, shaping_and_testing_rows

_SHAPING = 0.2
"""The share of the fit inputs that thresholds come from, without a budget."""


def cheapest(
    fit: ExitTrace | CascadeTrace,
    calibrate: ExitTrace | CascadeTrace,
    *,
    max_loss: float | None = None,
    agree: float | None = None,
    max_early_loss: float | None = None,
    max_early_worse: float | None = None,
    max_tail: tuple[float | str, float] | None = None,
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

    `max_loss` is 0.01 by default, if no promise of early answers is asked for. Where answers are graded, the same holds
    of their mean quality.

    `max_early_loss`: the answers that come early, which is before the last exit or without the reference, lose at most
    so much on average over them. `max_early_worse`: at most this share of them is worse than the reference's. A mean
    over all inputs hides a few bad answers among many that were never at risk; these do not.

    `max_tail`: a cost and a share, such as ("0.01 usd", 0.01): at most this share of the inputs costs more. A share of
    the cost, "50%", is of the last exit's or the reference's.

    `agree`, in its place, needs no labels: at most the share 1 - `agree` of the answers differ from those of the last
    exit, or of the model `reference`, by default the most expensive one. The same holds of traces that are measured by
    agreement (`with_reference`), of which at most `max_loss` differ.

    From a `CascadeTrace` it makes cascades (see `cascade`) and measures the loss against the model `reference` alone,
    by default the one that answers best on `fit`; of equally good ones, the cheapest. With a trace of a cascade,
    `reference` names the model of its last exit.

    All of these that are given hold together with probability 1 - delta, over fresh inputs and the draw of `calibrate`,
    which must be labelled or graded unless agreement is measured. Inputs set aside from `fit` give the thresholds of
    policies at up to 1.5 `points` budgets, from the full cost of the network or of the reference down, most of them
    where what is promised is near its limit on `fit`; `calibrate` tests them in an order that `fit` says, and the first
    that fails ends the test (fixed-sequence testing, so no correction is needed). A loss alone is tested from the full
    cost down; with other promises the policy that is the most likely to pass comes first. The bound,
    betting, Hoeffding-Bentkus or the binomial law, is the one that is tighter on `fit`.

    `max_loss` 0: only a policy that is better than the last exit, or the reference, can pass, so the test begins with
    the best policy on `fit`. If none passes, the result always gives the answers of the last exit, or asks the
    reference alone: that loses nothing, for certain.

    With `budget` the mean cost is guaranteed as well: both guarantees hold together with probability 1 - delta, half of
    which goes to each; one half of `calibrate` then gives the thresholds, and the other tests. `policy`: the name of
    one, of several models also "router" or "cascade_router", or a callable `(fit, calibrate, *, budget, delta)`.
    `progress`: called with (policies made, at most). The other options, such as `answer`, go to the policy or to
    `cascade`. The result carries the certificates, `policy.loss_certificate` and `policy.promises`.

    Raises Infeasible where no policy can be certified, saying which guarantee stands in the way.
    """
    promises = early_promises(max_early_loss=max_early_loss, max_early_worse=max_early_worse)
    if promises and single_exits(fit).n_exits == 1:
        raise InputError(
            f"there is a single exit, which answers nothing early: leave out {promises[-1].name}, or add an exit, or a "
            "cheaper model to ask first"
        )
    if not promises or (max_loss, agree) != (None, None):
        promises = [MeanLoss(checked_loss(max_loss, agree)), *promises]
    arrays.check_delta(delta)
    if points < 1:
        raise InputError(f"points must be at least 1 budget to try, got {points}")
    fit = _measured(fit, reference, agree)
    # Where inputs differ in cost, another model may be the most expensive one on the calibration inputs.
    of_models = isinstance(fit, CascadeTrace) and fit.reference
    calibrate = _measured(calibrate, fit.reference if of_models else reference, agree)
    check_measured_alike(fit, calibrate)
    make, notes = rule_for(fit, policy), {}
    if isinstance(fit, CascadeTrace):
        reference = fit.reference or reference
        if reference is None:
            reference = fit.most_accurate
            notes = {"cheapest": {"reference": reference, "text": _chosen(fit, reference)}}
        make = partial(make, reference=reference)
    check_disjoint(instead(fit, reference), instead(calibrate, reference))
    if max_tail is not None:
        promises.append(Tail.of(max_tail, fit, reference))
    fit, shaped, tested = _parts(fit, calibrate, budget is None, seed)
    # The guarantees of all policies on cost hold together.
    each = None if budget is None else delta / 2 / points
    candidates = Candidates.made(
        fit,
        partial(make, fit, shaped, delta=each, seed=seed, **options),
        promises,
        delta=delta if budget is None else delta / 2,
        points=points,
        evenly=budget is not None,
        n_tests=n_units(tested.n, tested.groups),
        reference=reference,
        progress=progress,
    )
    allowed = candidates.cost.full if budget is None else candidates.cost.budget(budget, warn=True)
    new_policy = candidates.cheapest(tested, None if budget is None else allowed)
    if new_policy is not None:
        return replace(new_policy, notes={**new_policy.notes, **notes})
    alone_is_enough = promises == [MeanLoss(0.0)] and allowed >= candidates.cost.full
    if alone_is_enough and _gives_the_reference(fit, tested, reference):
        with suppress(InfeasibleBudget):
            of_cascade = reference if isinstance(fit, CascadeTrace) else None
            alone = _alone(
                instead(fit, reference), instead(shaped, reference), of_cascade, delta=each, seed=seed
            )
            return replace(alone, loss_certificate=candidates.nothing_lost(tested), notes=notes)
    raise infeasible(candidates, tested, allowed)


def _gives_the_reference(fit: Any, tested: Any, reference: str | None) -> bool:
    """Return whether the last exit's answers are those of the reference, for every input."""
    return not fit.reference or all(instead(part, reference).quality[:, -1].all() for part in (fit, tested))


def checked_loss(max_loss: float | None, agree: float | None) -> float:
    """Return the loss that is allowed, of accuracy or of agreement."""
    if agree is None:
        max_loss = 0.01 if max_loss is None else max_loss
        return 0.0 if max_loss == 0 else arrays.check_between(max_loss, "max_loss", 0.0, 1.0)
    if max_loss is not None:
        raise InputError("give agree or max_loss, not both: agreement of 98% is a loss of 2% of it")
    if not 0 < arrays.finite(agree, "agree") <= 1:
        raise InputError(f"agree must be above 0 and at most 1, which is 100%, got {agree!r}")
    return round(1 - agree, 12)


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
    shaping, learning = shaping_and_testing_rows(fit.n, _SHAPING, seed, fit.groups, part="fit")
    return (
        fit.take(learning),
        fit.take(shaping),
        calibrate.take(rows_to_test(calibrate.n, seed, calibrate.groups)),
    )


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
    new_policy = compose("reference", lambda _: last, fit, calibrate, budget=fit.cost.full, **options)
    return (
        new_policy
        if reference is None
        else noting_reference(replace(new_policy, cascade=(CascadeStep(reference, fit.n_exits),)), reference)
    )
