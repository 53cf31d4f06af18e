"""Calibrating a policy again on recent inputs, which need no labels, after they have drifted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exeunt._support.arrays import Floats, check_delta
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.policy.calibration import ALWAYS, NEVER, Ranked, RankedInMemory, sequential_thresholds
from exeunt.policy.certificate_search import SMALLEST_DELTA, CostPlan, plan_cost
from exeunt.policy.external_calibration import ranked
from exeunt.policy.policy import Policy
from exeunt.policy.watched_cells import cells_of_plan, scored_exits
from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace

_NOTE = "recalibration"


def recalibrate(
    policy: Policy, latest: ExitTrace | CascadeTrace | StoredTrace, *, delta: float | None = None
) -> Policy:
    """Return a policy with thresholds that keep its budget on inputs like these.

    `latest`: recorded outputs, without labels, that nothing was fitted on; best those since a change. Score, answer,
    rates and budget stay. Where the rates cannot be certified on so few inputs, more of them are answered at the first
    exit. `delta`: of the certificate; by default that of the certificate before, or none if there was none.

    The note "recalibration" of the policy is a receipt: what changed, and from when the new certificate counts.
    A certified loss or tail is left out, because it was about other inputs: test it again (`cheapest`), a loss on
    labelled ones.

    Raises InputError for policies that were not planned by counts (routers, marginal calibration, costs per input,
    groups), InfeasibleBudget for a budget that so few inputs cannot certify.
    """
    if not isinstance(policy, Policy) or not isinstance(latest, ExitTrace | CascadeTrace | StoredTrace):
        raise InputError(
            "recalibrate takes a policy and recorded outputs (ex.ExitTrace.load, ex.StoredTrace.open), got "
            f"{type(policy).__name__} and {type(latest).__name__}"
        )
    check_recalibrates(policy)
    outputs = latest.along(policy.cascade)
    answer = policy.answer.on
    trace = outputs.mapped(answer) if isinstance(outputs, StoredTrace) else answer(outputs)
    if trace.n == 0 or trace.n_exits != policy.n_exits:
        raise InputError(
            f"the policy has {counted(policy.n_exits, 'exit')}: give outputs of all of them for at least one input, "
            f"got {trace.n:,} inputs and {counted(trace.n_exits, 'exit')}"
        )
    delta, plan = _planned(policy, trace.n, delta)
    used = np.flatnonzero((plan.counts > 0) | policy.active)
    exits = scored_exits(used[used < plan.last].tolist(), plan.last, trace.n)
    with ranked(policy.score, trace, policy.ties, policy.seed, exits) as inputs:
        return _calibrated(policy, inputs, plan, delta)


def recalibrate_on_scores(policy: Policy, scores: Floats, ties: Floats) -> Policy:
    """Return a policy as `recalibrate` does, from its scores (n, m) of recent inputs and their ties (n,).

    Scores at exits that it does not need may be NaN, but at the first one.
    """
    check_recalibrates(policy)
    delta, plan = _planned(policy, len(scores), None)
    return _calibrated(policy, RankedInMemory(scores, ties), plan, delta)


def check_recalibrates(policy: Policy) -> None:
    """Raise InputError for a policy that was not planned by counts."""
    if policy.distribution is None or policy.n_groups is not None:
        raise InputError(
            f"the policy {policy.name} was not planned by counts of calibration inputs: calibrate it again by the rule "
            "that made it"
        )


def _planned(policy: Policy, n: int, delta: float | None) -> tuple[float | None, CostPlan]:
    """Return the delta of the certificate, and a plan for n inputs."""
    if delta is None and policy.cost_certificate is not None:
        delta = policy.cost_certificate.delta
    if delta is not None:
        check_delta(delta, low=SMALLEST_DELTA)
    return delta, plan_cost(lambda amount: _within(policy, amount), policy.cost, policy.budget, n, delta)


def _calibrated(policy: Policy, inputs: Ranked, plan: CostPlan, delta: float | None) -> Policy:
    n = inputs.shape[0]
    before = inputs.counts(policy.limits)
    limits = sequential_thresholds(inputs, plan.counts, plan.last)
    counts = inputs.counts(limits)
    calibrated = replace(
        policy,
        rates=plan.rates,
        limits=limits,
        counts=counts,
        n_calibration=n,
        distribution=plan.distribution(policy.cost),
        certificate=None if delta is None else plan.certificate(policy.cost, policy.budget, delta),
        loss_certificate=None,
        promises=(),
        calibration="sequential",
        watched=cells_of_plan(inputs, plan.counts, plan.last, limits, counts, policy.seed),
    )
    paid = float(before @ policy.cost.cumulative) / n
    return replace(calibrated, notes={**policy.notes, _NOTE: {"text": _receipt(policy, calibrated, paid)}})


def _within(policy: Policy, amount: float) -> Floats:
    """Return the policy's rates, or if they cost more than an amount, a mixture with the first exit that costs it."""
    cost = policy.cost.cumulative
    usual = float(policy.rates @ cost)
    if usual <= amount:
        return policy.rates
    share = (amount - float(cost[0])) / (usual - float(cost[0]))
    return np.asarray(share * policy.rates + (1 - share) * np.eye(len(cost))[0])


def _receipt(before: Policy, after: Policy, paid: float) -> str:
    moved = [
        f"exit {name} answers from a score of {new:.4g} on instead of {old:.4g}"
        for name, old, new in zip(before.exit_names, before.thresholds, after.thresholds, strict=True)
        if old != new and not {old, new} & {ALWAYS, NEVER}
    ]
    voided = [certificate.subject for certificate in before.tested_certificates]
    lost = (
        f" The certified {' and '.join(voided)} {'is' if len(voided) == 1 else 'are'} void." if voided else ""
    )
    show = before.cost.show
    return (
        f"Calibrated again on {counted(after.n_calibration, 'input')}, which cost {show(paid)} on average under the "
        f"thresholds before, and {show(after.expected_cost)} are expected now. "
        f"{'; '.join(moved).capitalize() or 'No threshold changed'}. What is guaranteed counts from the first input "
        f"that is answered under this policy, for inputs like these; nothing is said of those before.{lost}"
    )
