"""ResNet-18 on CIFAR-100, trained jointly with 7 heads: the paper's first experiment (Figures 2, 3, 4, 7, 8).

    python experiments/resnet18_cifar100.py --data ../shared/data/cifar100

The ImageNet stem at 32x32, the paper's heads after the residual blocks, the sum of the exits' cross-entropies,
49,000 training images. The recipe is shorter than the paper's: 15 epochs of one-cycle SGD in mixed precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import trained

from exeunt.torch.project import Project

BLOCKS = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0")


def project(data: str) -> Project:
    return Project(
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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", default="../shared/data/cifar100")
    arguments.add_argument("--run", type=Path, default=Path("runs/resnet18-cifar100"))
    given = arguments.parse_args()
    print(trained(project(given.data), given.run).path)


if __name__ == "__main__":
    main()
