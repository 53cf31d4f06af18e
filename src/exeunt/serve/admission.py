"""Which requests are still worth answering under a latency target. No clock, no thread.

When more requests come than can be answered, all would be late. A request that waited long in the server's own queues
is refused instead, so that the others are in time. How long is too long follows from the answers: the limit falls with
each late one and grows with the others, so that in the long run few of those admitted are late, whatever takes the time
(stochastic approximation of a quantile, as in `exeunt.serve.latency_controller`).
"""

from __future__ import annotations

TOO_MANY = "too many requests wait for one more to be answered in time: try again soon"
"""What the client of a request is told that is refused."""
_ALLOWED = 0.1
"""Share of the requests admitted under overload that may be late."""
_GAIN = 0.005
"""If all answers are late, each lowers the limit by so many targets, but for the share that may be."""
_LEAST = 0.125
"""Share of the target that the limit never falls below: else an idle server might refuse."""


class Admission:
    """Decides by the time that a request has waited. `late_s`: seconds after which an answer is late.

    `oldest_s`: seconds after which a request is refused, if no others wait in the engine.
    """

    def __init__(self, late_s: float) -> None:
        self.late_s = self.oldest_s = late_s

    def answered(self, seconds: float) -> None:
        """Take note that a request was answered so many seconds after it came."""
        late = seconds > self.late_s
        self.oldest_s += _GAIN * self.late_s * (_ALLOWED - late)
        self.oldest_s = min(max(self.oldest_s, _LEAST * self.late_s), self.late_s)

    def admits(self, waited_s: float, ahead_s: float) -> bool:
        """Whether to answer a request that has waited, with rows ahead of it that take `ahead_s` to an exit."""
        return waited_s + ahead_s <= self.oldest_s
