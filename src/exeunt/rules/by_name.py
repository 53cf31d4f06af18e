"""Policies by name, for the outputs of one network or for those of several models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from exeunt.errors import InputError
from exeunt.policy import Policy, PolicySet
from exeunt.rules.cascade import cascade, cascades
from exeunt.rules.catalogue import DESCRIPTIONS, preset
from exeunt.rules.router_fitting import cascade_router, router
from exeunt.rules.router_plans import by_price
from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace

ROUTERS: dict[str, Callable[..., Policy]] = {make.__name__: make for make in (router, cascade_router)}
"""Policies that are made of several models alone, by name. They decide for each input whom to ask."""
ABOUT = DESCRIPTIONS | {name: str(make.__doc__).partition("\n")[0] for name, make in ROUTERS.items()}
"""What every policy is, in a sentence or two."""


def rule_for(inputs: ExitTrace | CascadeTrace, policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return a policy function by its name; of several models, a router or the function that makes cascades by it."""
    rule = ROUTERS[policy] if isinstance(policy, str) and policy in ROUTERS else preset(policy)
    router_ = rule.func if isinstance(rule, partial) else rule
    if router_ not in ROUTERS.values():
        return partial(cascade, policy=rule) if isinstance(inputs, CascadeTrace) else rule
    if not isinstance(inputs, CascadeTrace):
        raise InputError(
            f"{router_.__name__} decides which of several models to ask, and this is the trace of one network: give an "
            "exeunt.CascadeTrace, or take another policy"
        )
    return rule


def policy_set(
    fit: ExitTrace | CascadeTrace,
    calibrate: ExitTrace | CascadeTrace | StoredTrace,
    *,
    policy: str | Callable[..., Policy],
    **options: Any,
) -> PolicySet:
    """Return policies of one network, or of cascades, for several budgets; options as `PolicySet.make` takes them."""
    rule = rule_for(fit, policy)
    if isinstance(rule, partial) and rule.func is cascade and not isinstance(calibrate, ExitTrace):
        return cascades(fit, calibrate, policy=policy, **options)  # type: ignore[arg-type]
    if isinstance(fit, CascadeTrace) and (rule.func if isinstance(rule, partial) else rule) is cascade_router:
        options = {"order": by_price(fit), **options}
    return PolicySet.make(rule, fit, calibrate, **options)
