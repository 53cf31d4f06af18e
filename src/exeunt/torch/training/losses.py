"""The losses of training: cross-entropies with labels and divergences from a teacher's answers, also of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from exeunt.errors import InputError

_SOFT = 0.5
"""The weight of the teacher's soft output where there is no label."""


def labels_or_predictions(label: Tensor | None, output: Tensor) -> Tensor:
    """Return labels (n,), and in place of unknown ones (None, or -1) the likeliest class of an output (n, k).

    Of masks, labels (n, h, w) and an output (n, k, h, w).
    """
    said = output.detach().argmax(1)
    return said if label is None else torch.where(label < 0, said, label)


def cross_entropies(
    logits: Sequence[Tensor], label: Tensor, *, smoothing: float = 0.0, class_weights: Sequence[float] = ()
) -> Tensor:
    """Return each exit's cross-entropies (m, n) in nats; of masks (m, n, h, w), 0 for pixels without a class.

    `logits`: m tensors (n, k), or of masks (n, k, h, w); `label` (n,) or (n, h, w), -1 for no class.
    """
    weight = torch.tensor(class_weights, device=label.device) if class_weights else None
    options: Any = {
        "label_smoothing": smoothing,
        "reduction": "none",
        "weight": weight,
        "ignore_index": -1,
    }
    return torch.stack([functional.cross_entropy(x.float(), label, **options) for x in logits])


def distillations(logits: Sequence[Tensor], teacher: Tensor, *, temperature: float) -> Tensor:
    """Return each exit's Kullback-Leibler divergences (m, n) from the teacher's softened output, in nats.

    Of masks (m, n, h, w).
    KL(softmax(teacher / T) || softmax(logits / T)) * T^2; no gradient reaches the teacher (Hinton et al. 2015,
    section 2).
    """
    target = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    softened = [functional.log_softmax(x.float() / temperature, dim=1) for x in logits]
    divergences = [functional.kl_div(x, target, log_target=True, reduction="none").sum(1) for x in softened]
    return torch.stack(divergences) * temperature**2


def mean_loss(losses: Tensor, label: Tensor) -> Tensor:
    """Return each exit's mean (m,) of losses (m, n), or of (m, n, h, w) over pixels with a class."""
    if losses.ndim == 2:
        return losses.mean(1)
    counts = (label >= 0).flatten().to(losses.dtype)
    return losses.flatten(1) @ counts / counts.sum().clamp_min(1)


def at_pixels_of(masks: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """Return masks (n, h, w), or the logits (n, k, h, w) of some, at the pixels of smaller logits m x (n, k, h', w').

    In training, a network may return such. Each pixel gets the value at its centre.
    Raises InputError for logits whose sizes differ.
    """
    sizes = list(dict.fromkeys(tuple(logit.shape[2:]) for logit in logits))
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise InputError(
            f"in training, the network returns masks of different sizes ({shown} pixels): let those of all exits have "
            "one size"
        )
    if tuple(masks.shape[-2:]) == sizes[0]:
        return masks
    rows, columns = (
        ((torch.arange(n, device=masks.device) + 0.5) * (of / n)).long()
        for n, of in zip(sizes[0], masks.shape[-2:], strict=True)
    )
    return masks[..., rows[:, None], columns]


def objective(
    logits: Sequence[Tensor],
    label: Tensor | None,
    *,
    unlabelled: bool = False,
    teacher: Tensor | None = None,
    distill_weight: float = 0.0,
    temperature: float = 2.0,
    smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> tuple[Tensor, Tensor]:
    """Return the sum of the exits' mean losses (a scalar), and their mean cross-entropies (m,), detached.

    An exit's loss is (1 - a) * cross-entropy + a * divergence from the teacher, a = `distill_weight`; 0.5 for inputs
    without a label, whose cross-entropy is that from the teacher's likeliest class. `label`: None without any; with
    `unlabelled` some may be -1.
    `teacher` (n, k): logits; by default those of the last exit, which then learns from labels alone.
    """
    target = logits[-1] if teacher is None else teacher
    known = label if label is not None and not unlabelled else labels_or_predictions(label, target)
    entropies = cross_entropies(logits, known, smoothing=smoothing, class_weights=class_weights)
    losses = entropies
    if distill_weight > 0 or unlabelled:
        weight = torch.full_like(entropies, distill_weight)
        if unlabelled:
            weight[:, slice(None) if label is None else label < 0] = _SOFT
        divergences = distillations(logits, target, temperature=temperature)
        losses = (1 - weight) * entropies + weight * divergences
        if teacher is None:
            losses = torch.cat([losses[:-1], entropies[-1:]])
    return mean_loss(losses, known).sum(), mean_loss(entropies, known).detach()
