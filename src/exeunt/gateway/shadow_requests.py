"""Shadow requests and audits: what other models would have answered, graded against the reference."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from exeunt._support.threads import PAYING
from exeunt.gateway.answering import Answered, short_of_money
from exeunt.gateway.chat_model import ChatModel, ChatReply
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import FEATURES, Keep
from exeunt.gateway.judge import AsyncGrader, JudgeNotPaid
from exeunt.ledger import Ledger
from exeunt.live.function_model import FeatureModel
from exeunt.live.live_model import Reply
from exeunt.stream.records import COMPARED, NOT_GRADED, NOT_PAID, Record, Said

_MOST_AT_ONCE = 64


class ShadowRequests:
    """Asks the models of the shadow, and the reference if it has not answered, and grades what they say.

    `names`: of the models, the reference the last. `cap`: US dollars for one comparison. `on_failure`: gets what the
    grader raises. `counts`: what became of requests that were compared, and why others were not.
    """

    def __init__(
        self,
        models: Mapping[str, ChatModel],
        names: tuple[str, ...],
        cap: float,
        *,
        grader: AsyncGrader,
        ledger: Ledger,
        features: FeatureModel | None,
        keep: Keep,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._models, self._names, self._cap = models, names, cap
        self._grader, self._ledger, self._features, self._keep = grader, ledger, features, keep
        self._on_failure = on_failure
        self._slots = asyncio.Semaphore(_MOST_AT_ONCE)
        self._open = 0
        self.counts: Counter[str] = Counter()

    async def is_paid_for(self) -> bool:
        """Return whether money for one more comparison is free: the same amount whatever the request is."""
        available = await PAYING.run(lambda: self._ledger.available)
        return available >= self._cap * (self._open + 1)

    async def record(self, record: Record, request: ChatRequest, answered: Answered) -> Record:
        """Return the record with what all models said and their grades, or with what stood in the way.

        `answered`: what the client got; its models are not asked again. Models that do not take it are not asked.
        Comparisons wait for each other: none is left out because there are many.
        """
        self._open += 1
        try:
            async with self._slots:
                compared = await self._compared(record, request, answered)
        finally:
            self._open -= 1
        self.counts[compared.compared] += 1
        return compared

    async def _compared(self, record: Record, request: ChatRequest, answered: Answered) -> Record:
        replies = {name: reply for name, reply in answered.replies.items() if reply.is_given}
        missing = [name for name in self._names if name not in replies and name not in record.refused]
        answers = await asyncio.gather(
            *(self._models[name].ask(request, name=name, ledger=self._ledger) for name in missing)
        )
        replies |= dict(zip(missing, answers, strict=True))
        features = await self._features_of(request, replies)
        grades, why = await self._graded(request, replies)
        outcomes = {
            name: replace(said_of(reply), grade=grades.get(name))
            for name, reply in replies.items()
            if name != FEATURES
        }
        text = told_text(request, replies) if self._keep.texts else None
        return replace(record, said=outcomes, compared=why or COMPARED, features=features, text=text)

    async def _graded(
        self, request: ChatRequest, replies: Mapping[str, Reply]
    ) -> tuple[Mapping[str, float], str]:
        """Return the grades by model, and why there are none; a model that gave no answer has grade 0."""
        if not_asked := [reply.failed for reply in replies.values() if reply.attempts == 0]:
            return {}, "no money" if any(map(short_of_money, not_asked)) else "a model rested or was stopped"
        reference = replies.get(self._names[-1])
        if not isinstance(reference, ChatReply):
            return {}, "the reference failed"
        grades = {}
        try:
            for name, reply in replies.items():
                if isinstance(reply, ChatReply):
                    grades[name] = await self._grader(request.for_graders, reply.message, reference.message)
                elif name != FEATURES:
                    grades[name] = 0.0  # it gave no answer
            return grades, ""
        except Exception as error:  # a user's function may raise anything
            self._on_failure(error)
            return {}, NOT_PAID if isinstance(error, JudgeNotPaid) else NOT_GRADED

    async def _features_of(
        self, request: ChatRequest, replies: Mapping[str, Reply]
    ) -> tuple[float, ...] | None:
        if self._features is None or not self._keep.features:
            return None
        reply = replies.get(FEATURES) or await self._features.ask(request, name=FEATURES, ledger=self._ledger)
        return reply.features


def said_of(reply: Reply) -> Said:
    """Return what is kept of a reply, without its text."""
    score = reply.confidence if isinstance(reply, ChatReply) and reply.scored else None
    cached = reply.cached if isinstance(reply, ChatReply) and not reply.bound else 0.0
    return Said(cost=reply.billed, score=score, failed=reply.failed.partition(":")[0], cached=cached)


def told_text(request: ChatRequest, replies: Mapping[str, Reply]) -> str:
    """Return the messages of a request and its answers as JSON."""
    answers: dict[str, Any] = {
        name: reply.message for name, reply in replies.items() if isinstance(reply, ChatReply)
    }
    # Answers may hold half a character, which is no UTF-8.
    return f'{{"messages": [{b",".join(request.written).decode()}], "answers": {json.dumps(answers)}}}'
