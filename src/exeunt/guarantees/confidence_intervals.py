"""Confidence intervals of a proportion and of a mean, as tables and figures show them."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import t as student

from exeunt._support.arrays import Floats

NORMAL_95 = float(ndtri(0.975))  # half the width of a 95% interval, in standard errors


def is_right_or_wrong(quality: Floats) -> bool:
    """Whether all qualities are 0 or 1: tests and intervals of shares apply to them."""
    return bool(((quality == 0) | (quality == 1)).all())


def wilson_interval(right: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a proportion (SciPy's comes with an exact test, ten times the time)."""
    share, weight = right / n, NORMAL_95**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = (share * (1 - share) * weight + weight**2 / 4) ** 0.5 / (1 + weight)
    return max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)  # rounding


def mean_interval(
    values: Floats, confidence: float = 0.95, *, within: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float, float]:
    """Return (mean, low, high): a t interval over splits; NaN ends where there is a single split.

    `within`: the range that values can have, which the ends do not leave.
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(student.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / n**0.5)
    return mean, float(np.clip(mean - half, *within)), float(np.clip(mean + half, *within))


def weighted_interval(
    values: Floats, weight: Floats, *, within: tuple[float, float]
) -> tuple[float, tuple[float, float]]:
    """Return a weighted mean over groups, and its 95% t interval, as of a ratio estimator.

    `values`, `weight` (g,): the mean and the weight of each group. `within`: as for `mean_interval`, and the interval
    of a single group, of which nothing is known.
    """
    mean, n = float(np.average(values, weights=weight)), len(values)
    if n < 2:
        return mean, within
    error = float(np.sum((weight * (values - mean)) ** 2) * n / (n - 1)) ** 0.5 / float(weight.sum())
    half = float(student.ppf(0.975, n - 1)) * error
    return mean, (max(mean - half, within[0]), min(mean + half, within[1]))


def interval_columns(
    name: str, values: Floats, *, within: tuple[float, float] = (-np.inf, np.inf)
) -> dict[str, float]:
    """Return `mean_interval` by the names of its columns: `name`, `name_low`, `name_high`; NaN of no values."""
    mean, low, high = mean_interval(values, within=within) if len(values) else (float("nan"),) * 3
    return {name: mean, f"{name}_low": low, f"{name}_high": high}
