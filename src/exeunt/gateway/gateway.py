"""A gateway at work: it answers requests and compares models in the shadow."""

from __future__ import annotations

import asyncio
import hmac
import logging
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from exeunt.errors import ExeuntError, InputError
from exeunt.gateway.answering import Active, Answered, Answering, short_of_money
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.comparing import Comparing, said_of, told_text
from exeunt.gateway.config import FEATURES, GatewayConfig
from exeunt.gateway.failure_log import FailureLog
from exeunt.gateway.features import feature_model
from exeunt.gateway.folder import KEYS, GatewayModels, gateway_folder, secret
from exeunt.gateway.judge import grader_of
from exeunt.gateway.keys import Client, Keys
from exeunt.gateway.live_policy import LivePolicy
from exeunt.gateway.metrics import GatewayMetrics
from exeunt.gateway.money import Money
from exeunt.gateway.records import Record, Records, forget_client
from exeunt.gateway.saved_policies import REFERENCE, GatewayPolicies
from exeunt.live.live_run import digest_of

T = TypeVar("T")

_log = logging.getLogger("exeunt.gateway")
AUTO = "auto"
"""The virtual model: asks as the active policy says. "auto:NAME" asks by another policy."""
_TIDY_S = 3600.0
_SAVE_S = 30.0
_END_S = 60.0


class NoSuchModel(InputError):  # noqa: N818 - says what happened
    """A client asks a model that the gateway does not have."""


