"""The fields of a trace: checked, or computed from class probabilities, logits or an .npz archive of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers, Keys
from exeunt._support.text import counted
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError
from exeunt.score.confidence import (
    BEFORE_EXITS,
    LOG_PROBABILITY,
    NO_ANSWER,
    PROBABILITY_SCORES,
    Evidence,
    softmax,
)
from exeunt.score.tie_breaking import row_keys, scramble
from exeunt.trace.grades import Grades, joined_predictions, matrix, own_answers
from exeunt.trace.log_probability import joined, keeps_log_probability, kept_form, n_kept


def check_cost(cost: Any, n: int, m: int) -> None:
    """Raise InputError unless `cost` is a CostModel of m exits, and of n inputs if inputs differ in cost."""
    if not isinstance(cost, CostModel):
        raise InputError(f"cost must be a CostModel, got {cost!r}: write exeunt.CostModel({cost!r})")
    if m != cost.n_exits:
        raise InputError(f"the trace has {counted(m, 'exit')} but the costs are of {cost.n_exits}: {cost}")
    if cost.varies and cost.per_input is None and n > 0:
        raise InputError(
            f"inputs differ in what they cost, and the trace needs a row for each, got means: {cost}"
        )
    if len(rows := cost.of_inputs(n)) != n:
        raise InputError(f"the trace has {counted(n, 'input')} but the costs are of {len(rows)}")


def checked_score(name: str, numbers: ArrayLike, prediction: Integers) -> Floats:
    """Return a score (n, m), -inf where there is no answer. Raises InputError for another shape, or NaN."""
    score = arrays.floats(numbers, f"score {name!r}", ndim=2)
    if score.shape != prediction.shape:
        raise InputError(f"score {name!r} has shape {score.shape} but the answers have {prediction.shape}")
    silent = prediction == NO_ANSWER
    return np.where(silent, -np.inf, score) if silent.any() else score


def check_grades(grades: Any, prediction: Integers, label: Integers | None) -> None:
    """Raise InputError unless grades, if any, are a `Grades` of these inputs and exits, in place of labels."""
    if grades is None:
        return
    if not isinstance(grades, Grades):
        raise InputError(
            f"grades must be Grades, got {type(grades).__name__}: make the trace with from_losses"
        )
    if label is not None:
        raise InputError("answers are graded, or right or wrong by labels: give a loss or a label, not both")
    if grades.loss.shape != prediction.shape:
        raise InputError(f"the losses have shape {grades.loss.shape} but the answers have {prediction.shape}")


def checked_answers(
    prediction: ArrayLike | None, no_answer: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[Integers, Any]:
    """Return predictions (n, m) and where they are no answer, (n, m). Raises InputError for another shape.

    Without predictions no answer equals another.
    """
    silent = np.asarray(False if no_answer is None else no_answer)
    if silent.shape not in {(), shape} or silent.dtype != np.bool_:
        raise InputError(
            f"no_answer must be True or False for each input and exit, {shape}, got {silent.dtype} {silent.shape}"
        )
    if prediction is None:
        n, m = shape
        return own_answers(n, m, silent), silent
    classes = arrays.integers(prediction, "prediction", ndim=2)
    if classes.shape != shape:
        raise InputError(f"prediction has shape {classes.shape}, but the losses have {shape}")
    predicted = np.where(silent, NO_ANSWER, classes)
    return predicted, predicted == NO_ANSWER


def checked_features(values: ArrayLike, n: int) -> Floats:
    """Return features (n, d) in single precision. Raises InputError for another shape, NaN or infinity."""
    features = arrays.floats(values, "features", ndim=2)
    if features.shape[1] == 0:
        raise InputError(f"features are at least one number per input, got shape {features.shape}")
    if len(features) != n:
        raise InputError(f"features must have a row for each of {counted(n, 'input')}, got {len(features)}")
    if len(bad := np.flatnonzero(~np.isfinite(features).all(axis=1))):
        raise InputError(f"features must be finite, got infinity in row {bad[0]} (rows count from 0)")
    return arrays.frozen(features.astype(np.float32))


def checked_disagreement(values: ArrayLike, n: int, m: int) -> Floats:
    """Return shares (n, m, m) in which answers differ. Raises InputError for another shape, or one outside [0, 1]."""
    shares = np.asarray(values, dtype=np.float64)
    if shares.shape != (n, m, m) or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(
            f"disagreement must be shares in [0, 1] of shape {(n, m, m)}, got shape {shares.shape}: for each input, "
            "the share in which the answers of two exits differ"
        )
    return arrays.frozen(shares)


def where_answered(values: ArrayLike, silent: Any, name: str) -> ArrayLike:
    """Return values (n, m) with 0 in place of what is given where there is no answer."""
    if not np.any(silent):
        return values
    if (numbers := matrix(values, name)).shape != np.shape(silent):
        raise InputError(f"{name} has shape {numbers.shape} but no_answer has {np.shape(silent)}")
    return np.where(silent, 0.0, numbers)


def loss_of_numbers(
    prediction: ArrayLike, target: ArrayLike, worst: float, error: str, no_answer: Any
) -> Floats:
    """Return the losses (n, m) of predicted numbers (n, m) for true ones (n,), see `ExitTrace.from_numbers`."""
    if error not in ("absolute", "squared"):
        raise InputError(f"error must be 'absolute' or 'squared', got {error!r}")
    arrays.check_positive(worst, "worst")
    answered = where_answered(prediction, False if no_answer is None else no_answer, "prediction")
    numbers, true = arrays.floats(answered, "prediction", ndim=2), arrays.floats(target, "target", ndim=1)
    arrays.check_length(true, "target", len(numbers))
    for name, values in (("prediction", numbers), ("target", true)):
        if len(bad := np.argwhere(~np.isfinite(values))):
            place = f"row {bad[0][0]}" + (f" of exit {bad[0][1]}" if len(bad[0]) == 2 else "")
            raise InputError(
                f"{name} must be finite, got {values[tuple(bad[0])]:g} in {place} (rows count from 0): drop the input"
            )
    relative = np.minimum(1.0, np.abs(numbers - true[:, None]) / worst)
    return relative if error == "absolute" else relative**2


def checked_label(label: ArrayLike, n: int, n_classes: int | None = None) -> Integers:
    """Return n labels. Raises InputError for labels below 0, or not below `n_classes`."""
    values = arrays.integers(label, "label", ndim=1)
    arrays.check_length(values, "label", n)
    too_high = n_classes is not None and values >= n_classes
    if len(bad := np.flatnonzero((values < 0) | too_high)):
        allowed = "0 or above" if n_classes is None else f"0 to {n_classes - 1}"
        raise InputError(f"labels must be {allowed}, got {values[bad[0]]} at row {bad[0]}")
    return values


def content_keys(prediction: Integers, scores: Mapping[str, Floats]) -> Keys:
    """Return keys that differ between rows and between traces of different content."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (prediction, *scores.values()):
        digest.update(np.ascontiguousarray(array).data)
    base = np.frombuffer(digest.digest(), dtype=np.uint64)
    return scramble(base ^ scramble(np.arange(len(prediction), dtype=np.uint64)))


