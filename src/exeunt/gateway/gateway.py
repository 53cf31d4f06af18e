"""A gateway at work: it answers requests, compares models in the shadow, and certifies what it promises."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar, cast

from exeunt._support.sqlite import WAIT_S
from exeunt._support.threads import GRADING, PAYING
from exeunt.errors import ExeuntError, InputError
from exeunt.gateway.answering import CLIENT, REQUEST, UNIT, Active, Answered, Answering, short_of_money
from exeunt.gateway.audit_log import AuditLog
from exeunt.gateway.certification_status import STATUS, CertificationStatus, certification_status
from exeunt.gateway.certifier import Apart, Certifier
from exeunt.gateway.chat_model import ChatReply
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import FEATURES, GatewayConfig
from exeunt.gateway.embedding_request import PATH, EmbeddingRequest
from exeunt.gateway.evidence import OVER_CAP, is_outside
from exeunt.gateway.failure_log import FailureLog, log_failure
from exeunt.gateway.features import feature_model
from exeunt.gateway.feedback import Feedback, FeedbackRequest, provider_id
from exeunt.gateway.folder import REPORT, GatewayModels, gateway_folder, hashed, secret
from exeunt.gateway.forgetting import forget_client
from exeunt.gateway.judge import grader_of
from exeunt.gateway.key_store import Client, Keys, KeysLocked
from exeunt.gateway.ledgers import MONEY, Money
from exeunt.gateway.live_policy import LivePolicy
from exeunt.gateway.metrics import GatewayMetrics
from exeunt.gateway.report import write_report
from exeunt.gateway.request_stream import RequestStream
from exeunt.gateway.saved_policies import REFERENCE, GatewayPolicies
from exeunt.gateway.shadow_requests import ShadowRequests, said_of, told_text
from exeunt.gateway.spend_warnings import SpendWarnings
from exeunt.live.live_run import digest_of
from exeunt.stream.records import Record, Records
from exeunt.stream.units import Arrival, Place, Unit

T = TypeVar("T")

_log = logging.getLogger("exeunt.gateway")
AUTO = "auto"
"""The virtual model: asks as the active policy says. "auto:NAME" asks by another policy."""
_TIDY_S, _SAVE_S, _STEP_S, _LOOK_S = 3600.0, 30.0, 1.0, 0.05
_WARN_S = 5.0
_END_S = 60.0


class NoSuchModel(InputError):  # noqa: N818 - says what happened
    """A client asks a model that the gateway does not have."""


async def in_another_process(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a function that computes for long in a process of its own."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    try:
        return await asyncio.get_running_loop().run_in_executor(
            pool, partial(function, *arguments, **options)
        )
    finally:
        for process in (pool._processes or {}).values():
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)


async def in_this_process(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a function at once: nothing is answered meanwhile."""
    return function(*arguments, **options)


