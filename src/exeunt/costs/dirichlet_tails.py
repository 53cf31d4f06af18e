"""Tails of a weighted mean of Dirichlet shares, by inversion along a line through the saddle point.

With independent G_l ~ Gamma(alpha_l), P(sum p_l b_l > B) = P(Q > 0) for Q = sum (b_l - B) G_l, whose
cumulant function K(s) = -sum alpha_l log(1 - (b_l - B) s) is elementary. Then

    P(Q > 0) = 1/(2 pi i) * integral of exp(K(s)) / s ds    along any vertical line between 0 and the first
                                                            singularity to the right,

and P(Q <= 0) likewise to the left. Through the root of K' the integrand falls off without oscillating; with
s = s0 + i w sinh(u) the trapezoidal rule converges exponentially (Helstrom 1996, "Calculating error
probabilities from the saddle-point integration", IEEE Trans. Commun. 44; Trefethen and Weideman 2014, SIAM
Review 56, section 5), even where the integrand has only an algebraic tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from exeunt._support.arrays import Floats

# Relative slack when a budget is compared with an attainable cost: sums of costs carry a few roundings.
ULPS = 8 * float(np.finfo(np.float64).eps)
_STEP = 0.2  # of the trapezoidal rule in u, to begin with
_STEADY = 1e-7  # relative change at which its halving ends
_MOST_HALVINGS = 6
_BENDS = np.array([0.0, 2 / 3, -2 / 3])  # the most that the path of steepest descent bends to third order
_OFF_POLE = 1e-12  # relative: a saddle point closer to a singularity than this cannot be located
_NEGLIGIBLE = 44.0  # the integrand is dropped below exp(-44) = 8e-20 of its peak


def log_tails(budget: float, alpha: Floats, cost: Floats) -> tuple[float, float]:
    """Return log P(K <= budget), log P(K > budget) for K = sum p_l cost_l, p ~ Dirichlet(alpha).

    `alpha` (k,) positive, at least 1 in all; `cost` (k,) strictly increasing. The smaller tail has a relative
    accuracy of about 1e-11, however small it is, times the size of its logarithm.
    """
    if len(cost) == 1:
        inside = budget >= cost[0] * (1 - ULPS)
        return (0.0, -math.inf) if inside else (-math.inf, 0.0)
    if budget <= cost[0]:
        return -math.inf, 0.0
    if budget >= cost[-1]:
        return 0.0, -math.inf
    centred = (cost - budget) / (cost[-1] - cost[0])
    nonzero = centred != 0
    pole, alpha = 1 / centred[nonzero], alpha[nonzero]
    line, width = _line(pole, alpha)
    log_tail = _integral(line, width, pole, alpha)
    other = _log1mexp(log_tail)
    return (other, log_tail) if line > 0 else (log_tail, other)


def solve_quantile(
    log_tails_at: Callable[[float], tuple[float, float]], q: float, span: tuple[float, float], start: float
) -> float:
    """Return the x in `span` with P(. <= x) = q, for a continuous distribution given by its two log tails.

    The search begins at `start`, in `span`. On the scale of normal scores the distribution function is nearly a
    straight line, so a bracket closes in a handful of steps; q may be as small as 1e-300.
    """
    from scipy.optimize import brentq  # a quarter of a second, for what answering inputs does not need
    from scipy.special import ndtri, ndtri_exp

    target = float(ndtri(q))

    def excess(x: float) -> float:
        return float(ndtri_exp(log_tails_at(x)[0])) - target

    low, high = _bracket(excess, span, start)
    if low >= high:
        return high
    return float(brentq(excess, low, high, xtol=1e-300, maxiter=200))


def _bracket(
    excess: Callable[[float], float], span: tuple[float, float], start: float
) -> tuple[float, float]:
    """Narrow `span` to two points between which `excess` changes sign; `start` lies in it."""
    low, high = span
    point, height = start, excess(start)
    while True:
        edge = low if height > 0 else high
        # Half-way to the edge each time: quantiles within a rounding of the edge are the edge itself.
        following = point + 0.5 * (edge - point)
        if following in (point, edge):
            return edge, edge
        change = excess(following)
        if change * height <= 0:
            return min(point, following), max(point, following)
        point, height = following, change


def _line(pole: Floats, alpha: Floats) -> tuple[float, float]:
    """Return where the line of integration crosses the real axis (not 0), and the width w of the peak."""
    from scipy.optimize import brentq

    left, right = float(pole[pole < 0].max()), float(pole[pole > 0].min())
    is_left, is_right = pole == left, pole == right
    inner = ~(is_left | is_right)
    inner_pole, inner_alpha = pole[inner], alpha[inner]
    left_alpha, right_alpha = float(alpha[is_left].sum()), float(alpha[is_right].sum())
    span = right - left

    def slope(s: float) -> float:
        """K'(s), times (right - s)(s - left) / span: the same root, and no poles."""
        middle = float(np.sum(inner_alpha / (inner_pole - s)))
        return (right_alpha * (s - left) - left_alpha * (right - s)) / span + middle * (
            (right - s) * ((s - left) / span)
        )

    saddle = float(brentq(slope, left, right, rtol=_OFF_POLE, maxiter=500))
    saddle = min(max(saddle, left * (1 - _OFF_POLE)), right * (1 - _OFF_POLE))
    width = min(float(np.sum(alpha / (pole - saddle) ** 2)) ** -0.5, right - saddle, saddle - left)
    if abs(saddle) >= width:
        return saddle, width
    # Too near the pole of 1/s at 0: step aside, without nearing the next singularity.
    line = min(width, right / 2)
    return line, line


