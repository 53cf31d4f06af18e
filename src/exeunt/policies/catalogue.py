"""Policies by name, for the command line and for comparisons."""

from __future__ import annotations

from collections.abc import Callable

from exeunt import baselines
from exeunt.errors import InputError
from exeunt.policies.auto import auto
from exeunt.policies.common_threshold import common_threshold, risk_controlled
from exeunt.policies.eero import eero
from exeunt.policies.learned_correctness import learned_correctness
from exeunt.policies.optimised import optimised
from exeunt.policies.stopping import stopping
from exeunt.policy import Policy

_TO_USE: tuple[Callable[..., Policy], ...] = (
    eero,
    auto,
    stopping,
    learned_correctness,
    optimised,
    common_threshold,
    risk_controlled,
)
_TO_COMPARE_WITH: tuple[Callable[..., Policy], ...] = (
    baselines.msdnet,
    baselines.predictive_exit,
    baselines.patience,
    baselines.confident_patience,
    baselines.genetic,
    baselines.random_routing,
)
PRESETS = {make.__name__: make for make in (*_TO_USE, *_TO_COMPARE_WITH)}
"""Every named policy: those to use, then the baselines. All take the arguments of `compose`."""
DESCRIPTIONS = {
    name: ("Baseline. " if make in _TO_COMPARE_WITH else "") + str(make.__doc__).partition("\n")[0]
    for name, make in PRESETS.items()
}
"""What every policy is, in a sentence or two: the first line of its documentation."""


def preset(policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return the policy of this name, or a callable as it is. Raises InputError that names all policies."""
    if not isinstance(policy, str):
        return policy
    if policy not in PRESETS:
        to_use, baseline = (", ".join(make.__name__ for make in one) for one in (_TO_USE, _TO_COMPARE_WITH))
        raise InputError(f"there is no policy {policy!r}; choose one of {to_use}, or a baseline: {baseline}")
    return PRESETS[policy]
