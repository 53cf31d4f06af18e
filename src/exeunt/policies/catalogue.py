"""Policies by name, each with a sentence that says what it is, for the command line and for comparisons."""

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

_POLICIES: tuple[tuple[Callable[..., Policy], str], ...] = (
    (
        eero,
        "The EERO paper's rates: exponential weights on each exit's error; the most confident leave first.",
    ),
    (
        auto,
        "The command line's default: learned scores, and rates weighed by cross-validation on the fit part.",
    ),
    (stopping, "Answers where the next exits gain less than they cost, as learned from the fit part."),
    (learned_correctness, "Answers where the exit is most likely right, as learned from the fit part."),
    (optimised, "Thresholds searched one after the other for the most right answers on the fit part."),
    (common_threshold, "One confidence threshold for all exits."),
    (
        risk_controlled,
        "One threshold for all exits, set by risk control; certified, at delta 0.05 by default, so it costs less.",
    ),
)
_BASELINES: tuple[tuple[Callable[..., Policy], str], ...] = (
    (
        baselines.msdnet,
        "MSDNet's rates: the share that leaves grows or shrinks by one factor from exit to exit.",
    ),
    (baselines.predictive_exit, "Predictive Exit's rates: a bell curve (Gaussian) around one exit."),
    (baselines.patience, "PABEE: answers once several exits in a row agree."),
    (baselines.confident_patience, "PCEE: answers once two exits in a row are confident."),
    (
        baselines.genetic,
        "Thresholds found by differential evolution, a genetic search, on the fit part.",
    ),
    (
        baselines.random_routing,
        "EERO's rates, with inputs drawn at random: what confidence adds shows against it.",
    ),
)
PRESETS: dict[str, Callable[..., Policy]] = {make.__name__: make for make, _ in (*_POLICIES, *_BASELINES)}
"""Every named policy, those to use first, then the baselines of the literature; see `compose` for the arguments."""
DESCRIPTIONS = {
    **{make.__name__: sentence for make, sentence in _POLICIES},
    **{make.__name__: f"Baseline. {sentence}" for make, sentence in _BASELINES},
}
"""What every policy is, in a sentence or two."""


def preset(policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return the policy of this name, or a callable as it is. Raises InputError naming those that exist."""
    if not isinstance(policy, str):
        return policy
    if policy not in PRESETS:
        to_use, to_compare = (", ".join(make.__name__ for make, _ in one) for one in (_POLICIES, _BASELINES))
        raise InputError(
            f"there is no policy {policy!r}; choose one of {to_use}; or, to compare with, a baseline: {to_compare}"
        )
    return PRESETS[policy]
