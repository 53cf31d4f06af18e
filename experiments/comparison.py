"""The comparison: every policy at every budget on all recorded networks, on the same splits.

    python -m experiments.comparison
    python -m experiments.comparison --measure --resnet20 ../shared/traces/resnet20_cifar10.npz [--splits 10]
    python -m experiments.comparison --few-labels [--splits 20]

Writes the page and the interactive report again from the kept measurements. With --measure it replays the traces in
docs/results/traces, and a ResNet-20 recorded elsewhere. --few-labels compares auto with EERO alone, on every trace
there, with 100 to 3,000 labels and answers of ensembles too. An interrupted command goes on where it was.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
from experiments.pages import RESULTS, TRACES, Measurements, parser, points, rounded, table, write_page

import exeunt as ex
from exeunt._support.files import write_text
from exeunt.evaluation import Comparison, TraceResult
from exeunt.evaluation.compare import open_trace
from exeunt.guarantees.confidence_intervals import mean_interval
from exeunt.policy.ensemble_fitting import can_be_ensembled
from exeunt.rules.catalogue import preset

FOLDER = RESULTS / "comparison"
MEASURED = FOLDER / "results.json"
BUDGETS, SHOWN = "20%:95%:5%", (0.3, 0.5, 0.7)
LABELS, LEFT, FEW_AT = (100, 300, 1000, 3000), 2000, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
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


def accuracies(trace: ex.ExitTrace, labels: int, seed: int) -> dict[str, list[float]]:
    """Return the accuracies of EERO and auto at each budget, by policy and answer."""
    rows = np.random.default_rng(seed).permutation(trace.n)
    fit, calibrate, test = (trace.take(part) for part in np.split(rows, [labels, labels + LEFT // 2]))
    budgets = [f"{share:.0%}" for share in FEW_AT if share >= trace.cost.share(trace.cost.first)]
    ways = ["eero own", "auto own"]
    ways += ["eero ensemble", "auto ensemble", "auto auto"] if can_be_ensembled(fit) else []

    def accuracy(policy: str, answer: str, budget: str) -> float:
        made = preset(policy)(fit, calibrate, budget=budget, answer=answer)
        return round(ex.evaluate(made, test).accuracy, 6)

    return {way: [accuracy(*way.split(), budget) for budget in budgets] for way in ways}


def few_labels(splits: int) -> str:
    """Return the page on auto against EERO with few labels, of kept measurements and new ones."""
    kept, gains = Measurements(FOLDER / "few-labels.jsonl"), defaultdict(list)
    traces = {path.stem: ex.ExitTrace.load(path) for path in sorted(TRACES.glob("*.parquet"))}
    for seed in range(splits):
        for name, trace in traces.items():
            for n in (n for n in LABELS if trace.n >= n + LEFT):
                one = kept.of(name, n, seed, measure=partial(accuracies, trace, n, seed))
                for way, right in one.items():
                    if way.startswith("auto"):
                        rival = one.get(way.replace("auto ", "eero "), one["eero own"])
                        gains[name, f"{n:,}", way[5:]].append(np.subtract(right, rival))
        print(f"{seed + 1} of {splits} splits", flush=True)
    means = {key: mean_interval(np.mean(found, axis=1)) for key, found in gains.items()}
    cells = [cell for found in gains.values() for cell in np.transpose(found)]
    highest = min(mean_interval(cell, 1 - 0.1 / len(cells))[2] for cell in cells)
    lowest = min(low for _, low, _ in means.values())
    overall = mean_interval(np.mean([np.mean(found, axis=1) for found in gains.values()], axis=0))
    worst = {key: f"{100 * np.mean(found, axis=0).min():+.2f}" for key, found in gains.items()}
    rows = [[*key, points(mean), worst[key]] for key, mean in means.items()]
    return f"""# auto with few labels

Made by `python -m experiments.comparison --few-labels`; accuracies of every split in
[few-labels.jsonl](few-labels.jsonl). {splits} random splits of each trace: so many labels to fit, {LEFT // 2:,} inputs
to calibrate, the others to test. Accuracy of `auto` minus that of EERO, in points, mean over budgets of
{", ".join(f"{share:.0%}" for share in FEW_AT)} of the cost; 95% intervals over splits of the same inputs. Both have the
same answers, the exits' own or those of their ensemble; or `auto` chooses (auto), and EERO has the exits' own.

- Mean over all rows: {points(overall)}. Lowest lower end of a row: {100 * lowest:+.2f}.
- Of {len(cells):,} cells (a row at a budget), none is significantly below {round(100 * highest, 2) + 0.0:.2f}, by
  one-sided intervals that hold for all cells together at 95%.

{table(("trace", "labels", "answers", "mean over budgets", "worst budget"), rows)}
"""


def write_measured(found: Comparison) -> None:
    """Write what every split measured, a line per network: a fifth of what `Comparison.save` takes."""
    plain = {one.name: getattr(found, one.name) for one in fields(found)}
    plain["traces"] = [one.to_dict() for one in plain.pop("traces")]
    text = json.dumps(rounded(plain), separators=(",", ":"))
    write_text(MEASURED, text.replace('{"accuracy":', '\n{"accuracy":') + "\n")


def read_measured() -> Comparison:
    """Read what `write_measured` wrote."""
    kept = json.loads(MEASURED.read_text(encoding="utf-8"))
    return Comparison(**{**kept, "traces": tuple(map(TraceResult.from_dict, kept["traces"]))})


def page(found: Comparison) -> str:
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

With few labels, and with answers of ensembles: [auto with few labels](few-labels.md).

## Network by network

{networks}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", action="store_true")
    options.add_argument("--resnet20", type=Path, help="an .npz with logits, labels and macs")
    options.add_argument("--few-labels", action="store_true")
    options.add_argument("--splits", type=int)
    options.add_argument("--workers", type=int)
    options.add_argument("--cache", type=Path, default=Path("runs/comparison"))
    given = options.parse_args()
    if given.few_labels:
        write_page(FOLDER / "few-labels.md", few_labels(given.splits or 20))
        return
    if given.measure:
        files = {RESNET20: given.resnet20} if given.resnet20 else {}
        files |= {name: TRACES / file for name, file in NETWORKS.items()}
        traces = {name: open_trace(file) for name, file in files.items()}
        how = {"splits": given.splits or 10, "workers": given.workers, "cache": given.cache}
        write_measured(ex.compare(traces, budgets=BUDGETS, progress=print, **how))
    found = read_measured()
    found.report(FOLDER / "report.html", command="python -m experiments.comparison --measure")
    write_page(FOLDER / "README.md", page(found))


if __name__ == "__main__":
    main()
