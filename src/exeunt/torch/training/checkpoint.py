"""What a training writes after every epoch: the checkpoint from which it resumes, and its history."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exeunt._support.files import atomic_path, system_error
from exeunt.errors import ArtefactError, InputError

_FORMAT = "exeunt-training-2"
_SHOWN = 8  # exits in a line, the first and the last among them


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One epoch: mean cross-entropy in nats and accuracy of each of the m exits.

    Training values are measured while the weights change; validation values after the epoch, in eval mode, if there
    is a validation loader.
    """

    epoch: int
    learning_rate: float
    seconds: float
    train_loss: list[float]
    train_accuracy: list[float]
    validation_loss: list[float] | None = None
    validation_accuracy: list[float] | None = None

    def summary(self, measure: str = "accuracy") -> str:
        """Return loss, accuracy of up to 8 exits (validation if measured, else training) and time in one line.

        `measure`: what the accuracies are, such as "agreement" with the last exit where there are no labels.
        """
        kind = "train" if self.validation_accuracy is None else "validation"
        accuracy = self.train_accuracy if self.validation_accuracy is None else self.validation_accuracy
        loss, last = sum(self.train_loss) / len(self.train_loss), len(accuracy) - 1
        shown = (
            accuracy if last < _SHOWN else [accuracy[round(i * last / (_SHOWN - 1))] for i in range(_SHOWN)]
        )
        values = " ".join(f"{number:.3f}" for number in shown)
        return f"loss {loss:.3f}, {kind} {measure} {values}, {self.seconds:.0f} s"


@dataclass(frozen=True)
class History:
    """The epochs of a training, in order."""

    epochs: tuple[EpochMetrics, ...]

    @property
    def last(self) -> EpochMetrics:
        """The metrics of the last epoch."""
        return self.epochs[-1]

    def to_list(self) -> list[dict[str, Any]]:
        """Return a JSON-able form."""
        return [asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_list(cls, epochs: Iterable[dict[str, Any]]) -> History:
        """Rebuild from `to_list`."""
        return cls(tuple(EpochMetrics(**epoch) for epoch in epochs))


def digest(state: Mapping[str, Tensor]) -> str:
    """Return a hash of named tensors: their names, types, shapes and every bit of their values."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, entry in sorted(state.items()):
        tensor = entry.detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def save_checkpoint(path: Path, arguments: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and containers of them) with the run's `arguments`."""
    content = {"format": _FORMAT, "arguments": dict(arguments), "state": dict(state)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # PyTorch fails again when it closes the file
            raise system_error(error) or error from None


def load_checkpoint(path: Path, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of an earlier run with the same arguments, or None when there is no such file.

    Raises InputError when the file was written by a run with other arguments, naming those that differ;
    ArtefactError when it is damaged or not a checkpoint. Nothing in the file is executed.
    """
    if not path.exists():
        return None
    try:
        if not (path.is_file() and zipfile.is_zipfile(path)):
            raise ValueError("no zip file")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError, KeyError) as error:
        raise ArtefactError(f"{path} is damaged or no checkpoint: delete it to start again") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ArtefactError(f"{path} was not written by this version: delete it to start again")
    then, missing = content["arguments"], object()
    different = [
        f"{name} was {then.get(name)!r} and is {arguments.get(name)!r}"
        for name in {**then, **arguments}
        if then.get(name, missing) != arguments.get(name, missing)
    ]
    if different:
        raise InputError(
            f"{path} belongs to a run with other arguments ({'; '.join(different)}): use these, or another "
            "checkpoint_dir"
        )
    return content["state"]  # type: ignore[no-any-return]
