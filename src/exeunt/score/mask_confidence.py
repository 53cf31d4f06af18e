"""What an exit says that answers with a mask, a class for each pixel of an image, and how sure it is of the whole mask.

One exit answers per image. Its confidences are of all pixels: means, and a low quantile of their margins.
Axis letters: n images, k classes, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats, Integers
from exeunt.errors import InputError
from exeunt.score.confidence import FEATURES, Evidence, softmax

Masks = NDArray[np.uint8]

MASK = "mask"
"""Name of the masks (n, h, w) in an exit's evidence."""
MOST_MASK_CLASSES = 255
NO_CLASS = 255
"""The pixel of a mask that has no class, as Pascal VOC and Cityscapes write it."""
_LOW = 0.1  # the quantile of "low_margin"
_MOST_SAMPLED = 1024  # pixels: neighbours are alike, and more of them cost more than the scores are worth


class MaskEvidence(Evidence):
    """The outputs of an exit that answers with masks, from its `logits` (n, k, h, w).

    `scale`: how many times as high and wide masks are, to which logits are scaled bilinearly where a mask is asked for.
    "mask" (n, h, w): the likeliest class of each pixel. "prediction" (n,): the class of most pixels. "margin",
    "max_probability", "entropy" (n,): means over pixels; "low_margin" (n,): the margin that a tenth of the pixels stay
    below. "features" (n, 2k): mean and standard deviation over pixels of each class's probability, which a gate reads.
    All but the mask are those of a grid of about 1,024 pixels of the logits at most, so that they cost little.
    """

    __slots__ = ("logits", "scale")

    names: ClassVar[tuple[str, ...]] = (
        "prediction",
        "max_probability",
        "margin",
        "low_margin",
        "entropy",
        FEATURES,
        MASK,
    )

    def __init__(self, logits: Floats, scale: int = 1) -> None:
        self.logits, self.scale = logits, scale
        n, k, height, width = logits.shape
        step = max(1, int(np.ceil(np.sqrt(height * width / _MOST_SAMPLED))))
        sampled = logits[:, :, ::step, ::step]
        super().__init__(_softmax(sampled.reshape(n, k, sampled.shape[2] * sampled.shape[3])))

    def detail(self, rows: Any) -> Masks:
        """What is kept of the answers for these rows beside class and confidence: the masks."""
        return upscaled_masks(self.logits[rows], self.scale)

    def _computed(self, name: str) -> Any:
        if name == MASK:
            return self.detail(slice(None))
        if name == "prediction":
            return commonest(self.probabilities)
        if name == _TOP:
            return _top_two(self.probabilities)
        return _OF_TOP[name](*self[_TOP]) if name in _OF_TOP else _OF_PIXELS[name](self.probabilities)


def evidence_of(logits: Floats, mask_scale: int = 1) -> Evidence:
    """Return the evidence of an exit's logits: of classes (n, k), or of masks (n, k, h, w), see `MaskEvidence`."""
    return Evidence(softmax(logits)) if logits.ndim == 2 else MaskEvidence(logits, mask_scale)


def upscaled_masks(logits: Floats, scale: int) -> Masks:
    """Return the likeliest class of each pixel (n, h, w) of logits (n, k, h, w) scaled up by a whole number.

    Bilinearly, as torch does without aligned corners. One row in `scale` is made at a time: these stay in the cache.

    >>> upscaled_masks(np.array([[[[0.0, 0.0]], [[-1.0, 3.0]]]]), 2).tolist()
    [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    """
    if scale == 1:
        return likeliest(logits)
    n, k, height, width = logits.shape
    wide = np.empty((n, k, height, width * scale), dtype=logits.dtype)
    for phase, columns in enumerate(_phases(logits, 3, scale)):
        wide[..., phase::scale] = columns
    masks = np.empty((n, height * scale, width * scale), dtype=np.uint8)
    for phase, rows in enumerate(_phases(wide, 2, scale)):
        masks[:, phase::scale] = likeliest(rows)
    return masks


def _phases(logits: Floats, axis: int, scale: int) -> Iterator[Floats]:
    """Yield logits scaled up along an axis, in parts: those of the new pixels 0, scale, 2 * scale, ..., then 1, ..."""
    n = logits.shape[axis]
    padding = [(1, 1) if i == axis else (0, 0) for i in range(4)]
    padded = np.moveaxis(np.pad(logits, padding, mode="edge"), axis, 0)
    for phase in range(scale):
        place = (phase + 0.5) / scale + 0.5
        first = int(place)
        part = place - first
        between = padded[first : first + n] * (1 - part)
        between += padded[first + 1 : first + 1 + n] * part
        yield np.moveaxis(between, 0, axis)


