"""Answers per input, and the table of batches that collects them while inputs are in flight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from exeunt._arrays import Booleans, Floats, Integers

__all__ = ["Answers", "BatchTable", "OpenBatch"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered, per input (n,), in input order.

    `label`: class. `confidence`: its probability. `exit`: where it answered, 0 = first. `cost`: what was run for it,
    in the policy's unit: the cumulative cost at the last exit of the segment in which it answered. So it is the cost at
    `exit` where every exit is a segment of its own, and the full cost in a network that runs whole. Rows that have
    answered and ride along, because a plan says that dropping them takes longer, are not counted.
    `valid`: False for an input that has no answer, because it contains NaN or infinite values, or the
    network produced them: its label and exit are -1, its confidence is NaN, its cost what was spent on it.
    `borderline`: at some exit the input's score came within 1e-5 of the threshold, or the probabilities of two classes
    within 1e-5 of each other where that counts. In another batch, whose arithmetic may differ in the last digits, it
    might get another answer. All others get the same one in every batch.
    `probabilities` (n, k): of every class, at the exit that answered; NaN without an answer. None unless asked for.
    `batch`: which batch of a stream these are, from 0. `error`: why the whole batch has no answers, if it has none.
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

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(self.label)

    @property
    def n_borderline(self) -> int:
        """Number of inputs that are borderline."""
        return int(np.count_nonzero(self.borderline))

    @property
    def spend(self) -> float:
        """Mean cost per input that was answered, in the policy's unit; 0 where none was."""
        return float(self.cost[self.valid].mean()) if self.valid.any() else 0.0


class OpenBatch:
    """A batch in flight: answers as they come in. `base`: slot of its first row. `left`: rows without an answer yet.

    `since`: when it came, in seconds on the caller's clock.
    """

    __slots__ = ("answers", "base", "error", "left", "n", "number", "since")

    def __init__(self, number: int, base: int, n: int, since: float) -> None:
        self.number, self.base, self.n, self.since = number, base, n, since
        self.left = n
        self.error: Exception | None = None
        self.answers = _unanswered(n, number)

    def owns(self, slot: Integers) -> Booleans:
        """Return which of these rows are the batch's."""
        mine: Booleans = (slot >= self.base) & (slot < self.base + self.n)
        return mine

    def enter_probabilities(self, at: Integers, probabilities: Floats) -> None:
        """Keep the probabilities of these rows. How many classes there are is known from the first."""
        if self.answers.probabilities is None:
            whole = np.full((self.n, probabilities.shape[1]), np.nan)
            self.answers = replace(self.answers, probabilities=whole)
        cast("Floats", self.answers.probabilities)[at] = probabilities

    def finished(self) -> Answers:
        """Return the answers, once none is left."""
        if self.error is None:
            return self.answers
        return replace(_unanswered(self.n, self.number), cost=self.answers.cost, error=self.error)


def _unanswered(n: int, number: int) -> Answers:
    return Answers(
        label=np.full(n, -1, dtype=np.int64),
        confidence=np.full(n, np.nan),
        exit=np.full(n, -1, dtype=np.int64),
        cost=np.zeros(n),
        valid=np.zeros(n, dtype=bool),
        borderline=np.zeros(n, dtype=bool),
        batch=number,
    )


class BatchTable:
    """The batches in flight. Every row has a slot: its place among all rows so far."""

    def __init__(self) -> None:
        self.open: list[OpenBatch] = []
        self.done: list[OpenBatch] = []
        self.next_slot = 0
        self._next_number = 0

    @property
    def rows(self) -> int:
        """Rows of batches that are not done."""
        return sum(batch.n for batch in self.open)

    def admit(self, n: int, now: float) -> OpenBatch:
        """Open a batch of n rows."""
        batch = OpenBatch(self._next_number, self.next_slot, n, now)
        self._next_number += 1
        self.next_slot += n
        self.open.append(batch)
        self._settle(batch, 0)  # without rows it is done
        return batch

    def enter_answers(
        self,
        slot: Integers,
        label: Integers,
        confidence: Floats,
        exit_: int,
        cost: float,
        probabilities: Floats | None = None,
    ) -> None:
        """Enter the answers of these rows. `probabilities`: of every class, if they are to be kept."""
        for batch, at, rows in self._owners(slot):
            answers = batch.answers
            answers.label[at] = label[rows]
            answers.confidence[at] = confidence[rows]
            answers.exit[at] = exit_
            answers.cost[at] = cost
            answers.valid[at] = True
            if probabilities is not None:
                batch.enter_probabilities(at, probabilities[rows])
            self._settle(batch, len(at))

    def reject(self, slot: Integers, cost: float) -> None:
        """Enter that these rows have no answer, after so much was spent on each."""
        for batch, at, _ in self._owners(slot):
            batch.answers.cost[at] = cost
            self._settle(batch, len(at))

    def note_borderline(self, slot: Integers) -> None:
        """Enter that these rows came close to a threshold."""
        for batch, at, _ in self._owners(slot):
            batch.answers.borderline[at] = True

    def fail(self, batch: OpenBatch, error: Exception) -> None:
        """Give a batch up."""
        batch.error = error
        if batch.left:
            self._settle(batch, batch.left)

    def batches_of(self, slot: Integers) -> list[OpenBatch]:
        """Return the open batches that have some of these rows, in the order in which they came."""
        return [batch for batch in self.open if batch.owns(slot).any()]

    def refuse(self, n: int, error: Exception, now: float) -> None:
        """Enter a batch of n rows that could not be taken in."""
        self.fail(self.admit(n, now), error)

    def _settle(self, batch: OpenBatch, count: int) -> None:
        batch.left -= count
        if batch.left == 0:
            self.open.remove(batch)
            self.done.append(batch)

    def _owners(self, slot: Integers) -> Iterator[tuple[OpenBatch, Integers, Any]]:
        """Yield (batch, places of its rows in it, which rows of `slot` they are), for the batches met."""
        if len(self.open) == 1:  # slots are of open batches alone
            yield self.open[0], slot - self.open[0].base, slice(None)
            return
        opened = list(self.open)
        owner = np.searchsorted([batch.base for batch in opened], slot, side="right") - 1
        for index in np.unique(owner):
            rows = np.flatnonzero(owner == index)
            yield opened[index], slot[rows] - opened[index].base, rows
