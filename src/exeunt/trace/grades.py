"""Answers that are graded: a loss in [0, 1] for each answer, where answers are not right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.score.confidence import NO_ANSWER

_UNLIKE = NO_ANSWER // 2
"""Predictions between these two numbers are answers that equal no other."""

Better: TypeAlias = Literal["lower", "higher"]
"""Whether lower or higher values are better: a loss or a quality."""


def known_by(measure: str) -> str:
    """Return what inputs are called whose answers' quality is known; that of agreement is known of all."""
    return {"accuracy": "labelled", "agreement": "calibration"}.get(measure, "graded")


def named(measure: str) -> dict[str, str]:
    """Return what files and statistics keep of a measure: nothing of accuracy."""
    return {} if measure == "accuracy" else {"measure": measure}


def how_good(measure: str, *, several: bool = False) -> str:
    """Return a template of how good answers are: "is right on {:.1%}" of the inputs, or "has IoU {:.1%}"."""
    if measure == "accuracy":
        return f"{'are' if several else 'is'} right on {{:.1%}}"
    shown = measure.replace("{", "{{").replace("}", "}}")
    return f"{'have' if several else 'has'} {shown} {{:.1%}}"


def answers(measure: str, share: float, *, would: bool = False) -> str:
    """Return how good answers are, as a verb: "answers 92.1% right", "would have IoU 71.3%"."""
    if measure == "accuracy":
        return f"{'would answer' if would else 'answers'} {share:.1%} right"
    return f"{'would have' if would else 'has'} {measure} {share:.1%}"


@dataclass(frozen=True, eq=False)
class Grades:
    """The loss in [0, 1] of the answer of each of m exits to each of n inputs, `loss` (n, m).

    `measure`: what 1 - loss is called in reports and messages, such as "IoU".
    """

    loss: Floats
    measure: str = "quality"

    def __post_init__(self) -> None:
        loss = matrix(self.loss, "losses")
        check_range(loss, "losses")
        if not isinstance(self.measure, str) or not self.measure:
            raise InputError(f"a measure is named by a text such as 'IoU', got {self.measure!r}")
        object.__setattr__(self, "loss", arrays.frozen(loss))

    @classmethod
    def of(cls, values: ArrayLike, measure: str, better: Better, no_answer: Any = False) -> Grades:
        """Make grades of losses, or with better="higher" of qualities. The loss of no answer is 1.

        Raises InputError for a value that is NaN or outside [0, 1], naming its row and exit.
        """
        if better not in get_args(Better):
            raise InputError(
                f"better must be 'lower' for losses or 'higher' for qualities such as grades, got {better!r}"
            )
        if better == "lower":
            plain = not isinstance(measure, str) or measure in ("", "quality")
            shown = measure if plain else f"1 - {measure}"
            return cls(np.where(no_answer, 1.0, matrix(values, "losses")), shown)
        qualities = np.where(no_answer, 0.0, matrix(values, "qualities"))
        check_range(qualities, "qualities")
        return cls(1.0 - qualities, measure)

    @classmethod
    def joined(cls, parts: Sequence[Grades | None], axis: int) -> Grades | None:
        """Return the grades of parts measured alike: of all their inputs (axis 0) or all their exits (axis 1)."""
        known = [part for part in parts if part is not None]
        return (
            cls(np.concatenate([part.loss for part in known], axis=axis), known[0].measure) if known else None
        )

    def take(self, rows: Any, exits: Any = slice(None)) -> Grades:
        """Return the grades of these rows and exits."""
        return Grades(self.loss[rows][:, exits], self.measure)


def check_measured_alike(*traces: Any) -> None:
    """Raise InputError unless all traces are measured alike: by labels, by one reference, or by grades of a name."""
    ways = {
        f"{trace.measure} with {trace.reference}" if trace.reference else trace.measure for trace in traces
    }
    if len(ways) > 1:
        raise InputError(f"answers must be measured alike in all parts, got {' and '.join(sorted(ways))}")


def matrix(values: ArrayLike, role: str) -> Floats:
    """Return values as numbers (n, m). Raises InputError for anything else."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{role} must be numbers, one for each input and exit, got {values!r:.80}") from None
    if numbers.ndim != 2:
        raise InputError(f"{role} must have shape (inputs, exits), got {numbers.shape}")
    return numbers


def check_range(values: Floats, role: str, columns: Sequence[str] = ()) -> None:
    """Raise InputError unless all values (n, m) lie in [0, 1]. `columns`: their names in a table."""
    if (bad := ~((values >= 0) & (values <= 1))).any():
        row, exit_ = (int(place[0]) for place in np.nonzero(bad))
        where = f"column {columns[exit_]!r}" if columns else f"exit {exit_}"
        worst = float(values[row, exit_])
        scale = "divide by the highest value there can be, or clip"
        mend = "drop the input, or say that there is no answer" if np.isnan(worst) else scale
        raise InputError(
            f"{role} must lie in [0, 1], got {worst:g} in row {row} of {where} (rows count from 0): {mend}"
        )


def own_answers(n: int, m: int, no_answer: Any = False) -> Integers:
    """Return predictions (n, m) that equal no other, for answers that cannot be compared."""
    return np.where(no_answer, NO_ANSWER, np.broadcast_to(NO_ANSWER + 1 + np.arange(m), (n, m)))


def as_labels(answers: Integers, whose: str) -> Integers:
    """Return the answers (n,) of a reference as labels for others. Raises InputError for an answer that is no class."""
    if not (bad := answers < 0).any():
        return answers
    row = int(np.argmax(bad))
    if answers[row] == NO_ANSWER:
        silent = counted(int((answers == NO_ANSWER).sum()), "input")
        why = f"{whose} gave no answer to {silent}, the first in row {row}: drop these inputs"
    elif answers[row] < _UNLIKE:
        why = f"it is not known which answers equal those of {whose}: give predictions beside the losses"
    else:
        why = f"classes must be 0 or above, got {answers[row]} from {whose} in row {row}"
    raise InputError(f"no agreement can be measured, because {why}")


def joined_predictions(parts: Sequence[Integers], axis: int) -> Integers:
    """Return the predictions of several parts. Answers of different models that equal no other stay so."""
    joined = np.concatenate(parts, axis=axis)
    unlike = (joined > NO_ANSWER) & (joined < _UNLIKE)
    return np.where(unlike, own_answers(*joined.shape), joined) if axis == 1 and unlike.any() else joined
