"""What each ingredient of good exits is worth: a pretrained ResNet-20 on CIFAR-10 with an exit at each block.

    python experiments/ingredients.py --data ../shared/data/cifar10 \\
        --weights ../shared/models/resnet20_cifar10.safetensors

Heads alone on cached features, then fine-tuning of everything from the pretrained weights; each variant differs
from its baseline in one ingredient. Finished runs are opened, not trained again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from common import arguments, kept_trace, trained
from ingredients_report import (
    exits_table,
    frontier_table,
    measure,
    numbers,
    points,
    worth_table,
    write_results,
)
from report import heading

import exeunt as ex
from exeunt.run.file_digests import TRACED
from exeunt.torch.exits.macs import count_macs
from exeunt.torch.training.job import TrainingJob
from exeunt.trace import concatenate
from exeunt.zoo import resnet20, resnet56

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingredients_report import Measured
    from torch import nn

    from exeunt.run.folder import RunFolder

BLOCKS = tuple(f"layer{group}.{block}" for group in (1, 2, 3) for block in range(3))
HEAD = {"hidden": 64}
FROZEN = {"mode": "frozen", "epochs": 20}
THREE = (0.3, 0.5, 0.7)
ALL = tuple(round(0.05 * step, 2) for step in range(3, 21))
RIVAL, BEST = "frozen-256", "joint-best"
COMPARED = ("frozen", RIVAL, BEST)
JOINT = {"mode": "joint", "epochs": 4, "backbone_rate": 0.1, "precision": "bf16"}


def frozen(**head: Any) -> dict[str, Any]:
    """Heads alone, on cached features."""
    return {"head": {**HEAD, **head}, "recipe": FROZEN}


def joint(*, heads_first: int = 0, head: Mapping[str, Any] | None = None, **recipe: Any) -> dict[str, Any]:
    """Everything learns, from the pretrained weights; what is given differs from the baseline."""
    return {"head": {**HEAD, **(head or {})}, "recipe": {**JOINT, **recipe}, "heads_first": heads_first}


VARIANTS: dict[str, dict[str, Any]] = {
    "frozen": frozen(),
    "frozen-paper": frozen(head="paper"),
    "frozen-128": frozen(hidden=128),
    "frozen-256": frozen(hidden=256),
    "frozen-bottleneck": frozen(bottleneck=16),
    "frozen-stacked": frozen(stacked=True),
    "joint": joint(),
    "joint-heads-first": joint(heads_first=10),
    "joint-distill": joint(mode="distill", teacher="self"),
    "joint-original": joint(mode="distill", teacher="original"),
    "joint-late": joint(exit_weights="linear"),
    "joint-balanced": joint(gradient_balancing=True),
    "joint-best": joint(
        heads_first=10,
        head={"hidden": 256},
        mode="distill",
        teacher="original",
        backbone_rate=0.05,
        epochs=10,
    ),
}
LABELS = {
    "frozen": "**baseline**: 4x4 grid, hidden layer of 64 with batch norm",
    "frozen-paper": "the paper's head: global average, linear",
    "frozen-128": "hidden layer of 128",
    "frozen-256": "hidden layer of 256",
    "frozen-bottleneck": "`--bottleneck 16`: a convolution before pooling",
    "frozen-stacked": "`--stacked`: each head reads the one before",
    "joint": "**baseline**: heads start at random, plain sum of the losses",
    "joint-heads-first": "`--heads-first 10`: heads learn alone before",
    "joint-distill": "`--mode distill`: exits learn from the last one too",
    "joint-original": "`--mode distill --teacher original`: exits learn from the network as given",
    "joint-late": "`--exit-weights linear`: later exits count more",
    "joint-balanced": "`--gradient-balancing`",
}


def job(name: str, data: str, weights: str) -> TrainingJob:
    heads_alone = VARIANTS[name]["recipe"]["mode"] == "frozen"
    return TrainingJob(
        model="exeunt.zoo:resnet20",
        weights=weights,
        data=data,
        exits=BLOCKS[:-1],  # after the last block comes the network's own classifier
        batch_size=256 if heads_alone else 128,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        fit=3000,
        calibrate=2000,
        augment="none" if heads_alone else "crop-flip",
        **VARIANTS[name],
    )


def page(sections: dict[str, list[str]], splits: int) -> str:
    table = {name: "\n".join(lines) for name, lines in sections.items()}
    return f"""# What each ingredient of good exits brings

Made by `python experiments/ingredients.py`; numbers in [exit-ingredients.json](exit-ingredients.json), advice in
[Get good exits](../howto/good-exits.md).

