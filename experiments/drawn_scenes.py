"""Drawn scenes with masks: shapes over textures, whose class can be seen only with more or less context.

    python experiments/drawn_scenes.py FOLDER --train 2000 --test 1500

Every image is an independent draw from a seed. On a dark ground lie brighter shapes: discs, squares, triangles and
rings. That a pixel belongs to a shape, its colour tells; which one, the outline; and a ring in a scene with a star,
wherever the star is, is a wheel. So early layers know some scenes, and others take a look at all of the image. Scenes
also differ in the number of shapes and in noise.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ground", "disc", "square", "triangle", "ring", "wheel", "star")
DISC, SQUARE, TRIANGLE, RING, WHEEL, STAR = range(1, 7)
HEIGHT, WIDTH = 192, 256
_MOST_SHAPES = 7


def drawn(
    rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (h, w, 3) uint8 and its mask (h, w) uint8."""
    difficulty = rng.uniform()  # of the scene: an easy one has few shapes and little noise
    image, mask = _texture(rng, *np.mgrid[:height, :width], (0, 110)), np.zeros((height, width), np.uint8)
    starry = rng.uniform() < 0.5
    kinds = rng.integers(DISC, WHEEL, 1 + rng.binomial(_MOST_SHAPES - 1, difficulty)).tolist()
    for kind in [*kinds, *([STAR] if starry else [])]:  # the star last: nothing covers it
        edge, radius = (0.1, 0.11 * height) if kind == STAR else (0.0, rng.uniform(0.1, 0.22) * height)
        top, left = rng.uniform(edge, 1 - edge, 2) * (height, width)
        rows, columns = (
            slice(max(0, int(at - 1.3 * radius)), int(at + 1.3 * radius) + 1) for at in (top, left)
        )
        y, x = np.mgrid[:height, :width][:, rows, columns]
        inside = _shape(kind, y - top, x - left, radius, rng.uniform(0, np.pi))
        image[rows, columns][inside] = _texture(rng, y, x, (120, 255))[inside]
        mask[rows, columns][inside] = WHEEL if starry and kind == RING else kind
    noisy = image + rng.normal(0, 2 + 40 * difficulty * rng.uniform(), image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def _shape(kind: int, y: np.ndarray, x: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Return which pixels (h, w) lie inside a shape around 0 with about this radius, turned by an angle."""
    across, along = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    distance = np.hypot(across, along)
    if kind == DISC:
        return distance < radius
    if kind == RING:
        return (distance < radius) & (distance > 0.55 * radius)
    if kind == SQUARE:
        return np.maximum(abs(across), abs(along)) < 0.88 * radius
    if kind == STAR:
        return np.minimum(abs(across), abs(along)) * 4 + distance < radius
    sides = [np.cos(turn) * across + np.sin(turn) * along for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    return np.max(sides, axis=0) < 0.62 * radius


def _texture(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, range_: tuple[float, float]
) -> np.ndarray:
    """Return a texture (h, w, 3) at these places (h, w): two colours in waves of a random length and direction."""
    angle, length = rng.uniform(0, np.pi), rng.uniform(4, 24)
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / length + rng.uniform(0, 2 * np.pi))
    one, other = rng.uniform(*range_, (2, 3))
    return one + (wave[..., None] + 1) / 2 * (other - one) * rng.uniform(0.2, 1)


def write_table(file: Path, n: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    """Write n scenes as a Parquet table with images and masks."""
    rng = np.random.default_rng(seed)
    pairs = [drawn(rng, height, width) for _ in range(n)]
    columns = {
        name: [{"bytes": _png(one), "path": None} for one in column]
        for name, column in zip(("image", "mask"), zip(*pairs, strict=True), strict=True)
    }
    table = pa.table(columns).replace_schema_metadata({"classes": json.dumps(CLASSES)})
    pq.write_table(table, file, row_group_size=200)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    """Write train.parquet and test.parquet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1500)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    write_table(asked.folder / "train.parquet", asked.train, 0)
    write_table(asked.folder / "test.parquet", asked.test, 1)


if __name__ == "__main__":
    main()
