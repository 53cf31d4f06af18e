"""The paper's experiments: networks with exits, EERO against other rules, Figures 2 to 8.

    python -m experiments.paper [resnet18-cifar100 ...]
    python -m experiments.paper resnet56-cifar10 --train --data ../shared/data/cifar10

Makes figures and page of each study again from its recorded trace in docs/results/traces. With --train it trains the
networks first (hours on two cores; an interrupted training goes on, a finished one is opened) and records them;
`torchrun --nproc-per-node 2 -m experiments.paper` trains with two processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from experiments.pages import RESULTS, TRACES, kept_numbers, parser, table, write_page
from experiments.paper_figures import PAIR_BUDGETS, accuracy_table, against_own_rule, figure8, figures, rates
from experiments.replay import claims, replay

import exeunt as ex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exeunt.runs.folder import RunFolder

PAIRED = (2, 3, 4)
JOINT = {"fit": 500, "calibrate": 500, "augment": "crop-flip"}
FROZEN = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "fit": 3000, "calibrate": 2000}
RESNET56_BLOCKS = tuple(f"layer{group}.{block}" for group in (1, 2, 3) for block in range(9))
CONVNEXT_BLOCKS = tuple(f"stages.{s}.blocks.{b}" for s, n in enumerate((2, 2, 6, 2)) for b in range(n))
RESNET56 = {
    "model": "exeunt.zoo:resnet56", "exits": RESNET56_BLOCKS[:-1], "recipe": {"mode": "frozen", "epochs": 40},
    "batch_size": 256, **FROZEN,
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """`about`: the page's first paragraph. `jobs`: options of each training by the name of its trace.

    `kinds`: what distinguishes the traces, for headings and file names; "" where there is one trace.
    """

    title: str
    about: str
    jobs: Mapping[str, Mapping[str, Any]]
    folder: str
    kinds: tuple[str, ...] = ("",)
    splits: int = 20
    data: str = "../shared/data/cifar100"
    weights: str | None = None
    pairs: bool = False
    own_rule: bool = False


STUDIES = {
    "resnet18-cifar100": Study(
        "ResNet-18 on CIFAR-100, trained jointly with 7 heads",
        """ImageNet stem at 32x32, the paper's heads (average pool where there is something to pool, flatten, linear),
{macs:.4g} multiply-adds in full, heads included. Joint training on {train:,} images: {epochs} epochs of one-cycle SGD
with crops and flips, mixed precision, {minutes:.0f} minutes on two CPU cores that had other work as well. The paper's
recipe is another (rate 0.003, not one-cycle).""",
        {
            "resnet18-cifar100": {
                "model": "torchvision:resnet18", "head": {"head": "paper"}, "batch_size": 128,
                "exits": ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0"),
                "recipe": {"mode": "joint", "epochs": 15, "learning_rate": 0.05, "precision": "bf16"}, **JOINT,
            }
        },
        "resnet18-cifar100",
        pairs=True,
    ),
    "resnet56-cifar10": Study(
        "A frozen ResNet-56 on CIFAR-10 with 27 exits",
        """The setting of the paper's ConvNeXt at a size for two CPU cores: a pretrained network that stays as it is,
with a head after each block but the last, which has the network's own classifier; once the paper's heads (global
average, linear), once a 4x4 grid of averages and maxima with a hidden layer of 64. {epochs} epochs of one-cycle SGD
on the cached features of {train:,} training images, without augmentation. The network has seen all training images,
so the policies are fitted, calibrated and tested on the test images alone.""",
        {
            "resnet56-cifar10-paper": {"head": {"head": "paper"}, **RESNET56},
            "resnet56-cifar10-grid": {"head": {"head": "grid", "hidden": 64}, **RESNET56},
        },
        "resnet56-cifar10",
        kinds=("paper", "grid"),
        splits=10,
        data="../shared/data/cifar10",
        weights="../shared/models/resnet56_cifar10.safetensors",
    ),
    "convnext": Study(
        "ConvNeXt-Atto on CIFAR-100 with 12 exits",
        """`timm:convnext_atto` from random weights on images scaled to 64x64 (16x16 positions after the stem), the
