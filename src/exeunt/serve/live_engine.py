"""Live models in the place of an engine: requests are answered by asking services and functions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support.arrays import Integers
from exeunt._support.threads import PAYING
from exeunt.engine.answers import Answers
from exeunt.errors import InputError, QueueFull
from exeunt.jobs.predict_live import answers_of
from exeunt.live.live_cascade import LiveCascade
from exeunt.policy import Policy
from exeunt.score.tie_breaking import Ties, row_keys
from exeunt.serve.spending import Payer


@dataclass(frozen=True)
class LiveTicket:
    """The answers to the rows of a request, by the live models.

    `texts`: what was answered, a class or a text, None where nothing was. `why`: why rows have none, by their places.
    """

    answers: Answers
    policies: list[str | None]
    texts: list[str | None]
    why: Mapping[int, str]
    error: Exception | None = None


class LiveEngine:
    """Answers rows as an `EngineThread` does, in the event loop. `cascades`: by policy, of the same models."""

    failure: BaseException | None = None
    busy_s = 0.0
    alive = True

    def __init__(self, cascades: Mapping[str, LiveCascade], places: list[str], max_rows: int) -> None:
        self._cascades, self._places, self._max_rows, self._open = dict(cascades), places, max_rows, 0
        *_, self.active = self._cascades
        self._started, self._rows = secrets.token_bytes(16), 0

    def add(self, name: str, policy: Policy, *, exits: Any = None) -> None:  # noqa: ARG002 - as that of `Engine`
        """Replace the policy of this name; inputs that have begun keep theirs."""
        before = self._cascades[name]
        self._cascades[name] = LiveCascade(before.models, policy, classes=before.classes)

    @property
    def work(self) -> Integers:
        """No calls of a network (2, s)."""
        return np.zeros((2, len(self._places)), dtype=np.int64)

    @property
    def ties(self) -> Ties:
        """The keys by which the policies break ties."""
        return self._cascades[self.active].policy.ties

    async def paid_answer(
        self,
        payer: Payer,
        n: int,
        inputs: Any,
        *,
        policy: str | None = None,
        deadline: float | None = None,
        soft: bool = False,  # noqa: ARG002 - a row without an answer at its deadline has none
        id: ArrayLike | None = None,  # noqa: A002
    ) -> LiveTicket:
        """Ask about inputs; each attempt is paid from the payer's ledger (see `EngineThread.answer`).

        Raises OverBudget where no row could be paid for.
        """
        name = policy or self.active
        live = self._cascades[name]
        self._rows += n
        keys = row_keys(self._started, np.arange(self._rows - n, self._rows)) if id is None else id
        within_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self._open + n > self._max_rows:
            raise QueueFull(
                f"{self._open} rows wait and {n} more would be beyond {self._max_rows}: ask again later"
            )
        self._open += n
        try:
            replies = await live.ask(list(inputs), ids=keys, ledger=payer.ledger, within_s=within_s)  # type: ignore[arg-type]
        finally:
            self._open -= n
        answers = answers_of(replies, live, self._places)
        if not answers.valid.any() and all(reply.short_of_money for reply in replies):
            highest = {
                name: max(model.most(content) for content in inputs) for name, model in live.models.items()
            }
            least = live.cheapest_answer(highest)
            held = await PAYING.run(payer.ledger.reserve, least)  # raises what says when to try again
            await PAYING.run(held.release)
        why = {i: reply.told_to_clients for i, reply in enumerate(replies) if reply.answer is None}
        columns = {**vars(answers), "exit": np.where(answers.valid, answers.exit, -1)}
        return LiveTicket(Answers(**columns), [name] * n, [reply.answer for reply in replies], why)

    async def answer(self, *_: Any, **__: Any) -> LiveTicket:
        """Raise InputError: nothing is asked that nobody pays for."""
        raise InputError("a server of live models needs --max-spend")

    async def call(self, action: Callable[[LiveEngine], Any]) -> Any:
        """Call a function with this engine."""
        return action(self)

    async def close(self) -> None:
        """Close the connections."""
        for live in self._cascades.values():
            await live.close()
