"""Cascades: which models answer, in which order, and how many exits of each, within a budget (METHOD 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from exeunt.answer.ensemble import AnswerChoice, check_answer
from exeunt.budget_text import budget_list
from exeunt.errors import InputError
from exeunt.policies.cascade_search import common_order, find_cascade
from exeunt.policies.catalogue import preset
from exeunt.policy import Policy, PolicySet
from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace


def cascade(
    fit: CascadeTrace,
    calibrate: CascadeTrace | StoredTrace,
    *,
    budget: float | str,
    policy: str | Callable[..., Policy] = "auto",
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    order: Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Return a policy of a cascade of models: some of them, in an order of its own, and the exits used of each.

    These are chosen on `fit` alone, for this budget: the most accurate cascade within it, or a plainer one, of fewer
    models or with more of their exits, that it does not beat by half a standard error. So models that answer too little
    for what they cost are left out. The policy is then made as if the cascade's exits were exits of one network.

    `budget`: mean cost per input in the models' unit, or "7.5 usd per 10k", or a share such as "30%" of what
    `reference` costs alone, by default the most expensive model. `policy`: the name of a policy, or a callable
    `(fit, calibrate, *, budget, answer, seed)`. `answer`: as for `compose`; "auto" lets cross-validation decide.
    `order`: names of models; the cascade asks some of them, in this order. `calibrate`: a `StoredTrace` of these
    models where it does not fit in memory; the policy is the same. The other options, such as `delta`, go to
    the policy. `policy.models` names the models that are asked, in order.

    Raises InputError for parts that overlap or differ in their models, InfeasibleBudget for a budget that no model can
    meet.
    """
    _check_models(fit, calibrate)
    check_answer(answer)
    amount = fit.budget(budget, reference=reference)
    steps = find_cascade(fit, amount, answer, seed, None if order is None else tuple(order))
    parts = (part.along(steps, reference=reference) for part in (fit, calibrate))
    return replace(preset(policy)(*parts, budget=amount, answer=answer, seed=seed, **options), cascade=steps)


def cascades(
    fit: CascadeTrace,
    calibrate: CascadeTrace | StoredTrace,
    *,
    budgets: str | Iterable[float | str],
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    seed: int = 0,
    **options: Any,
) -> PolicySet:
    """Return a policy of a cascade for each budget, all of which ask their models in one order.

    Among the orders of the cascades that are best for one of the budgets, it is the order that is most accurate on
    `fit`, on average over the budgets. A policy may skip models. The other options go to `cascade` and
    `PolicySet.make`.
    """
    _check_models(fit, calibrate)
    check_answer(answer)
    amounts = tuple(sorted({fit.budget(budget, reference=reference) for budget in budget_list(budgets)}))
    if not amounts:
        raise InputError("a set of cascades needs at least one budget, got none")
    order = common_order(fit, amounts, answer, seed)
    made = partial(cascade, answer=answer, reference=reference, order=order, seed=seed)
    return PolicySet.make(made, fit, calibrate, budgets=amounts, **options)


def rule_for(inputs: ExitTrace | CascadeTrace, policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return a policy function by its name; of a cascade's models, the function that makes cascades by it."""
    rule = preset(policy)
    return partial(cascade, policy=rule) if isinstance(inputs, CascadeTrace) else rule


def policy_set(
    fit: ExitTrace | CascadeTrace,
    calibrate: ExitTrace | CascadeTrace | StoredTrace,
    *,
    policy: Callable[..., Policy],
    **options: Any,
) -> PolicySet:
    """Return policies of one network, or of cascades, for several budgets; options as `PolicySet.make` takes them."""
    if isinstance(fit, CascadeTrace) and not isinstance(calibrate, ExitTrace):
        return cascades(fit, calibrate, policy=policy, **options)
    return PolicySet.make(policy, fit, calibrate, **options)


def _check_models(fit: object, calibrate: object) -> None:
    stored = isinstance(calibrate, StoredTrace) and calibrate.models
    if not isinstance(fit, CascadeTrace) or not (stored or isinstance(calibrate, CascadeTrace)):
        raise InputError(
            "a cascade is made of a CascadeTrace: give exeunt.CascadeTrace({name: trace, ...}) to fit and calibrate, "
            "or to calibrate StoredTrace.open(folder, models=...)"
        )
    if fit.n == 0:
        raise InputError("the fit part is empty: it needs at least one input")
