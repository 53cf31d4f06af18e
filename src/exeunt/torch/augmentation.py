"""Random changes to training images: shift and flip (the CIFAR recipe), or a random part (the ImageNet recipe)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exeunt.errors import require

if TYPE_CHECKING:
    from exeunt.data.read_image import Pixels

__all__ = ["AUGMENTS", "crop_flip", "resized_crop"]

AUGMENTS = ("none", "crop-flip", "resized-crop")


def crop_flip(
    images: Tensor, rng: np.random.Generator, *, n_all: int | None = None, start: int = 0
) -> Tensor:
    """Shift each image by up to 1/8 of its side (4 pixels of 32), black beyond the edge; flip half of them.

    images: (b, c, h, w), rows `start` to `start + b` of a batch of `n_all`. What happens to a row depends on its
    place in the whole batch alone, so shares of a batch are changed as the whole would be.
    """
    # torchvision's functions, but not its RandomCrop: that changes a whole batch alike, and image by image, each by
    # a seed of its own, it takes 35 ms for 128 images of 32x32, this 1.9 ms.
    v2 = require("torchvision.transforms.v2.functional", extra="torch")
    b, _, height, width = images.shape
    mine = slice(start, start + b)
    n = b if n_all is None else n_all
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    tops = rng.integers(0, 2 * pad_y + 1, n)[mine].tolist()
    lefts = rng.integers(0, 2 * pad_x + 1, n)[mine].tolist()
    flips = (rng.random(n)[mine] < 0.5).tolist()
    padded = v2.pad(images, [pad_x, pad_y])
    crops = [v2.crop(*place, height, width) for place in zip(padded, tops, lefts, strict=True)]
    return torch.stack([v2.horizontal_flip(x) if flip else x for x, flip in zip(crops, flips, strict=True)])


def resized_crop(image: Pixels, size: tuple[int, int], seed: int) -> Pixels:
    """Cut a random part (8 % to all of the area) out of one image, resize it to `size`, flip half.

    The usual ImageNet recipe, by torchvision. The global generator of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pixels = torch.from_numpy(np.require(image, requirements=("C", "W")))  # of others PyTorch warns
        changed = _random_part(size)(pixels.permute(2, 0, 1))
    return np.ascontiguousarray(changed.permute(1, 2, 0).numpy())


@lru_cache(maxsize=8)
def _random_part(size: tuple[int, int]) -> Any:
    v2 = require("torchvision.transforms.v2", extra="torch")
    return v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
