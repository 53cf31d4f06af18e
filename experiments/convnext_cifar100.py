"""ConvNeXt-Atto on CIFAR-100 with an exit at each of its 12 blocks (Figures 2, 3, 4, 7).

    python experiments/convnext_cifar100.py --data ../shared/data/cifar100

The paper's ConvNeXt is pretrained on ImageNet; without an accelerator this trains the smallest one from random
weights, jointly with its heads, on the images scaled to 64x64: the stem's 4x4 patches leave 16x16 positions, and the
last stage has 2x2 (at 32x32 pixels one). For ConvNeXt-Tiny on ImageNet see convnext_imagenet.py. A finished run is
opened, not trained again.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from common import arguments
from convnext_imagenet import FULL, command
from report import report_run, sections_of_cifar

from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    import exeunt as ex

DEPTHS = (2, 2, 6, 2)
BLOCKS = tuple(f"stages.{stage}.blocks.{block}" for stage, n in enumerate(DEPTHS) for block in range(n))
EPOCHS = 15
THREE = (0.3, 0.5, 0.7)


def job(data: str) -> TrainingJob:
    return TrainingJob(
        model="timm:convnext_atto?ls_init_value=1.0",  # timm's blocks begin at a millionth, for longer trainings
        data=data,
        exits=BLOCKS[:-1],  # after the last block comes the network's own classifier
        head={"head": "paper"},
        recipe={"mode": "joint", "epochs": EPOCHS, "learning_rate": 0.002},
        batch_size=64,
        size=64,
        augment="crop-flip",
        fit=500,
        calibrate=500,
    )


def page(trace: ex.ExitTrace, facts: dict[str, Any], sections: list[str], splits: int) -> str:
    parts = facts["parts"]
    return f"""# ConvNeXt-Atto on CIFAR-100 with 12 exits

Made by `python experiments/convnext_cifar100.py`. `timm:convnext_atto` from random weights on images scaled to 64x64
(16x16 positions after the stem), the paper's heads after each block but the last, {trace.cost.full:.4g} multiply-adds
in full, heads included. Joint training on {parts["train"]:,} images: {EPOCHS} epochs of one-cycle AdamW with crops and
flips, {sum(facts["epochs_s"]) / 60:.0f} minutes on two CPU cores that had other work as well.

{sections_of_cifar(trace, facts, sections, splits, name="convnext-cifar100")}

## ConvNeXt-Tiny on ImageNet

With an accelerator, `python experiments/convnext_imagenet.py IMAGENET` runs the paper's setting. It has not been run
here in full; `python experiments/convnext_imagenet.py --rehearse` runs the same command, with random weights, images
of 64x64 and one epoch, on a small generated folder, calibrates and evaluates. The command:

    {shlex.join(command("IMAGENET", "runs/convnext-imagenet", FULL))}
"""


def main() -> None:
    given = arguments(
        __doc__, data="cifar100", run="convnext-cifar100", out="convnext", splits=20
    ).parse_args()
    report_run(given, job(given.data), trace="convnext-cifar100", three=THREE, page=page)


if __name__ == "__main__":
    main()
