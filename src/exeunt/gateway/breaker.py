"""Providers that fail are left alone for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exeunt.live.live_model import FailedAttempt

_LONGEST_S = 300.0


class Breaker:
    """Lets nobody ask a provider for `pause_s` seconds after `failures` in a row; then one request tries it.

    Each further failure doubles the pause. `opened`: how often it began one.
    """

    def __init__(
        self,
        provider: str,
        *,
        failures: int = 5,
        pause_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.provider, self.failures, self.pause_s, self.clock = provider, failures, pause_s, clock
        self.opened = 0
        self._in_a_row, self._until = 0, 0.0

    @property
    def rests_s(self) -> float:
        """For how many seconds nobody may ask the provider; 0 if it may be asked now."""
        return max(self._until - self.clock(), 0.0)

    @property
    def resting(self) -> bool:
        """Whether nobody may ask the provider now."""
        return self.rests_s > 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch a call. Raises FailedAttempt, before it is made, while the provider rests."""
        if self.resting:
            raise FailedAttempt(f"{self.provider} failed {self._in_a_row} times in a row and rests", cost=0.0)
        if self._in_a_row >= self.failures:
            self._until = self.clock() + self.pause_s  # the others wait for what this one finds
        begun = self.opened
        try:
            yield
        except FailedAttempt as failed:
            self._count(begun, failed=failed.again)
            raise
        except asyncio.CancelledError:  # it took too long, or its client left
            self._count(begun, failed=True)
            raise
        self._count(begun, failed=False)

    def _count(self, begun: int, *, failed: bool) -> None:
        """Count a call that was made after so many pauses had begun."""
        if not failed:
            self._in_a_row, self._until = 0, 0.0
            return
        if begun < self.opened:  # of those that were under way together, one pause is enough
            return
        self._in_a_row += 1
        if self._in_a_row >= self.failures:
            pause = min(self.pause_s * 2 ** min(self._in_a_row - self.failures, 9), _LONGEST_S)
            self._until, self.opened = self.clock() + pause, self.opened + 1
