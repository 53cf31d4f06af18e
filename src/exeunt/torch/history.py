"""What each epoch of a training gave, exit by exit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from exeunt._files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["EpochMetrics", "History"]


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One epoch: mean cross-entropy in nats and accuracy of each of the m exits.

    The training values are gathered while the weights change; the validation values, where there is a
    validation loader, after the epoch in eval mode.
    """

    epoch: int
    learning_rate: float
    seconds: float
    train_loss: list[float]
    train_accuracy: list[float]
    validation_loss: list[float] | None = None
    validation_accuracy: list[float] | None = None

    def summary(self) -> str:
        """Return one line: accuracies of the exits, in validation where there is one."""
        kind = "train" if self.validation_accuracy is None else "validation"
        accuracy = self.train_accuracy if self.validation_accuracy is None else self.validation_accuracy
        loss = sum(self.train_loss) / len(self.train_loss)
        return f"loss {loss:.3f}  {kind} accuracy " + _abridged(accuracy)


@dataclass(frozen=True)
class History:
    """The epochs of a training, the first one first."""

    epochs: tuple[EpochMetrics, ...]

    @property
    def last(self) -> EpochMetrics:
        """The metrics of the last epoch."""
        return self.epochs[-1]

    def to_list(self) -> list[dict[str, Any]]:
        """Return a JSON-able form."""
        return [asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_list(cls, value: Iterable[dict[str, Any]]) -> History:
        """Rebuild from `to_list`."""
        return cls(tuple(EpochMetrics(**epoch) for epoch in value))

    def save(self, path: Path) -> None:
        """Write one JSON object per line and epoch, atomically."""
        with atomic_path(path) as temporary:
            lines = (json.dumps(epoch) + "\n" for epoch in self.to_list())
            temporary.write_text("".join(lines), encoding="utf-8")


def _abridged(values: list[float], most: int = 8) -> str:
    """Write at most `most` of the values, the first and the last among them."""
    if len(values) > most:
        values = [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
    return " ".join(f"{value:.3f}" for value in values)
