"""A chain of two CIFAR-10 networks, a fine-tuned ResNet-20 and then a ResNet-56: own and pooled answers, by budget.

    python experiments/cifar10_chain.py --data ../shared/data/cifar10 --models ../shared/models

Trains the ResNet-20 with its exits, the ResNet-56 has heads on its frozen last blocks, and records both with the
probabilities of every class. A finished run is opened, not trained again. Writes cifar10-chain.md and .json, and the
traces, to docs/results.
"""

from __future__ import annotations

from pathlib import Path

from common import arguments, kept_trace, trained
from ingredients import BLOCKS

from exeunt.torch.training.job import TrainingJob

NORMALISED = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def jobs(data: str, models: Path) -> dict[str, TrainingJob]:
    return {
        "resnet20": TrainingJob(
            model="exeunt.zoo:resnet20", weights=str(models / "resnet20_cifar10.safetensors"), data=data,
            exits=BLOCKS[:-1], head={"head": "grid", "hidden": 256}, batch_size=256,
            recipe={"mode": "frozen", "epochs": 20}, fit=3000, calibrate=2000, **NORMALISED,
        ),
        "resnet56": TrainingJob(
            model="exeunt.zoo:resnet56", weights=str(models / "resnet56_cifar10.safetensors"), data=data,
            exits=("layer3.2", "layer3.5"), head={"head": "grid", "hidden": 64}, batch_size=256,
            recipe={"mode": "frozen", "epochs": 10}, fit=3000, calibrate=2000, **NORMALISED,
        ),
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, data="cifar10", run="cifar10-chain", out="cifar10-chain.md", splits=5)
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    given = parser.parse_args()
    traces = given.out.parent / "traces"
    members = {
        name: kept_trace(trained(job, given.run / name), traces / f"{name}-cifar10-chain.parquet")
        for name, job in jobs(given.data, given.models).items()
    }
    print(members)


if __name__ == "__main__":
    main()
