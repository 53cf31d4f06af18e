"""Answering requests: by the reference, by a policy, or by the model that a client names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from exeunt.errors import ArtefactError, InputError
from exeunt.gateway.chat_model import ChatModel, ChatReply
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import FEATURES
from exeunt.gateway.embedding_request import EmbeddingRequest
from exeunt.gateway.saved_policies import REFERENCE
from exeunt.ledger import Ledger
from exeunt.live.function_model import FeatureModel
from exeunt.live.live_cascade import LiveCascade
from exeunt.live.live_cascade import short_of_money as not_admitted
from exeunt.live.live_model import LiveModel, Reply
from exeunt.policy import Policy

SCORE, FAILURE, MONEY = ("score", "failure", "money")
"""Why further or other models were asked: a score did not suffice, a model gave no answer, or money for it was short.
"""
REQUEST, UNIT, CLIENT = ("request", "unit", "client")
"""Why the reference was asked and not the policy: one of its models does not take the request, or it may cost too much;
it is a later one of its unit, or in none; or its client is not compared."""
REASONS = (SCORE, FAILURE, MONEY, REQUEST, UNIT, CLIENT)
_STOPPED = " is stopped: "
_CLIENTS_FAULT = re.compile(r"status (400|404|413|422)\b")


@dataclass(frozen=True)
class Seen:
    """What a watch is told of a request: the exit, the policy's score there and at the first exit, and the number that
    breaks ties.
    """

    exit: int
    score: float | None
    first_score: float | None
    tie: float


@dataclass(frozen=True)
class Answered:
    """What became of a request. `reply`: None if no model answered. `replies`: of the models that were asked.

    `model`: whose answer it is. `policy`: that chose it; "" where the client named the model. `cost`: US dollars of all
    that was asked, as billed. `decided`: whether the policy alone decided; False where failures or money did.
    `observed`: for a watch. `instead`: why the reference was asked in place of the active policy; "" if it was not.
    """

    reply: ChatReply | None
    model: str
    policy: str
    cost: float
    replies: Mapping[str, Reply] = field(default_factory=dict)
    decided: bool = False
    observed: Seen | None = None
    instead: str = ""

    @property
    def why(self) -> str:
        """Why there is no answer, without the words of providers."""
        reasons = [
            f"{name}: {_for_clients(reply.failed)}" for name, reply in self.replies.items() if reply.failed
        ]
        return "; ".join(reasons) or "no model answered"

    @property
    def escalated(self) -> str:
        """Why further or other models were asked than the first, one of `REASONS`; "" if none were."""
        if self.instead:
            return self.instead
        failed = [reply.failed for reply in self.replies.values() if not reply.is_given]
        if failed:
            return MONEY if all(map(short_of_money, failed)) else FAILURE
        is_policy = self.policy not in ("", REFERENCE)
        return SCORE if is_policy and len(self.replies.keys() - {FEATURES}) > 1 else ""

    @property
    def short_of_money(self) -> bool:
        """Whether money is why there is no answer."""
        return self.reply is None and any(short_of_money(reply.failed) for reply in self.replies.values())

    @property
    def clients_fault(self) -> bool:
        """Whether the provider refused the request itself, such as one that is too long."""
        return any(_CLIENTS_FAULT.match(reply.failed) for reply in self.replies.values())


@dataclass(frozen=True)
class Active:
    """The policy that answers. `cascade`: None for the reference alone. `rows`: how many requests of a unit it answers.
    `max_loss`: what was promised of it; None if nothing was.
    """

    name: str
    policy: Policy | None
    cascade: LiveCascade | None
    rows: int = 0
    max_loss: float | None = None


def active_policy(
    name: str, policy: Policy | None, models: Mapping[str, ChatModel], features: FeatureModel | None
) -> Active:
    """Return a policy, ready to be asked by it. Raises InputError if it is for other models, ArtefactError if it
    was certified before there were units.
    """
    if policy is None:
        return Active(REFERENCE, None, None)
    if "gateway" not in policy.notes:
        raise ArtefactError(
            f"policy {name} was certified for records in any order and not for units of requests, so it must be "
            "certified again: give the file a promise, and the gateway does"
        )
    note = policy.notes["gateway"]
    by_name: dict[str, LiveModel] = {**models}
    for model in policy.models:
        if model not in by_name:
            if features is None:
                raise InputError(f"policy {name!r} asks {model!r}, and the gateway has {', '.join(by_name)}")
            by_name[model] = features
    return Active(name, policy, LiveCascade(by_name, policy), int(note["rows"]), note["max_loss"])


class Answering:
    """Answers requests with the models. `reference`: answers what no policy does. `fallback`: answer after it."""

    def __init__(self, models: Mapping[str, ChatModel], reference: str, fallback: tuple[str, ...]) -> None:
        self.models = dict(models)
        self.order = (reference, *(name for name in fallback if name != reference))

    async def by_name(self, name: str, request: ChatRequest | EmbeddingRequest, ledger: Ledger) -> Answered:
        """Ask one model."""
        reply = await self.models[name].ask(request, name=name, ledger=ledger, final=True)
        return _answered({name: reply}, name, policy="", decided=False)

    async def by_policy(self, active: Active, request: ChatRequest, key: str, ledger: Ledger) -> Answered:
        """Ask as the policy says; where that brings no answer, the reference and then the fallback.

        `key`: of the request's content, breaks ties. Raises InputError for a request that none of them takes.
        """
        if request.sink is not None:
            request.sink.policy = active.name
        if active.cascade is None:
            return await self._first_that_answers(active, {}, request, ledger)
        (answer,) = await active.cascade.ask([request], ids=[key], ledger=ledger)
        failed = {name: Reply(None, failed=why, attempts=0) for name, why in answer.failed.items()}
        replies = {**failed, **answer.replies}
        # An earlier answer cannot go on from where a later one was cut off.
        cut_off = request.sink is not None and request.sink.cut_off
        if answer.given_by and not cut_off:
            answered = _answered(replies, answer.given_by, policy=active.name, decided=not answer.failed)
            if answer.tie is None:
                return answered
            return replace(answered, observed=Seen(answer.exit, answer.score, answer.first_score, answer.tie))
        if any(map(short_of_money, answer.failed.values())):
            return _answered(replies, "", policy=active.name, decided=False)
        return await self._first_that_answers(active, replies, request, ledger)

    async def stay(self, active: Active, name: str, request: ChatRequest, ledger: Ledger) -> Answered:
        """Ask the model that answered the first request of a unit; where that brings no answer, the reference and then
        the fallback.
        """
        if request.sink is not None:
            request.sink.policy = active.name
        reply = await self.models[name].ask(request, name=name, ledger=ledger, final=True)
        if reply.is_given or short_of_money(reply.failed):
            return _answered({name: reply}, name, policy=active.name, decided=reply.is_given)
        return await self._first_that_answers(active, {name: reply}, request, ledger)

    async def _first_that_answers(
        self, active: Active, replies: Mapping[str, Reply], request: ChatRequest, ledger: Ledger
    ) -> Answered:
        replies, decided = dict(replies), active.cascade is None
        refusals = {name: self.models[name].refusal(request) for name in self.order}
        if all(refusals.values()):
            name = self.order[0]
            raise InputError(f"{name} {refusals[name]}, and no other model answers in its place")
        for name in self.order:
            if name in replies or refusals[name]:
                continue
            # Where its client has the beginning of another answer, no other one can follow.
            if request.sink is not None and request.sink.cut_off:
                break
            reply = await self.models[name].ask(request, name=name, ledger=ledger, final=True)
            replies[name] = reply
            if reply.is_given or short_of_money(reply.failed):
                return _answered(replies, name, policy=active.name, decided=decided)
            decided = False
        return _answered(replies, "", policy=active.name, decided=False)


def short_of_money(why: str) -> bool:
    """Return whether this is why a model gave no answer. The ledger also refuses a model that billed too much: others
    may answer in its place.
    """
    return not_admitted(why) and not is_stopped(why)


def is_stopped(why: str) -> bool:
    """Return whether a model gave no answer because it billed more than it may cost."""
    return not_admitted(why) and _STOPPED in why


def _for_clients(why: str) -> str:
    """Return why a model gave no answer as clients are told it: what follows a colon is not for them."""
    if is_stopped(why):
        return "stopped, since it billed more than it may cost: who runs this gateway lets it be asked again"
    return why.partition(":")[0]


def _answered(replies: Mapping[str, Reply], name: str, *, policy: str, decided: bool) -> Answered:
    cost, reply = sum(reply.billed for reply in replies.values()), replies.get(name)
    if not isinstance(reply, ChatReply) or not reply.is_given:
        return Answered(None, "", policy, cost, replies)
    return Answered(reply, name, policy, cost, replies, decided)
