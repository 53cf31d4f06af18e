"""The fields of a trace: checked, or computed from class probabilities, logits or an .npz archive of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exeunt import _arrays
from exeunt._arrays import Floats, Integers, Keys
from exeunt._text import counted
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.score.confidence import LOG_PROBABILITY, PROBABILITY_SCORES, Evidence, softmax
from exeunt.score.tie_breaking import row_keys, scramble
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


def checked_score(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Return a score (n, m). Raises InputError for another shape, or NaN."""
    score = _arrays.floats(value, f"score {name!r}", ndim=2)
    if score.shape != shape:
        raise InputError(f"score {name!r} has shape {score.shape} but prediction has {shape}")
    return score


def checked_label(label: ArrayLike, n: int, n_classes: int | None = None) -> Integers:
    """Return n labels. Raises InputError for labels below 0, or not below `n_classes`."""
    values = _arrays.integers(label, "label", ndim=1)
    _arrays.check_length(values, "label", n)
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
    given = np.asarray(id_)
    if given.dtype.kind in "OT" and given.size and all(isinstance(one, str) for one in given.flat):
        given = given.astype(np.str_)
    return given if given.dtype.kind == "U" else None


def id_keys(id_: ArrayLike, n: int, name: str = "id") -> Keys:
    """Return 64-bit keys (n,) of ids: whole numbers unchanged, digests of texts. `name`: for messages."""
    if (texts := id_texts(id_)) is None:
        return _arrays.keys(id_, name, n=n, kind="texts or integers")
    _arrays.check_length(texts, name, n)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.tolist()]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def usual_rows(id_: Keys) -> Keys:
    """Return the keys of the rows (n,) of a whole trace with these ids. Traces with other ids have other keys."""
    return row_keys(digest_of_ids([id_]), np.arange(len(id_), dtype=np.uint64))


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
    kept = joined(logs, axis=1) if logs else None
    return {"prediction": prediction, "scores": scores, "log_probability": kept}


def joined_outputs(traces: Sequence[Any], axis: int) -> dict[str, Any]:
    """Return the outputs of traces as fields of one trace, for all their inputs (axis 0) or all their exits (axis 1).

    Scores are those that all traces have. Log-probabilities are kept if all traces have them; exits of different models
    must have the same number of classes as well.
    """
    names = [name for name in traces[0].scores if all(name in trace.scores for trace in traces)]
    logs = [trace.log_probability for trace in traces if trace.log_probability is not None]
    kept = len(logs) == len(traces) and (axis == 0 or len({one.shape[2] for one in logs}) == 1)
    return {
        "prediction": np.concatenate([trace.prediction for trace in traces], axis=axis),
        "scores": {name: np.concatenate([one.scores[name] for one in traces], axis=axis) for name in names},
        "log_probability": joined(logs, axis=axis) if kept else None,
    }


def checked_probabilities(values: Any, exit_: int) -> Floats:
    """Return the class probabilities (n, k) of one exit: 0 or above, in rows that sum to 1 (to 1e-3)."""
    probabilities = _arrays.floats(values, f"probabilities of exit {exit_}", ndim=2)
    total = probabilities.sum(axis=1)
    if len(bad := np.flatnonzero((np.abs(total - 1) > 1e-3) | (probabilities < 0).any(axis=1))):
        raise InputError(
            f"probabilities must be 0 or above and sum to 1, but input {bad[0]} at exit {exit_} sums to "
            f"{total[bad[0]]:g} (lowest {probabilities[bad[0]].min():g}); for logits use ExitTrace.from_logits"
        )
    return probabilities


def probabilities_of_logits(values: Any, exit_: int) -> Floats:
    """Return the softmax (n, k) of one exit's logits, which must be finite."""
    logits = _arrays.floats(values, f"logits of exit {exit_}", ndim=2)
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
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{file} is not a readable .npz archive: {error}") from None

    def find(*names: str) -> str:
        for name in names:
            if name in arrays:
                return name
        raise InputError(f"{file} needs an array {' or '.join(names)}, it has {', '.join(arrays) or 'none'}")

    outputs, label, cost = find("logits", "probabilities"), find("labels"), find("macs", "cost")
    model = CostModel(arrays[cost], unit="MACs" if cost == "macs" else "cost", source=file.name)
    return {outputs: arrays[outputs], "label": arrays[label], "cost": model}
