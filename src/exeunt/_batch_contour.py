"""Law of a batch's total cost by a double contour integral, for batches with too many outcomes to list.

The counts of T further inputs have the generating function prod (1 - z exp(s c_l))^(-alpha_l): its
coefficient of z^T, divided by that of (1 - z)^(-A), is E[exp(s S)] for the total cost S. With
z = exp(t + i psi) and s = s0 + i y on the torus through a saddle point,

    P(S > x) = 1/(2 pi)^2 * double integral of prod (1 - rho_l exp(i (psi + y c_l)))^(-alpha_l)
               * exp(-(t + i psi) T - (s0 + i y) x) * kernel(s0 + i y) / norm,

by the trapezoidal rule in both angles, exponentially accurate. The kernel is 1/s, or
g / (2 sinh(g s / 2)) when the costs lie on a lattice of spacing g (x half-way between two of its points).
Away from the peak at y = 0 the integrand returns wherever all products y c_l come near multiples of 2 pi:
these returns are the atoms of the law. They are searched for, and integrated like the peak itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Floats

    Complex: TypeAlias = NDArray[np.complex128]

_SIGMAS_COST = 50.0  # the rule in y repeats the law at this many standard deviations
_SIGMAS_COUNT = 30.0  # the rule in psi repeats the law of sum N_l
_OFFSET = 0.6  # least distance of the line from the pole at s = 0, in standard deviations
_FADED = 38.0  # the integrand is dropped below exp(-38) = 3e-17 of its peak
_SEARCHED = 32.0  # ... and away from y = 0 below exp(-32) = 1e-14
_MOST_SEARCH = 2e6  # products y c_l looked at in the search for returns
_MOST_WORK = 1e7  # factors of the integrand evaluated: about a second
_CHUNK = 1e6  # factors of the integrand in memory at a time


@dataclass(frozen=True)
class Tilted:
    """Counts of T inputs, tilted to N_l ~ NB(alpha_l) with odds rho_l = exp(t + s c_l).

    `cost` (m,) from 0 to 1; `spacing` of the lattice they lie on, 0 for none.
    """

    n_inputs: int
    alpha: Floats
    cost: Floats
    spacing: float
    s: float

    @classmethod
    def at(cls, n_inputs: int, alpha: Floats, cost: Floats, spacing: float, total: float) -> Tilted:
        """Tilt so that the expected total cost is about `total`, though not less than by `_OFFSET`."""
        plain = cls(n_inputs, alpha, cost, spacing, 0.0)
        sigma = plain.std_total
        middle = plain.mean_total
        # The exact saddle point serves speed alone: far out, or next to an end of the range, near it will do.
        aim = min(max(total, middle - 8 * sigma, 0.05 * middle), middle + 8 * sigma)
        aim = min(aim, n_inputs - 0.05 * (n_inputs - middle))
        sign = 1.0 if aim >= middle else -1.0
        reach = _OFFSET / sigma

        def missing(s: float) -> float:
            return sign * (cls(n_inputs, alpha, cost, spacing, sign * s).mean_total - aim)

        if missing(reach) >= 0:
            return cls(n_inputs, alpha, cost, spacing, sign * reach)
        low = reach
        while missing(reach) < 0:
            low, reach = reach, 2 * reach
        saddle = float(brentq(missing, low, reach, rtol=1e-3))
        return cls(n_inputs, alpha, cost, spacing, sign * saddle)

    @cached_property
    def log_odds(self) -> Floats:
        """T + s c_l, with t such that sum E[N_l] = T."""
        exponent = self.s * self.cost
        exponent = exponent - exponent.max()

        def excess(log_gap: float) -> float:
            log_odds = exponent - math.exp(log_gap)
            return float(np.sum(self.alpha / np.expm1(-log_odds))) - self.n_inputs

        # The largest odds alone give at least their share of T, all of them together at most T.
        total, least = float(self.alpha.sum()), float(self.alpha.min())
        low = math.log(math.log1p(least / self.n_inputs)) - 1e-9
        high = math.log(math.log1p(total / self.n_inputs)) + 1e-9
        odds: Floats = exponent - math.exp(brentq(excess, low, high, xtol=1e-14, rtol=1e-14))
        return odds

    @cached_property
    def odds(self) -> Floats:
        """rho_l."""
        return np.exp(self.log_odds)

    @cached_property
    def gap(self) -> Floats:
        """1 - rho_l."""
        return -np.expm1(self.log_odds)

    @cached_property
    def spread(self) -> Floats:
        """Variance of N_l."""
        variance: Floats = self.alpha * self.odds / self.gap**2
        return variance

    @property
    def mean_total(self) -> float:
        """Expected total cost."""
        return float(np.sum(self.alpha * self.odds / self.gap * self.cost))

    @property
    def std_total(self) -> float:
        """Standard deviation of the total cost, given sum N_l = T, to leading order."""
        centre = float(self.spread @ self.cost / self.spread.sum())
        return math.sqrt(float(self.spread @ (self.cost - centre) ** 2))

    def nodes(self) -> tuple[Floats, bool]:
        """Nodes of the rule in y from 0 on, and whether they span the half period of the lattice."""
        step = 2 * math.pi / (_SIGMAS_COST * self.std_total)
        most = int(_MOST_SEARCH / len(self.cost))
        if self.spacing and math.pi / self.spacing <= most * step:
            n = math.ceil(math.pi / self.spacing / step)
            return np.linspace(0.0, math.pi / self.spacing, n + 1), True
        return step * np.arange(most + 1.0), False

    @cached_property
    def _selection(self) -> tuple[Booleans, float]:
        """Which nodes are evaluated, and the root mean square of what the others are expected to add.

        Beyond the last node the mean square of the integrand is taken to be that of the outer half of the
        nodes, or, if that is more, what it is in the long run for costs without any relation (the chance that
        two batches have the same counts); and its phases not to conspire.
        """
        y, whole = self.nodes()
        lost = np.empty(len(y))
        size = max(int(_CHUNK / len(self.cost)), 1)
        for begin in range(0, len(y), size):
            part = slice(begin, begin + size)
            lost[part] = self._decay(self._angles(y[part])[0])
        affordable = max(int(_MOST_WORK / (len(self._circle()[0]) * len(self.cost))), 2)
        limit = np.partition(lost, affordable)[affordable] if affordable < len(y) else math.inf
        chosen = lost < min(limit, _SEARCHED)
        power = np.exp(-2 * lost)
        omitted = float(np.sum(power[~chosen] / np.flatnonzero(~chosen).clip(1) ** 2.0))
        level = max(float(np.mean(power[len(y) // 2 :])), self._collision)
        beyond = 0.0 if whole else level / len(y)
        return chosen, math.sqrt(omitted + beyond) / math.pi

    @property
    def _collision(self) -> float:
        """Chance that two batches have the same counts, for counts near normal."""
        log_volume = 0.5 * float(np.sum(np.log(4 * math.pi * self.spread)))
        return min(math.sqrt(4 * math.pi * float(self.spread.sum())) * math.exp(-log_volume), 1.0)

    @property
    def error(self) -> float:
        """Root mean square error of probabilities, expected of atoms that are not resolved."""
        return self._selection[1]

    def tail(self, total: float) -> float:
        """Return P(S > total) if s > 0, P(S <= total) if s < 0."""
        y, transform = self._transform
        value = abs(float(np.sum(np.real(transform * np.exp(-1j * total * y)))))
        return value * math.exp(self._log_front - self.s * total)

    def probability(self, total: float) -> float:
        """Return P(S <= total), for a `total` half-way between two points of the lattice, if there is one."""
        if total < 0 or total >= self.n_inputs:
            return float(total >= 0)
        tail = min(max(self.tail(total), 0.0), 1.0)
        return 1 - tail if self.s > 0 else tail

    @cached_property
    def _transform(self) -> tuple[Floats, Complex]:
        """Nodes y that matter, and there the terms of the rule for all totals."""
        y, whole = self.nodes()
        weight = np.full(len(y), (y[1] - y[0]) / math.pi)
        weight[0] /= 2
        if whole:
            weight[-1] /= 2
        active = self._selection[0]
        point = self.s + 1j * y[active]
        half = self.spacing / 2
        kernel = half / np.sinh(half * point) if self.spacing else 1 / point
        return y[active], self._inner(y[active]) * kernel * weight[active]

    def _inner(self, y: Floats) -> Complex:
        """Integral over psi at each y, relative to the integrand at y = psi = 0, without its front factor."""
        psi, step = self._circle()
        values = np.empty(len(y), dtype=np.complex128)
        size = max(int(_CHUNK / (len(psi) * len(self.cost))), 1)
        for begin in range(0, len(y), size):
            part = slice(begin, begin + size)
            rest, centre = self._angles(y[part])
            angle = rest[:, None, :] + psi[:, None]
            versine = 2 * self.odds * np.sin(angle / 2) ** 2
            modulus = -0.5 * (np.log1p(2 * versine / self.gap**2) @ self.alpha)
            phase = np.arctan2(self.odds * np.sin(angle), self.gap + versine) @ self.alpha
            phase -= self.n_inputs * (centre[:, None] + psi)
            values[part] = np.sum(np.exp(modulus + 1j * phase), axis=1) * step / (2 * math.pi)
        return values

    def _angles(self, y: Floats) -> tuple[Floats, Floats]:
        """Angles psi + y c_l (n, m) at the psi (n,) that brings them nearest to 0, modulo 2 pi."""
        heaviest = int(np.argmax(self.spread))
        turn = y[:, None] * (self.cost - self.cost[heaviest])
        rest = turn - 2 * math.pi * np.round(turn / (2 * math.pi))
        weight = self.spread / self.spread.sum()
        mean = np.arctan2(np.sin(rest) @ weight, np.cos(rest) @ weight)
        return rest - mean[:, None], -mean - y * self.cost[heaviest]

    def _decay(self, angle: Floats) -> Floats:
        """How many nats the integrand has lost at angles (..., m)."""
        decay: Floats = 0.5 * (np.log1p(4 * self.odds * np.sin(angle / 2) ** 2 / self.gap**2) @ self.alpha)
        return decay

    def _circle(self) -> tuple[Floats, float]:
        """Nodes of the rule in psi and their distance: the whole circle, or as much of it as matters."""
        n = math.ceil(_SIGMAS_COUNT * math.sqrt(float(self.spread.sum()))) + 40
        angle = np.geomspace(1e-12, math.pi, 400)
        faded = np.flatnonzero(self._decay(np.repeat(angle[:, None], len(self.cost), axis=1)) > _FADED)
        half = angle[faded[0]] if len(faded) else math.pi
        step = 2 * math.pi / n
        side = math.ceil(half / step)
        first, last = (0, n) if half > 2.5 else (-side, side + 1)
        return step * np.arange(first, last, dtype=np.float64), step

    @cached_property
    def _log_front(self) -> float:
        """Log of the integrand at y = psi = total = 0 over the coefficient of z^T in (1 - z)^(-A)."""
        whole = Tilted(self.n_inputs, np.array([self.alpha.sum()]), np.zeros(1), 0.0, 0.0)
        norm = float(np.real(whole._inner(np.zeros(1))[0]))
        moved = float(np.sum(self.alpha * np.log(whole.gap / self.gap)))
        shift = float(self.log_odds[0] - self.s * self.cost[0] - whole.log_odds[0])
        return moved - self.n_inputs * shift - math.log(norm)
