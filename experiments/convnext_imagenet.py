"""The paper's ConvNeXt setting on ImageNet, for a machine with an accelerator: a frozen ConvNeXt-Tiny.

    python experiments/convnext_imagenet.py IMAGENET --out runs/convnext-imagenet
    python experiments/convnext_imagenet.py --rehearse

IMAGENET is a folder with train/CLASS/* and val/CLASS/*. The first form is one `exeunt train` command, which is
printed: pretrained weights, the paper's heads after every block but the last, 300 epochs on cached features,
policies fitted, calibrated (5,000 images) and tested on the validation images. The second runs the same command
on a small generated folder with random weights, one epoch and small images, to see that it works.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from exeunt.torch import build_model

MODEL = "timm:convnext_tiny"
N_CLASSES = 3  # of the rehearsal, whose weights are random
DEPTHS = (3, 3, 9, 3)
BLOCKS = [f"stages.{stage}.blocks.{block}" for stage, n in enumerate(DEPTHS) for block in range(n)]
IMAGENET = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
FULL = {
    "weights": "pretrained",
    "epochs": "300",
    "size": "224",
    "workers": "16",
    "fit": "5000",
    "calibrate": "5000",
}
REHEARSAL = {"epochs": "1", "size": "64", "workers": "0", "fit": "8", "calibrate": "8"}


def command(data: str, out: str, options: dict[str, str]) -> list[str]:
    fixed = {
        "model": MODEL,
        "data": data,
        "exits": ",".join(BLOCKS[:-1]),
        "head": "paper",
        "mode": "frozen",
        "learning-rate": "0.1",
        "weight-decay": "1e-4",
        "batch-size": "256",
        "out": out,
    }
    chosen = fixed | IMAGENET | options
    return [
        "exeunt",
        "train",
        "--seen",
        *(word for name, value in chosen.items() for word in (f"--{name}", value)),
    ]


def generate(folder: Path, *, n_classes: int = N_CLASSES, per_class: int = 12) -> None:
    """Write random images of different sizes, train/CLASS/*.jpg and val/CLASS/*.jpg."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for class_ in range(n_classes):
            place = folder / part / f"class{class_}"
            place.mkdir(parents=True)
            for i in range(per_class):
                height, width = rng.integers(60, 120, 2)
                pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.jpg")


def run(words: list[str]) -> None:
    print(shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?")
    parser.add_argument("--out", default="runs/convnext-imagenet")
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    if given.rehearse:
        with TemporaryDirectory() as folder:
            generate(Path(folder) / "images")
            out, weights = (str(Path(folder) / name) for name in ("run", "weights.safetensors"))
            save_file(build_model(MODEL, n_classes=N_CLASSES).state_dict(), weights)
            run(command(str(Path(folder) / "images"), out, REHEARSAL | {"weights": weights}))
            run(["exeunt", "calibrate", out, "--budget", "80%"])
            run(["exeunt", "evaluate", out])
        return
    if given.data is None:
        parser.error("give the folder of ImageNet, or --rehearse")
    run(command(given.data, given.out, FULL))


if __name__ == "__main__":
    main()
