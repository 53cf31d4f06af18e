"""The comparison: every policy at every budget on all recorded networks, on the same splits.

    python -m experiments.comparison
    python -m experiments.comparison --measure --resnet20 ../shared/traces/resnet20_cifar10.npz [--splits 10]

Writes the page and the interactive report again from the kept measurements. With --measure it replays the traces in
docs/results/traces, and a ResNet-20 recorded elsewhere; an interrupted command goes on where it was.
"""

from __future__ import annotations

import json
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
from experiments.pages import RESULTS, TRACES, Measurements, parser, points, table, write_page

import exeunt as ex
from exeunt._files import write_text
from exeunt.comparison import Comparison, TraceResult
from exeunt.comparison.compare import open_trace
from exeunt.confidence_intervals import mean_interval

FOLDER = RESULTS / "comparison"
MEASURED = FOLDER / "results.json"
BUDGETS, SHOWN = "20%:95%:5%", (0.3, 0.5, 0.7)
ENSEMBLE_AT = (0.3, 0.5, 0.7, 0.9)
RESNET20 = "ResNet-20, CIFAR-10, frozen"
NETWORKS = {
    "ResNet-56, CIFAR-10, frozen": "resnet56-cifar10-grid.parquet",
    "ResNet-20, CIFAR-10, fine-tuned": "resnet20-tuned-cifar10-cascade.parquet",
    "ResNet-18, CIFAR-100": "resnet18-cifar100.parquet",
    "ConvNeXt, CIFAR-100": "convnext-cifar100.parquet",
    "MSDNet, CIFAR-100": "msdnet-cifar100.parquet",
    "MiniLM, BANKING77, fine-tuned": "banking77-tuned.parquet",
}


def auto_against(found: Comparison) -> str:
    """Return auto minus every other policy, mean over budgets, per network and over all."""
    auto, rows = found.policies.index("auto"), []
    for p, policy in enumerate(found.policies):
        if p != auto:
            apart = [np.nanmean(one.accuracy[auto] - one.accuracy[p], axis=0) for one in found.traces]
            cells = [points(mean_interval(one)) for one in (np.mean(apart, axis=0), *apart)]
            rows.append([f"`{policy}`", *cells])
    return table(("auto minus", "all networks", *(one.name for one in found.traces)), rows)


def against_best(found: Comparison) -> str:
    """Return, per network, the budget at which auto lies furthest below the best single policy there."""
    auto, rows = found.policies.index("auto"), []
    for one in found.traces:
        mean = one.accuracy.mean(axis=-1)
        mean[auto] = -np.inf
        rival = mean.argmax(axis=0)
        apart = one.accuracy[auto] - one.accuracy[rival, np.arange(len(rival))]
        worst = int(apart.mean(axis=-1).argmin())
        cells = (
            f"{100 * apart.mean():+.2f}",
            points(mean_interval(apart[worst])),
            f"{one.shares[worst]:.0%}",
        )
        rows.append([one.name, *cells, f"`{found.policies[rival[worst]]}`"])
    columns = ("network", "auto minus the best single policy, mean over budgets", "worst", "at", "against")
    return table(columns, rows)


def at_budgets(found: Comparison, one: TraceResult) -> str:
    """Return the accuracies on one network at a few budgets."""
    mean, rows = one.accuracy.mean(axis=-1), []
    auto, eero = (found.policies.index(name) for name in ("auto", "eero"))
    for budget in SHOWN:
        q = int(np.abs(one.shares - budget).argmin())
        best = max((p for p in range(len(mean)) if p != auto), key=lambda p: mean[p, q])
        rows.append([
            f"{one.shares[q]:.0%}", f"{mean[eero, q]:.4f}", f"{mean[auto, q]:.4f}",
            f"{mean[best, q]:.4f} `{found.policies[best]}`", f"{one.mixture_accuracy[q].mean():.4f}",
            f"{one.oracle[q].mean():.4f}", f"{one.exits[-1].mean():.4f}",
            f"{one.mean_cost[auto, q].mean() / one.cost.full:.1%}",
        ])  # fmt: skip
    columns = (
        "budget", "eero", "auto", "best single policy", "random mixture of two exits", "oracle", "full network",
        "mean cost of auto",
    )  # fmt: skip
    return table(columns, rows)


def ensemble_accuracies(trace: ex.ExitTrace, seed: int, answer: str) -> list[float]:
    """Return the accuracy of auto with these answers at each budget, on one of the comparison's splits."""
    fit, calibrate, test = trace.split(seed=seed)
    policies = (ex.auto(fit, calibrate, budget=f"{share:.0%}", answer=answer) for share in ENSEMBLE_AT)
    return [ex.evaluate(policy, test).accuracy for policy in policies]


