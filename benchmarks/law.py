"""Time and accuracy of the law of spend: `python benchmarks/law.py`.

Against a plain Monte Carlo of 100,000 draws and against Imhof's inversion (scipy.integrate.quad along the
imaginary axis), all in the same run. Times are medians, in milliseconds.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import TYPE_CHECKING

import numpy as np
from scipy import integrate

from exeunt.law import SpendLaw

if TYPE_CHECKING:
    from collections.abc import Callable


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def imhof(alpha: np.ndarray, cost: np.ndarray, budget: float) -> float:
    """P(K <= budget) by Imhof (1961): an integral along the imaginary axis, left to an adaptive rule."""
    centred = (cost - budget) / math.sqrt(float(alpha @ (cost - budget) ** 2))

    def integrand(y: float) -> float:
        turn = float(alpha @ np.arctan(y * centred))
        return math.sin(turn) / y * math.exp(-0.5 * float(alpha @ np.log1p((y * centred) ** 2)))

    value = integrate.quad(integrand, 0, np.inf, epsabs=1e-10, epsrel=1e-10, limit=1000)[0]
    return 0.5 - value / math.pi


def stream_table(repeats: int) -> None:
    print("endless stream, budget at the 95 % quantile")
    print(
        f"{'exits':>5} {'N':>9} {'P ms':>7} {'quantile':>9} {'draws':>8} {'Imhof':>8} {'draws/P':>8} {'Imhof/P':>8}"
        f" {'err draws':>9} {'P - Imhof':>9}"
    )
    for m in (2, 5, 10, 27, 100):
        for n in (10**2, 10**4, 10**7):
            rng = np.random.default_rng(m)
            law = SpendLaw(rng.multinomial(n, rng.dirichlet(np.ones(m))), np.cumsum(rng.uniform(0.5, 2, m)))
            budget = law.quantile(0.95)
            alpha = np.append(law.counts[:-1], law.counts[-1] + 1).astype(float)
            ours = milliseconds(lambda law=law, b=budget: law.probability_within(b), 10 * repeats)
            quantile = milliseconds(lambda law=law: law.quantile(0.95), repeats)
            draws = milliseconds(lambda law=law, rng=rng: law.sample(100_000, rng), min(repeats, 3))
            theirs = milliseconds(lambda a=alpha, law=law, b=budget: imhof(a, law.cost, b), min(repeats, 3))
            off = np.mean(law.sample(100_000, rng) <= budget) - 0.95
            differ = law.probability_within(budget) - imhof(alpha, law.cost, budget)
            print(
                f"{m:5d} {n:9.0e} {ours:7.3f} {quantile:9.3f} {draws:8.1f} {theirs:8.2f} {draws / ours:8.0f} "
                f"{theirs / ours:8.1f} {off:9.1e} {differ:9.1e}"
            )


def batch_table() -> None:
    print("\nbatches of T inputs, N = 1000")
    print(f"{'exits':>5} {'costs':>8} {'T':>9} {'P ms':>9} {'quantile':>9} {'draws':>9}")
    for m in (2, 3, 10, 27):
        for lattice in (True, False):
            for size in (1, 100, 10**4, 10**6):
                rng = np.random.default_rng(m)
                steps = rng.integers(1, 4, m) if lattice else rng.uniform(0.5, 2, m)
                law = SpendLaw(rng.multinomial(1000, rng.dirichlet(np.full(m, 2.0))), np.cumsum(steps))
                budget = law.quantile(0.9)
                probability = milliseconds(
                    lambda law=law, b=budget, t=size: law.batch_probability_within(b, t), 1
                )
                quantile = milliseconds(lambda law=law, t=size: law.batch_quantile(0.9, t), 1)
                shares = np.append(law.counts[:-1], law.counts[-1] + 1)
                draws = milliseconds(
                    lambda rng=rng, a=shares, t=size: rng.multinomial(t, rng.dirichlet(a, size=100_000)), 1
                )
                name = "lattice" if lattice else "real"
                print(f"{m:5d} {name:>8} {size:9.0e} {probability:9.1f} {quantile:9.1f} {draws:9.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    stream_table(parser.parse_args().repeats)
    batch_table()
