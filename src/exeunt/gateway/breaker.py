"""The breaker: a model or a provider that fails again and again rests, and one request at a time tries it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_LONGEST_S = 300.0


@dataclass(eq=False)
class Breaker:
    """Lets nobody ask a model, or a provider, for `pause_s` seconds after `failures` in a row; then one request tries.

    While that one is under way the others do not ask, unless it has `reached` whom they would ask. Each further failure
    doubles the pause. `opened`: how often it began one. `why`: what failed last.
    """

    name: str
    failures: int = 5
    pause_s: float = 5.0
    clock: Callable[[], float] = field(default_factory=lambda: time.monotonic)
    opened: int = 0
    why: str = ""
    _in_a_row: int = 0
    _until: float = 0.0
    _asked_until: float = 0.0
    _trying: bool = False
    _reached: bool = False

    @property
    def rests_s(self) -> float:
        """For how many seconds nobody may ask; 0 if it may be asked, or is being tried."""
        return max(max(self._until, self._asked_until) - self.clock(), 0.0)

    @property
    def rests(self) -> bool:
        """Whether nobody may ask now."""
        return self.rests_s > 0 or self._trying

    @property
    def reason(self) -> str:
        """Why nobody may ask, as a sentence."""
        if self._asked_until > max(self._until, self.clock()):
            return f"{self.name} asks to wait and rests: {self.why}"
        return f"{self.name} failed {self._in_a_row} times in a row and rests: {self.why}"

    def rest(self, seconds: float, why: str) -> None:
        """Let nobody ask for so long, as the service itself asks (`Retry-After`); answers that come do not end it."""
        self.why, self._asked_until = why, max(self._asked_until, self.clock() + seconds)

    def begin(self) -> Call:
        """Count a request that is sent now, and return its call."""
        self._trying = self._in_a_row >= self.failures and not self._reached
        return Call(self, self.opened, self._trying)

    def _end(self, call: Call, failed: str | None) -> None:
        if call.tries:
            self._trying = False
        if failed == "":
            self._in_a_row, self._until = 0, 0.0
        # Of those that were under way together one pause is enough.
        elif failed is not None and call.begun == self.opened:
            self._in_a_row, self.why = self._in_a_row + 1, failed
            if self._in_a_row >= self.failures:
                self._reached = False
                pause = min(self.pause_s * 2 ** min(self._in_a_row - self.failures, 9), _LONGEST_S)
                self._until, self.opened = self.clock() + pause, self.opened + 1


@dataclass(eq=False)
class Call:
    """A request that is under way. `begun`: how many pauses had begun before it; `tries`: after one."""

    breaker: Breaker
    begun: int
    tries: bool
    ended: bool = False

    def reached(self) -> None:
        """Note that the request was sent: it may still fail, but other requests need not wait for its end."""
        if self.tries:
            self.tries, self.breaker._trying, self.breaker._reached = False, False, True

    def end(self, failed: str | None) -> None:
        """Note how the request ended, once: why it failed, "" for an answer, None if neither is known."""
        if not self.ended:
            self.ended = True
            self.breaker._end(self, failed)
