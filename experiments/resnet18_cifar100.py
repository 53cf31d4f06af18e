"""ResNet-18 on CIFAR-100, trained jointly with 7 heads: the paper's first experiment (Figures 2, 3, 4, 7, 8).

    python experiments/resnet18_cifar100.py --data ../shared/data/cifar100

The ImageNet stem at 32x32, the paper's heads after the residual blocks, the sum of the exits' cross-entropies,
49,000 training images. The recipe is not the paper's (SGD, rate 0.003): 15 epochs of one-cycle SGD in mixed precision.
A finished run is opened, not trained again: the same command then makes the results anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common import arguments, kept_trace, parts_of, trained, training_facts
from pairs import N_BUDGETS, figure8
from report import evaluate_all, sections_of_cifar, write_page

from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    import exeunt as ex

BLOCKS = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0")
THREE = (0.3, 0.5, 0.7)
PAIRED = (2, 3, 4)


def job(data: str) -> TrainingJob:
    return TrainingJob(
        model="torchvision:resnet18",
        data=data,
        exits=BLOCKS,
        head={"head": "paper"},
        recipe={"mode": "joint", "epochs": 15, "learning_rate": 0.05, "precision": "bf16"},
        batch_size=128,
        augment="crop-flip",
        fit=500,
        calibrate=500,
    )


def page(trace: ex.ExitTrace, facts: dict[str, Any], sections: list[str], pairs: str, splits: int) -> str:
    parts = facts["parts"]
    return f"""# ResNet-18 on CIFAR-100, trained jointly with 7 heads

Made by `python experiments/resnet18_cifar100.py`. ImageNet stem at 32x32, the paper's heads (average pool where
there is something to pool, flatten, linear), {trace.cost.full:.4g} multiply-adds in full, heads included. Joint
training on {parts["train"]:,} images: {facts["recipe"]["epochs"]} epochs of one-cycle SGD with crops and flips, mixed
precision, {sum(facts["epochs_s"]) / 60:.0f} minutes on two CPU cores that had other work as well. The paper's recipe
is another (rate 0.003, not one-cycle).

{sections_of_cifar(trace, facts, sections, splits, name="resnet18-cifar100")}

## One head with the last exit (Figure 8)

Heads 2, 3 and 4 singly, each with the costs of a network that has no other head. What EERO reaches above the
last exit alone, at less than its cost, is overthinking recovered. The budget is the best of {N_BUDGETS - 1} on these
same inputs, so the gain is slightly too high.

![Figure 8: one head with the last exit](figure8-head-pairs.png)

{pairs}
"""


def main() -> None:
    given = arguments(
        __doc__, data="cifar100", run="resnet18-cifar100", out="resnet18-cifar100", splits=20
    ).parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run = trained(job(given.data), given.run)
    trace = kept_trace(run, given.out.parent / "traces" / "resnet18-cifar100.parquet")
    shared = {"shares": parts_of(run), "splits": given.splits}
    results = evaluate_all(trace, given.out, three=THREE, **shared)
    pairs, table = figure8(run, trace, PAIRED, given.out, **shared)
    facts = training_facts(run)
    numbers = {"training": facts, **results.numbers, "pairs": pairs}
    write_page(given.out, page(trace, facts, results.sections, table, given.splits), numbers)
    print((given.out / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
