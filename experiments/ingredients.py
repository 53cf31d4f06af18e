"""What each ingredient of good exits is worth: a pretrained ResNet-20 on CIFAR-10 with an exit at each block.

    python -m experiments.ingredients
    python -m experiments.ingredients --train --data ../shared/data/cifar10 --models ../shared/models

Writes the page again from its kept numbers. With --train it trains: heads alone on cached features, then everything
from the pretrained weights; each variant differs from its baseline in one ingredient. Finished runs are opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from experiments.pages import RESULTS, TRACES, kept_numbers, parser, points, table, write_page
from experiments.replay import Gain, replay

import exeunt as ex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGE = RESULTS / "exit-ingredients.md"
BLOCKS = tuple(f"layer{group}.{block}" for group in (1, 2, 3) for block in range(3))
PARTS = {"fit": 0.3, "calibrate": 0.2, "test": 0.5}
POLICIES = {"auto": ex.auto, "eero": ex.eero}
THREE = (0.3, 0.5, 0.7)
ALL = tuple(round(0.05 * step, 2) for step in range(3, 21))
RIVAL, BEST = "frozen-256", "joint-best"
COMPARED = ("frozen", RIVAL, BEST)
FROZEN = {"mode": "frozen", "epochs": 20}
JOINT = {"mode": "joint", "epochs": 4, "backbone_rate": 0.1, "precision": "bf16"}


class Variant(NamedTuple):
    """`label`: as the page calls it. `head`, `recipe`: what differs from the baseline."""

    label: str
    head: dict[str, Any] = {}  # noqa: RUF012 - never changed
    recipe: dict[str, Any] = {}  # noqa: RUF012
    heads_first: int = 0


VARIANTS = {
    "frozen": Variant("**baseline**: 4x4 grid, hidden layer of 64 with batch norm"),
    "frozen-paper": Variant("the paper's head: global average, linear", {"head": "paper"}),
    "frozen-128": Variant("hidden layer of 128", {"hidden": 128}),
    "frozen-256": Variant("hidden layer of 256", {"hidden": 256}),
    "frozen-bottleneck": Variant("a convolution before pooling (not an option any more)", {"bottleneck": 16}),
    "frozen-stacked": Variant("each head reads the one before (not an option any more)", {"stacked": True}),
    "joint": Variant("**baseline**: heads start at random, plain sum of the losses"),
    "joint-heads-first": Variant("`--heads-first 10`: the heads first learn alone", heads_first=10),
    "joint-distill": Variant(
        "`--mode distill`: exits also learn from the last exit", {}, {"mode": "distill", "teacher": "self"}),
    "joint-original": Variant(
        "`--mode distill --teacher original`: exits also learn from the original model",
        {}, {"mode": "distill", "teacher": "original"}),
    "joint-late": Variant("later exits count more (not an option any more)", {}, {"exit_weights": "linear"}),
    "joint-best": Variant(
        "all that pays", {"hidden": 256},
        {"mode": "distill", "teacher": "original", "backbone_rate": 0.05, "epochs": 10}, heads_first=10,
    ),
}  # fmt: skip
GONE = ("frozen-bottleneck", "frozen-stacked", "joint-late")  # their numbers are kept


# -- training and measuring ------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """A variant on the n inputs that a split tested: m exits, p policies at q budgets.

    `correct` (n, m): of each exit alone; `right` (p, q, n): how often the policy was right. `cost` (m,) and `budgets`:
    shares of the original model's cost.
    """

    correct: np.ndarray
    right: np.ndarray
    cost: np.ndarray
    budgets: Sequence[float]


def measure(trace: ex.ExitTrace, budgets: Sequence[float], *, own_cost: float, splits: int) -> Measured:
    """Replay `auto` and EERO on a trace. Splits are the same for all traces of the same inputs."""
    trace = trace.take(np.argsort(trace.id, kind="stable"))
    found = replay(
        trace, [share * own_cost for share in budgets], parts=PARTS, splits=splits, policies=POLICIES
    )
    right = found.right[:, :, found.tested]
    return Measured(trace.correct[found.tested], right, trace.cost.cumulative / own_cost, budgets)


def numbers(run: Measured, network: np.ndarray, base: Measured | None = None) -> dict[str, Any]:
    """Return a variant's numbers. `network` (n,): which inputs the original model answers right."""
    rows = []
    for policy, right in zip(POLICIES, run.right, strict=True):
        for budget, one in zip(run.budgets, right, strict=True):
            row = {"policy": policy, "budget_share": budget, "accuracy": float(one.mean())}
            row["minus_network_as_given"] = Gain.of(one - network)
            if base is not None and budget in base.budgets:
                rival = base.right[list(POLICIES).index(policy), base.budgets.index(budget)]
                row["minus_baseline"] = Gain.of(one - rival)
            rows.append(row)
    return {
        "cost_share": run.cost.tolist(), "accuracy_per_exit": run.correct.mean(axis=0).tolist(), "budgets": rows
    }  # fmt: skip


