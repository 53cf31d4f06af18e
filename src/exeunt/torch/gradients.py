"""Sharing gradients fairly between the exits above a layer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["balanced"]


class _Scaled(torch.autograd.Function):
    """Identity forward; the gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None


def balanced(features: Tensor, *, later: int) -> tuple[Tensor, Tensor]:
    """Return features for the head and for the rest of the network, with balanced gradients.

    `later`: exits after this one. The head's share is 1 / (later + 1), the rest's later / (later + 1), so
    the gradient that reaches the backbone does not grow with the number of exits above it
    (Li et al. 2019, "Improved techniques for training adaptive deep networks", gradient equilibrium).
    """
    share = 1 / (later + 1)
    head = _Scaled.apply(features, share)  # type: ignore[no-untyped-call]
    rest = _Scaled.apply(features, 1 - share)  # type: ignore[no-untyped-call]
    return cast("Tensor", head), cast("Tensor", rest)