def id_texts(id_: Any) -> NDArray[Any] | None:
    """Return ids (n,) that are texts, also if they are objects as in a column of pandas; None for others."""
    keys = np.asarray(id_)
    if keys.dtype.kind in "OT" and keys.size and all(isinstance(key, str) for key in keys.flat):
        keys = keys.astype(np.str_)
    return keys if keys.dtype.kind == "U" else None


def id_keys(id_: ArrayLike, n: int, name: str = "id") -> Keys:
    """Return 64-bit keys (n,) of ids: whole numbers unchanged, digests of texts. `name`: for messages."""
    if (texts := id_texts(id_)) is None:
        return arrays.keys(id_, name, n=n, kind="texts or integers")
    arrays.check_length(texts, name, n)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.tolist()]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def usual_rows(id_: Keys) -> Keys:
    """Return the keys of the rows (n,) of a whole trace with these ids. Traces with other ids have other keys."""
    return row_keys(digest_of_ids([id_]), np.arange(len(id_), dtype=np.uint64))


def first_rows(rows: Keys) -> Keys:
    """Return the 64 lowest keys of rows, or all of fewer. Keys of rows are hashes, so these are a random sample."""
    return np.sort(rows)[:64]


def digest_of_ids(blocks: Iterable[Keys]) -> str:
    """Return what tells a whole trace from others, of all its ids: those of sorted logs may begin alike."""
    digest = hashlib.blake2b(digest_size=16)
    for block in blocks:
        digest.update(np.ascontiguousarray(block, dtype=np.uint64).data)
    return digest.hexdigest()


def fields_of_outputs(
    outputs: ArrayLike, to_probabilities: Callable[[Any, int], Floats], label: ArrayLike | None
) -> dict[str, Any]:
    """Return the fields of a trace but for cost and keys.

    `outputs` (n, m, k). `to_probabilities(outputs of an exit, exit)` returns the exit's class probabilities (n, k).
    Raises InputError unless the outputs are an array (n, m, k) with at least one class.
    """
    try:
        values = np.asarray(outputs)
    except ValueError as error:
        raise InputError(f"outputs must be a regular array (inputs, exits, classes): {error}") from error
    if values.ndim != 3 or values.shape[2] == 0:
        raise InputError(f"outputs must have shape (inputs, exits, classes), got {values.shape}")
    n, m, k = values.shape
    evidence = (Evidence(to_probabilities(values[:, exit_], exit_)) for exit_ in range(m))
    checked = None if label is None else checked_label(label, n, n_classes=k)
    return {**fields_of_evidence(evidence, n, m), "label": checked}


