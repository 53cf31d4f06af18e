"""The modules that training runs: each turns a batch into the logits of all m exits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from exeunt.torch.exits.network import EarlyExitNetwork

__all__ = ["CachedHeads", "FrozenBackbone"]


class FrozenBackbone(nn.Module):
    """The network with its backbone in eval mode and out of the gradient's reach: only heads learn."""

    def __init__(self, network: EarlyExitNetwork) -> None:
        super().__init__()
        self.heads = network.heads
        self._network = (network,)  # in a tuple: the backbone is no part of what is trained

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the logits (n, k) of every exit."""
        network = self._network[0]
        network.backbone.eval()
        with torch.no_grad():
            reduced, final = network.reduce(*args, **kwargs)
        return [*network.classify(reduced), final]


class CachedHeads(nn.Module):
    """The heads alone, on what the backbone gave earlier."""

    def __init__(self, network: EarlyExitNetwork) -> None:
        super().__init__()
        self.heads = network.heads
        self._network = (network,)

    def forward(self, final: Tensor, *reduced: Tensor) -> list[Tensor]:
        """Return the logits (n, k) of every exit; `final` are the last one's."""
        return [*self._network[0].classify(reduced), final]
