"""Policies by name, for the command line and for comparisons; and those that take no more than an allocation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature

from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.policy.allocation import Spend, exponential_weights
from exeunt.policy.allocation_search import line_search_paths, mean_of_paths
from exeunt.policy.compose import Composition, FitPart, composed
from exeunt.policy.learned_quality import correctness_score
from exeunt.rules import baselines
from exeunt.rules.auto import auto
from exeunt.rules.common_threshold import common_threshold, risk_controlled
from exeunt.rules.one_look import one_look
from exeunt.rules.stopping import stopping


@composed
def eero(part: FitPart, *, temperature: float = 0.04, spend: Spend = "exactly") -> Composition:
    """The EERO paper's rates: exponential weights on each exit's error; the most confident leave first.

    The labelled fit part gives the errors (Prop. 3.8). `temperature`, `spend`: as for
    `exeunt.policy.allocation.exponential_weights`. It also takes the arguments of all policies, see `compose`; with
    `calibration="marginal"` this is the paper's Algorithm 1.
    """
    return Composition(
        partial(exponential_weights, part.trace.risk, part.trace.cost, temperature=temperature, spend=spend)
    )


@composed
def learned_correctness(part: FitPart) -> Composition:
    """Answers where the exit is most likely right, as learned from the fit part.

    In the manner of EENet (Ilhan et al. 2023), where a small network per exit scores confidences and the agreement of
    earlier exits, and a distribution over exits is learned under the budget. Here the score is a logistic regression on
    the same evidence, and the rates are searched with it. `score`: the main confidence that is learned from. It also
    takes the arguments of all policies, see `compose`.
    """
    fit, score = part.scored
    rule = correctness_score(fit, score)
    paths = line_search_paths(fit, rule, 3, part.seed)
    return Composition(partial(mean_of_paths, paths), rule)


@composed
def optimised(part: FitPart) -> Composition:
    """Thresholds searched one after the other for the most right answers on the fit part.

    The line searches are exact. The best rates on some 3,000 inputs fit their noise. So the search runs on six
    bootstrap samples, and the rates are averaged. It also takes the arguments of all policies, see `compose`.
    """
    paths = line_search_paths(*part.scored, 6, part.seed)
    return Composition(partial(mean_of_paths, paths))


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
    baselines.eco_m2f,
    baselines.genetic,
    baselines.random_routing,
)
PRESETS = {make.__name__: make for make in (*_TO_USE, *_TO_COMPARE_WITH)}
"""Every named policy: those to use, then the baselines. All take the arguments of `compose`."""
WITH_A_GATE = {one_look.__name__: one_look}
"""Named policies of networks with a gate alone."""
CERTIFYING = tuple(
    name for name, make in PRESETS.items() if signature(make).parameters["delta"].default is not None
)
"""Those that certify a budget unless they are told not to: they need to know the most that an input can cost."""
DESCRIPTIONS = {
    name: ("Baseline. " if make in _TO_COMPARE_WITH else "") + str(make.__doc__).partition("\n")[0]
    for name, make in {**PRESETS, **WITH_A_GATE}.items()
}
"""What every policy is, in a sentence or two: the first line of its documentation."""


def preset(policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return the policy of this name, or a callable as it is. Raises InputError that names all policies."""
    if not isinstance(policy, str):
        return policy
    if policy in WITH_A_GATE:
        return WITH_A_GATE[policy]
    if policy not in PRESETS:
        to_use, baseline = (
            ", ".join(make.__name__ for make in presets) for presets in (_TO_USE, _TO_COMPARE_WITH)
        )
        raise InputError(
            f"there is no policy {policy!r}; choose one of {to_use}, or a baseline: {baseline}; of live models or "
            "tables of models also router and cascade_router, of a network with a gate also one_look"
        )
    return PRESETS[policy]