def likeliest(logits: Floats) -> Masks:
    """Return the likeliest class of each pixel (n, ...) of logits (n, k, ...), the first of equals.

    As `argmax` over the classes, which takes several times as long: they are far apart in memory.
    """
    best, mask = logits[:, 0].copy(), np.zeros((len(logits), *logits.shape[2:]), dtype=np.uint8)
    for k in range(1, logits.shape[1]):
        better = logits[:, k] > best
        np.maximum(mask, better.view(np.uint8) * np.uint8(k), out=mask)  # later classes have higher numbers
        np.maximum(best, logits[:, k], out=best)
    return mask


def commonest(values: Floats) -> Integers:
    """Return the class of most pixels (n,) by logits or probabilities (n, k, p), the first of equals."""
    n, k = values.shape[:2]
    codes = likeliest(values) + k * np.arange(n)[:, None]  # another one for each class of each image
    mode: Integers = np.bincount(codes.ravel(), minlength=n * k).reshape(n, k).argmax(axis=1)
    return mode


def runs_of(mask: Masks) -> str:
    """Return a mask (h, w) as text: its size, then runs of pixels in rows from the top left, "CLASS*PIXELS" each.

    >>> runs_of(np.array([[0, 0, 0], [2, 2, 0]], dtype=np.uint8))
    '2x3 0*3 2*2 0*1'
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=-1))  # -1 is no class
    lengths = np.diff(starts, append=flat.size)
    runs = " ".join(f"{k}*{n}" for k, n in zip(flat[starts].tolist(), lengths.tolist(), strict=True))
    return f"{mask.shape[0]}x{mask.shape[1]} {runs}"


def mask_of(runs: str) -> Masks:
    """Return the mask (h, w) of a text that `runs_of` made. Raises InputError for another text.

    >>> mask_of("2x3 0*3 2*2 0*1").tolist()
    [[0, 0, 0], [2, 2, 0]]
    """
    try:
        size, *pairs = runs.split(" ")
        height, width = map(int, size.split("x"))
        classes, lengths = zip(*(map(int, pair.split("*")) for pair in pairs), strict=True)
        return np.repeat(np.array(classes, dtype=np.uint8), lengths).reshape(height, width)
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise InputError(f"a mask is a text such as '2x3 0*3 2*2 0*1', got {runs!r:.80}") from None


# Class after class: NumPy reduces an axis of a few classes, far apart in memory, several times as slowly.


def _softmax(logits: Floats) -> Floats:
    """Return class probabilities (n, k, p) of the logits of p pixels."""
    top = logits[:, 0].copy()
    for k in range(1, logits.shape[1]):
        np.maximum(top, logits[:, k], out=top)
    probabilities: Floats = np.exp(logits - top[:, None])
    total = probabilities[:, 0].copy()
    for k in range(1, logits.shape[1]):
        total += probabilities[:, k]
    probabilities /= total[:, None]
    return probabilities


def _top_two(probabilities: Floats) -> tuple[Floats, Floats]:
    """Return each pixel's two highest class probabilities, (n, k, p) -> twice (n, p); the second is 0 of one class."""
    first, second = probabilities[:, 0].copy(), np.zeros_like(probabilities[:, 0])
    for k in range(1, probabilities.shape[1]):
        np.maximum(second, np.minimum(first, probabilities[:, k]), out=second)
        np.maximum(first, probabilities[:, k], out=first)
    return first, second


def _low_quantile(margins: Floats) -> Floats:
    """Return the margin that a tenth of the pixels stay below, (n, p) -> (n,)."""
    place = int(_LOW * (margins.shape[1] - 1))
    low: Floats = np.partition(margins, place, axis=1)[:, place].astype(np.float64)
    return low


def _spread(probabilities: Floats) -> Floats:
    """Return mean and standard deviation over pixels of each class's probability, (n, k, p) -> (n, 2k)."""
    wide = probabilities.astype(np.float64)
    mean, square = wide.mean(axis=2), np.einsum("nkp,nkp->nk", wide, wide) / wide.shape[2]
    return np.concatenate([mean, np.sqrt(np.maximum(square - mean**2, 0.0))], axis=1)


def _mean_entropy(probabilities: Floats) -> Floats:
    """Return the mean negative entropy of the pixels in nats, (n, k, p) -> (n,)."""
    logs = np.log(np.maximum(probabilities, _TINY))
    n, _, p = probabilities.shape
    return np.asarray(np.einsum("nkp,nkp->n", probabilities, logs, dtype=np.float64).reshape(n) / p)


_TOP = "two highest probabilities of each pixel"
_TINY = np.float32(1e-30)  # whose logarithm is finite; times 0 it is 0
_OF_TOP: dict[str, Any] = {
    "max_probability": lambda first, _: first.mean(axis=1, dtype=np.float64),
    "margin": lambda first, second: (first - second).mean(axis=1, dtype=np.float64),
    "low_margin": lambda first, second: _low_quantile(first - second),
}
_OF_PIXELS: dict[str, Any] = {
    "entropy": _mean_entropy,
    FEATURES: _spread,
}
MASK_SCORES = ("margin", "low_margin", "max_probability", "entropy")
"""The scores that a trace of masks holds."""
