"""The losses that training minimises: pure functions of the exits' logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from exeunt.errors import InputError


def cross_entropies(logits: Sequence[Tensor], label: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return each exit's mean cross-entropy (m,) in nats. `logits`: m tensors (n, k); `label` (n,)."""
    return torch.stack(
        [functional.cross_entropy(x.float(), label, label_smoothing=smoothing) for x in logits]
    )


def distillations(logits: Sequence[Tensor], teacher: Tensor, *, temperature: float) -> Tensor:
    """Return each exit's Kullback-Leibler divergence (m,) from the teacher's softened output, in nats.

    KL(softmax(teacher / T) || softmax(logits / T)) * T^2, averaged over inputs; no gradient reaches the
    teacher (Hinton et al. 2015, section 2).
    """
    target = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    softened = [functional.log_softmax(x.float() / temperature, dim=1) for x in logits]
    divergences = [functional.kl_div(x, target, log_target=True, reduction="batchmean") for x in softened]
    return torch.stack(divergences) * temperature**2


def objective(
    logits: Sequence[Tensor],
    label: Tensor,
    *,
    weights: Tensor,
    teacher: Tensor | None = None,
    distill_weight: float = 0.0,
    temperature: float = 2.0,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the exits' losses (a scalar), and their cross-entropies (m,), detached.

    An exit's loss is (1 - a) * cross-entropy + a * divergence from the teacher, a = `distill_weight`.
    `teacher` (n, k): logits; by default those of the last exit, which then learns from labels alone.
    """
    entropies = cross_entropies(logits, label, smoothing=smoothing)
    losses = entropies
    if distill_weight > 0:
        target = logits[-1] if teacher is None else teacher
        divergences = distillations(logits, target, temperature=temperature)
        losses = (1 - distill_weight) * entropies + distill_weight * divergences
        if teacher is None:
            losses = torch.cat([losses[:-1], entropies[-1:]])
    return (weights * losses).sum(), entropies.detach()


def exit_weights(kind: str | Sequence[float] | None, n_exits: int) -> Tensor:
    """Return each exit's weight in the sum of losses, (m,).

    "uniform" (or None): 1 each. "linear": growing from 2 / (m + 1) to 2 m / (m + 1), mean 1. "last": half of
    the total weight m on the last exit, the rest shared evenly. Or m non-negative numbers.
    """
    position = torch.arange(1, n_exits + 1, dtype=torch.float32)
    if kind is None or kind == "uniform":
        return torch.ones(n_exits)
    if kind == "linear":
        return 2 * position / (n_exits + 1)
    if kind == "last":
        share = n_exits / 2 / max(n_exits - 1, 1)
        return torch.where(position == n_exits, n_exits / 2, share)
    if isinstance(kind, str):
        raise InputError(
            f"exit_weights {kind!r} is not known: 'uniform', 'linear', 'last', or a list of numbers"
        )
    weights = torch.tensor([float(value) for value in kind])
    if len(weights) != n_exits or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise InputError(
            f"exit_weights must be {n_exits} finite numbers >= 0, one per exit (the last one included), "
            f"got {list(kind)}"
        )
    return weights
