"""Chains: which members answer, in which order, and how many exits of each, within a budget (METHOD 8)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from exeunt.budget_text import budget_list
from exeunt.errors import InputError
from exeunt.policies.answering import check_answer
from exeunt.policies.catalogue import preset
from exeunt.policies.chain_search import common_order, find_chain
from exeunt.policy import PolicySet
from exeunt.trace import ExitTrace, Members, StoredTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from exeunt.policies.answering import AnswerChoice
    from exeunt.policy import Policy

__all__ = ["chain", "chains", "policy_set", "rule_for"]


def chain(
    fit: Members,
    calibrate: Members | StoredTrace,
    *,
    budget: float | str,
    policy: str | Callable[..., Policy] = "auto",
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    order: Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Return a policy of a chain of members: some of them, in an order of its own, and the exits used of each.

    These are chosen on `fit` alone, for this budget: the most accurate chain within it, or a plainer one, of fewer
    members or with more of their exits, that it does not beat by half a standard error. So members that answer too
    little for what they cost are left out. Then the policy is made of the chain's exits as of those of one network.

    `budget`: mean cost per input in the members' unit, or "7.5 usd per 10k", or a share such as "30%" of what
    `reference` costs alone, by default the most expensive member. `policy`: the name of a rule, or a callable
    `(fit, calibrate, *, budget, answer, seed)`. `answer`: as for `eero`; "auto" lets cross-validation decide.
    `order`: names of members; those of the chain are among them, in this order. `calibrate`: a `StoredTrace` of these
    members where it does not fit in memory; the policy is the same.
    The other options, such as `delta`, are those of the rule. `policy.members` names who is asked, in order.

    Raises InputError for parts that overlap or differ in their members, InfeasibleBudget for a budget that no member
    can meet.
    """
    _check_members(fit, calibrate)
    check_answer(answer)
    amount = fit.budget(budget, reference=reference)
    links = find_chain(fit, amount, answer, seed, None if order is None else tuple(order))
    parts = (part.along(links, reference=reference) for part in (fit, calibrate))
    return replace(preset(policy)(*parts, budget=amount, answer=answer, seed=seed, **options), chain=links)


def rule_for(inputs: ExitTrace | Members, policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return a rule by its name, or the rule for chains that makes policies by it."""
    rule = preset(policy)
    return partial(chain, policy=rule) if isinstance(inputs, Members) else rule


def policy_set(
    fit: ExitTrace | Members,
    calibrate: ExitTrace | Members | StoredTrace,
    *,
    policy: Callable[..., Policy],
    **options: Any,
) -> PolicySet:
    """Return policies of one network, or of chains, for several budgets; options as `PolicySet.make` takes them."""
    if isinstance(fit, Members) and not isinstance(calibrate, ExitTrace):
        return chains(fit, calibrate, policy=policy, **options)
    return PolicySet.make(policy, fit, calibrate, **options)


def chains(
    fit: Members,
    calibrate: Members | StoredTrace,
    *,
    budgets: str | Iterable[float | str],
    answer: AnswerChoice = "auto",
    reference: str | None = None,
    seed: int = 0,
    **options: Any,
) -> PolicySet:
    """Return a policy of a chain for each budget, all of which ask their members in one order.

    The order is that which is most accurate on `fit`, on average over the budgets, among the orders of the chains that
    are best for one of them. A policy may skip members. The other options are those of `chain` and `PolicySet.make`.
    """
    _check_members(fit, calibrate)
    check_answer(answer)
    amounts = tuple(sorted({fit.budget(budget, reference=reference) for budget in budget_list(budgets)}))
    if not amounts:
        raise InputError("a set of chains needs at least one budget, got none")
    order = common_order(fit, amounts, answer, seed)
    made = partial(chain, answer=answer, reference=reference, order=order, seed=seed)
    return PolicySet.make(made, fit, calibrate, budgets=amounts, **options)


def _check_members(fit: object, calibrate: object) -> None:
    stored = isinstance(calibrate, StoredTrace) and calibrate.members
    if not isinstance(fit, Members) or not (stored or isinstance(calibrate, Members)):
        raise InputError(
            "a chain is made of Members: give exeunt.Members({name: trace, ...}) to fit and calibrate, or to calibrate "
            "StoredTrace.open(folder, members=...)"
        )
    if fit.n == 0:
        raise InputError("the fit part is empty: it needs at least one input")
