"""Random changes to training images, each a function of the images and a seeded generator."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from exeunt.errors import require

if TYPE_CHECKING:
    from exeunt.data.pictures import Pixels

AUGMENTS = ("none", "crop-flip", "resized-crop")


def crop_flip(
    pixels: Pixels, rng: np.random.Generator, *, n_all: int | None = None, start: int = 0
) -> Pixels:
    """Shift each image by up to 1/8 of its side (4 pixels of 32), black beyond the edge; flip half of them.

    pixels: (b, h, w, 3), rows `start` to `start + b` of a batch of `n_all`. What happens to a row depends
    on its place in the whole batch alone, so shards of a batch are changed as the whole would be.
    """
    b, height, width = pixels.shape[:3]
    mine = slice(start, start + b)
    n = b if n_all is None else n_all
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    top = rng.integers(0, 2 * pad_y + 1, n)[mine]
    left = rng.integers(0, 2 * pad_x + 1, n)[mine]
    flipped = rng.random(n)[mine] < 0.5
    padded = np.zeros((b, height + 2 * pad_y, width + 2 * pad_x, 3), dtype=np.uint8)
    padded[:, pad_y : pad_y + height, pad_x : pad_x + width] = pixels
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    columns[flipped] = columns[flipped, ::-1]
    changed: Pixels = padded[np.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return changed


def resized_crop(picture: Pixels, size: tuple[int, int], seed: int) -> Pixels:
    """Cut a random part (8 % to all of the area) out of one image, resize it to `size`, flip half.

    The usual ImageNet recipe, by torchvision. The global generator of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        changed = _recipe(size)(image).permute(1, 2, 0)
    return np.ascontiguousarray(changed.numpy())


@lru_cache(maxsize=8)
def _recipe(size: tuple[int, int]) -> Any:
    transforms = require("torchvision.transforms.v2", extra="torch")
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, antialias=True),
            transforms.RandomHorizontalFlip(),
        ]
    )
