"""The course of a training as scalars of TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from exeunt._files import check_writable
from exeunt.errors import require

if TYPE_CHECKING:
    from exeunt.torch.training.checkpoint import EpochMetrics

__all__ = ["check_tensorboard", "epoch_scalars"]

_PER_EXIT = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def check_tensorboard(folder: Path) -> None:
    """Raise MissingExtra without the package, FileError if nothing can be written to `folder`."""
    require("tensorboard", extra="tensorboard")
    check_writable(folder, f"cannot write scalars to {folder}")


@contextmanager
def epoch_scalars(folder: Path | None) -> Iterator[Callable[[EpochMetrics], None]]:
    """Yield what adds an epoch's metrics to the scalars in `folder`; without a folder it does nothing.

    Tags are such as "validation_accuracy/exit 0", and "learning_rate"; the step is the epoch.
    """
    if folder is None:
        yield lambda _: None
        return
    check_tensorboard(folder)
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def add(metrics: EpochMetrics) -> None:
            for name in _PER_EXIT:
                for exit_, value in enumerate(getattr(metrics, name) or ()):
                    writer.add_scalar(f"{name}/exit {exit_}", value, metrics.epoch)
            writer.add_scalar("learning_rate", metrics.learning_rate, metrics.epoch)
            writer.flush()

        yield add
