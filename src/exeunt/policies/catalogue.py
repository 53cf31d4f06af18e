"""Policies by name, each with a sentence that says what it is, for the command line and for comparisons."""

from __future__ import annotations

from collections.abc import Callable

from exeunt.errors import InputError
from exeunt.policies.auto import auto
from exeunt.policies.by_allocation import eero, msdnet, predictive_exit, random_routing
from exeunt.policies.common_threshold import common_threshold
from exeunt.policies.genetic import genetic
from exeunt.policies.learned_correctness import learned_correctness
from exeunt.policies.optimised import optimised
from exeunt.policies.patience import confident_patience, patience
from exeunt.policies.risk_controlled import risk_controlled
from exeunt.policies.stopping import stopping
from exeunt.policy import Policy

__all__ = ["DESCRIPTIONS", "PRESETS", "preset"]

_POLICIES: dict[str, tuple[Callable[..., Policy], str]] = {
    "eero": (
        eero,
        "The EERO paper's rates: exponential weights on each exit's error; the most confident leave first.",
    ),
    "msdnet": (
        msdnet,
        "MSDNet's rates: the share that leaves grows or shrinks by one factor from exit to exit.",
    ),
    "predictive_exit": (
        predictive_exit,
        "Predictive Exit's rates: a bell curve (Gaussian) around one exit.",
    ),
    "common_threshold": (common_threshold, "One confidence threshold for all exits."),
    "auto": (
        auto,
        "The command line's default: learned scores, and rates weighed by cross-validation on the fit part.",
    ),
    "optimised": (
        optimised,
        "Thresholds searched one after the other for the most right answers on the fit part.",
    ),
    "stopping": (
        stopping,
        "Answers where the next exits gain less than they cost, as learned from the fit part.",
    ),
    "learned_correctness": (
        learned_correctness,
        "Answers where the exit is most likely right, as learned from the fit part.",
    ),
    "patience": (patience, "PABEE: answers once several exits in a row agree."),
    "confident_patience": (confident_patience, "PCEE: answers once two exits in a row are confident."),
    "genetic": (
        genetic,
        "Thresholds found by differential evolution, a genetic search, on the fit part.",
    ),
    "risk_controlled": (
        risk_controlled,
        "One threshold for all exits, set by risk control; certified, at delta 0.05 by default, so spends less.",
    ),
    "random_routing": (
        random_routing,
        "EERO's rates, with inputs drawn at random: what confidence adds shows against it.",
    ),
}
PRESETS = {name: make for name, (make, _) in _POLICIES.items()}
"""Every named policy: (fit, calibrate, *, budget, delta, calibration, seed) -> Policy; most take `score` too."""
DESCRIPTIONS = {name: sentence for name, (_, sentence) in _POLICIES.items()}
"""What every policy is, in a sentence or two."""


def preset(policy: str | Callable[..., Policy]) -> Callable[..., Policy]:
    """Return the policy of this name, or a callable as it is. Raises InputError naming those that exist."""
    if not isinstance(policy, str):
        return policy
    if policy not in PRESETS:
        raise InputError(f"there is no policy {policy!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[policy]
