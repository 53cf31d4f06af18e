"""The executor of a classifier with `predict_proba`: one exit, raw inputs, log-probabilities as logits. No PyTorch.

Estimators of scikit-learn are kept on disk in the format of `skops`, which executes nothing that a file brings. Any
other classifier is an object that its owner gives again.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.engine.executor import BORDER, CPU, Segments
from exeunt.engine.inputs import raw_batch
from exeunt.engine.plan import check_segments
from exeunt.errors import ArtefactError, InputError, require
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.estimator import ESTIMATOR
from exeunt.runs.kinds.own_object import OBJECT

_ROUNDED = 0.05  # how far a sum of rounded probabilities may be from 1
_LEAST = float(np.finfo(np.float32).tiny)  # stands for a probability of 0, which has no logarithm
_NEEDS_TORCH = "sklearn.externals.array_api_compat.torch"


class EstimatorExecutor:
    """Calls `classifier.predict_proba(inputs)`, (n, k), on raw inputs: an array with a row, text or image each.

    Columns are the classes 0..k-1 in order. If the classifier has `classes_`, as those of scikit-learn, its columns
    are these classes: their numbers or `class_names`. Classes that it does not know get no probability.

    Raises InputError for a classifier without `predict_proba`, for classes that the run does not have, and for more
    than one segment.
    """

    device, restarts, border, mask_scale = CPU, (), BORDER, 1
    n_exits, segments = 1, ((0, 0),)

    def __init__(
        self,
        classifier: Any,
        *,
        n_classes: int,
        class_names: Sequence[str] = (),
        name: str = "sklearn",
        segments: Segments | None = None,
    ) -> None:
        if not callable(getattr(classifier, "predict_proba", None)):
            raise InputError(
                f"a classifier must have predict_proba(inputs), which returns probabilities (n, k); "
                f"{type(classifier).__name__} has not"
            )
        check_segments(self.segments if segments is None else segments, 1)
        self.name = name
        self._classifier, self._n_classes = classifier, n_classes
        self._columns = _columns(getattr(classifier, "classes_", range(n_classes)), n_classes, class_names)

    def start(self, inputs: Any) -> tuple[NDArray[Any], Booleans]:
        """Return the raw inputs, and which of them are finite, (n,)."""
        return raw_batch(inputs)

    def signature(self, state: NDArray[Any]) -> Hashable:
        """Return type and size of an input."""
        return state.dtype, state.shape[1:]

    def run(
        self, segment: int, state: NDArray[Any], wanted: Sequence[int]
    ) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        """Return the logarithms of the probabilities. Raises InputError for values that are no probabilities."""
        del segment  # there is one
        return [self._log_probabilities(state) for _ in wanted], state

    def gather(self, parts: Sequence[tuple[NDArray[Any], Integers | slice | None]]) -> NDArray[Any]:
        """Return these rows of these inputs."""
        return np.concatenate([state[slice(None) if rows is None else rows] for state, rows in parts])

    def compact(self, state: NDArray[Any], rows: Integers) -> tuple[NDArray[Any], Integers]:
        """Return copies of these rows, in their order: the array may be the caller's."""
        return state[rows], rows

    def wait(self) -> None:
        """Do nothing: a call returns when it is done."""

    def _log_probabilities(self, inputs: NDArray[Any]) -> Floats:
        probabilities = np.asarray(self._classifier.predict_proba(inputs))
        if probabilities.shape != (len(inputs), len(self._columns)):
            raise InputError(
                f"predict_proba must return probabilities ({len(inputs)}, {len(self._columns)}), a row per input and "
                f"a column per class, got {probabilities.shape}"
            )
        # A row of NaN passes: it has no answer.
        wrong = (probabilities.min(axis=1) < 0) | (abs(probabilities.sum(axis=1) - 1) > _ROUNDED)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"predict_proba must return probabilities, rows of numbers from 0 that sum to 1, got one from "
                f"{probabilities[row].min():.4g} that sums to {probabilities[row].sum():.4g}: return a softmax of "
                "scores, or shares"
            )
        every = np.zeros((len(inputs), self._n_classes))
        every[:, self._columns] = probabilities
        return np.log(np.maximum(every, _LEAST)).astype(np.float32)  # NaN stays


