"""A tiny network of masks, and images whose masks it can learn in seconds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

HEIGHT, WIDTH = 16, 24
NAMES = ("ground", "bright", "striped")


class Segmenter(nn.Module):
    """Two stages and a decoder; returns logits (n, k, h, w), or if they are not `scaled` (n, k, h/2, w/2)."""

    def __init__(self, n_classes: int = 3, *, scaled: bool = True) -> None:
        super().__init__()
        self.scaled = scaled
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.decoder = nn.Conv2d(8, n_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.decoder(self.stage2(self.stage1(images)))
        size = images.shape[2:]
        return functional.interpolate(logits, size=size, mode="bilinear") if self.scaled else logits


def segmenter(n_classes: int = 3) -> Segmenter:
    """Return the network, for `--model`."""
    torch.manual_seed(0)
    return Segmenter(n_classes)


def unscaled_segmenter(n_classes: int = 3) -> Segmenter:
    """Return the same network, whose logits are those of its decoder."""
    torch.manual_seed(0)
    return Segmenter(n_classes, scaled=False)


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (h, w, 3) with a bright and a striped rectangle on dark ground, and its mask (h, w)."""
    image = rng.integers(0, 60, (HEIGHT, WIDTH, 3))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for kind in (1, 2):
        top, left = rng.integers(0, HEIGHT - 6), rng.integers(0, WIDTH - 8)
        place = slice(top, top + 6), slice(left, left + 8)
        image[place] = 220 if kind == 1 else np.where(np.arange(8) % 2, 200, 20)[None, :, None]
        mask[place] = kind
    return image.astype(np.uint8), mask


def scenes(n: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [scene(rng) for _ in range(n)]


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, "PNG")
    return file.getvalue()


def write_table(file: Path, pairs, names=NAMES, *, without: int = 0) -> None:
    """Write pairs of images and masks as Parquet. `without`: how many of the first have no mask."""
    masks = [None if i < without else {"bytes": png(mask), "path": None} for i, (_, mask) in enumerate(pairs)]
    columns = {"image": [{"bytes": png(image), "path": None} for image, _ in pairs], "mask": masks}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({name: pa.array(cells, kind) for name, cells in columns.items()})
    kept = {} if names is None else {"classes": json.dumps(names)}
    pq.write_table(table.replace_schema_metadata(kept), file)


def write_folder(folder: Path, pairs, names=NAMES) -> None:
    """Write pairs as folder/images/N.png and folder/masks/N.png."""
    for which in ("images", "masks"):
        (folder / which).mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(pairs):
        (folder / "images" / f"{i:03d}.png").write_bytes(png(image))
        (folder / "masks" / f"{i:03d}.png").write_bytes(png(mask))
    if names is not None:
        (folder / "classes.txt").write_text("\n".join(names) + "\n")
