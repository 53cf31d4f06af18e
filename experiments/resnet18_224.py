"""A ResNet-18 at 224 pixels on enlarged CIFAR-10 images, with heads: what benchmarks/serving serves at that size.

    python experiments/resnet18_224.py --data ../shared/data/cifar10

Weights from ImageNet need a download. So the network is trained here, first on small images, which two cores can do,
and last on a few of 224 pixels. Then heads are trained on the frozen network, and the run is exported, in int8 as well.
What is finished is not done again.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import trained
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.models import resnet18

from exeunt._files import atomic_path
from exeunt.data import open_source
from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    from exeunt.data.dataset import Images

SIZE = 224
CYCLES = ((0.1, ((64, 200_000), (112, 16_000), (SIZE, 8_000))), (0.02, ((SIZE, 12_000),)))
"""Cycles of the learning rate: the highest one, and steps of so many pixels a side and images to learn from."""
BATCH = 64
COUNTS = {"train": 5000, "test": 5000}
"""Images of 224 pixels that the heads learn from, and of which policies are fitted, calibrated and tested."""
PARTS = {"fit": 1500, "calibrate": 1000}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def enlarge(images: Images, count: int, path: Path) -> None:
    """Write a table of the first images at 224 pixels."""
    encoded = []
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(images.content(i)).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(
            file, "JPEG", quality=95
        )
        encoded.append({"bytes": file.getvalue()})
    with atomic_path(path) as new:
        pq.write_table(pa.table({"img": encoded, "label": images.labels[:count]}), new)


def learn(network: torch.nn.Module, cycle: int, images: Images) -> None:
    """Train the network for a cycle."""
    rate, steps = CYCLES[cycle]
    rng = np.random.default_rng(cycle)
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = [(size, BATCH) for size, count in steps for _ in range(count // BATCH)]
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, len(batches), pct_start=0.2)
    pixels = torch.from_numpy(np.stack([images.content(i) for i in range(len(images))])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(images.labels)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (MEAN, STD))
    order = np.concatenate(
        [rng.permutation(len(images)) for _ in range(1 + sum(n for _, n in steps) // len(images))]
    )
    right, begun = 0.5, time.monotonic()
    for i, (size, count) in enumerate(batches):
        rows = torch.from_numpy(order[i * count : (i + 1) * count])
        batch = functional.pad((pixels[rows] / 255 - mean) / std, (4, 4, 4, 4))
        x, y = rng.integers(0, 9, 2)
        batch = batch[:, :, y : y + 32, x : x + 32]
        batch = batch.flip(3) if rng.random() < 0.5 else batch
        batch = functional.interpolate(batch, size=(size, size), mode="bicubic", align_corners=False)
        said = network(batch.to(memory_format=torch.channels_last))
        wanted = labels[rows]
        optimiser.zero_grad()
        functional.cross_entropy(said, wanted, label_smoothing=0.1).backward()
        optimiser.step()
        rates.step()
        right = 0.99 * right + 0.01 * float((said.argmax(1) == wanted).float().mean())
        if i % 50 == 0:
            print(f"batch {i} of {len(batches)}, {size} pixels: {right:.3f} right, {time.monotonic() - begun:.0f} s",
                  flush=True)  # fmt: skip


def weights_of(folder: Path, images: Images) -> Path:
    """Return the file of the trained network's weights; one of each cycle is kept."""
    torch.manual_seed(0)
    network = resnet18(num_classes=10).to(memory_format=torch.channels_last)
    for cycle in range(len(CYCLES)):
        file = folder / f"resnet18-224-{cycle}.safetensors"
        if file.is_file():
            network.load_state_dict(load_file(file))
            continue
        learn(network, cycle, images)
        with atomic_path(file) as new:
            save_file({name: one.contiguous() for name, one in network.state_dict().items()}, new)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--run", type=Path, default=Path("runs/resnet18-224"), help="where the training goes")
    given = parser.parse_args()
    enlarged = given.run.parent / "cifar10-224"
    data = open_source(given.data).datasets
    enlarged.mkdir(parents=True, exist_ok=True)
    weights = weights_of(given.run.parent, data["train"])
    for part, count in COUNTS.items():
        if not (file := enlarged / f"{part}.parquet").is_file():
            enlarge(data[part], count, file)
    run = trained(
        TrainingJob(
            model="torchvision:resnet18", weights=str(weights), data=str(enlarged), exits=7,
            recipe={"mode": "frozen", "epochs": 15}, size=SIZE, mean=MEAN, std=STD, **PARTS,
        ),
        given.run,
    )  # fmt: skip
    for made, options in {"onnx": (), "int8": ("--precision", "int8")}.items():
        if not (run.path / made).is_dir():
            subprocess.run([sys.executable, "-m", "exeunt", "export", str(run.path), *options], check=True)


if __name__ == "__main__":
    main()