class Gateway:
    """The models, policies, money and records of a gateway.

    `live`: the policy that answers. `traffic`: the stream of requests, in units. `certifier`: tests what is promised;
    `status`: what is certified now, None before it is known.
    `audit`: who has used keys to administer it. `clock`: the time in seconds since 1970. `apart`: runs what computes
    for long. `closing`: set at the end.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        clock: Callable[[], float] = time.time,
        apart: Apart = in_another_process,
    ) -> None:
        self.config, self.clock, self._apart = config, clock, apart
        self.folder = gateway_folder(config.folder)
        self.keys, self._asking_keys = Keys(self.folder), asyncio.Lock()
        self.money = Money(self.folder / MONEY, config.spend, config.shadow)
        self.audit = AuditLog(self.folder, clock)
        self.features = None if config.features is None else feature_model(config.features)
        self.models = _bound_models(config)
        self.models.write(self.folder)
        self.policies = GatewayPolicies(self.folder, self.models)
        self.records = Records(self.folder)
        self.feedback = Feedback(self.records)
        self._secret = secret(self.folder, self.records)
        self.answering = Answering(config.all_models, config.reference, config.fallback)
        self.failures = FailureLog()
        self.comparing = _shadow_requests(self)
        self.warnings = SpendWarnings(self.folder, config.spend, self.money)
        self.metrics = GatewayMetrics(lambda kind: self.failures.refused(kind, time.monotonic()))
        self.closing = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._certifying: asyncio.Task[None] | None = None
        self.status: CertificationStatus | None = None
        self.traffic = RequestStream(config, self.models, self.records, self._secret, clock())
        self.certifier = Certifier(config, self.models, self.records, self.policies, clock())
        self.live = LivePolicy(
            config,
            self.policies,
            features=self.features,
            metrics=self.metrics,
            clock=clock,
            on_change=self._changed,
        )
        if not self.traffic.bill.spans or self.traffic.bill.now.policy != self.live.active.name:
            self._changed(False)
        _measure(self)

    # -- requests -------------------------------------------------------------------------------------------

    async def answer(self, request: ChatRequest, client: Client) -> Answered:
        """Answer a request. What it costs is the client's.

        Raises NoSuchModel, and InputError if a model does not take the request.
        """
        if request.cache_key:  # so that clients share no cache by its name
            key = self._hmac(client, b"cache " + request.cache_key.encode()).hex()
            request = request.changed(cache_key=key)
        if request.model != AUTO:
            return await self._answer_by_name(request, client)
        number, now = self.traffic.number(), self.clock()
        arrival = self._arrival(number, request, client)
        place = self.traffic.arrive(arrival, now) if client.shadow else Place(None)
        drawing = self._drawing(place, now)
        active, refused = self.live.active, self._refused(request)
        instead = self._why_reference(active, client, place, refused)
        waiting = None if instead else self.live.begin(place)
        answered = Answered(None, "", REFERENCE, 0.0, instead=instead)
        try:
            if self.config.sticky and place.starts and place.unit is not None:
                self.traffic.choices[place.unit.number] = Future()
            if drawing is not None and place.starts:  # it must not see what this request reserves
                await asyncio.shield(drawing)
            key, ledger = arrival.content.hex(), self.money.of(client)
            if not instead and (name := await self._stays_with(place, active)):
                answered = await self.answering.stay(active, name, request, ledger)
            else:
                chosen = self.live.reference if instead else active
                answered = await self.answering.by_policy(chosen, request, key, ledger)
            answered = replace(answered, instead=instead)
            return answered
        except InputError:
            refused = (*refused, OVER_CAP)  # no model takes it, whoever chooses
            raise
        finally:
            reply = answered.reply
            self._choose(place, answered.model)
            transcript = b"" if reply is None else self._hmac(client, request.followed_by(reply.message))
            self.traffic.answered(arrival, place, transcript, self.clock(), failed=reply is None)
            self.live.answered(waiting, answered.observed if answered.decided else None)
            record = self._record(number, now, request, client, answered, place)
            record = replace(record, transcript=arrival.name or transcript, refused=refused)
            self.later(self._recorded(record, request, client, place, answered, drawing))

    async def _stays_with(self, place: Place, active: Active) -> str:
        """Return the model that answers a later request because it answered the first of its unit; "" if the policy is
        to decide.
        """
        if not self.config.sticky or place.unit is None or place.row == 0:
            return ""
        choice = self.traffic.choices.get(place.unit.number)
        name = "" if choice is None else await asyncio.shield(asyncio.wrap_future(choice))
        asked = () if active.policy is None else active.policy.models
        return name if name in asked else self.config.reference

    def _choose(self, place: Place, name: str) -> None:
        """Note which model has answered the first request of a unit; "" if none did, until a retry has an answer."""
        if not self.config.sticky or place.unit is None or place.row:
            return
        choice = self.traffic.choices.get(place.unit.number)
        if choice is not None and choice.done():  # of a retry
            choice = self.traffic.choices[place.unit.number] = Future()
        if choice is not None:  # else the unit is over
            choice.set_result(name)

    async def _answer_by_name(self, request: ChatRequest, client: Client) -> Answered:
        """Answer by a model or a policy that the client names: it is recorded and billed, and in no unit."""
        name, _, policy = request.model.partition(":")
        number, now, ledger = self.traffic.number(), self.clock(), self.money.of(client)
        if name == AUTO:
            key = self._hmac(client, request.content).hex()
            active = self._named(policy, request)
            answered = await self.answering.by_policy(active, request, key, ledger)
        elif request.model not in self.config.offered:
            raise self._no_such_model(request)
        else:
            if why := self.config.models[request.model].refusal(request):
                raise InputError(f"{request.model} {why}: ask another model")
            answered = await self.answering.by_name(request.model, request, ledger)
        record = self._record(number, now, request, client, answered, Place(None))
        self.later(self._recorded(record, request, client, None, answered, None))
        return answered

    async def embed(self, request: EmbeddingRequest, client: Client) -> Answered:
        """Embed texts. What it costs is the client's; nothing of it is recorded.

        Raises NoSuchModel, and InputError if it may cost more than a request may.
        """
        if (model := self.config.embeddings.get(request.model)) is None:
            there_are = ", ".join(self.config.embeddings) or "none: the gateway's file names no embeddings"
            raise NoSuchModel(f"no model {request.model!r:.80} embeds texts; there are {there_are}")
        if why := model.refusal(request):
            raise InputError(f"{request.model} {why}: send less at a time")
        return await self.answering.by_name(request.model, request, self.money.of(client))

    def input_tokens(self, request: ChatRequest) -> int:
        """Estimate how many tokens a request has, for a policy those of the reference. Raises NoSuchModel."""
        name = self.config.reference if request.model.partition(":")[0] == AUTO else request.model
        if name not in self.config.offered:
            raise self._no_such_model(request)
        return self.config.models[name].input_tokens(request)

    @property
    def names(self) -> list[str]:
        """The models that clients may ask, and policies; not those that embed texts."""
        policies = [f"{AUTO}:{name}" for name in self.policies.names]
        return [AUTO, *policies, *self.config.offered]

    def _arrival(self, number: int, request: ChatRequest, client: Client) -> Arrival:
        kind, hashed = self.config.unit_rules.kind, partial(self._hmac, client)
        arrival = Arrival(number, client.name, hashed(request.content), is_retry=request.is_retry)
        if kind == "user" and request.user:
            return replace(arrival, user=hashed(b"user " + request.user.encode()))
        if kind != "conversation":
            return arrival
        return replace(
            arrival,
            transcripts=tuple(map(hashed, request.answers)),
            beginning=hashed(request.opening),
            name=hashed(b"name " + request.conversation.encode()) if request.conversation else b"",
        )

    def _refused(self, request: ChatRequest) -> tuple[str, ...]:
        """Return the compared models that do not take a request, and `OVER_CAP` if it could cost more than the cap, or
        if the reference is one of them: then policies do not matter.
        """
        models = {name: self.config.models[name] for name in self.config.compared}
        refused = tuple(name for name, model in models.items() if model.refusal(request))
        highest = sum(model.most(request) for name, model in models.items() if name not in refused)
        return (
            (*refused, OVER_CAP) if highest > self.config.cap or self.config.reference in refused else refused
        )

    def _why_reference(self, active: Active, client: Client, place: Place, refused: tuple[str, ...]) -> str:
        """Return why the reference answers a request in place of the policy; "" if the policy does."""
        shadow = self.config.shadow
        if active.policy is None:
            return ""
        if is_outside(active.policy.models, refused):
            return REQUEST
        if not client.shadow:
            return "" if shadow is not None and shadow.opted_out == "policy" else CLIENT
        return "" if place.is_open and place.row < active.rows else UNIT

    def _record(
        self,
        number: int,
        now: float,
        request: ChatRequest,
        client: Client,
        answered: Answered,
        place: Place,
    ) -> Record:
        replies = {name: reply for name, reply in answered.replies.items() if name != FEATURES}
        body = (answered.reply and answered.reply.body) or {}
        answer = self._answer(body.get("id"), client)
        self.feedback.expect(answer)
        return Record(
            number,
            now,
            client.name,
            self._hmac(client, request.content).hex(),
            {name: said_of(reply) for name, reply in replies.items()},
            setting=self.traffic.setting,
            unit=0 if place.unit is None else place.unit.number,
            row=place.row,
            is_open=place.is_open,
            retry=place.retry,
            guessed=place.guessed,
            policy="" if answered.policy == REFERENCE else answered.policy,
            answered=answered.model,
            asked=tuple(replies),
            decided=answered.escalated,
            cost=answered.cost,
            input_cost=self.config.models[self.config.reference].input_cost(_usage(answered)),
            text=told_text(request, replies) if self.config.keep.texts else None,
            answer=answer,
        )

    async def _recorded(
        self,
        record: Record,
        request: ChatRequest,
        client: Client,
        place: Place | None,
        answered: Answered,
        drawing: asyncio.Task[None] | None,
    ) -> None:
        """Keep what is known of an answer; of drawn units, after asking the other models, too.

        `place`: None where the client named a model or a policy.
        """
        unit = None if place is None else place.unit
        try:
            if drawing is not None:
                await drawing
            if record.is_open and unit is not None and unit.drawn:
                record = await self._compared(record, request, answered)
            if await self._is_known(client.name):  # else it was forgotten meanwhile
                if place is not None:
                    self.traffic.count(record, opted_out=not client.shadow)
                await self.feedback.add(record, self.traffic.keeping)
        finally:
            self.feedback.drop(record.answer)
            if unit is not None:
                self.traffic.ended(unit)

    async def grade(self, request: FeedbackRequest, client: Client) -> None:
        """Keep the grade that a client gives to an answer of its own. Raises NoSuchAnswer and GradedAlready."""
        await self.feedback.give(self._answer(request.id, client), request)

    def _answer(self, identity: object, client: Client) -> bytes:
        """Return what stands for the id of an answer to a client; b"" for none."""
        text = provider_id(identity)
        return self._hmac(client, b"answer " + text.encode("utf-8", "surrogatepass")) if text else b""

    async def _is_known(self, name: str) -> bool:
        """Whether a client has a key. While another process writes the keys, one record at a time waits for it."""
        end = time.monotonic() + WAIT_S
        async with self._asking_keys:
            while True:
                try:
                    return self.keys.named(name, wait_s=0.0) is not None
                except KeysLocked:
                    if time.monotonic() >= end:
                        raise
                await asyncio.sleep(_LOOK_S)

    async def _compared(self, record: Record, request: ChatRequest, answered: Answered) -> Record:
        """Return the record of a request of a drawn unit, after the other models were asked."""
        if self.comparing is None:
            return record
        alternatives = set(self.config.compared) - {self.config.reference}
        if OVER_CAP in record.refused or alternatives <= set(record.refused):
            return replace(record, compared="no model takes it")
        if answered.reply is None:
            return replace(record, compared="no answer")
        with _logged("a comparison"):
            record = await self.comparing.record(record, request, answered)
            self.live.compared(record)
        return record

    def _drawing(self, place: Place, now: float) -> asyncio.Task[None] | None:
        """Return what finds out whether the unit of a request is drawn, and begins with the unit; None if that is
        known, or the request has no unit.
        """
        unit, shadow = place.unit, self.config.shadow
        if unit is None:
            return None
        if place.starts:
            share = self.config.audit
            if shadow is not None and self.live.active.policy is None:
                share = shadow.share
            if self.traffic.is_chosen(unit, now, share):
                self.traffic.drawings[unit.number] = self.later(self._draw(unit))
        return self.traffic.drawings.get(unit.number)

    async def _draw(self, unit: Unit) -> None:
        """Draw a unit that was chosen, if money for a comparison is free, whatever it asks."""
        free = False
        with _logged("whether money for a comparison is free"):
            free = self.comparing is not None and await self.comparing.is_paid_for()
        self.traffic.draw(unit, free=free)
        if unit.drawn:
            self.live.audit(unit)

    def _named(self, name: str, request: ChatRequest) -> Active:
        """Return the policy that a client names, or the reference for a request that the policy does not take. What is
        wrong with other policies is not for clients.
        """
        try:
            active = self.live.named(name)
        except ExeuntError:
            raise self._no_such_model(request) from None
        if active.policy is not None and is_outside(active.policy.models, self._refused(request)):
            return self.live.reference
        return active

    def _no_such_model(self, request: ChatRequest) -> NoSuchModel:
        if request.model in self.config.embeddings:
            return NoSuchModel(f"{request.model} embeds texts: ask it at {PATH}")
        return NoSuchModel(f"there is no model {request.model!r:.80}; there are {', '.join(self.names)}")

    # -- as time goes on ------------------------------------------------------------------------------------

    async def advance(self) -> None:
        """Close the units whose time has come, count them, and advance the certificates."""
        await self._close_units()
        await self._certify()

    async def _close_units(self) -> None:
        now = self.clock()
        for unit in self.traffic.take_over(now):
            records = await asyncio.to_thread(
                self.records.read, "unit = ? AND compared != ''", (unit.number,)
            )
            self.traffic.unit_over(unit, records)
            self.live.unit_ended(unit, records)
        await asyncio.to_thread(self.traffic.saving())

    async def _certify(self) -> None:
        passed = await self.certifier.advance(self.clock(), self.traffic.busy, self._apart)
        for name in passed or ():
            _log.info("a policy is certified", extra={"fields": {"policy": name}})
        if passed is not None or self.status is None:
            await asyncio.to_thread(self.find_status)

    async def tidy(self) -> None:
        """Go on with units and certificates, look at limits, remove what has been kept for long enough, and save what
        the watch knows, for as long as this runs.
        """
        tidied = saved = looked = -_TIDY_S
        while True:
            with _logged("units"):
                await self._close_units()
            # A proposal takes long, and units close meanwhile.
            if self._certifying is None or self._certifying.done():
                self._certifying = self.later(self._certify())
            if time.monotonic() - tidied >= _TIDY_S:
                tidied = time.monotonic()
                with _logged("records"):
                    await asyncio.to_thread(self.records.expire, self.clock() - 86400 * self.config.keep.days)
                self.feedback.changed()  # also by the command, which may have forgotten a client
            if time.monotonic() - saved >= _SAVE_S:
                saved = time.monotonic()
                with _logged("what the watch knows"):
                    self.live.watch.save()
                with _logged("the report"):
                    waits = self.status is not None and not self.certifier.proposals
                    # Until the first proposal what changes is how many more units it takes.
                    await asyncio.to_thread(self.find_status if waits else self._write_report)
                with _logged("policies"):  # of a client that the command has forgotten
                    await self._leave_forgotten()
            if time.monotonic() - looked >= _WARN_S:
                looked = time.monotonic()
                with _logged("limits of money"):
                    await self._warn()
            await asyncio.sleep(min(_STEP_S, self.config.period / 4))

    async def _warn(self) -> None:
        """Tell limits that are nearly reached. Nobody waits for the webhook."""
        if near := await self.warnings.look(await asyncio.to_thread(lambda: self.keys.clients)):
            self.later(self.warnings.call(near))

    async def forget(self, client: str) -> int:
        """Remove the key and the records of a client, and the policies that hold features of its requests; return how
        many records there were. Raises InputError if there was nothing of it.
        """
        self.traffic.forget(client)
        forgotten = await asyncio.to_thread(forget_client, client, self.keys, self.records)
        self.feedback.changed()
        await self._leave_forgotten()
        return forgotten.records

    async def _leave_forgotten(self) -> None:
        """Use, test and show nothing any more that holds requests of a client that was forgotten."""
        self.live.leave_forgotten()
        if self.certifier.forget():
            await asyncio.to_thread(self.find_status)

    def find_status(self) -> None:
        """Update `status`, keep it for the command, and write the report."""
        question = self.certifier.question
        current = certification_status(self.certifier, self.config)
        if self.certifier.question is not question:  # an alarm has ended it meanwhile
            return
        # It is kept first, so that the command never knows less than the page.
        if self.status is None or self.status.to_dict() != current.to_dict():
            self.records.keep(STATUS, current.to_dict())
        self.status = current
        self._write_report()

    @property
    def certified(self) -> list[str]:
        """The names of the policies that are certified now: not those of a question that has ended."""
        return [] if self.status is None else [*self.status.certified, *self.status.earlier]

    def _write_report(self) -> None:
        """Write the report of what is certified and what was saved so far."""
        if (current := self.status) is not None:
            now = self.clock()
            bill = self.traffic.bill.told(self.money.compared, now)
            told = {"bill": bill, "feedback": self.feedback.told}
            write_report(current, self.folder / REPORT, reference=self.config.reference, now=now, **told)

    def _changed(self, by_alarm: bool) -> None:
        """Begin another span of the bill, since another policy is active. After an alarm there is a new question."""
        now = self.clock()
        self.traffic.bill.begin(self.live.active.name, now, self.money.compared)
        if by_alarm:
            self.status = None
            self.certifier.alarmed(now, self.traffic.latest_number)
            with _logged("keeping what is known until an alarm"):
                self.traffic.saving()()

    async def left(self, client: Client) -> float | None:
        """Return the US dollars that a client's requests may still cost; None without any limit."""
        spend = self.money.spend
        if not (client.spend or spend.key or spend.is_limited):
            return None
        return await PAYING.run(lambda: max(self.money.of(client).available, 0.0))

    @property
    def compared(self) -> Counter[str]:
        """Counts of how comparisons ended."""
        return Counter() if self.comparing is None else self.comparing.counts

    async def raise_over_budget(
        self, request: ChatRequest | EmbeddingRequest, client: Client, answered: Answered
    ) -> None:
        """Raise the OverBudget that says when there is money again; return if there is money after all."""
        amounts = [
            self.config.all_models[name].most(request)
            for name, reply in answered.replies.items()
            if short_of_money(reply.failed) and name != FEATURES
        ]
        if amounts:
            held = await PAYING.run(self.money.of(client).reserve, min(amounts))
            await PAYING.run(held.release)

    async def close(self) -> None:
        """Wait for open requests, then close connections and files."""
        self.closing.set()
        if self._certifying is not None:
            self._certifying.cancel()
        end = time.monotonic() + _END_S
        while self._tasks and (left := end - time.monotonic()) > 0:  # answers begin records of themselves
            await asyncio.wait(self._tasks, timeout=left)
        for model in (*self.config.all_models.values(), *(() if self.features is None else (self.features,))):
            await model.close()
        self.live.watch.save()
        self.traffic.saving()()
        self.records.close()
        self.money.close()
        self.keys.close()

    def later(self, work: Coroutine[Any, Any, T], *, awaited: bool = False) -> asyncio.Task[T]:
        """Begin work that the end of the gateway waits for. `awaited`: for a client, who is told of what it asks amiss;
        other errors are logged whether or not it still waits.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, awaited))
        return task

    def _done(self, awaited: bool, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not (awaited and isinstance(error, InputError)):
            log_failure(error, "a request" if awaited else "")

    def _hmac(self, client: Client, content: bytes) -> bytes:
        return hashed(self._secret, client.name, content)


def _measure(gateway: Gateway) -> None:
    """Let the metrics read what the gateway knows."""
    gauge, money, traffic = gateway.metrics.gauge, gateway.money, gateway.traffic

    def saved() -> float:
        usd = traffic.bill.saved_in_all(money.compared)
        return float("nan") if usd is None else usd.mean

    gauge("left_usd", "US dollars left of the limits for all.", lambda: money.left)
    gauge("overdrawn_usd", "US dollars spent above the limits for all.", lambda: money.overdrawn)
    gauge(
        "drift_evidence",
        "Evidence that the certificate has ended, on a logarithmic scale: an alarm comes at 1.",
        lambda: max(gateway.live.watch.evidence.values(), default=0.0),
    )
    gauge("comparisons", "Requests compared with the reference.", lambda: gateway.compared["compared"])
    gauge("graders_under_way", "Answers that are being graded or wait for it.", lambda: GRADING.under_way)
    gauge("money_under_way", "Calls of ledgers that are under way or wait.", lambda: PAYING.under_way)
    gauge("open_units", "Units of requests that are open.", lambda: len(traffic.units.open))
    gauge(
        "disputed_usd",
        "US dollars billed above what requests can cost, of which nobody has decided.",
        lambda: sum(dispute.claimed - dispute.maximum for dispute in money.disputed.values()),
    )
    gateway.metrics.family(
        "limit_nearly_reached",
        "Share that is used of each limit that is nearly reached (warn of spend); only those.",
        ["limit"],
        lambda: [([name], share) for name, share in gateway.warnings.near.items()],
    )
    gauge("compared_usd", "US dollars spent on comparing.", lambda: money.compared)
    gauge("saved_usd", "US dollars saved since the first start, net of comparing.", saved)
    gateway.metrics.family(
        "rests_until_seconds",
        "Until when a model, a deployment or a provider that failed is not asked, in seconds since 1970.",
        ["name", "why"],
        lambda: [
            ([breaker.name, breaker.why], gateway.clock() + breaker.rests_s)
            for breaker, _ in gateway.config.resting
        ],
    )
    deployments = [model.deployments for model in gateway.config.models.values() if model.deployments.several]
    gateway.metrics.family(
        "deployment_requests",
        "Requests to each deployment since the start.",
        ["name"],
        lambda: [([name], n_sent) for one in deployments for name, n_sent, _ in one.told()],
    )
    gateway.metrics.family(
        "deployment_free",
        "What share of its limits a minute is free, of each deployment.",
        ["name"],
        lambda: [([name], room) for one in deployments for name, _, room in one.told()],
    )
    gateway.metrics.family(
        "stopped",
        "1 for each model that is not asked since it billed more than it may cost; only those that are stopped.",
        ["name"],
        lambda: [([name], 1.0) for name in money.total.stopped],
    )


def _shadow_requests(gateway: Gateway) -> ShadowRequests | None:
    config, ledger = gateway.config, gateway.money.shadow
    if config.shadow is None or ledger is None:
        return None
    return ShadowRequests(
        config.models,
        config.compared,
        config.cap,
        ledger=ledger,
        grader=grader_of(config.shadow.grader, config.models, config.compared, ledger),
        features=gateway.features,
        keep=config.keep,
        on_failure=lambda error: gateway.failures.not_graded(error, gateway.clock()),
    )


@contextmanager
def _logged(activity: str) -> Iterator[None]:
    """Log what fails, such as a file that another process reads: answering goes on, and it may succeed later."""
    try:
        yield
    except Exception as error:
        log_failure(error, activity)


def _usage(answered: Answered) -> int | None:
    """Return how many tokens the input of a request has, by the model that answered; None if it does not say."""
    for reply in answered.replies.values():
        usage = (reply.body or {}).get("usage") if isinstance(reply, ChatReply) else None
        if isinstance(usage, dict) and reply.bound == reply.unbilled:  # else nothing credible was reported
            return cast(int, usage["prompt_tokens"])
    return None


def _bound_models(config: GatewayConfig) -> GatewayModels:
    """Return what policies are bound to: the models that are compared, and what a request may cost at most."""
    names = (config.reference, *config.compared[:-1])
    models = {name: config.models[name] for name in names}
    return GatewayModels(
        config.reference,
        {name: model.dearest(config.listen.max_body) * (1 + model.retries) for name, model in models.items()},
        "" if config.features is None else FEATURES,
        0.0 if config.features is None else config.features.price,
        {name: digest_of(model) for name, model in models.items()},
        "" if config.shadow is None else config.shadow.grader,
    )
