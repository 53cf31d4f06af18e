"""How long the statistical core takes, against plain references timed in the same run, and how that grows.

    python -m benchmarks.core [--trace ../shared/traces/resnet20_cifar10.npz]

Prints the table, and writes docs/results/core-benchmarks.md. Every time is processor time on
one thread, the best of a few runs.
"""

from __future__ import annotations

import platform
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from experiments.pages import RESULTS, parser, table, write_page
from scipy.optimize import minimize

import exeunt as ex
from exeunt.policy import allocation
from exeunt.rules import baselines
from exeunt.timing.timing_tools import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable

EXITS = 21
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux


def best(call: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least processor time of `call`, in seconds: other work on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def peak_mib() -> float:
    """Highest resident memory since the last `forget_peak`, in MiB."""
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Start measuring the peak anew."""
    CLEAR.write_text("5")


def random_trace(n: int, m: int, seed: int, labelled: bool) -> ex.ExitTrace:
    rng = np.random.default_rng(seed)
    return ex.ExitTrace.from_scores(
        rng.random((n, m)),
        np.zeros((n, m), dtype=np.int64),
        cost=ex.CostModel(np.arange(1.0, m + 1)),
        label=rng.integers(0, 2, n) if labelled else None,
        id=np.arange(n, dtype=np.uint64) + np.uint64(seed * 10**9),
    )


def loop_policy(calibrate: ex.ExitTrace, rates: np.ndarray) -> list[float]:
    """Sequential thresholds as one would first write them: sort the survivors, let the surest go."""
    (score,) = calibrate.scores.values()
    rows, alive, thresholds = score.tolist(), list(range(calibrate.n)), []
    for exit_ in range(len(rates) - 1):
        count = int(rates[exit_] * calibrate.n)
        alive.sort(key=lambda i, e=exit_: rows[i][e], reverse=True)
        thresholds.append(rows[alive[count - 1]][exit_] if count else float("inf"))
        alive = alive[count:]
    return thresholds


def loop_replay(score: np.ndarray, right: np.ndarray, cost: np.ndarray, thresholds: list[float]) -> Any:
    """Accuracy and mean cost of thresholds, one input after the other."""
    hits, paid, m = 0, 0.0, len(cost)
    for row, correct in zip(score.tolist(), right.tolist(), strict=True):
        for exit_ in range(m):
            if exit_ == m - 1 or row[exit_] >= thresholds[exit_]:
                hits += correct[exit_]
                paid += cost[exit_]
                break
    return hits / len(score), paid / len(score)


def slsqp(risk: np.ndarray, cost: np.ndarray, budget: float, temperature: float = 0.04) -> np.ndarray:
    """Proposition 3.8 by a general-purpose optimiser."""
    prior = (1 / cost) / np.sum(1 / cost)
    found = minimize(
        lambda x: x @ risk + temperature * np.sum(x * np.log(np.maximum(x, 1e-300) / prior)),
        allocation.geometric(cost, budget),
        jac=lambda x: risk + temperature * (np.log(np.maximum(x, 1e-300) / prior) + 1),
        bounds=[(1e-12, 1)] * len(cost),
        constraints=[
            {"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
            {"type": "ineq", "fun": lambda x: budget - x @ cost, "jac": lambda _: -cost},
        ],
        method="SLSQP",
        options={"maxiter": 500},
    )
    return np.asarray(found.x)


def calibration() -> list[list[str]]:
    """One million inputs, and the same as a loop on twenty thousand."""
    fit = random_trace(10_000, EXITS, 1, labelled=True)
    trace = random_trace(1_000_000, EXITS, 2, labelled=False)
    lines = []
    for name, options in (("", {}), (", certified at delta = 0.05", {"delta": 0.05})):
        call = partial(ex.eero, fit, trace, budget="50%", **options)
        seconds = best(call)
        forget_peak()
        before = peak_mib()
        call()
        what = f"calibrate `eero` on 1,000,000 x {EXITS}{name}"
        lines.append([what, f"{seconds:.2f} s, {peak_mib() - before:.0f} MiB above the trace"])
    small = trace.take(slice(20_000))
    ours = best(partial(ex.eero, fit, small, budget="50%"))
    policy = ex.eero(fit, small, budget="50%")
    loop = best(partial(loop_policy, small, policy.rates), 1)
    return [
        *lines,
        _ratio_row(f"the same on 20,000 x {EXITS}, against a plain loop", ours, loop),
    ]


def allocations() -> list[list[str]]:
    """A thousand exits, and sixty against SciPy."""
    rng = np.random.default_rng(0)

    def problem(m: int) -> tuple[np.ndarray, np.ndarray, float]:
        cost = np.cumsum(rng.uniform(0.1, 1, m))
        return np.sort(rng.random(m))[::-1].copy(), cost, 0.5 * float(cost[-1])

    large, small = problem(1000), problem(60)
    ours, few = (
        best(lambda: allocation.exponential_weights(*large), 20),
        best(lambda: allocation.exponential_weights(*small), 20),
    )
    reference = best(lambda: slsqp(*small))
    return [
        ["`exponential_weights`, 1,000 exits", f"{ours * 1e3:.2f} ms"],
        _ratio_row("the same, 60 exits, against SciPy's SLSQP", few, reference),
    ]


def frontier(path: Path) -> list[list[str]]:
    """Five presets, fifty budgets, ten splits, and one cell of that as a loop."""
    with np.load(path) as file:
        trace = ex.ExitTrace.from_logits(
            file["logits"], cost=ex.CostModel(file["macs"]), label=file["labels"]
        )
    presets = {
        "eero": ex.eero,
        "paper": partial(ex.eero, calibration="marginal"),
        "geometric": baselines.msdnet,
        "gaussian": baselines.predictive_exit,
        "common": ex.common_threshold,
    }
    budgets = np.linspace(1.1 * trace.cost.first, trace.cost.full, 50)
    seconds = best(lambda: ex.frontier(presets, trace, budgets, splits=10), 1)
    fit, calibrate, test = trace.split()
    policy, score = ex.eero(fit, calibrate, budget="50%"), test.scores["margin"]

    def loop() -> Any:
        one_score = ex.ExitTrace.from_scores(
            calibrate.scores["margin"], calibrate.prediction, cost=trace.cost, id=calibrate.id
        )
        return loop_replay(score, test.correct, trace.cost.cumulative, loop_policy(one_score, policy.rates))

    cell = best(lambda: ex.evaluate(ex.eero(fit, calibrate, budget="50%"), test), 5)
    by_loop = best(loop)
    return [
        [f"frontier, 5 presets x 50 budgets x 10 splits, {trace.n:,} inputs", f"{seconds:.1f} s"],
        _ratio_row("one cell of it (calibrate and replay), against a plain loop", cell, by_loop),
    ]


def _ratio_row(name: str, ours: float, reference: float) -> list[str]:
    return [
        name,
        f"{ours * 1e3:.2f} ms against {reference * 1e3:.1f} ms: {reference / ours:.1f} times as fast",
    ]


def growth() -> list[list[str]]:
    """Time against the number of inputs and of exits, and the slope of log time at the upper end."""
    by_n = [(n, _calibration_time(n, EXITS)) for n in (1_000, 10_000, 100_000, 1_000_000)]
    by_m = [(m, _calibration_time(100_000, m)) for m in (5, 10, 20, 40, 80)]
    weights = []
    for m in (10, 100, 1_000, 10_000):
        cost, risk = np.arange(1.0, m + 1), np.linspace(0.9, 0.1, m)
        call = partial(allocation.exponential_weights, risk, cost, 0.4 * m)
        weights.append((m, best(call, 5)))
    return [
        _growth_row(f"calibrate, {EXITS} exits, against inputs n", by_n),
        _growth_row("calibrate, 100,000 inputs, against exits m", by_m),
        _growth_row("`exponential_weights` against exits m", weights),
    ]


def _calibration_time(n: int, m: int) -> float:
    fit, calibrate = random_trace(1000, m, 1, labelled=True), random_trace(n, m, 2, labelled=False)
    return best(partial(ex.eero, fit, calibrate, budget="50%"))


def _growth_row(name: str, points: list[tuple[int, float]]) -> list[str]:
    (a, s), (b, t) = points[-2:]
    shown = ", ".join(f"{size:,}: {seconds * 1e3:.3g}" for size, seconds in points)
    return [name, shown, f"{np.log(t / s) / np.log(b / a):.2f}"]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trace", type=Path, default=Path("../shared/traces/resnet20_cifar10.npz"))
    given = options.parse_args()
    rows = [*calibration(), *allocations(), *(frontier(given.trace) if given.trace.is_file() else [])]
    text = f"""# Benchmarks of the statistical core

Made by `python -m benchmarks.core`; processor time on one thread, the best of a few runs. Python
{platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, {describe_machine()["processor"]}.

{table(("what", "measured"), rows)}

Growth (milliseconds; the exponent is that of the last step, 1 is linear):

{table(("what", "size: ms", "exponent"), growth())}
"""
    print(text)
    write_page(RESULTS / "core-benchmarks.md", text)


if __name__ == "__main__":
    main()
