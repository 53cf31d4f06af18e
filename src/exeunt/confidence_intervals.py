"""Confidence intervals of a proportion and of a mean, as tables and figures show them."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import t as student

from exeunt._arrays import Floats

__all__ = ["NORMAL_95", "mean_interval", "share_interval", "spend_interval", "wilson_interval"]

NORMAL_95 = float(ndtri(0.975))  # half the width of a 95 % interval, in standard errors


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion (SciPy's comes with an exact test, ten times the time)."""
    share, weight = right / n, NORMAL_95**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = (share * (1 - share) * weight + weight**2 / 4) ** 0.5 / (1 + weight)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mean_interval(values: Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return (mean, low, high): a t interval over splits; NaN ends where there is a single split."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(student.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def share_interval(shares: Floats) -> tuple[float, float, float]:
    """Return `mean_interval` of shares of inputs, whose ends lie between 0 and 1 as well."""
    mean, low, high = mean_interval(shares)
    return mean, float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))


def spend_interval(spend: Floats) -> tuple[float, float, float]:
    """Return `mean_interval` of what was spent, whose ends are not below 0 either."""
    mean, low, high = mean_interval(spend)
    return mean, float(np.maximum(low, 0.0)), high