def ensemble_gains(found: Comparison, kept: Measurements, traces: dict[str, ex.ExitTrace]) -> str:
    """Return auto minus auto with own answers, on the same splits, where a trace has log-probabilities."""
    rows, means = [], []
    for one in found.traces:
        trace, measured = traces.get(one.name), (one.name, "auto", 0) in kept.known
        if not measured and (trace is None or not trace.has_log_probability):
            continue
        auto, own = (
            np.array([
                kept.of(one.name, answer, seed, measure=partial(ensemble_accuracies, trace, seed, answer))
                for seed in range(found.splits)
            ])
            for answer in ("auto", "own")
        )  # fmt: skip
        gains = (auto - own).T
        worst = int(gains.mean(axis=1).argmin())
        means.append(gains.mean(axis=0))
        rows.append(
            [
                one.name,
                *map(points, map(mean_interval, (means[-1], gains[worst]))),
                f"{ENSEMBLE_AT[worst]:.0%}",
            ]
        )
    rows.append(["all of them", points(mean_interval(np.mean(means, axis=0))), "", ""])
    return table(("network", "auto minus auto with own answers, mean over budgets", "worst", "at"), rows)


def write_measured(found: Comparison) -> None:
    """Write what every split measured, a line per network, to seven digits: a fifth of what `Comparison.save` takes."""
    plain = {one.name: getattr(found, one.name) for one in fields(found)}
    whole = json.dumps({**plain, "traces": [one.to_dict() for one in found.traces]})
    short = json.loads(whole, parse_float=lambda text: float(f"{float(text):.7g}"))
    traces = ",\n".join(json.dumps(one, separators=(",", ":")) for one in short.pop("traces"))
    write_text(MEASURED, json.dumps(short)[:-1] + f',\n"traces": [\n{traces}\n]}}\n')


def read_measured() -> Comparison:
    """Read what `write_measured` wrote."""
    kept = json.loads(MEASURED.read_text(encoding="utf-8"))
    traces = tuple(TraceResult.from_dict(one) for one in kept["traces"])
    return Comparison(**{**kept, "traces": traces})


def page(found: Comparison, ensemble: str) -> str:
    networks = "\n\n".join(
        f"### {one.name}\n\n{one.n:,} inputs, {one.cost.n_exits} exits.\n\n{at_budgets(found, one)}"
        for one in found.traces
    )
    return f"""# The comparison

Made by `python -m experiments.comparison`; numbers, of every split, in [results.json](results.json). `exeunt compare`
runs the same splits, budgets and policies on any trace. The [interactive report](report.html) opens offline.
{found.splits} random splits of each trace: 30% to fit, 20% to calibrate, 50% to test; budgets {BUDGETS} of the full
network's cost. Nothing is certified here (no `delta`), so a budget is kept on average and about half of all test parts
cost slightly more; only `risk_controlled`, whose threshold is a bound of its own, is held to 95%. Intervals are 95%
intervals over splits of the same inputs: they show how much the procedure varies, not what other inputs would give.

## All together

```
{found}
```

## auto against each, in points of accuracy

Mean over all budgets, paired by split.

{auto_against(found)}

Against the policy that turned out best at each budget, which nobody knows beforehand:

{against_best(found)}

## What ensemble answers bring

Where a trace holds log-probabilities, `auto` may answer with the ensemble of the exits so far. Budgets of
{", ".join(f"{share:.0%}" for share in ENSEMBLE_AT)}. Traces of 100 classes with log-probabilities are too large for the
repository, so their networks are not here.

{ensemble}

## Network by network

{networks}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", action="store_true")
    options.add_argument("--resnet20", type=Path, help="an .npz with logits, labels and macs")
    options.add_argument("--splits", type=int, default=10)
    options.add_argument("--workers", type=int)
    options.add_argument("--cache", type=Path, default=Path("runs/comparison"))
    given = options.parse_args()
    traces: dict[str, ex.ExitTrace] = {}
    if given.measure:
        files = {RESNET20: given.resnet20} if given.resnet20 else {}
        files |= {name: TRACES / file for name, file in NETWORKS.items()}
        traces = {name: open_trace(file) for name, file in files.items()}
        measured = ex.compare(
            traces,
            budgets=BUDGETS,
            splits=given.splits,
            workers=given.workers,
            cache=given.cache,
            progress=print,
        )
        write_measured(measured)
    found = read_measured()
    ensemble = ensemble_gains(found, Measurements(FOLDER / "ensemble.jsonl"), traces)
    found.report(FOLDER / "report.html", command="python -m experiments.comparison --measure")
    write_page(FOLDER / "README.md", page(found, ensemble))


if __name__ == "__main__":
    main()
