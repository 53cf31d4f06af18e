"""Log-probabilities as a trace keeps them: which classes, in which precision, and up to which size.

Of at most 256 classes all are kept. Of more, each exit keeps its likeliest 32, and one number for each of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from exeunt._support import arrays
from exeunt.errors import InputError
from exeunt.score.confidence import MANY_CLASSES, TOP_CLASSES, mean_of_others, without_ties

LogProbability: TypeAlias = "NDArray[Any] | TopClasses"
"""Log-probabilities (n, m, k) as a trace keeps them."""

_SINGLE, _HALF = 1 << 26, 1 << 28  # 256 MB in single precision, 512 MB in half precision


@dataclass(frozen=True, eq=False)
class TopClasses:
    """Log-probabilities of n inputs at m exits for `n_classes` classes, of which the t likeliest are stored.

    `label` (n, m, t): the likeliest classes. `log` (n, m, t): their log-probabilities. `others` (n, m): the
    log-probability of each other class; the others share the remaining probability evenly. Index it as an array
    (n, m, k): `[rows, exit]` with a single exit returns an array (rows, k), any other index returns `TopClasses`.
    `numpy.asarray` returns the whole array (n, m, k).
    """

    label: NDArray[Any]
    log: NDArray[Any]
    others: NDArray[Any]
    n_classes: int

    def __post_init__(self) -> None:
        n, m, top = self.label.shape
        if self.log.shape != (n, m, top) or self.others.shape != (n, m) or top > self.n_classes:
            raise InputError(
                f"of {self.n_classes} classes the likeliest are {self.label.shape}, their log-probabilities "
                f"{self.log.shape} and those of the others {self.others.shape}"
            )
        if self.label.size and not (self.label.min() >= 0 and self.label.max() < self.n_classes):
            raise InputError(f"classes must be 0 to {self.n_classes - 1}")
        for name in ("label", "log", "others"):
            object.__setattr__(self, name, arrays.frozen(getattr(self, name)))

    @classmethod
    def of(cls, logs: NDArray[Any]) -> TopClasses:
        """Make one of log-probabilities (n, m, k)."""
        n, m, k = logs.shape
        label, others = np.empty((n, m, TOP_CLASSES), dtype=np.int32), np.empty((n, m), dtype=logs.dtype)
        for exit_ in range(m):  # one exit at a time: the class axis is long
            shown = logs[:, exit_].astype(np.float64)
            label[:, exit_] = np.argpartition(without_ties(shown), -TOP_CLASSES, axis=1)[:, -TOP_CLASSES:]
            among = np.zeros((n, k), dtype=bool)
            np.put_along_axis(among, label[:, exit_], values=True, axis=1)
            others[:, exit_] = mean_of_others(shown, among)[:, 0]
        return cls(label, np.take_along_axis(logs, label, axis=2), others, k)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, m, k): inputs, exits, classes."""
        return (*self.others.shape, self.n_classes)

    @property
    def size(self) -> int:
        """Number of log-probabilities stored."""
        return int(self.log.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the log-probabilities."""
        return self.log.dtype

    def astype(self, dtype: DTypeLike) -> TopClasses:
        """Return a copy in another precision."""
        return TopClasses(self.label, self.log.astype(dtype), self.others.astype(dtype), self.n_classes)

    def __getitem__(self, key: Any) -> NDArray[Any] | TopClasses:
        label, log, others = self.label[key], self.log[key], self.others[key]
        if label.ndim == 3:
            return TopClasses(label, log, others, self.n_classes)
        return _dense(label, log, others, self.n_classes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(_dense(self.label, self.log, self.others, self.n_classes), dtype)


def _dense(label: NDArray[Any], log: NDArray[Any], others: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """Return log-probabilities (..., k)."""
    logs = np.repeat(others[..., None], n_classes, axis=-1)
    np.put_along_axis(logs, label, log, axis=-1)
    return logs


def kept_form(outputs: ArrayLike | TopClasses) -> LogProbability:
    """Return log-probabilities (n, m, k) unchanged, or as `TopClasses` if there are more than 256 classes."""
    if isinstance(outputs, TopClasses):
        return outputs
    logs = np.asarray(outputs)
    return TopClasses.of(logs) if logs.ndim == 3 and logs.shape[2] > MANY_CLASSES else logs


def arrays_of(logs: LogProbability) -> tuple[NDArray[Any], ...]:
    """Return the arrays that hold the log-probabilities, the labels last."""
    return (logs.log, logs.others, logs.label) if isinstance(logs, TopClasses) else (logs,)


def n_kept(n: int, n_classes: int) -> int:
    """Return how many log-probabilities n predictions store."""
    return n * (TOP_CLASSES if n_classes > MANY_CLASSES else n_classes)


def keeps_log_probability(size: int) -> bool:
    """Return whether a trace keeps this many log-probabilities."""
    return size <= _HALF


def checked_log_probability(
    log_probability: ArrayLike | TopClasses, shape: tuple[int, ...]
) -> LogProbability | None:
    """Return log-probabilities (n, m, k) as a trace keeps them; `shape` is (n, m).

    Up to 2^26 numbers are kept in single precision, up to 2^28 in half precision; more are dropped (None).
    Raises InputError for another shape, or for values above 0 or NaN.
    """
    logs = kept_form(log_probability)
    if len(logs.shape) != 3 or logs.shape[:2] != shape or logs.shape[2] == 0:
        raise InputError(f"log_probability must have shape {(*shape, 'k')}, got {logs.shape}")
    if not keeps_log_probability(logs.size):
        return None
    if logs.size > _SINGLE or logs.dtype not in (np.float16, np.float32):
        logs = logs.astype(np.float32 if logs.size <= _SINGLE else np.float16)
    if not all((numbers <= 0).all() for numbers in arrays_of(logs)[:2]):
        raise InputError("log-probabilities must be 0 or below, and not NaN")
    return logs if isinstance(logs, TopClasses) else arrays.frozen(logs)


def joined(parts: Sequence[LogProbability], axis: int) -> LogProbability:
    """Concatenate log-probabilities along the inputs (axis 0) or the exits (axis 1).

    Raises InputError if the numbers of classes differ.
    """
    if len({part.shape[2] for part in parts}) > 1:
        raise InputError(f"log-probabilities are of {sorted({part.shape[2] for part in parts})} classes")
    tops = [part for part in parts if isinstance(part, TopClasses)]
    if not tops:
        return np.concatenate(parts, axis=axis)  # type: ignore[arg-type]
    columns = zip(*((top.label, top.log, top.others) for top in tops), strict=True)
    label, log, others = (np.concatenate(each, axis=axis) for each in columns)
    return TopClasses(label, log, others, tops[0].n_classes)
