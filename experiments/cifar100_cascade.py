"""A cascade on CIFAR-100: a ResNet-20 with exits and the ResNet-18 of resnet18_cifar100.py, in the order that pays.

    torchrun --nproc-per-node 2 experiments/cifar100_cascade.py --data ../shared/data/cifar100

Both are trained here from random weights, jointly with their heads, the ResNet-20 for 30 epochs. Finished runs are
opened, not trained again. Also measured: what pooled answers bring to the ResNet-18 alone. Writes cifar100-cascade.md and
.json to docs/results; what is measured is kept.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import resnet18_cifar100
from common import RESULTS, Measurements, trained, whole_trace
from ingredients import BLOCKS
from report import heading, write_text_over_reading

import exeunt as ex
from exeunt._files import write_json
from exeunt.comparison.one_split import mixture_curve
from exeunt.torch.training.job import TrainingJob

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
COLUMNS = {
    "cascade": "cascade",
    "resnet20": "ResNet-20, auto",
    "resnet18": "ResNet-18, auto",
    "own": "ResNet-18, own answers",
    "lots": "lots between networks",
}


def jobs(data: str) -> dict[str, TrainingJob]:
    return {
        "resnet20": TrainingJob(
            model="exeunt.zoo:resnet20", data=data, exits=BLOCKS[:-1],
            recipe={"mode": "joint", "epochs": 30, "precision": "bf16"},
            augment="crop-flip", fit=500, calibrate=500,
        ),
        "resnet18": resnet18_cifar100.job(data),
    }  # fmt: skip


def measured(models: ex.CascadeTrace, share: float, seed: int) -> dict[str, list[float]]:
    """Return accuracy and spend of each way to spend this budget, as a share of the most expensive network."""
    fit, calibrate, test = models.split(fit=0.3, calibrate=0.2, test=0.5, seed=seed)
    full = fit[fit.most_expensive].cost.full
    amount = share * full
    found: dict[str, list[float]] = {}

    def note(way: str, policy: ex.Policy, of: Any) -> None:
        result = ex.evaluate(policy, of)
        found[way] = [result.accuracy, result.cost / full]

    note("cascade", ex.cascade(fit, calibrate, budget=amount, seed=seed), test)
    for way, name, answer in (
        ("resnet20", "resnet20", "auto"),
        ("resnet18", "resnet18", "auto"),
        ("own", "resnet18", "own"),
    ):
        within = min(amount, fit[name].cost.full)
        note(way, ex.auto(fit[name], calibrate[name], budget=within, answer=answer, seed=seed), test[name])
    alone = test.alone
    lots = mixture_curve(alone.cost.cumulative, 1 - fit.alone.risk, 1 - alone.risk, np.array([amount]))
    found["lots"] = [float(lots[0][0]), float(lots[1][0]) / full]
    return found


def page(found: dict[float, list[dict[str, list[float]]]], alone: str, most: str, splits: int) -> str:
    lines = heading(("budget", *COLUMNS.values()))
    for share, seeds in found.items():
        cells = ["{:.4f} @ {:.3f}".format(*np.mean([one[way] for one in seeds], axis=0)) for way in COLUMNS]
        lines.append(f"| {share:.0%} | {' | '.join(cells)} |")
    return f"""# A cascade of two networks on CIFAR-100

Made by `torchrun --nproc-per-node 2 experiments/cifar100_cascade.py`.

A ResNet-20 with a head after each of its nine blocks, 30 epochs of joint training from random weights, and the
[ResNet-18](resnet18-cifar100/README.md). Of 11,000 images that neither has learned from (less repeated ones), 30 % fit
the policy, 20 % calibrate it and 50 % test it; means of {splits} splits. Costs are multiply-adds as a share of the
{most}'s, heads included.

Each network alone and in full, on all of them: {alone}.

## Accuracy @ spend

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data/cifar100")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--splits", type=int, default=5)
    given = parser.parse_args()
    todo = jobs(given.data)
    folders = {"resnet20": given.runs / "resnet20-cifar100", "resnet18": given.runs / "resnet18-cifar100"}
    runs = {name: trained(job, folders[name], more=name == "resnet20") for name, job in todo.items()}
    models = ex.CascadeTrace({name: whole_trace(run) for name, run in runs.items()})
    kept = Measurements(given.runs / "cifar100-cascade.jsonl")
    found: dict[float, list[dict[str, list[float]]]] = {share: [] for share in SHARES}
    for seed in range(given.splits):
        for share in SHARES:
            found[share].append(kept.of(share, seed, measure=partial(measured, models, share, seed)))
        print(f"{seed + 1} of {given.splits} splits", file=sys.stderr, flush=True)
    called = {name: COLUMNS[name].split(",")[0] for name in models.names}
    alone = "; ".join(
        f"{called[name]} {1 - models[name].risk[-1]:.4f} at {models[name].cost.full / 1e6:.1f} million multiply-adds"
        for name in models.names
    )
    text = page(found, alone, called[models.most_expensive], given.splits)
    write_text_over_reading(RESULTS / "cifar100-cascade.md", text)
    write_json(RESULTS / "cifar100-cascade.json", {str(share): seeds for share, seeds in found.items()})


if __name__ == "__main__":
    main()