paper's heads after each block but the last, {macs:.4g} multiply-adds in full, heads included. Joint training on
{train:,} images: {epochs} epochs of one-cycle AdamW with crops and flips, {minutes:.0f} minutes on two CPU cores that
had other work as well. The paper's ConvNeXt is pretrained on ImageNet.""",
        {
            "convnext-cifar100": {
                # timm's blocks begin at a millionth, for longer trainings.
                "model": "timm:convnext_atto?ls_init_value=1.0", "head": {"head": "paper"}, "batch_size": 64,
                "size": 64,
                "exits": CONVNEXT_BLOCKS[:-1],
                "recipe": {"mode": "joint", "epochs": 15, "learning_rate": 0.002}, **JOINT,
            }
        },
        "convnext",
    ),
    "msdnet-cifar100": Study(
        "MSDNet on CIFAR-100, with its own 8 exits",
        """A multi-scale dense network after Huang et al. 2018 (`experiments/msdnet.py`: three scales, 8 layers, a
classifier after each), {macs:.4g} multiply-adds in full. Its forward returns the logits of all exits, and `--exits own`
takes it as it is. Training on {train:,} images: {epochs} epochs of one-cycle SGD with crops and flips, mixed precision,
{minutes:.0f} minutes on two CPU cores that had other work as well.""",
        {
            "msdnet-cifar100": {
                "model": "experiments.msdnet:cifar", "exits": "own",
                "recipe": {"mode": "joint", "epochs": 20, "precision": "bf16"}, **JOINT,
            }
        },
        "msdnet-cifar100",
        own_rule=True,
    ),
}  # fmt: skip


# -- studies ---------------------------------------------------------------------------------------------------------


def exit_budgets(cost: ex.CostModel) -> list[float]:
    """Return the cost of each exit, and with few exits the middle between two as well."""
    steps = cost.cumulative
    if cost.n_exits > 16:
        return steps.tolist()
    return np.sort(np.concatenate([steps, (steps[1:] + steps[:-1]) / 2])).tolist()


def section(
    study: Study, name: str, kind: str, training: dict[str, Any], folder: Path
) -> tuple[str, dict[str, Any]]:
    """Replay one trace, draw its figures, and return its part of the page and its numbers."""
    trace = ex.ExitTrace.load(TRACES / f"{name}.parquet")
    prefix, of = (f"{kind}-", f", {kind} heads") if kind else ("", "")
    sizes = {part: training["parts"][part] for part in ("fit", "calibrate", "test")}
    parts = {part: size / sum(sizes.values()) for part, size in sizes.items()}
    found = replay(trace, exit_budgets(trace.cost), parts=parts, splits=study.splits)
    figures(found, folder, prefix)
    table3 = rates(trace, parts, folder, prefix)
    answers = claims(found)
    numbers = {
        "training": training, "n": trace.n, "parts": parts, "splits": study.splits, "cost": trace.cost.to_dict(),
        "accuracy_per_exit": (1 - trace.risk).tolist(), "claims": answers, "budgets": found.budgets.tolist(),
        "policies": {
            name: {
                "accuracy": found.accuracies(name).mean(axis=1).tolist(),
                "mean_cost": found.cost_shares(name).mean(axis=1).tolist(),
            }
            for name in found.names
        },
    }  # fmt: skip
    text = f"""## The paper's claims{of}

{trace.n:,} inputs that were not trained on ([trace](../traces/{name}.parquet)), {trace.cost.full:.4g} multiply-adds
in full. They are drawn again into {sizes["fit"]:,} to fit, {sizes["calibrate"]:,} to calibrate and the rest to test,
in {study.splits} splits. A difference counts as better or worse if its 95% interval over inputs excludes zero. At
equal mean cost, the other rule is a random mixture of its two nearest points. Exits count from 0.

Accuracy of each exit alone: {", ".join(f"{1 - risk:.4f}" for risk in trace.risk)}.

{table(("claim", "answer", "numbers"), [list(answer.values()) for answer in answers])}

## Accuracy @ mean cost{of}

Means over the splits; budgets and costs are shares of the full network's.

![Figure 2: accuracy against mean cost]({prefix}figure2-accuracy.png)

![Figure 3: mean cost against budget]({prefix}figure3-mean-cost.png)

![Figure 7: risk per exit]({prefix}figure7-risk.png)

{accuracy_table(found)}

## Rates and shares in percent, one split{of} (Table 3)

![Figure 4: rates and shares with sequential calibration]({prefix}figure4-rates-sequential.png)

![Figure 6: rates and shares with the paper's calibration]({prefix}figure6-rates-marginal.png)

{table3}
"""
    if study.own_rule:
        text += f"""
## EERO against MSDNet's own rule (Figure 5)

MSDNet lets a geometric share of the inputs leave at each exit, and finds its thresholds on the inputs that are left, as
sequential calibration does. The curves are those of Figure 2.

{against_own_rule(found)}
"""
    if study.pairs:
        costs = training["pair_costs"]
        numbers["pairs"], pairs = figure8(trace, costs, folder, parts=parts, splits=study.splits)
        text += f"""
## One head with the last exit (Figure 8)

Heads {", ".join(costs)} singly, each with the costs of a network that has no other head. What EERO reaches above the
last exit alone, at less than its cost, is overthinking recovered. The budget is the best of {PAIR_BUDGETS - 1} on
these same inputs, so the gain is slightly too high.

![Figure 8: one head with the last exit](figure8-head-pairs.png)

{pairs}
"""
    return text, numbers


