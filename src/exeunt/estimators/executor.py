"""The executor of a classifier with `predict_proba`: one exit, raw inputs, log-probabilities as logits."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Booleans, Floats, Integers
from exeunt.engine.executor import BORDER, CPU, Segments
from exeunt.engine.inputs import raw_batch
from exeunt.engine.plan import check_segments
from exeunt.errors import InputError
from exeunt.estimators.stored import load_estimator
from exeunt.run.file_digests import OBJECT
from exeunt.run.folder import RunFolder

__all__ = ["EstimatorExecutor", "open_estimator", "open_object"]

_ROUNDED = 0.05  # how far a sum of rounded probabilities may be from 1
_LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 has no logarithm


class EstimatorExecutor:
    """Asks `classifier.predict_proba(inputs)`, (n, k), on raw inputs: an array with a row, text or image each.

    Columns are the classes 0..k-1 in order; with `classes_`, as of scikit-learn, they are these: numbers of classes, or
    `class_names`. Classes that it does not know have no probability.

    Raises InputError for no `predict_proba`, classes that are not the run's, or segments other than one.
    """

    device, restarts, border = CPU, (), BORDER
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
                f"a classifier must have predict_proba(inputs), which gives probabilities (n, k); "
                f"{type(classifier).__name__} has not"
            )
        check_segments(self.segments if segments is None else segments, 1)
        self.name = name
        self._classifier, self._n_classes = classifier, n_classes
        self._columns = _columns(getattr(classifier, "classes_", range(n_classes)), n_classes, class_names)

    def start(self, inputs: Any) -> tuple[NDArray[Any], Booleans]:
        """Return the raw inputs, and which are finite, (n,)."""
        return raw_batch(inputs)

    def signature(self, state: NDArray[Any]) -> Hashable:
        """Return the size of an input."""
        return state.dtype, state.shape[1:]

    def run(
        self, segment: int, state: NDArray[Any], wanted: Sequence[int]
    ) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        """Return the logarithms of the probabilities. Raises InputError unless they are such, (n, k)."""
        del segment  # there is one
        return [self._log_probabilities(state) for _ in wanted], state

    def gather(self, parts: Sequence[tuple[NDArray[Any], Integers | slice | None]]) -> NDArray[Any]:
        """Return these rows of these inputs."""
        return np.concatenate([state[slice(None) if rows is None else rows] for state, rows in parts])

    def compact(self, state: NDArray[Any], rows: Integers) -> tuple[NDArray[Any], Integers]:
        """Return these rows, in their order: the array may be the caller's."""
        return state[rows], rows

    def wait(self) -> None:
        """Do nothing: a call returns when it is done."""

    def _log_probabilities(self, inputs: NDArray[Any]) -> Floats:
        found = np.asarray(self._classifier.predict_proba(inputs))
        if found.shape != (len(inputs), len(self._columns)):
            raise InputError(
                f"predict_proba must give probabilities ({len(inputs)}, {len(self._columns)}), a row per input and a "
                f"column per class, got {found.shape}"
            )
        wrong = (found.min(axis=1) < 0) | (
            abs(found.sum(axis=1) - 1) > _ROUNDED
        )  # NaN is not, it has no answer
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"predict_proba must give probabilities, rows of numbers from 0 that sum to 1, got one from "
                f"{found[row].min():.4g} that sums to {found[row].sum():.4g}: give a softmax of scores, or shares"
            )
        every = np.zeros((len(inputs), self._n_classes))
        every[:, self._columns] = found
        logs: Floats = np.log(np.maximum(every, _LEAST)).astype(np.float32)  # NaN stays
        return logs


def _columns(classes: Any, n_classes: int, names: Sequence[str]) -> Integers:
    """Return which class each column is. Raises InputError for one that the run does not have."""
    place: dict[Any, int] = {**{k: k for k in range(n_classes)}, **{name: k for k, name in enumerate(names)}}
    given = np.asarray(classes).tolist()
    unknown = [one for one in given if one not in place]
    if unknown:
        raise InputError(
            f"the classifier knows the class {unknown[0]!r}, and the run has {n_classes} classes"
            f"{', ' + ', '.join(names[:5]) if names else ''}: train it on their numbers, from 0, or their names"
        )
    return np.array([place[one] for one in given], dtype=np.int64)


def open_estimator(
    run: RunFolder,
    *,
    threads: int | None = None,  # noqa: ARG001 - scikit-learn predicts with one
    trusted: str | None = None,  # noqa: ARG001 - runs no code of the run folder
    segments: Segments | None = None,
) -> EstimatorExecutor:
    """Open the estimator of a run folder. Raises ArtefactError if it holds anything that is not trusted."""
    return _opened(run, load_estimator(run), "sklearn", segments)


def open_object(
    run: RunFolder,
    *,
    threads: int | None = None,  # noqa: ARG001 - the object's own business
    trusted: str | None = None,  # noqa: ARG001
    segments: Segments | None = None,
) -> EstimatorExecutor:
    """Return the executor of the object that was given for a model. Raises InputError if none was."""
    run.files.path(OBJECT)
    name = run.manifest["model"]["model"]
    if name not in run.objects:
        raise InputError(
            f"the model {name!r} is an object of your own, which no file holds: open the cascade in Python and give it, "
            f"exeunt.run.load(cascade, models={{{name!r}: ...}})"
        )
    return _opened(run, run.objects[name], "object", segments)


def _opened(run: RunFolder, classifier: Any, name: str, segments: Segments | None) -> EstimatorExecutor:
    return EstimatorExecutor(
        classifier, n_classes=run.manifest["model"]["n_classes"], class_names=run.manifest["class_names"],
        name=name, segments=segments,
    )  # fmt: skip
