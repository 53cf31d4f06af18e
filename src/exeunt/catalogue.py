"""Policies by name, for the command line and for comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exeunt.errors import InputError
from exeunt.presets import common_threshold, eero, msdnet, predictive_exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.policy import Policy

__all__ = ["PRESETS", "preset"]

PRESETS: dict[str, Callable[..., Policy]] = {
    "eero": eero,
    "msdnet": msdnet,
    "predictive_exit": predictive_exit,
    "common_threshold": common_threshold,
}
"""Every named policy: (fit, calibrate, *, budget, delta, score, calibration, seed) -> Policy."""


def preset(name: str) -> Callable[..., Policy]:
    """Return the policy of this name, or raise InputError naming those that exist."""
    if name not in PRESETS:
        raise InputError(f"there is no policy {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