def fields_of_evidence(evidence: Iterable[Evidence], n: int, m: int) -> dict[str, Any]:
    """Return predictions (n, m), scores (n, m) by name and log-probabilities (n, m, k), if a trace keeps so many.

    `evidence`: that of each of the m exits, consumed one exit at a time.
    """
    prediction = np.empty((n, m), dtype=np.int64)
    scores = {name: np.empty((n, m)) for name in PROBABILITY_SCORES}
    logs = []
    for exit_, shown in enumerate(evidence):
        prediction[:, exit_] = shown["prediction"]
        for name, score in scores.items():
            score[:, exit_] = shown[name]
        if keeps_log_probability(n_kept(n * m, shown.probabilities.shape[1])):
            logs.append(kept_form(shown[LOG_PROBABILITY].astype(np.float32)[:, None]))
    log_probability = joined(logs, axis=1) if logs else None
    return {"prediction": prediction, "scores": scores, "log_probability": log_probability}


def joined_outputs(traces: Sequence[Any], axis: int) -> dict[str, Any]:
    """Return the outputs of traces as fields of one trace, for all their inputs (axis 0) or all their exits (axis 1).

    Scores are those that all traces have, and so are features at an exit. Log-probabilities are kept if all traces have
    them; exits of different models must have the same number of classes as well.
    """
    names = [name for name in traces[0].scores if all(name in trace.scores for trace in traces)]
    logs = [trace.log_probability for trace in traces if trace.log_probability is not None]
    keeps_logs = len(logs) == len(traces) and (axis == 0 or len({log.shape[2] for log in logs}) == 1)
    differ = [trace.disagreement for trace in traces if axis == 0 and trace.disagreement is not None]
    return {
        "prediction": joined_predictions([trace.prediction for trace in traces], axis),
        "scores": {
            name: np.concatenate([trace.scores[name] for trace in traces], axis=axis) for name in names
        },
        "log_probability": joined(logs, axis=axis) if keeps_logs else None,
        "grades": Grades.joined([trace.grades for trace in traces], axis),
        "reference": traces[0].reference,
        "features": _joined_features(traces, axis),
        "disagreement": np.concatenate(differ) if len(differ) == len(traces) else None,
    }


def _joined_features(traces: Sequence[Any], axis: int) -> dict[int, Floats]:
    if axis == 0:
        known = set.intersection(*({*trace.features} for trace in traces))
        return {exit_: np.concatenate([trace.features[exit_] for trace in traces]) for exit_ in sorted(known)}
    starts = accumulate((trace.n_exits for trace in traces), initial=0)
    return {
        start + exit_: features
        for start, trace in zip(starts, traces, strict=False)
        for exit_, features in trace.features.items()
        if exit_ != BEFORE_EXITS  # models of a cascade are asked exit after exit
    }


def checked_probabilities(values: Any, exit_: int) -> Floats:
    """Return the class probabilities (n, k) of one exit: 0 or above, in rows that sum to 1 (to 1e-3)."""
    probabilities = arrays.floats(values, f"probabilities of exit {exit_}", ndim=2)
    total = probabilities.sum(axis=1)
    if len(bad := np.flatnonzero((np.abs(total - 1) > 1e-3) | (probabilities < 0).any(axis=1))):
        raise InputError(
            f"probabilities must be 0 or above and sum to 1, but input {bad[0]} at exit {exit_} sums to "
            f"{total[bad[0]]:g} (lowest {probabilities[bad[0]].min():g}); for logits use ExitTrace.from_logits"
        )
    return probabilities


def probabilities_of_logits(values: Any, exit_: int) -> Floats:
    """Return the softmax (n, k) of one exit's logits, which must be finite."""
    logits = arrays.floats(values, f"logits of exit {exit_}", ndim=2)
    if len(bad := np.flatnonzero(~np.isfinite(logits).all(axis=1))):
        raise InputError(f"logits must be finite, got infinity for input {bad[0]} at exit {exit_}")
    return softmax(logits)


def read_archive(path: str | Path) -> dict[str, Any]:
    """Return the fields of an .npz: `logits` or `probabilities` (n, m, k), `label` (n,), and the `cost` model.

    Raises InputError for a file that is missing, damaged or lacks an array.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{file} is not a readable .npz archive: {error}") from None

    def find(*names: str) -> str:
        for name in names:
            if name in stored:
                return name
        raise InputError(f"{file} needs an array {' or '.join(names)}, it has {', '.join(stored) or 'none'}")

    outputs, label, cost = find("logits", "probabilities"), find("labels"), find("macs", "cost")
    model = CostModel(stored[cost], unit="MACs" if cost == "macs" else "cost", source=file.name)
    return {outputs: stored[outputs], "label": stored[label], "cost": model}
