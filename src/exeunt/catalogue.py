"""Policies by name, for the command line and for comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exeunt.errors import InputError
from exeunt.policies.auto import auto
from exeunt.policies.correctness import learned_correctness
from exeunt.policies.literature import confident_patience, genetic, patience, random_routing
from exeunt.policies.optimised import optimised
from exeunt.policies.presets import common_threshold, eero, msdnet, predictive_exit
from exeunt.policies.risk_controlled import risk_controlled
from exeunt.policies.stopping import stopping

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.policy import Policy

__all__ = ["PRESETS", "preset"]

PRESETS: dict[str, Callable[..., Policy]] = {
    "eero": eero,
    "msdnet": msdnet,
    "predictive_exit": predictive_exit,
    "common_threshold": common_threshold,
    "auto": auto,
    "optimised": optimised,
    "stopping": stopping,
    "learned_correctness": learned_correctness,
    "patience": patience,
    "confident_patience": confident_patience,
    "genetic": genetic,
    "risk_controlled": risk_controlled,
    "random_routing": random_routing,
}
"""Every named policy: (fit, calibrate, *, budget, delta, calibration, seed) -> Policy; most take `score` too."""


def preset(name: str) -> Callable[..., Policy]:
    """Return the policy of this name, or raise InputError naming those that exist."""
    if name not in PRESETS:
        raise InputError(f"there is no policy {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
