"""Answers per input, and the ticket on which the engine collects those of inputs that were submitted together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.score.mask_confidence import Masks

ENTRY = np.dtype(
    [
        ("label", "i8"),
        ("confidence", "f8"),
        ("exit", "i8"),
        ("cost", "f8"),
        ("valid", "?"),
        ("borderline", "?"),
        ("expired", "?"),
        ("degraded", "?"),
        ("policy", "i8"),
        ("score", "f8"),
        ("first_score", "f8"),
        ("tie", "f8"),
    ]
)
"""The latest output for one row. `policy`: its number in the table, -1 for none."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to a batch, per input (n,), in input order.

    `label`: class. `confidence`: its probability. `exit`: the exit that answered, 0 = first. `cost`: what was run for
    the input, in the policy's unit: the cumulative cost at the last exit of the segment in which it answered. This is
    the cost at `exit` if every exit is a segment of its own, and the full cost in a network that runs whole. Rows that
    have answered but stay in the batch, because a plan says that dropping them takes longer, are not counted.
    `valid`: False for an input without an answer, because it or the network's output for it holds NaN or infinite
    values: its label and exit are -1, its confidence is NaN, its cost what was run for it.
    `borderline`: at some exit the input's score came within 1e-5 of the threshold, or the probabilities of two classes
    within 1e-5 of each other where that decides (more with 16-bit arithmetic). In another batch, whose arithmetic may
    differ in the last digits, such an input might get another answer. All others get the same answer in every batch.
    `expired`: the input's deadline passed, and it got the prediction of its latest exit; not valid if it had none and
    the deadline was hard. Its cost is that of all that was run for it. `degraded`: likewise, to make room in a full
    engine. Both are None where neither can happen.
    `score`, `first_score`, `tie`: what `exeunt.Watch` is told of the input; NaN where the policy keeps nothing to watch
    by. They are None where they are not known.
    `probabilities` (n, k): of every class, at the exit that answered; NaN without an answer. None unless asked for.
    `masks` (n, h, w) uint8: the class of each pixel, where the network answers with masks and details were asked for;
    255 without an answer. Single pixels whose likeliest classes are that close may differ in another batch. `label` is
    the class of most pixels then, and `confidence` the mean probability of the likeliest classes.
    `batch`: number of the batch in its stream, from 0. `error`: why the whole batch has no answers, if it has none.
    """

    label: Integers
    confidence: Floats
    exit: Integers
    cost: Floats
    valid: Booleans
    borderline: Booleans
    batch: int = 0
    error: Exception | None = None
    probabilities: Floats | None = None
    masks: Masks | None = None
    expired: Booleans | None = None
    degraded: Booleans | None = None
    score: Floats | None = None
    first_score: Floats | None = None
    tie: Floats | None = None

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(self.label)

    @property
    def n_borderline(self) -> int:
        """Number of inputs that are borderline."""
        return int(np.count_nonzero(self.borderline))

    @property
    def mean_cost(self) -> float:
        """Mean cost per answered input, in the policy's unit; 0 if no input was answered."""
        return float(self.cost[self.valid].mean()) if self.valid.any() else 0.0


@dataclass(eq=False, slots=True)
class Ticket:
    """Rows that were submitted together, and their answers. `number`: from 0, in the order of submission.

    `base`: number of the first row in the table. `n`: rows. `left`: rows without an answer yet. `deadline`: in seconds
    on the caller's clock; inf for none. `soft`: a row without any output at the deadline waits for its first output.
    `error`: why none of the rows has an answer, if none has.
    """

    number: int
    base: int
    n: int
    left: int
    deadline: float
    soft: bool = False
    error: Exception | None = None
    cancelled: bool = False
    _entries: NDArray[Any] | None = None  # the bytes of ENTRY (n,)
    _details: NDArray[Any] | None = None  # probabilities (n, k), or masks (n, h, w)
    _policies: tuple[str, ...] = ()
    _answers: Answers | None = None

    @property
    def why(self) -> Mapping[int, str]:
        """Why rows have no answer, by their places, where that is known: of a network it is not."""
        return {}

    @property
    def done(self) -> bool:
        """Whether every row has its final answer, or none."""
        return self.left == 0

    @property
    def answers(self) -> Answers:
        """The answers, once the ticket is done."""
        if self._answers is not None:
            return self._answers
        if self._entries is None:
            raise ValueError(
                f"ticket {self.number} is not done: {self.left} of its {self.n} rows are in flight"
            )
        entries = self._entries.view(ENTRY)
        columns = {name: entries[name] for name in ENTRY.names or () if name != "policy"}
        details_of_rows = self._details
        details = (
            {}
            if details_of_rows is None
            else {"probabilities" if details_of_rows.ndim == 2 else "masks": details_of_rows}
        )
        self._answers = Answers(**columns, batch=self.number, error=self.error, **details)
        return self._answers

    @property
    def policies(self) -> list[str | None]:
        """Names of the policies that the rows were answered under, (n,); None for a row that was never run."""
        if self._entries is None:
            return [None] * self.n
        numbers = self._entries.view(ENTRY)["policy"].tolist()
        return [None if number < 0 else self._policies[number] for number in numbers]