def own_costs(run: RunFolder) -> dict[str, Any]:
    """Return by head the costs of the two exits in the same network with this head alone."""
    import torch

    from exeunt.torch import attach
    from exeunt.torch.models.by_name import build_model

    model, network = run.manifest["model"], dict(run.manifest["network"])
    example = torch.zeros(2, 3, *run.manifest["inputs"]["size"])
    costs = {}
    for head in PAIRED:
        built = build_model(model["spec"], n_classes=model["n_classes"])
        made = attach(built, example, verbose=False, **{**network, "exits": [network["exits"][head]]})
        costs[str(head)] = made.cost.to_dict()
    return costs


def record(study: Study, given: Any) -> dict[str, Any]:
    """Train a study's networks, write their traces, and return the facts of the trainings by trace."""
    from experiments.runs import kept_trace, trained, training_facts

    from exeunt.torch.training.job import TrainingJob

    facts = {}
    for name, options in study.jobs.items():
        job = TrainingJob(data=given.data or study.data, weights=given.weights or study.weights, **options)
        run = trained(job, given.runs / name, more=name != list(study.jobs)[-1])
        kept_trace(run, TRACES / f"{name}.parquet")
        facts[name] = training_facts(run) | ({"pair_costs": own_costs(run)} if study.pairs else {})
    return facts


def main() -> None:
    options = parser(__doc__)
    options.add_argument("studies", nargs="*", choices=[[], *STUDIES], help="all by default")
    options.add_argument("--train", action="store_true")
    options.add_argument("--data", help="the data set of the study")
    options.add_argument("--weights", help="of the ResNet-56")
    options.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings go")
    given = options.parse_args()
    for key in given.studies or STUDIES:
        study = STUDIES[key]
        page = RESULTS / study.folder / "README.md"
        old = {} if given.train else kept_numbers(page)
        facts = {name: one["training"] for name, one in old.items()} or record(study, given)
        texts, numbers = [], {}
        for name, kind in zip(study.jobs, study.kinds, strict=True):
            text, numbers[name] = section(study, name, kind, facts[name], page.parent)
            texts.append(text)
        first = facts[name]
        about = study.about.format(
            macs=numbers[name]["cost"]["cumulative"][-1], train=first["parts"]["train"],
            epochs=first["recipe"]["epochs"], minutes=sum(first["epochs_s"]) / 60,
        )  # fmt: skip
        made = f"Made by `python -m experiments.paper {key}`; numbers in [results.json](results.json)."
        write_page(page, "\n".join([f"# {study.title}\n\n{made}\n{about}\n", *texts]), numbers)


if __name__ == "__main__":
    main()
