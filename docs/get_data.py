"""Fetch the data that the documentation uses, under the names that its pages use.

    python docs/get_data.py cifar10 cifar100 flowers banking77

Makes a folder of each name here, through the loaders of torchvision and datasets (`pip install ".[hf]"`). A folder that
is there already is left alone. The authors could not reach the hosts that these loaders download from: the
conversion is tested on data of the same form, the downloads are not.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LICENCES = {
    "cifar10": "no licence is stated; cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    "cifar100": "no licence is stated; cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    "flowers": "Oxford 102 Flowers, for research; cite Nilsback and Zisserman, 2008. Photographs: their authors'",
    "banking77": "CC BY 4.0; cite Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, 2020",
}


def write_images(data: Any, file: Path, column: str) -> None:
    """Write a torchvision dataset of (image, class) as Parquet, the images as PNG, in the schema of Hugging Face."""
    images, labels = [], []
    for image, label in data:
        png = io.BytesIO()
        image.save(png, "PNG")
        images.append({"bytes": png.getvalue(), "path": None})
        labels.append(label)
    pq.write_table(pa.table({"img": images, column: labels}), file)


def cifar(out: Path, *, loader: str, column: str) -> None:
    """Write `train.parquet` and `test.parquet` of CIFAR-10 or CIFAR-100."""
    from torchvision import datasets

    for part in ("train", "test"):
        data = getattr(datasets, loader)(out / "download", train=part == "train", download=True)
        write_images(data, out / f"{part}.parquet", column)


def flowers(out: Path) -> None:
    """Write `train/CLASS/*.png` and `test/CLASS/*.png` of Oxford 102 Flowers."""
    from torchvision import datasets

    for part in ("train", "test"):
        data = datasets.Flowers102(out / "download", split=part, download=True)
        for number, (image, label) in enumerate(data):
            folder = out / part / f"{label:03}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number:05}.png")


def banking77(out: Path) -> None:
    """Write `train.parquet` and `test.parquet` of BANKING77, with the columns text and label."""
    from datasets import load_dataset

    for part, data in load_dataset("mteb/banking77").items():
        data.select_columns(["text", "label"]).to_parquet(out / f"{part}.parquet")


FETCH: dict[str, Callable[[Path], None]] = {
    "cifar10": partial(cifar, loader="CIFAR10", column="label"),
    "cifar100": partial(cifar, loader="CIFAR100", column="fine_label"),
    "flowers": flowers,
    "banking77": banking77,
}


def main(names: list[str], root: Path = Path()) -> None:
    """Make the folders of these names in `root`: each under another name first, so that none is left half made."""
    for name in names:
        if (root / name).exists():
            print(f"{name}/ is there already")
            continue
        print(f"{name}: {LICENCES[name]}")
        unfinished = root / f"{name}.unfinished"
        unfinished.mkdir(exist_ok=True)
        FETCH[name](unfinished)
        unfinished.rename(root / name)
        print(f"{name}/ is ready")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=FETCH)
    main(parser.parse_args().names)
