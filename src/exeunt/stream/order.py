"""Items in order of arrival, although they end in another order. Times are passed in: there is no clock."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class Waiting(Generic[T]):
    """A place in the order. `number`: how many began before. `until`: when it is given up, if it has not ended.

    `item`: None while it is under way, and where it is left out.
    """

    number: int
    until: float
    item: T | None = None
    ended: bool = False


class InOrder(Generic[T]):
    """Gives items in the order in which they began: a late one holds back those behind it.

    What ends more than `limit_s` after it began is left out, whenever this is asked about; without a limit it is waited
    for. `n_begun`: how many items have begun. Times never go back; where there are no limits, they may be left out.
    """

    def __init__(self) -> None:
        self.n_begun = 0
        self._waiting: deque[Waiting[T]] = deque()

    def __len__(self) -> int:
        """Return how many items have begun and were neither taken nor left out."""
        return len(self._waiting)

    def begin(self, now: float = 0.0, *, limit_s: float = math.inf) -> Waiting[T]:
        """Take a place at the end."""
        self._waiting.append(place := Waiting[T](self.n_begun, now + limit_s))
        self.n_begun += 1
        return place

    def end(self, place: Waiting[T], entry: T | None, now: float = 0.0) -> None:
        """Put an item at its place; None leaves it out. What was put there first stays."""
        if not place.ended:
            place.item, place.ended = None if now > place.until else entry, True

    def take_ready(self, now: float = 0.0) -> list[T]:
        """Return the items before which all others have ended or are given up, each once."""
        ready = []
        while self._waiting and ((place := self._waiting[0]).ended or now > place.until):
            self._waiting.popleft()
            place.ended = True
            if place.item is not None:
                ready.append(place.item)
        return ready