def _columns(classes: Any, n_classes: int, names: Sequence[str]) -> Integers:
    """Return which class each column is. Raises InputError for one that the run does not have."""
    place: dict[Any, int] = {**{k: k for k in range(n_classes)}, **{name: k for k, name in enumerate(names)}}
    labels = np.asarray(classes).tolist()
    if unknown := [label for label in labels if label not in place]:
        raise InputError(
            f"the classifier knows the class {unknown[0]!r}, and the run has {n_classes} classes"
            f"{', ' + ', '.join(names[:5]) if names else ''}: train it on their numbers, from 0, or their names"
        )
    return np.array([place[label] for label in labels], dtype=np.int64)


def open_estimator(run: RunFolder, *, segments: Segments | None = None, **_: Any) -> EstimatorExecutor:
    """Open the estimator of a run folder. Raises ArtefactError if it holds types that are not trusted.

    Other options of openers do nothing here: scikit-learn predicts with one thread and runs no code of the run folder.
    """
    return _opened(run, load_estimator(run), "sklearn", segments)


def open_object(run: RunFolder, *, segments: Segments | None = None, **_: Any) -> EstimatorExecutor:
    """Return the executor of the object that was given for a model. Raises InputError if none was."""
    run.files.path(OBJECT)
    name = run.manifest["model"]["model"]
    if name not in run.objects:
        raise InputError(
            f"the model {name!r} is an object of your own, which no file holds: open the cascade in Python and give "
            f"the object, exeunt.load(cascade, models={{{name!r}: ...}})"
        )
    return _opened(run, run.objects[name], "object", segments)


def _opened(run: RunFolder, classifier: Any, name: str, segments: Segments | None) -> EstimatorExecutor:
    return EstimatorExecutor(
        classifier,
        n_classes=run.manifest["model"]["n_classes"],
        class_names=run.manifest["class_names"],
        name=name,
        segments=segments,
    )


def save_estimator(estimator: Any, file: Path) -> None:
    """Write a fitted estimator. Raises InputError for types that would not be trusted when it is read again."""
    io = _skops()
    content = io.dumps(estimator)
    if unknown := io.get_untrusted_types(data=content):
        raise InputError(
            f"{type(estimator).__name__} holds {', '.join(unknown)}, which no file should bring: give an estimator "
            "made of scikit-learn's own, without functions, or an object of your own that holds it"
        )
    file.write_bytes(content)


def load_estimator(run: RunFolder) -> Any:
    """Return the estimator of a run. Raises ArtefactError if it holds types that are not trusted."""
    file, io = run.files.path(ESTIMATOR), _skops()
    if unknown := io.get_untrusted_types(file=file):
        raise ArtefactError(
            f"{file} holds {', '.join(unknown)}, which exeunt does not write: it is not opened"
        )
    return io.load(file)


def check_estimator(run: RunFolder) -> str:
    """Check the file, where skops is installed; returns what was found. Raises ArtefactError as `load_estimator`."""
    run.files.path(ESTIMATOR)
    if find_spec("skops") is None:
        return "not read: skops is not installed"
    load_estimator(run)
    return "nothing but trusted types"


def _skops() -> Any:
    """Import `skops.io`, which imports all of scikit-learn, without the part of it that imports PyTorch."""
    if keep_out := _NEEDS_TORCH not in sys.modules and "torch" not in sys.modules:
        sys.modules[_NEEDS_TORCH] = None  # type: ignore[assignment]
    try:
        return require("skops.io", extra="tfidf")
    finally:
        if keep_out:
            del sys.modules[_NEEDS_TORCH]
