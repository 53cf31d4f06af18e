"""Why models gave no answer, for the log: a fallback that answers in their place hides it from clients."""

from __future__ import annotations

import logging

from exeunt.gateway.answering import Answered, short_of_money

_log = logging.getLogger("exeunt.gateway")
_AGAIN_S = 60.0


class FailureLog:
    """Logs each reason of a model, such as a status of its provider, at most once in a minute."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}

    def answered(self, answered: Answered, now: float) -> None:
        """Log why models gave no answer to a request. `now`: in seconds. Limits of money are no failures."""
        for name, reply in answered.replies.items():
            if reply.is_given or not reply.failed or short_of_money(reply.failed):
                continue
            why = reply.failed.partition(":")[0]  # what follows may hold an input
            if now - self._said.get((name, why), -_AGAIN_S) >= _AGAIN_S:
                self._said[name, why] = now
                _log.warning("a model gave no answer", extra={"fields": {"model": name, "why": why}})
