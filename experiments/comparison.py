"""The comparison: every policy at every budget on all recorded networks, on the same splits.

    python experiments/comparison.py --resnet20 ../shared/traces/resnet20_cifar10.npz [--splits 50]

Replays the traces in docs/results/traces, and a ResNet-20 recorded elsewhere if given. Writes the interactive report,
a page and its numbers to docs/results/comparison. What is measured is kept: an interrupted command resumes when it is
started again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import RESULTS, Measurements
from report import heading, write_page

import exeunt as ex
from exeunt.comparison.compare import open_trace
from exeunt.confidence_intervals import mean_interval

if TYPE_CHECKING:
    from exeunt.comparison import Comparison, TraceResult

BUDGETS, SHOWN = "20%:95%:5%", (0.3, 0.5, 0.7)
POOLED_AT = (0.3, 0.5, 0.7, 0.9)
TRACES = {
    "ResNet-56, CIFAR-10, frozen": "resnet56-cifar10-grid.parquet",
    "ResNet-20, CIFAR-10, fine-tuned": "resnet20-tuned-cifar10-cascade.parquet",
    "ResNet-18, CIFAR-100": "resnet18-cifar100.parquet",
    "ConvNeXt, CIFAR-100": "convnext-cifar100.parquet",
    "MSDNet, CIFAR-100": "msdnet-cifar100.parquet",
    "MiniLM, BANKING77, fine-tuned": "banking77-tuned.parquet",
}


def points(values: np.ndarray) -> str:
    """Write differences per split (s,) as a mean in points with its 95 % interval."""
    mean, low, high = (100 * value for value in mean_interval(values))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def auto_against(comparison: Comparison) -> list[str]:
    """Return auto minus every other policy, mean over budgets, per network and over all."""
    names = [trace.name for trace in comparison.traces]
    lines = heading(("auto minus", "all networks", *names))
    best = comparison.policies.index("auto")
    for p, policy in enumerate(comparison.policies):
        if p == best:
            continue
        apart = [np.nanmean(trace.accuracy[best] - trace.accuracy[p], axis=0) for trace in comparison.traces]
        cells = [points(np.mean(apart, axis=0)), *map(points, apart)]
        lines.append(f"| `{policy}` | {' | '.join(cells)} |")
    return lines


def regrets(comparison: Comparison) -> list[str]:
    """Return, per network, the budget at which auto lies furthest below the best single policy there."""
    lines = heading(
        ("network", "auto minus the best single policy, mean over budgets", "worst", "at", "against")
    )
    best = comparison.policies.index("auto")
    for trace in comparison.traces:
        others = np.where(
            np.arange(len(comparison.policies)) == best, -np.inf, trace.accuracy.mean(axis=-1).T
        ).T
        rival = others.argmax(axis=0)
        apart = trace.accuracy[best] - trace.accuracy[rival, np.arange(len(rival))]
        worst = int(apart.mean(axis=-1).argmin())
        lines.append(
            f"| {trace.name} | {100 * apart.mean():+.2f} | {points(apart[worst])} | {trace.shares[worst]:.0%} | "
            f"`{comparison.policies[rival[worst]]}` |"
        )
    return lines


def at_budgets(comparison: Comparison, trace: TraceResult) -> list[str]:
    """Return the accuracies on one network at a few budgets."""
    columns = ("eero", "auto")
    lines = heading(
        (
            "budget",
            *columns,
            "best single policy",
            "two exits at random",
            "oracle",
            "full network",
            "auto spends",
        )
    )
    mean = trace.accuracy.mean(axis=-1)
    for budget in SHOWN:
        q = int(np.abs(trace.shares - budget).argmin())
        single = {name: mean[p, q] for p, name in enumerate(comparison.policies) if name != "auto"}
        first = max(single, key=lambda name: single[name])
        own = [f"{mean[comparison.policies.index(name), q]:.4f}" for name in columns]
        spent = trace.mean_cost[comparison.policies.index("auto"), q].mean() / trace.cost.full
        lines.append(
            f"| {trace.shares[q]:.0%} | {' | '.join(own)} | {single[first]:.4f} `{first}` | "
            f"{trace.mixture_accuracy[q].mean():.4f} | {trace.oracle[q].mean():.4f} | "
            f"{trace.exits[-1].mean():.4f} | {spent:.1%} |"
        )
    return lines


def pooling_gains(traces: dict[str, ex.ExitTrace], splits: int, kept: Measurements) -> list[str]:
    """Return, per network whose log-probabilities are known, auto minus auto with own answers, on the same splits."""
    lines = heading(("network", "auto minus auto with own answers, mean over budgets", "worst", "at"))
    means = []
    for name, trace in traces.items():
        if not trace.has_log_probability:
            continue
        auto, own = (
            np.array([
                kept.of(name, answer, *POOLED_AT, seed, measure=partial(_accuracies, trace, seed, answer))
                for seed in range(splits)
            ])
            for answer in ("auto", "own")
        )  # fmt: skip
        gains = (auto - own).T
        worst = int(gains.mean(axis=1).argmin())
        means.append(gains.mean(axis=0))
        cells = (points(means[-1]), points(gains[worst]), f"{POOLED_AT[worst]:.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, f"| all of them | {points(np.mean(means, axis=0))} | | |"]


def _accuracies(trace: ex.ExitTrace, seed: int, answer: str) -> list[float]:
    """Return the accuracy of auto with these answers at each budget, on one of the comparison's splits."""
    fit, calibrate, test = trace.split(seed=seed)
    policies = (ex.auto(fit, calibrate, budget=f"{share:.0%}", answer=answer) for share in POOLED_AT)
    return [ex.evaluate(policy, test).accuracy for policy in policies]


