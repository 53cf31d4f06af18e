"""What an exit says that answers with a mask, a class for each pixel of an image, and how sure it is of the whole mask.

One exit answers per image. Its confidences are of all pixels: means, and a low quantile of their margins.
Axis letters: n images, k classes, h x w pixels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Floats, Integers
from exeunt.errors import InputError
from exeunt.score.confidence import FEATURES, Evidence, entropy, softmax

Masks = NDArray[np.uint8]

MASK = "mask"
"""Name of the masks (n, h, w) in an exit's evidence."""
MOST_MASK_CLASSES = 255
NO_CLASS = 255
"""The pixel of a mask that has no class, as Pascal VOC and Cityscapes write it."""
_LOW = 0.1  # the quantile of "low_margin"
_MOST_SAMPLED = 4096  # pixels: more of them cost more than the scores are worth


class MaskEvidence(Evidence):
    """The outputs of an exit that answers with masks, from its `logits` (n, k, h, w).

    "mask" (n, h, w): the likeliest class of each pixel. "prediction" (n,): the class of most pixels. "margin",
    "max_probability", "entropy" (n,): means over pixels; "low_margin" (n,): the margin that a tenth of the pixels stay
    below. "features" (n, 2k): mean and standard deviation over pixels of each class's probability, which a gate reads.
    All but the mask and the prediction are those of a grid of at most 4,096 pixels, so that they cost little.
    """

    __slots__ = ("logits",)

    names: ClassVar[tuple[str, ...]] = (
        "prediction",
        "max_probability",
        "margin",
        "low_margin",
        "entropy",
        FEATURES,
        MASK,
    )

    def __init__(self, logits: Floats) -> None:
        self.logits = logits
        n, k, height, width = logits.shape
        step = max(1, int(np.ceil(np.sqrt(height * width / _MOST_SAMPLED))))
        sampled = logits[:, :, ::step, ::step]
        super().__init__(softmax(sampled.reshape(n, k, sampled.shape[2] * sampled.shape[3])))

    @property
    def detail(self) -> Masks:
        """What is kept of an answer beside its class and confidence: the masks."""
        return self[MASK]  # type: ignore[no-any-return]

    def _computed(self, name: str) -> Any:
        if name == MASK:
            return self.logits.argmax(axis=1).astype(np.uint8)
        if name == "prediction":
            return commonest(self[MASK], self.logits.shape[1])
        return _OF_PIXELS[name](self.probabilities)


def evidence_of(logits: Floats) -> Evidence:
    """Return the evidence of an exit's logits: of classes (n, k), or of masks (n, k, h, w)."""
    return Evidence(softmax(logits)) if logits.ndim == 2 else MaskEvidence(logits)


def commonest(masks: Masks, n_classes: int) -> Integers:
    """Return the class of most pixels of each mask (n, h, w), the first of equals, (n,)."""
    counts = [np.bincount(mask.ravel(), minlength=n_classes) for mask in masks]
    return np.array([count.argmax() for count in counts], dtype=np.int64)


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


def _margins(probabilities: Floats) -> Floats:
    """Return each pixel's top-1 minus top-2 probability, (n, k, p) -> (n, p)."""
    if probabilities.shape[1] < 2:
        return np.ones((len(probabilities), probabilities.shape[2]))
    top = np.partition(probabilities, probabilities.shape[1] - 2, axis=1)
    gap: Floats = top[:, -1] - top[:, -2]
    return gap


def _low_margin(probabilities: Floats) -> Floats:
    """Return the margin that a tenth of the pixels stay below, (n, k, p) -> (n,)."""
    margins = _margins(probabilities)
    place = int(_LOW * (margins.shape[1] - 1))
    low: Floats = np.partition(margins, place, axis=1)[:, place].astype(np.float64)
    return low


def _spread(probabilities: Floats) -> Floats:
    """Return mean and standard deviation over pixels of each class's probability, (n, k, p) -> (n, 2k)."""
    wide = probabilities.astype(np.float64)
    return np.concatenate([wide.mean(axis=2), wide.std(axis=2)], axis=1)


def _mean_entropy(probabilities: Floats) -> Floats:
    """Return the mean negative entropy of the pixels in nats, (n, k, p) -> (n,)."""
    n, k, p = probabilities.shape
    each = entropy(np.moveaxis(probabilities, 1, 2).reshape(n * p, k))
    return each.reshape(n, p).mean(axis=1, dtype=np.float64)  # type: ignore[no-any-return]


_OF_PIXELS: dict[str, Any] = {
    "max_probability": lambda probabilities: probabilities.max(axis=1).mean(axis=1, dtype=np.float64),
    "margin": lambda probabilities: _margins(probabilities).mean(axis=1, dtype=np.float64),
    "low_margin": _low_margin,
    "entropy": _mean_entropy,
    FEATURES: _spread,
}
MASK_SCORES = ("margin", "low_margin", "max_probability", "entropy")
"""The scores that a trace of masks holds."""