def _integral(line: float, width: float, pole: Floats, alpha: Floats) -> float:
    """Return the log of |1/(2 pi i) * integral of exp(K(s)) / s ds| from line - i inf to line + i inf.

    The path is the hyperbola s = line + w (i sinh(u) + bend (cosh(u) - 1)). Beside a share with alpha near 1 the
    integrand on a vertical line would oscillate for long before it fades; along a bend to one side it fades soon,
    to the other it would grow. So of three bends that is taken along which it fades first.
    """
    distance = pole - line
    bend, end = _soonest_faded(line, width, distance, alpha)

    def terms(u: Floats) -> Floats:
        x, y = _path(u, width, bend)
        modulus, phase = _log_modulus(x, y, line, distance, alpha), _phase(x, y, line, distance, alpha)
        # ds/du = i w (cosh(u) - i bend sinh(u)); the two halves of the path are conjugate.
        integrand: Floats = np.exp(modulus) * (np.cosh(u) * np.cos(phase) + bend * np.sinh(u) * np.sin(phase))
        return integrand

    total = abs(_trapezoidal(terms, end)) * width / (math.pi * abs(line))
    return min(math.log(total) - float(np.sum(alpha * np.log1p(-line / pole))), 0.0)


def _trapezoidal(terms: Callable[[Floats], Floats], end: float) -> float:
    """Return the integral of an even function from 0 on, which is negligible beyond `end`.

    Each halving of the step doubles the number of right digits.
    """
    u, step = np.arange(0.0, end, _STEP), _STEP
    heights = terms(u)
    total = float(np.sum(heights) - heights[0] / 2) * step
    for _ in range(_MOST_HALVINGS):
        between = float(np.sum(terms(u + step / 2))) * step
        before, total = total, (total + between) / 2
        if abs(total - before) <= _STEADY * abs(total):
            break
        u, step = np.concatenate([u, u + step / 2]), step / 2
    return total


def _soonest_faded(line: float, width: float, distance: Floats, alpha: Floats) -> tuple[float, float]:
    """Return the bend along which the integrand fades first, and the u beyond which it is negligible."""
    u = np.arange(100.0)
    decay = _log_modulus(*_path(u, width, _BENDS[:, None]), line, distance, alpha) + u
    ends = len(u) - np.argmax(decay[:, ::-1] >= -_NEGLIGIBLE, axis=1)
    best = int(np.argmin(ends))
    return float(_BENDS[best]), float(ends[best])


def _path(u: Floats, width: float, bend: float | Floats) -> tuple[Floats, Floats]:
    """Real and imaginary part of s - line."""
    return 2 * width * bend * np.sinh(u / 2) ** 2, width * np.sinh(u)


def _log_modulus(x: Floats, y: Floats, line: float, distance: Floats, alpha: Floats) -> Floats:
    """Log modulus of exp(K(s)) / s at s = line + x + iy, relative to s = line."""
    across, along = x[..., None] / distance, y[..., None] / distance
    growth = np.log1p(across * (across - 2) + along**2) @ alpha
    modulus: Floats = -0.5 * (growth + np.log1p(x / line * (x / line + 2) + (y / line) ** 2))
    return modulus


def _phase(x: Floats, y: Floats, line: float, distance: Floats, alpha: Floats) -> Floats:
    """Phase of exp(K(s)) / s at s = line + x + iy."""
    across, along = x[:, None] / distance, y[:, None] / distance
    phase: Floats = np.arctan2(along, 1 - across) @ alpha - np.arctan2(y / line, 1 + x / line)
    return phase


def _log1mexp(exponent: float) -> float:
    """log(1 - exp(value)) for value <= 0, without cancellation."""
    if exponent == 0:
        return -math.inf
    return math.log(-math.expm1(exponent)) if exponent > -math.log(2) else math.log1p(-math.exp(exponent))