def train_all(given: Any) -> dict[str, Any]:
    """Train every variant, keep the best one's trace, and return all numbers."""
    import torch
    from experiments.runs import kept_trace, trained

    from exeunt.runs.file_digests import TRACED
    from exeunt.torch.exits.multiply_adds import count_macs
    from exeunt.torch.training.job import TrainingJob
    from exeunt.trace import concatenate
    from exeunt.zoo import resnet20, resnet56

    own, own56 = (float(count_macs(net(), torch.zeros(2, 3, 32, 32))) for net in (resnet20, resnet56))
    runs: dict[str, Measured] = {}
    for name in (one for one in VARIANTS if one not in GONE):
        variant = VARIANTS[name]
        frozen = name.startswith("frozen")
        job = TrainingJob(
            model="exeunt.zoo:resnet20", weights=str(given.models / "resnet20_cifar10.safetensors"), data=given.data,
            exits=BLOCKS[:-1], batch_size=256 if frozen else 128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            fit=3000, calibrate=2000, augment="none" if frozen else "crop-flip", head={"hidden": 64, **variant.head},
            recipe={**(FROZEN if frozen else JOINT), **variant.recipe}, heads_first=variant.heads_first,
        )  # fmt: skip
        run = trained(job, given.run / name, more=name != BEST)
        whole = concatenate([run.trace(part) for part in TRACED])
        runs[name] = measure(whole, ALL if name in COMPARED else THREE, own_cost=own, splits=given.splits)
    kept_trace(run, TRACES / "resnet20-cifar10-joint.parquet")
    network = runs["frozen"].correct[:, -1].astype(float)
    bases = {name: RIVAL if name == BEST else name.partition("-")[0] for name in runs}
    large = ex.ExitTrace.load(TRACES / "resnet56-cifar10-grid.parquet")
    found = measure(large, THREE, own_cost=own56, splits=given.splits)
    return {
        "recipes": {name: variant._asdict() for name, variant in VARIANTS.items()},
        "splits": given.splits,
        "runs": {name: kept_numbers(PAGE)["runs"][name] for name in GONE}
        | {name: numbers(run, network, runs[bases[name]]) for name, run in runs.items()},
        "resnet56": numbers(found, found.correct[:, -1].astype(float)),
    }


# -- the page --------------------------------------------------------------------------------------------------------


def rows_of(run: Mapping[str, Any], policy: str) -> dict[float, dict[str, Any]]:
    return {row["budget_share"]: row for row in run["budgets"] if row["policy"] == policy}


def gain(row: Mapping[str, Any], against: str) -> str:
    found = row[against]
    return points(found.values() if isinstance(found, dict) else found, digits=1)


