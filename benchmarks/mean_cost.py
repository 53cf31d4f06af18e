"""Time and accuracy of the distribution of the mean cost: `python benchmarks/law.py`.

Against a plain Monte Carlo of 100,000 draws and against Imhof's inversion (scipy.integrate.quad along the
imaginary axis), all in the same run. Times are medians, in milliseconds. Then the errors of batches that are too
long to be listed.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import TYPE_CHECKING

import numpy as np
from scipy import integrate

from exeunt.mean_cost import MeanCostDistribution
from exeunt.mean_cost.distribution import list_totals, matched_probability, matched_quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


def alpha_of(distribution: MeanCostDistribution) -> np.ndarray:
    return np.append(distribution.counts[:-1], distribution.counts[-1] + 1).astype(float)


def unit_cost(distribution: MeanCostDistribution) -> np.ndarray:
    return (distribution.cost - distribution.cost[0]) / (distribution.cost[-1] - distribution.cost[0])


def totals(distribution: MeanCostDistribution, n_inputs: int) -> tuple[np.ndarray, np.ndarray] | None:
    return list_totals(n_inputs, alpha_of(distribution), unit_cost(distribution))


def stream_table(repeats: int) -> None:
    print("endless stream, budget at the 95 % quantile")
    print(
        f"{'exits':>5} {'N':>9} {'P ms':>7} {'quantile':>9} {'draws':>8} {'Imhof':>8} {'draws/P':>8} {'Imhof/P':>8}"
        f" {'err draws':>9} {'P - Imhof':>9}"
    )
    for m in (2, 5, 10, 27, 100):
        for n in (10**2, 10**4, 10**7):
            rng = np.random.default_rng(m)
            distribution = MeanCostDistribution(
                rng.multinomial(n, rng.dirichlet(np.ones(m))), np.cumsum(rng.uniform(0.5, 2, m))
            )
            budget = distribution.quantile(0.95)
            alpha = alpha_of(distribution)
            ours = milliseconds(
                lambda distribution=distribution, b=budget: distribution.probability_within(b), 10 * repeats
            )
            quantile = milliseconds(lambda distribution=distribution: distribution.quantile(0.95), repeats)
            draws = milliseconds(
                lambda distribution=distribution, rng=rng: distribution.sample(100_000, rng), min(repeats, 3)
            )
            theirs = milliseconds(
                lambda a=alpha, distribution=distribution, b=budget: imhof(a, distribution.cost, b),
                min(repeats, 3),
            )
            off = np.mean(distribution.sample(100_000, rng) <= budget) - 0.95
            differ = distribution.probability_within(budget) - imhof(alpha, distribution.cost, budget)
            print(
                f"{m:5d} {n:9.0e} {ours:7.3f} {quantile:9.3f} {draws:8.1f} {theirs:8.2f} {draws / ours:8.0f} "
                f"{theirs / ours:8.1f} {off:9.1e} {differ:9.1e}"
            )


def batch_table() -> None:
    print("\nbatches of T inputs, N = 1000")
    print(f"{'exits':>5} {'T':>9} {'method':>8} {'P ms':>9} {'quantile':>9} {'draws':>9}")
    for m in (2, 3, 10, 27):
        for size in (1, 10, 100, 10**4, 10**6, 10**9):
            rng = np.random.default_rng(m)
            distribution = MeanCostDistribution(
                rng.multinomial(1000, rng.dirichlet(np.full(m, 2.0))), np.cumsum(rng.uniform(0.5, 2, m))
            )
            budget = distribution.quantile(0.9)
            probability = milliseconds(
                lambda distribution=distribution, b=budget, t=size: distribution.batch_probability_within(
                    b, t
                ),
                3,
            )
            quantile = milliseconds(
                lambda distribution=distribution, t=size: distribution.batch_quantile(0.9, t), 3
            )
            alpha = alpha_of(distribution)
            draws = milliseconds(
                lambda rng=rng, a=alpha, t=size: rng.multinomial(t, rng.dirichlet(a, size=100_000)), 1
            )
            method = "matched" if totals(distribution, size) is None else "listed"
            print(f"{m:5d} {size:9.0e} {method:>8} {probability:9.1f} {quantile:9.1f} {draws:9.1f}")


def shapes(m: int, n: int) -> Iterator[MeanCostDistribution]:
    """Even shares, one exit that takes most, exits hardly used; costs on a lattice, at random, ever steeper."""
    rng = np.random.default_rng(m)
    first, rare = np.full(m, 0.1 / (m - 1)), np.full(m, 1e-5)
    first[0], rare[:2] = 0.9, 0.5
    for steps in (np.ones(m), rng.uniform(0.5, 2, m), 1.5 ** np.arange(m)):
        for p in (rng.dirichlet(np.full(m, 5.0)), first, first[::-1], rare):
            yield MeanCostDistribution(rng.multinomial(n, p / p.sum()) + 1, np.cumsum(steps))


def error_table() -> None:
    """Errors of the matched distribution against the list, at the longest batch that can be listed for all shapes (to 10^4)."""
    print("\nerrors of the matched distribution, 12 shapes of shares and costs, q = 0.5 to 0.9999")
    print(
        f"{'exits':>5} {'N':>9} {'T':>7} {'P too high':>10} {'quantile too high, inputs':>26} {'in std at 0.95':>15}"
    )
    levels = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)
    for m in (2, 3, 5, 10, 30):
        for n in (50, 1000, 10**5):
            distributions, size = list(shapes(m, n)), 1
            while (
                all(totals(distribution, int(size * 1.5) + 1) for distribution in distributions)
                and size < 10**4
            ):
                size = int(size * 1.5) + 1
            over, inputs, spread = [], [], []
            for distribution in distributions:
                total, reached = totals(distribution, size)
                alpha, unit = alpha_of(distribution), unit_cost(distribution)
                at = np.searchsorted(reached, levels)
                found = [matched_probability(total[i], size, alpha, unit) - reached[i] for i in at]
                error = np.array([matched_quantile(q, size, alpha, unit) for q in levels]) - total[at]
                mean = reached[0] * total[0] + np.diff(reached) @ total[1:]
                std = math.sqrt(reached[0] * total[0] ** 2 + np.diff(reached) @ total[1:] ** 2 - mean**2)
                over.append(max(found))
                inputs.extend(error)
                spread.append(error[2] / std)
            print(
                f"{m:5d} {n:9.0e} {size:7d} {max(over):10.1e} {min(inputs):12.2f} to {max(inputs):10.2f} "
                f"{min(spread):8.3f} to {max(spread):.3f}"
            )


def draws_table() -> None:
    """Longer batches: how many of 20,000 draws lie within the quantile, and within one input less."""
    print(
        "\nshare of draws within the 95 % quantile, less 0.95 (standard error 0.0015), and an input lower; 12 shapes"
    )
    print(f"{'exits':>5} {'N':>9} {'T':>7} {'within':>18} {'an input lower':>18}")
    for m in (5, 10, 30):
        for n in (50, 1000, 10**5):
            for size in (100, 10**4, 10**6):
                rng, within, lower = np.random.default_rng(m), [], []
                for distribution in shapes(m, n):
                    means = (
                        rng.multinomial(size, rng.dirichlet(alpha_of(distribution), size=20_000))
                        @ distribution.cost
                        / size
                    )
                    x = distribution.batch_quantile(0.95, size)
                    within.append(np.mean(means <= x * (1 + 1e-12)) - 0.95)
                    lower.append(
                        np.mean(means <= x - (distribution.cost[-1] - distribution.cost[0]) / size) - 0.95
                    )
                print(
                    f"{m:5d} {n:9.0e} {size:7.0e} {min(within):8.4f} to {max(within):.4f} "
                    f"{min(lower):8.4f} to {max(lower):.4f}"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    stream_table(parser.parse_args().repeats)
    batch_table()
    error_table()
    draws_table()
