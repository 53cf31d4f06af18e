"""Tickets: rows that came together, and what was said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Booleans, Floats, Integers
from exeunt.engine.answers import Answers

__all__ = ["ENTRY", "Ticket"]

ENTRY = np.dtype(
    [
        ("label", "i8"), ("confidence", "f8"), ("exit", "i8"), ("cost", "f8"), ("valid", "?"), ("borderline", "?"),
        ("expired", "?"), ("degraded", "?"), ("policy", "i8"),
    ]
)  # fmt: skip
"""What is said of one row."""


@dataclass(eq=False, slots=True)
class Ticket:
    """Rows that came together, and what has become of them. `number`: from 0, in the order in which tickets came.

    `base`: number of the first row. `n`: rows. `left`: rows without an answer yet. `since`, `deadline`: in seconds on
    the caller's clock; inf for none. `soft`: rows of which nothing was said by the deadline wait until something is.
    `error`: why none of the rows has an answer, if they have none.
    """

    number: int
    base: int
    n: int
    since: float
    deadline: float
    left: int
    soft: bool = False
    error: Exception | None = None
    cancelled: bool = False
    _entries: NDArray[Any] | None = None  # the bytes of ENTRY (n,)
    _probabilities: Floats | None = None
    _policies: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.left == 0

    @property
    def answers(self) -> Answers:
        """What was answered, once the ticket is done."""
        if self._entries is None:
            raise ValueError(
                f"ticket {self.number} is not done: {self.left} of its {self.n} rows are in flight"
            )
        names, entries = ENTRY.names or (), self._entries.view(ENTRY)
        said = {name: entries[name] for name in names if name != "policy"}
        return Answers(**said, batch=self.number, error=self.error, probabilities=self._probabilities)

    @property
    def policies(self) -> list[str | None]:
        """Names of the policies that the rows were answered under, (n,); None for a row that was never run."""
        if self._entries is None:
            return [None] * self.n
        return [
            None if place < 0 else self._policies[place]
            for place in self._entries.view(ENTRY)["policy"].tolist()
        ]

    def owns(self, rows: Integers) -> Booleans:
        """Return which of these rows are the ticket's."""
        mine: Booleans = (rows >= self.base) & (rows < self.base + self.n)
        return mine
