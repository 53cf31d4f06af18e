"""What fails, for the log: a full disk, a grader, or a model in whose place another answers: clients do not see it."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from traceback import walk_tb

from exeunt.errors import ExeuntError, one_line
from exeunt.gateway.answering import Answered, is_stopped, short_of_money
from exeunt.gateway.graders import NoGrade
from exeunt.gateway.judge import JudgeNotPaid
from exeunt.gateway.ledgers import resumed_by

_log = logging.getLogger("exeunt.gateway")
_AGAIN_S = 60.0
_MOST = 1_000
_VARIES = re.compile(r"(?<=^status \d\d\d) .*|\b\d+ times")
"""What may be another with each failure, and is no other reason: a provider's words, and how often a model failed."""


class _OncePerMinute:
    """Lets each key pass once in a minute, with how often it came since it passed before."""

    def __init__(self) -> None:
        self._passed: dict[tuple[str, str], float] = {}
        self._times: Counter[tuple[str, str]] = Counter()

    def times(self, key: tuple[str, str], now: float) -> int:
        """Count a key, and return how often it came; 0 if it passed less than a minute ago. `now`: in seconds."""
        self._times[key] += 1
        if now - self._passed.get(key, -_AGAIN_S) < _AGAIN_S:
            return 0
        if len(self._passed) >= _MOST:
            self._passed.clear()
            self._times = Counter({key: self._times[key]})
        self._passed[key] = now
        return self._times.pop(key)


class FailureLog:
    """Logs each reason of a model, such as a status of its provider, each kind of error of a grader, and that there is
    too much, at most once in a minute: with `times`, how often it came since it was logged before.
    """

    def __init__(self) -> None:
        self._reasons = _OncePerMinute()

    def answered(self, answered: Answered, now: float) -> None:
        """Log why models gave no answer to a request. `now`: in seconds. A limit of money is not a failure."""
        for name, reply in answered.replies.items():
            if reply.is_given or not reply.failed or short_of_money(reply.failed):
                continue
            why = logged_reason(name, reply.failed)
            if times := self._reasons.times((name, _VARIES.sub("", why)), now):
                fields = {"model": name, "why": why, "times": times}
                _log.warning("a model gave no answer", extra={"fields": fields})

    def not_graded(self, error: Exception, now: float) -> None:
        """Log why an answer was not graded. `now`: in seconds.

        Of an error that is not Exeunt's own its type and where it was raised: its text may hold a request.
        """
        kind, is_own = type(error).__name__, isinstance(error, NoGrade)
        place = "" if is_own else _places(error)
        if times := self._reasons.times(("", kind + place), now):
            why = {"why": one_line(error)} if is_own else {"at": place}
            event = "money for the judge is short" if isinstance(error, JudgeNotPaid) else "the grader failed"
            _log.error(event, extra={"fields": {"error": kind, **why, "times": times}})

    def refused(self, kind: str, now: float) -> None:
        """Log that there were too many requests, or connections. `now`: in seconds."""
        if times := self._reasons.times(("", kind), now):
            _log.warning(f"{kind} are refused: there are too many", extra={"fields": {"times": times}})


def logged_reason(model: str, failed: str) -> str:
    """Return why a model gave no answer, as the log says it: what follows a colon may hold an input."""
    if is_stopped(failed):
        return f"stopped, since it billed more than it may cost: correct its price, then {resumed_by(model)}"
    return failed.partition(":")[0]


def _places(error: BaseException) -> str:
    """Return the files and lines through which an error came, the innermost first, three at most."""
    places = [f"{frame.f_code.co_filename}:{line}" for frame, line in walk_tb(error.__traceback__)]
    return ", ".join(places[:-4:-1])


_faults = _OncePerMinute()


def log_failure(error: BaseException, activity: str = "") -> None:
    """Log what failed, at most once in a minute: in a line if Exeunt knows it, such as a disk that is full, and with
    its traceback if it is a fault. `activity`: what was being done.
    """
    if not _faults.times((type(error).__name__, str(error)), time.monotonic()):
        return
    event = f"failed: {activity}" if activity else "failed"
    if isinstance(error, ExeuntError):
        _log.error(event, extra={"fields": {"why": one_line(error)}})
    else:
        _log.error("%s: unexpected %s", event, type(error).__name__, exc_info=error)