class Gateway:
    """The models, policies, money and records of a gateway.

    `live`: the policy that answers. `closing`: set at the end.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.folder = gateway_folder(config.folder)
        self.keys = Keys(self.folder / KEYS)
        self.money = Money(self.folder / "money.db", config.spend, config.shadow)
        self.features = None if config.features is None else feature_model(config.features)
        self.about = _about(config)
        self.about.write(self.folder)
        self.policies = GatewayPolicies(self.folder, self.about)
        self.records = Records(self.folder)
        self._secret = secret(self.folder)
        self.answering = Answering(config.models, config.reference, config.fallback)
        self.comparing = self._comparing()
        self.failures = FailureLog()
        self.metrics, self.closing = GatewayMetrics(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.live = LivePolicy(
            config, self.policies, features=self.features, records=self.records, metrics=self.metrics
        )
        self._measure()

    # -- requests -------------------------------------------------------------------------------------------

    async def answer(self, request: ChatRequest, client: Client) -> Answered:
        """Answer a request. What it costs is the client's.

        Raises NoSuchModel, and InputError for what a model does not take.
        """
        name, _, policy = request.model.partition(":")
        ledger = self.money.of(client)
        if name != AUTO:
            if request.model not in self.config.models:
                raise self._no_such_model(request)
            if why := self.config.models[request.model].refusal(request):
                raise InputError(f"{request.model} {why}: ask another model")
            return await self.answering.by_name(request.model, request, ledger)
        active = self._asked_for(policy, request) if policy else self.live.active
        key = self._hmac(request.content)
        answered = await self.answering.by_policy(active, request, key, ledger)
        if answered.reply is not None:
            self.later(self._recorded(request, client, answered, key))
        if active is self.live.active:
            self.live.answered(answered)
        return answered

    @property
    def names(self) -> list[str]:
        """The models that clients may ask."""
        policies = [f"{AUTO}:{name}" for name in self.policies.names]
        return [AUTO, *policies, *self.config.models]

    async def _recorded(self, request: ChatRequest, client: Client, answered: Answered, key: str) -> None:
        """Keep what is known of an answer; of a share of them, after asking the other models, too."""
        shadow, live = self.config.shadow, answered.policy != REFERENCE
        share = 0.0 if shadow is None else shadow.audit if live else shadow.share
        drawn = random.random() < share and client.shadow and not (live and not answered.decided)  # noqa: S311
        record = Record(
            time=time.time(), kind="live", client=client.name, request=key,
            conversation=self._hmac(client.name.encode() + b"\0" + request.beginning),
            user=self._hmac(f"{client.name}\0{request.user}".encode()) if request.user else "",
            said={name: said_of(reply) for name, reply in answered.replies.items() if name != FEATURES},
            policy=answered.policy if live else "", answered=answered.model, cost=answered.cost,
            identity=self.about.identity, grader=self.about.grader,
            escalated=answered.escalated,
            text=told_text(request, answered.replies) if self.config.keep.texts else None,
        )  # fmt: skip
        if drawn and self.comparing is not None and self.comparing.takes(request):
            compared = await self.comparing.record(record, request, answered)
            if compared is not None:
                record = replace(compared, kind="audit" if live else "shadow")
        if all(one.name != client.name for one in self.keys.clients):  # who was forgotten meanwhile
            return
        await asyncio.to_thread(self.records.add, record)
        self.live.recorded(record)

    def _asked_for(self, name: str, request: ChatRequest) -> Active:
        """Return a policy that a client names. What is wrong with others is not for clients."""
        try:
            return self.live.named(name)
        except ExeuntError:
            raise self._no_such_model(request) from None

    def _no_such_model(self, request: ChatRequest) -> NoSuchModel:
        return NoSuchModel(f"there is no model {request.model!r:.80}; there are {', '.join(self.names)}")

    # -- the rest -------------------------------------------------------------------------------------------

    async def forget(self, client: str) -> int:
        """Remove the key and the records of a client, and the policies that hold features of its requests; return how
        many records there were. Raises InputError if there was nothing of it.
        """
        forgotten = await asyncio.to_thread(forget_client, client, self.keys, self.records)
        self.live.leave_forgotten()
        return forgotten.records

    async def tidy(self) -> None:
        """Remove what has been kept for long enough, and save what the watch knows, for as long as this runs."""
        tidied = -_TIDY_S
        while True:
            if time.monotonic() - tidied >= _TIDY_S:
                tidied = time.monotonic()
                with _logged("records"):
                    await asyncio.to_thread(self.records.expire, time.time() - 86400 * self.config.keep.days)
            await asyncio.sleep(_SAVE_S)
            with _logged("what the watch knows"):
                self.live.watch.save()
            with _logged("policies"):  # of a client that the command has forgotten
                self.live.leave_forgotten()

    async def left(self, client: Client) -> float | None:
        """Return the US dollars that a client's requests may still cost; None without any limit."""
        spend = self.money.spend
        if not (client.spend or spend.key or spend.day or spend.total):
            return None
        return await asyncio.to_thread(lambda: self.money.of(client).available)

    @property
    def compared(self) -> Counter[str]:
        """What became of the requests that were drawn for comparison."""
        return Counter() if self.comparing is None else self.comparing.counts

    async def raise_over_budget(self, request: ChatRequest, client: Client, answered: Answered) -> None:
        """Raise the OverBudget that says when there is money again; return if there is money after all."""
        names = [name for name, reply in answered.replies.items() if short_of_money(reply.failed)]
        models = [self.config.models[name] for name in names if name in self.config.models]
        if models:
            least = min(model.most(request) for model in models)
            held = await asyncio.to_thread(self.money.of(client).reserve, least)
            await asyncio.to_thread(held.release)

    async def close(self) -> None:
        """Wait for what is under way and close connections and files."""
        self.closing.set()
        end = time.monotonic() + _END_S
        while self._tasks and (left := end - time.monotonic()) > 0:  # answers begin records of themselves
            await asyncio.wait(self._tasks, timeout=left)
        for model in (*self.config.models.values(), *(() if self.features is None else (self.features,))):
            await model.close()
        self.live.watch.save()
        self.records.close()
        self.money.close()

    def later(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that the end of the gateway waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, InputError):
            _log.error("unexpected %s", type(error).__name__, exc_info=error)

    def _hmac(self, content: bytes) -> str:
        return hmac.digest(self._secret, content, "sha256")[:16].hex()

    def _measure(self) -> None:
        """Let the metrics read what the gateway knows."""
        gauge = self.metrics.gauge
        gauge("left_usd", "US dollars left of the limits for all.", lambda: self.money.left)
        gauge(
            "drift_evidence",
            "Evidence that the certificate has ended, on a logarithmic scale: an alarm comes at 1.",
            lambda: max(self.live.watch.evidence.values(), default=0.0),
        )  # fmt: skip
        gauge("comparisons", "Requests compared with the reference.", lambda: self.compared["compared"])

    def _comparing(self) -> Comparing | None:
        config = self.config
        if config.shadow is None or self.money.shadow is None:
            return None
        compared, ledger = (config.reference, *config.shadow.models), self.money.shadow
        return Comparing(
            config.models, config.reference, config.shadow, ledger=ledger,
            grader=grader_of(config.shadow.grader, config.models, compared, ledger), features=self.features,
            keep=config.keep,
        )  # fmt: skip


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log failures of files, such as while `exeunt calibrate` reads them: the next time it may succeed."""
    try:
        yield
    except (ExeuntError, OSError) as error:
        _log.error("%s could not be tidied", what, exc_info=error)


def _about(config: GatewayConfig) -> GatewayModels:
    """Return what policies are bound to: the models that are compared, and what a request may cost at most."""
    names = (config.reference, *(() if config.shadow is None else config.shadow.models))
    models = {name: config.models[name] for name in names}
    features = config.features if config.keep.features else None
    return GatewayModels(
        config.reference,
        {name: model.dearest(config.listen.max_body) * (1 + model.retries) for name, model in models.items()},
        "" if features is None else FEATURES,
        0.0 if features is None else features.price,
        {name: digest_of(model) for name, model in models.items()},
        0.0 if config.shadow is None else config.shadow.share,
        "" if config.shadow is None else config.shadow.grader,
    )
