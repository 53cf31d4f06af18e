"""Confidence scores of an exit's class probabilities. Higher is surer.

The paper's Eq. 3 is `max_probability`; its experiments use `margin`, which the literature on active learning
calls breaking ties. By Chow's rule (Prop. 3.2) an exit with a fixed share to answer should answer its
surest inputs.

`exeunt.onnx.traced_array` writes each of them as ONNX operators; functions that dispatch on the type of array have a
shorter form there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from exeunt._support import arrays
from exeunt._support.arrays import Booleans, Floats
from exeunt.errors import InputError

NO_ANSWER = int(np.iinfo(np.int64).min)
"""The prediction of an exit that gave no answer, because it timed out or refused."""
LOG_PROBABILITY = "log_probability"
"""Name of the log-probabilities (n, k) in an exit's evidence."""
FEATURES = "features"
"""Name of what an exit tells about the input (n, d), such as an embedding, in its evidence."""
GATE = "gate"
"""Name of what the gate of a network tells about the input (n, d), in the evidence of exit 0."""
BEFORE_EXITS = -1
"""The place of the gate among the exits of a trace: its features are known before any exit is run."""
_LEAST_PROBABILITY = 1e-13
_FEW_CLASSES = 32
"""Up to this number, partitioning a row is faster than two passes; beyond it, equal values make it slower."""
MANY_CLASSES, TOP_CLASSES = 256, 32
"""Of more than MANY_CLASSES, ensembles and traces keep the likeliest TOP_CLASSES and the mean of the others."""


def max_probability(probabilities: Floats) -> Floats:
    """Return the highest class probability, (n, k) -> (n,) in [1/k, 1] (Eq. 3)."""
    highest: Floats = probabilities.max(axis=1)
    return highest


@arrays.dispatched
def margin(probabilities: Floats) -> Floats:
    """Return top-1 minus top-2 probability, (n, k) -> (n,) in [0, 1]; 1 when there is one class."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    highest, second = _top_two(probabilities)
    gap: Floats = highest - second
    return gap


def _top_two(probabilities: Floats) -> tuple[Floats, Floats]:
    """Return the highest and the second-highest probability (n,), of two classes or more."""
    top = probabilities.copy()
    if probabilities.shape[1] > _FEW_CLASSES:
        rows, first = np.arange(len(top)), top.argmax(axis=1)
        highest = top[rows, first]
        top[rows, first] = -np.inf
        return highest, top.max(axis=1)
    top.partition(probabilities.shape[1] - 2, axis=1)
    return top[:, -1], top[:, -2]


def entropy(probabilities: Floats) -> Floats:
    """Return the negative entropy in nats, (n, k) -> (n,) in [-log k, 0]."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    negative: Floats = np.einsum("nk,nk->n", probabilities, logs)
    return negative


PROBABILITY_SCORES: dict[str, Callable[[Floats], Floats]] = {
    "max_probability": max_probability,
    "margin": margin,
    "entropy": entropy,
}
"""The scores that a trace of probabilities holds, by name."""


@arrays.dispatched
def softmax(logits: Floats) -> Floats:
    """Return class probabilities (n, k) of logits (n, k)."""
    probabilities: Floats = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= np.add.reduce(probabilities, axis=1, keepdims=True)
    return probabilities


def log_softmax(logits: Floats) -> Floats:
    """Return log-probabilities (n, k) of logits (n, k)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def log_probability(probabilities: Floats) -> Floats:
    """Return the logarithms (n, k) of probabilities (n, k), at least log 1e-13: no class is excluded for good."""
    return np.log(np.maximum(probabilities, _LEAST_PROBABILITY))


def of_top_classes(logs: Floats) -> Floats:
    """Return log-probabilities (n, k) in which all but the likeliest classes share the rest evenly."""
    ranked = without_ties(logs)
    among = ranked >= np.partition(ranked, -TOP_CLASSES, axis=1)[:, -TOP_CLASSES:].min(axis=1, keepdims=True)
    return np.where(among, logs, mean_of_others(logs, among))


def without_ties(logs: Floats) -> Floats:
    """Return log-probabilities (n, k) in which later classes are a little less likely.

    Then the likeliest classes are unique. NumPy also partitions rows with many equal values ten times as slowly.
    """
    return logs - np.arange(logs.shape[1]) * 1e-9


def mean_of_others(logs: Floats, among: Booleans) -> Floats:
    """Return the log of the mean probability (..., 1) of the classes that are not marked in `among` (..., k)."""
    left = np.sum(np.where(among, 0.0, np.exp(logs)), axis=-1, keepdims=True)
    others = np.sum(np.where(among, 0.0, 1.0), axis=-1, keepdims=True)
    return log_probability(left / np.maximum(others, 1.0))


class Evidence(Mapping[str, Any]):
    """The outputs of an exit: "prediction" (n,), every score (n,) by name, and "log_probability" (n, k).

    Each is computed on first use: a policy that decides by one score needs neither the other scores nor the
    prediction of rows that stay.
    """

    __slots__ = ("_found", "probabilities")

    names: ClassVar[tuple[str, ...]] = ("prediction", *PROBABILITY_SCORES, LOG_PROBABILITY)

    def __init__(self, probabilities: Floats) -> None:
        self.probabilities = probabilities
        self._found: dict[str, Any] = {}

    def detail(self, rows: Any) -> Any:
        """What is kept of the answers for these rows beside class and confidence: all probabilities."""
        return self.probabilities[rows]

    def __getitem__(self, name: str) -> Any:
        """Return "prediction" or a score (n,), or "log_probability" (n, k)."""
        if name not in self._found:
            self._found[name] = self._computed(name)
        return self._found[name]

    def _computed(self, name: str) -> Any:
        if name == "prediction":
            return self.probabilities.argmax(axis=1)
        if name == LOG_PROBABILITY:
            return log_probability(self.probabilities)
        if name == "margin" and type(self.probabilities) is np.ndarray and self.probabilities.shape[1] > 1:
            self._found["max_probability"], second = _top_two(self.probabilities)
            return self._found["max_probability"] - second
        return PROBABILITY_SCORES[name](self.probabilities)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class PartialEvidence(Evidence):
    """The outputs of an exit that gave no answer where its probabilities are NaN: all classes are equally likely there.

    The prediction is NO_ANSWER there, and scores are -inf, so that these rows leave last.
    """

    __slots__ = ("silent",)

    def __init__(self, probabilities: Floats) -> None:
        self.silent: Booleans = np.asarray(np.isnan(probabilities).any(axis=1))
        super().__init__(np.where(self.silent[:, None], 1 / probabilities.shape[1], probabilities))

    def __getitem__(self, name: str) -> Any:
        """Return what `Evidence` holds under this name."""
        column = super().__getitem__(name)
        if name == LOG_PROBABILITY:
            return column
        return np.where(self.silent, NO_ANSWER if name == "prediction" else -np.inf, column)


class StartsEmpty:
    """A score that knows nothing before the first exit."""

    def init(self, _: int) -> dict[str, Any]:
        """Return the memory of n inputs: nothing."""
        return {}


@dataclass(frozen=True)
class NamedScore(StartsEmpty):
    """A score that the evidence holds under this name, such as "margin"."""

    name: str
    remembers: ClassVar[bool] = False

    def __call__(
        self, _: int, evidence: Mapping[str, Any], memory: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the evidence of this name."""
        if self.name not in evidence:
            raise InputError(
                f"this policy decides by the score {self.name!r}, which the evidence lacks: "
                f"it has {sorted(evidence)}"
            )
        return evidence[self.name], memory

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "named", "name": ...}."""
        return {"kind": "named", "name": self.name}
