"""Time and accuracy of the distribution of the mean cost.

    python -m benchmarks.mean_cost

Against a plain Monte Carlo of 100,000 draws and against Imhof's inversion (scipy.integrate.quad along the imaginary
axis), all in the same run; then the errors of batches that are too long to be listed. Prints the page and writes
docs/results/mean-cost-benchmarks.md.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
from experiments.pages import RESULTS, parser, table, write_page
from scipy import integrate

from exeunt.costs.mean_cost import MeanCostDistribution, list_totals, matched_probability, matched_quantile
from exeunt.timing.timing_tools import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVELS = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
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


def drawn(m: int, n: int, evenness: float) -> tuple[MeanCostDistribution, np.random.Generator]:
    """Return a distribution of m exits and n calibration inputs, and the generator that drew it."""
    rng = np.random.default_rng(m)
    counts = rng.multinomial(n, rng.dirichlet(np.full(m, evenness)))
    return MeanCostDistribution(counts, np.cumsum(rng.uniform(0.5, 2, m))), rng


def streams() -> str:
    """Endless streams, at the budget that is the 95% quantile."""
    rows = []
    for m in (2, 5, 10, 27, 100):
        for n in (10**2, 10**4, 10**7):
            one, rng = drawn(m, n, 1.0)
            budget, alpha, cost = one.quantile(0.95), alpha_of(one), one.cost
            ours = milliseconds(lambda one=one, b=budget: one.probability_within(b), 50)
            quantile = milliseconds(lambda one=one: one.quantile(0.95), 5)
            draws = milliseconds(lambda one=one, rng=rng: one.sample(100_000, rng), 3)
            theirs = milliseconds(lambda a=alpha, c=cost, b=budget: imhof(a, c, b), 3)
            off = np.mean(one.sample(100_000, rng) <= budget) - 0.95
            differ = one.probability_within(budget) - imhof(alpha, cost, budget)
            rows.append([
                m, f"{n:,}", f"{ours:.3f}", f"{quantile:.3f}", f"{draws:.1f}", f"{theirs:.2f}", f"{draws / ours:.0f}",
                f"{theirs / ours:.1f}", f"{off:.1e}", f"{differ:.1e}",
            ])  # fmt: skip
    columns = (
        "exits", "calibration inputs", "probability, ms", "quantile, ms", "100,000 draws, ms", "Imhof, ms",
        "draws / probability", "Imhof / probability", "error of the draws", "minus Imhof",
    )  # fmt: skip
    return table(columns, rows)


def batches() -> str:
    """Batches of T inputs, 1,000 calibration inputs."""
    rows = []
    for m in (2, 3, 10, 27):
        for size in (1, 10, 100, 10**4, 10**6, 10**9):
            one, rng = drawn(m, 1000, 2.0)
            budget, alpha = one.quantile(0.9), alpha_of(one)
            probability = milliseconds(
                lambda one=one, b=budget, t=size: one.batch_probability_within(b, t), 3
            )
            quantile = milliseconds(lambda one=one, t=size: one.batch_quantile(0.9, t), 3)
            draws = milliseconds(
                lambda rng=rng, a=alpha, t=size: rng.multinomial(t, rng.dirichlet(a, size=100_000)), 1
            )
            method = "matched" if totals(one, size) is None else "listed"
            rows.append([m, f"{size:,}", method, f"{probability:.1f}", f"{quantile:.1f}", f"{draws:.1f}"])
    return table(("exits", "T", "method", "probability, ms", "quantile, ms", "100,000 draws, ms"), rows)


def shapes(m: int, n: int) -> Iterator[MeanCostDistribution]:
    """Even shares, one exit that takes most, exits hardly used; costs on a lattice, at random, ever steeper."""
    rng = np.random.default_rng(m)
    first, rare = np.full(m, 0.1 / (m - 1)), np.full(m, 1e-5)
    first[0], rare[:2] = 0.9, 0.5
    for steps in (np.ones(m), rng.uniform(0.5, 2, m), 1.5 ** np.arange(m)):
        for p in (rng.dirichlet(np.full(m, 5.0)), first, first[::-1], rare):
            yield MeanCostDistribution(rng.multinomial(n, p / p.sum()) + 1, np.cumsum(steps))


def errors() -> str:
    """Errors of the matched distribution against the list, at the longest batch (to 10^4) that can be listed."""
    rows = []
    for m in (2, 3, 5, 10, 30):
        for n in (50, 1000, 10**5):
            every, size = list(shapes(m, n)), 1
            while size < 10**4 and all(totals(one, int(size * 1.5) + 1) for one in every):
                size = int(size * 1.5) + 1
            over, inputs, spread = [], [], []
            for one in every:
                total, reached = totals(one, size)
                alpha, unit = alpha_of(one), unit_cost(one)
                at = np.searchsorted(reached, LEVELS)
                over += [matched_probability(total[i], size, alpha, unit) - reached[i] for i in at]
                error = np.array([matched_quantile(q, size, alpha, unit) for q in LEVELS]) - total[at]
                weights = np.diff(reached, prepend=0)
                std = math.sqrt(weights @ total**2 - (weights @ total) ** 2)
                inputs += error.tolist()
                spread.append(error[2] / std)
            rows.append([
                m, f"{n:,}", f"{size:,}", f"{max(over):.1e}", f"{min(inputs):.2f} to {max(inputs):.2f}",
                f"{min(spread):.3f} to {max(spread):.3f}",
            ])  # fmt: skip
    columns = (
        "exits", "calibration inputs", "T", "probability too high by at most", "quantile too high, inputs",
        "95% quantile too high, standard deviations",
    )  # fmt: skip
    return table(columns, rows)


def main() -> None:
    parser(__doc__).parse_args()
    machine = describe_machine()
    text = f"""# Benchmarks of the distribution of the mean cost

Made by `python -m benchmarks.mean_cost` on {machine["processor"]}; medians of processor time on one
thread.

## An endless stream, budget at the 95% quantile

{streams()}

## Batches of T inputs, 1,000 calibration inputs

{batches()}

## Errors of the matched distribution

Twelve shapes of shares and costs, quantiles from 0.5 to 0.9999.

{errors()}
"""
    print(text)
    write_page(RESULTS / "mean-cost-benchmarks.md", text)


if __name__ == "__main__":
    main()