A pretrained CIFAR-10 ResNet-20 with a head after each of its nine blocks but the last, which has the network's own
classifier. The network has seen all training images, so the policies are fitted, calibrated and tested on the 10,000
test images alone: 3,000, 2,000 and 5,000 of them, drawn again in {splits} splits, the same for all variants.
Accuracies are of `ex.auto`, and of `ex.eero` in the last column, at a budget in expectation (no `delta`). **Budgets are
shares of what the network costs as given, without heads**, so that more expensive heads have to pay for themselves.
Differences are in points, with 95 % intervals over test images. Each variant was trained once: a difference below some
0.3 points may be the luck of a seed.

## Heads alone, the network frozen

{FROZEN["epochs"]} epochs of one-cycle SGD on cached features, without augmentation, batches of 256.

{table["frozen"]}

## Everything learns, from the pretrained weights

{JOINT["epochs"]} epochs of one-cycle SGD at 0.1 (network: a tenth of that), crops and flips, batches of 128, mixed
precision.

{table["joint"]}

## What paid, together

`{BEST}`: {VARIANTS[BEST]}.
`{RIVAL}` has the same heads on the frozen network. Policy `ex.auto`:

{table["frontier"]}

With `ex.eero`:

{table["frontier-eero"]}

## A larger network, frozen

ResNet-56 with heads at 26 of its 27 blocks ([how](resnet56-cifar10/README.md)), shares of its cost without heads:

{table["resnet56"]}

## Accuracy of each exit alone

{table["exits"]}
"""


def larger(given: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the table of the frozen ResNet-56 from its committed trace, and its numbers."""
    trace = ex.ExitTrace.load(given.out.parent / "traces" / "resnet56-cifar10-grid.parquet")
    run = measure(trace, given.run / "resnet56", THREE, own_cost=own_cost(resnet56()), splits=given.splits)
    last = run.correct[:, -1].astype(float)
    lines = heading(("budget", "auto", "minus the network as given, points (95 %)", "EERO"))
    for budget in THREE:
        gain = points(run.minus_network(last, budget, "auto"))
        lines.append(
            f"| {budget:.0%} | {run.accuracy(budget, 'auto'):.4f} | {gain} | {run.accuracy(budget, 'eero'):.4f} |"
        )
    return lines, numbers(run, run, last)


def own_cost(model: nn.Module) -> float:
    """Return the multiply-adds of one CIFAR image through a network without heads."""
    return float(count_macs(model, torch.zeros(2, 3, 32, 32)))


def replayed(runs: dict[str, RunFolder], splits: int) -> dict[str, Measured]:
    """Return every run as measured, those that are compared at all budgets."""
    own = own_cost(resnet20())
    found = {}
    for name, run in runs.items():
        trace = concatenate([run.trace(part) for part in TRACED])
        budgets = ALL if name in COMPARED else THREE
        found[name] = measure(trace, run.path, budgets, own_cost=own, splits=splits)
    return found


def main() -> None:
    parser = arguments(__doc__, data="cifar10", run="ingredients", out="exit-ingredients.md", splits=5)
    parser.add_argument("--weights", default="../shared/models/resnet20_cifar10.safetensors")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="train these alone, and write nothing")
    given = parser.parse_args()
    names = given.only or list(VARIANTS)
    runs = {name: trained(job(name, given.data, given.weights), given.run / name) for name in names}
    if given.only:
        return
    runs = replayed(runs, given.splits)
    network = runs["frozen"].correct[:, -1].astype(float)
    compared = {name: runs[name] for name in COMPARED}
    large_table, large = larger(given)
    sections = {
        "frontier": frontier_table(compared, RIVAL, network, ALL, "auto"),
        "frontier-eero": frontier_table(compared, RIVAL, network, ALL, "eero"),
        "resnet56": large_table,
        "exits": exits_table(runs, [*BLOCKS[:-1], "own classifier"]),
    }
    found: dict[str, Any] = {BEST: numbers(runs[BEST], runs[RIVAL], network)}
    for base in ("frozen", "joint"):
        group = {name: run for name, run in runs.items() if name.startswith(base) and name != BEST}
        sections[base] = worth_table(group, runs[base], LABELS, THREE)
        found |= {name: numbers(run, runs[base], network) for name, run in group.items()}
    kept_trace(runs[BEST], given.out.parent / "traces" / "resnet20-cifar10-joint.parquet")
    text = page(sections, given.splits)
    write_results(given.out, text, {"recipes": VARIANTS, "runs": found, "resnet56": large})
    print(text)


if __name__ == "__main__":
    main()
