"""Traces of networks that answer with masks: a loss per image, and the share of pixels in which two exits differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError
from exeunt.score.confidence import BEFORE_EXITS, FEATURES
from exeunt.score.mask_confidence import MASK_SCORES, MaskEvidence, Masks
from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.grades import Grades

MEAN_IOU = "mean IoU"
"""What 1 - loss of a mask is called."""


def mask_trace(
    logits: Sequence[Floats],
    *,
    cost: CostModel,
    truth: NDArray[Any] | None = None,
    id: Any = None,  # noqa: A002
    scale: int = 1,
) -> ExitTrace:
    """Return the trace of n images. `logits`: of each of m exits, (n, k, h, w). `scale`: see `MaskEvidence`.

    `truth` (n, h, w), of the size of the masks: the true class of each pixel, below 0 where there is none. The loss of
    an answer is 1 - the mean IoU over the classes of the image. Without it, answers have no loss, only their
    disagreement.
    The features that the first exit tells about an image are those of `MaskEvidence`.
    """
    return trace_of_evidence([MaskEvidence(logit, scale) for logit in logits], cost=cost, truth=truth, id=id)


def trace_of_evidence(
    shown: Sequence[MaskEvidence],
    *,
    cost: CostModel,
    truth: NDArray[Any] | None = None,
    id: Any = None,  # noqa: A002
) -> ExitTrace:
    """Return the same of each exit's evidence, whose masks are then computed."""
    masks = np.stack([evidence["mask"] for evidence in shown], axis=1)
    return ExitTrace(
        np.stack([evidence["prediction"] for evidence in shown], axis=1),
        {name: np.stack([evidence[name] for evidence in shown], axis=1) for name in MASK_SCORES},
        cost,
        id=id,
        grades=None
        if truth is None
        else Grades(image_losses(masks, truth, shown[0].logits.shape[1]), MEAN_IOU),
        features={0: shown[0][FEATURES]},
        disagreement=disagreements(masks),
    )


def trace_of_logits(
    logits: Sequence[Floats],
    *,
    cost: CostModel,
    label: NDArray[Any] | None = None,
    id: Any = None,  # noqa: A002
    mask_scale: int = 1,
    gate: Floats | None = None,
) -> ExitTrace:
    """Return the trace of a network's outputs: the logits of each of m exits, (n, k), or of masks (n, k, h, w).

    `label` (n,), or the true masks (n, h, w). `mask_scale`: see `MaskEvidence`. `gate` (n, f): what its gate tells.
    """
    if logits[0].ndim == 2:
        trace = ExitTrace.from_logits(np.stack(logits, axis=1), cost=cost, label=label, id=id)
    else:
        trace = mask_trace(logits, cost=cost, truth=label, id=id, scale=mask_scale)
    return trace if gate is None else replace(trace, features={**trace.features, BEFORE_EXITS: gate})


def image_losses(masks: Masks, truth: NDArray[Any], n_classes: int) -> Floats:
    """Return 1 - the mean IoU of each mask (n, m, h, w) over the classes of the image, (n, m).

    `truth` (n, h, w): pixels below 0 do not count. Raises InputError for an image without any pixel that counts.

    >>> image_losses(np.array([[[[0, 1], [1, 1]]]], dtype=np.uint8), np.array([[[0, 0], [1, 1]]]), 2).round(3)
    array([[0.417]])
    """
    n, m = masks.shape[:2]
    losses = np.empty((n, m))
    for i, (predicted, true) in enumerate(zip(masks, truth, strict=True)):
        counts = true >= 0
        of_truth = true[counts].astype(np.int64)
        if of_truth.size == 0:
            raise InputError(f"image {i} of a batch has a mask in which no pixel has a class: leave it out")
        size = np.bincount(of_truth, minlength=n_classes)
        for exit_, mask in enumerate(predicted[:, counts]):
            both = np.bincount(of_truth * n_classes + mask, minlength=n_classes**2).reshape(
                n_classes, n_classes
            )
            union = size + both.sum(axis=0) - np.diag(both)
            losses[i, exit_] = 1 - (np.diag(both)[size > 0] / union[size > 0]).mean()
    return np.clip(losses, 0.0, 1.0)


def disagreements(masks: Masks) -> Floats:
    """Return the share of pixels in which the masks (n, m, h, w) of two exits differ, (n, m, m)."""
    n, m = masks.shape[:2]
    shares = np.zeros((n, m, m))
    for a in range(m):
        for b in range(a + 1, m):
            shares[:, a, b] = shares[:, b, a] = (masks[:, a] != masks[:, b]).mean(axis=(1, 2))
    return shares
