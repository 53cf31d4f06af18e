"""Adding up losses and hits over the batches of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Tally"]


class Tally:
    """Sums over inputs: cross-entropy and correct answers per exit (m,), in double precision.

    `n`: inputs added so far, by this process.
    """

    def __init__(self, n_exits: int, device: torch.device) -> None:
        self._sums = torch.zeros(2, n_exits, dtype=torch.float32 if device.type == "mps" else torch.float64)
        self._sums = self._sums.to(device)
        self.n = 0

    def add(self, losses: Tensor, logits: Sequence[Tensor], label: Tensor) -> None:
        """Add a batch: mean losses (m,), logits m x (n, k), labels (n,)."""
        with torch.no_grad():
            hits = torch.stack([(x.argmax(1) == label).sum() for x in logits])
            self._sums[0] += losses.to(self._sums.dtype) * len(label)
            self._sums[1] += hits
        self.n += len(label)

    def means(self, fabric: Any) -> tuple[list[float], list[float]]:
        """Return mean loss and accuracy per exit, over all processes."""
        n = torch.tensor(float(self.n), dtype=self._sums.dtype, device=self._sums.device)
        sums = fabric.all_reduce(self._sums, reduce_op="sum")
        count = float(fabric.all_reduce(n, reduce_op="sum"))
        loss, accuracy = (sums / max(count, 1.0)).cpu().tolist()
        return loss, accuracy
