"""A small vision transformer on CIFAR-10, from random weights, with an exit after every block.

    torchrun --nproc-per-node 2 experiments/vit_cifar10.py --data ../shared/data/cifar10

timm's ViT, at 32x32 in patches of 4x4, 96 wide and 6 deep. No option of the training is given but the augmentation:
optimiser, rates and epochs are the defaults for networks with attention. Two processes of one thread share the batches,
as in msdnet_cifar100.py. A finished run is opened, not trained again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common import arguments
from report import report_run, sections_of_cifar

from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    import exeunt as ex

DEPTH = 6
MODEL = f"timm:vit_tiny_patch16_224?img_size=32&patch_size=4&embed_dim=96&depth={DEPTH}&num_heads=3"
THREE = (0.4, 0.6, 0.8)


def job(data: str) -> TrainingJob:
    return TrainingJob(
        model=MODEL,
        data=data,
        exits=tuple(f"blocks.{block}" for block in range(DEPTH - 1)),
        recipe={"mode": "joint"},
        augment="crop-flip",
        fit=500,
        calibrate=500,
    )


def page(trace: ex.ExitTrace, facts: dict[str, Any], sections: list[str], splits: int) -> str:
    parts, recipe = facts["parts"], facts["recipe"]
    return f"""# A small vision transformer on CIFAR-10 with {DEPTH} exits

Made by `torchrun --nproc-per-node 2 experiments/vit_cifar10.py`. timm's ViT from random weights, 32x32 in patches of
4x4, 96 wide, {DEPTH} blocks, an exit after each, {trace.cost.full:.4g} multiply-adds in full, heads included. Joint
training on {parts["train"]:,} images with the defaults for networks with attention: {recipe["epochs"]} epochs of
one-cycle AdamW, rate {recipe["learning_rate"]}; crops and flips; {sum(facts["epochs_s"]) / 60:.0f} minutes on two CPU
cores that had other work as well.

{sections_of_cifar(trace, facts, sections, splits, name="vit-cifar10")}
"""


def main() -> None:
    given = arguments(__doc__, data="cifar10", run="vit-cifar10", out="vit-cifar10", splits=20).parse_args()
    report_run(given, job(given.data), trace="vit-cifar10", three=THREE, page=page)


if __name__ == "__main__":
    main()