def page(comparison: Comparison, pooled: list[str]) -> str:
    parts = "\n\n".join(
        f"### {trace.name}\n\n{trace.n:,} inputs, {trace.cost.n_exits} exits.\n\n"
        + "\n".join(at_budgets(comparison, trace))
        for trace in comparison.traces
    )
    against, worst, gains = (
        "\n".join(lines) for lines in (auto_against(comparison), regrets(comparison), pooled)
    )
    overall, budgets = str(comparison), ", ".join(f"{share:.0%}" for share in POOLED_AT)
    return f"""# The comparison

Made by `{comparison.command}`; the same splits, budgets and policies as `exeunt compare` runs on any trace. The
[interactive report](report.html) opens offline. {comparison.splits} random splits of each trace: 30 % to fit, 20 % to
calibrate, 50 % to test; budgets {BUDGETS} of the full network's cost. Nothing is certified here (no `delta`),
so about half of all tests spend slightly more than planned; only `risk_controlled`, whose threshold is a bound of its
own, is held to 95 %. Intervals are over splits of the same inputs: how much the procedure varies, not what other
inputs would give.

## All together

```
{overall}
```

## auto against each, in points of accuracy

Mean over all budgets, paired by split.

{against}

Against the policy that turned out best at each budget, which nobody knows beforehand:

{worst}

## What pooled answers bring

Where a trace holds log-probabilities, `auto` may pool them. Budgets of {budgets}. Traces of 100 classes with them are
too large for the repository; where a run is given for a network, it stands for its trace.

{gains}

## Network by network

{parts}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resnet20", type=Path, help="an .npz with logits, labels and macs")
    parser.add_argument(
        "--pooled", action="append", default=[], metavar="NAME=RUN",
        help="a run with log-probabilities, which pooled answers are also compared on",
    )  # fmt: skip
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--cache", type=Path, default=Path("runs/comparison"))
    given = parser.parse_args()
    files = {name: RESULTS / "traces" / file for name, file in TRACES.items()}
    if given.resnet20:
        files = {"ResNet-20, CIFAR-10, frozen": given.resnet20, **files}
    traces = {name: open_trace(file) for name, file in files.items() if file.is_file()}
    comparison = ex.compare(
        traces, budgets=BUDGETS, splits=given.splits, workers=given.workers, cache=given.cache, progress=print
    )
    comparison = replace(comparison, command=shlex.join(["python", *sys.argv]))
    out = RESULTS / "comparison"
    out.mkdir(parents=True, exist_ok=True)
    comparison.report(out / "report.html")
    more = {name: open_trace(Path(run)) for name, run in (one.split("=", 1) for one in given.pooled)}
    pooled = pooling_gains(traces | more, given.splits, Measurements(given.cache / "pooled.jsonl"))
    write_page(out, page(comparison, pooled), _rounded(comparison.to_dict()))


def _rounded(value: Any) -> Any:
    """Return JSON-able numbers to six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
