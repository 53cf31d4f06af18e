"""Shadow requests and audits: what other models would have answered, graded against the reference."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exeunt.errors import one_line
from exeunt.gateway.answering import Answered
from exeunt.gateway.chat_model import ChatModel, ChatReply
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import FEATURES, Keep, Shadow
from exeunt.gateway.judge import AsyncGrader
from exeunt.gateway.records import Record, Said
from exeunt.ledger import Ledger
from exeunt.live.function_model import FeatureModel
from exeunt.live.live_model import Reply

_log = logging.getLogger("exeunt.gateway")
_MOST_AT_ONCE = 64


class Comparing:
    """Asks the models of the shadow, and the reference if it has not answered, and grades what they say.

    `counts`: what became of requests that were drawn: "compared", or why not.
    """

    def __init__(
        self, models: Mapping[str, ChatModel], reference: str, shadow: Shadow, *, grader: AsyncGrader, ledger: Ledger,
        features: FeatureModel | None, keep: Keep,
    ) -> None:  # fmt: skip
        self._models, self._reference, self._names = models, reference, (*shadow.models, reference)
        self._grader, self._ledger, self._features, self._keep = grader, ledger, features, keep
        self._slots = asyncio.Semaphore(_MOST_AT_ONCE)
        self.counts: Counter[str] = Counter()

    def takes(self, request: ChatRequest) -> bool:
        """Whether all models that are compared take a request, and it is not too many at once."""
        return not self._slots.locked() and not any(
            self._models[name].refusal(request) for name in self._names
        )

    async def record(self, record: Record, request: ChatRequest, answered: Answered) -> Record | None:
        """Return the record with what all models said and their grades; None where money or failures stood in the way.

        `answered`: what the client got; its models are not asked again.
        """
        async with self._slots:
            replies = {name: reply for name, reply in answered.replies.items() if reply.is_given}
            missing = [name for name in self._names if name not in replies]
            asked = await asyncio.gather(
                *(self._models[name].ask(request, name=name, ledger=self._ledger) for name in missing)
            )
            replies |= dict(zip(missing, asked, strict=True))
            features = await self._told(request, replies)
        if any(reply.attempts == 0 for reply in replies.values()):
            self.counts["no money"] += 1
            return None
        reference = replies[self._reference]
        if not isinstance(reference, ChatReply):
            self.counts["the reference failed"] += 1
            return None
        try:
            grades = await self._grades(request, replies, reference)
        except Exception as error:  # a user's function may raise anything
            self.counts["the grader failed"] += 1
            _log.error(
                "the grader failed",
                extra={"fields": {"error": type(error).__name__, "why": one_line(error)[:200]}},
            )
            return None
        self.counts["compared"] += 1
        said = {
            name: replace(said_of(reply), grade=grades.get(name))
            for name, reply in replies.items()
            if name != FEATURES
        }
        text = told_text(request, replies) if self._keep.texts else None
        return replace(record, time=time.time(), said=said, features=features, text=text)

    async def _told(self, request: ChatRequest, replies: Mapping[str, Reply]) -> tuple[float, ...] | None:
        if self._features is None or not self._keep.features:
            return None
        told = replies.get(FEATURES) or await self._features.ask(request, name=FEATURES, ledger=self._ledger)
        return told.features

    async def _grades(
        self, request: ChatRequest, replies: Mapping[str, Reply], reference: ChatReply
    ) -> dict[str, float]:
        """Return the grades of all answers; a model that gave none has 0."""
        return {
            name: await self._grader(request.as_told, one.message, reference.message)
            if isinstance(one, ChatReply)
            else 0.0
            for name, one in replies.items()
            if name != FEATURES
        }


def said_of(reply: Reply) -> Said:
    """Return what is kept of a reply, without its text."""
    score = reply.confidence if isinstance(reply, ChatReply) and reply.scored else None
    return Said(cost=reply.cost, score=score, failed=reply.failed.partition(":")[0])


def told_text(request: ChatRequest, replies: Mapping[str, Reply]) -> str:
    """Return the messages of a request and its answers as JSON."""
    answers: dict[str, Any] = {
        name: one.message for name, one in replies.items() if isinstance(one, ChatReply)
    }
    # Answers may hold half a character, which is no UTF-8.
    return f'{{"messages": [{b",".join(request.written).decode()}], "answers": {json.dumps(answers)}}}'
