"""Data sets of the digits that scikit-learn ships: as they are, or among clutter."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Integers
from exeunt.data.source import RawData, RawParts
from exeunt.data.stored_inputs import PixelArray
from exeunt.errors import require

Bytes: TypeAlias = "NDArray[np.uint8]"


def _grey_digits() -> tuple[Bytes, Integers, Integers]:
    """Return the 1,797 digits of scikit-learn, grey values (n, 8, 8) and classes (n,), and a random order of them."""
    bunch = require("sklearn.datasets", extra="demo").load_digits()
    grey = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    return grey, bunch.target, np.random.default_rng(0).permutation(len(grey))


def _digits() -> RawParts:
    """Return 500 of the digits to test on, and the others to train on."""
    grey, label, order = _grey_digits()
    train, test = np.sort(order[500:]), np.sort(order[:500])
    return RawParts(
        _digit_part("train", grey[train], label[train]), _digit_part("test", grey[test], label[test])
    )


def _cluttered_digits() -> RawParts:
    """Return images of a digit among pieces of others, after Cluttered MNIST (Mnih et al. 2014).

    Every image is an independent draw: a digit, its place, three pieces of 4x4 pixels and their places. So images to
    train on and to test on are exchangeable, and may show the same digit at other places among other pieces.
    """
    grey, label, _ = _grey_digits()
    rng = np.random.default_rng(1)

    def part(name: str, n: int) -> RawData:
        digits = rng.integers(len(grey), size=n)
        canvas = np.zeros((n, 20, 20), dtype=np.uint8)
        for image, digit in zip(canvas, digits, strict=True):
            for other in rng.integers(len(grey), size=3):
                top, left = rng.integers(5, size=2)
                _paste(image, grey[other, top : top + 4, left : left + 4], rng)
            _paste(image, grey[digit], rng)
        return _digit_part(name, canvas, label[digits])

    return RawParts(part("train", 8_000), part("test", 4_000))


def _paste(image: Bytes, piece: Bytes, rng: np.random.Generator) -> None:
    """Add a square piece to an image at a random place; the brighter pixel stays."""
    top, left = rng.integers(len(image) - len(piece) + 1, size=2)
    there = image[top : top + len(piece), left : left + len(piece)]
    np.maximum(there, piece, out=there)


def _digit_part(name: str, grey: Bytes, label: Integers) -> RawData:
    return RawData(
        kind="image",
        stored=PixelArray(np.repeat(grey[..., None], 3, axis=3), name=f"digits-{name}#{{}}".format),
        labels=label,
        class_names=tuple("0123456789"),
    )


DIGITS = {"sklearn:digits": _digits, "sklearn:cluttered-digits": _cluttered_digits}
"""What makes each data set, by its name."""