def worth(runs: Mapping[str, Any], base: str) -> str:
    """Return the accuracy of `auto` per variant and budget, and its difference from the baseline."""
    rows = []
    for name in (name for name in VARIANTS if name.startswith(base) and name != BEST):
        auto, eero = (rows_of(runs[name], policy) for policy in POLICIES)
        cells = [
            f"{auto[b]['accuracy']:.4f}" + ("" if name == base else f", {gain(auto[b], 'minus_baseline')}")
            for b in THREE
        ]
        last = f"{runs[name]['accuracy_per_exit'][-1]:.4f}"
        heads = f"{runs[name]['cost_share'][-1] - 1:.1%}"
        with_eero = ", ".join(f"{eero[b]['accuracy']:.3f}" for b in THREE)
        rows.append([VARIANTS[name].label, heads, *cells, last, with_eero])
    budgets = (f"at {budget:.0%}, points (95%)" for budget in THREE)
    return table(("variant", "heads cost", *budgets, "own classifier", "with EERO"), rows)


def together(runs: Mapping[str, Any]) -> str:
    """Return accuracies at all budgets: the best variant's against a rival's and against the original model."""
    found = {name: rows_of(runs[name], "auto") for name in COMPARED}
    rows = []
    for budget, best in found[BEST].items():
        own = [f"{one[budget]['accuracy']:.4f}" for one in found.values()]
        gains = (gain(best, rival) for rival in ("minus_baseline", "minus_network_as_given"))
        rows.append([f"{budget:.0%}", *own, *gains])
    minus = (f"`{BEST}` minus `{RIVAL}`", "minus the original model")
    return table(("budget", *(f"`{name}`" for name in COMPARED), *minus), rows)


def page(found: dict[str, Any]) -> str:
    runs, large = found["runs"], {policy: rows_of(found["resnet56"], policy) for policy in POLICIES}
    larger = [
        [f"{b:.0%}", f"{large['auto'][b]['accuracy']:.4f}", gain(large["auto"][b], "minus_network_as_given"),
         f"{large['eero'][b]['accuracy']:.4f}"]
        for b in THREE
    ]  # fmt: skip
    exits = [[f"`{name}`", *(f"{a:.3f}" for a in runs[name]["accuracy_per_exit"])] for name in VARIANTS]
    best = VARIANTS[BEST]
    return f"""# What each ingredient of good exits brings

Made by `python -m experiments.ingredients`; numbers in [exit-ingredients.json](exit-ingredients.json), advice in
[Get good exits](../howto/good-exits.md).

A pretrained CIFAR-10 ResNet-20 with a head after each of its nine blocks but the last, which has the network's own
classifier. The network has seen all training images, so the policies are fitted, calibrated and tested on the 10,000
test images alone: 3,000, 2,000 and 5,000 of them, drawn again in {found["splits"]} splits, the same for all variants.
Accuracies are of `ex.auto`, and of `ex.eero` in the last column, at a budget in expectation (no `delta`). **Budgets are
shares of the cost of the original model without heads**, so that more expensive heads have to pay for themselves.
Differences are in points, with 95% intervals over test images. Each variant was trained once: a difference below some
0.3 points may be the luck of a seed.

## Heads alone, the network frozen

{FROZEN["epochs"]} epochs of one-cycle SGD on cached features, without augmentation, batches of 256.

{worth(runs, "frozen")}

## Everything learns, from the pretrained weights

{JOINT["epochs"]} epochs of one-cycle SGD at 0.1 (network: a tenth of that), crops and flips, batches of 128, mixed
precision.

{worth(runs, "joint")}

## What paid, together

`{BEST}`: heads {best.head}, recipe {best.recipe}, the heads {best.heads_first} epochs alone first. `{RIVAL}` has the
same heads on the frozen network. Policy `ex.auto`:

{together(runs)}

## A larger network, frozen

ResNet-56 with heads at 26 of its 27 blocks ([how](resnet56-cifar10/README.md)), shares of its cost without heads:

{table(("budget", "auto", "minus the original model, points (95%)", "EERO"), larger)}

## Accuracy of each exit alone

{table(("run", *BLOCKS[:-1], "own classifier"), exits)}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train", action="store_true")
    options.add_argument("--data", default="../shared/data/cifar10")
    options.add_argument("--models", type=Path, default=Path("../shared/models"))
    options.add_argument("--run", type=Path, default=Path("runs/ingredients"), help="where trainings go")
    options.add_argument("--splits", type=int, default=5)
    given = options.parse_args()
    found = train_all(given) if given.train else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
