"""What all live models share: attempts that are paid from a ledger, retries, timeouts, and bounded concurrency.

A subclass says what an attempt may cost at most (`most`), and makes one (`_call`).
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np

from exeunt._support.arrays import Floats, check_between, check_positive
from exeunt._support.threads import PAYING
from exeunt.errors import InputError, ModelStopped, OverBudget
from exeunt.ledger.ledger import Ledger, Reservation

T = TypeVar("T")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_FIRST_LOOK_S = 0.02
_LONGEST_TIMEOUT_S = 1e9  # a ledger holds money for no longer
_HIGHEST_BILL = 1e9
"""A higher one is recorded as this."""
LATE = "the deadline passed"
NOT_ASKED = "not asked"
"""How the reason begins why a model was not asked that the ledger refused."""
GAVE_NONE = "gave no answer"
_AHEAD = 1e-3


@dataclass(frozen=True)
class Reply:
    """What a model says about an input. `answer`: a class or a text; None if it gave none, and `failed` says why.

    `cost`: in US dollars, of all attempts; `bound`: the part of it that is the most that attempts may have cost,
    because nothing credible was reported; `unbilled`: the part of that which failed attempts may have cost, if they
    were billed at all. `probabilities`: of the model's classes, if it gives them. `lied`: it reported an impossible
    usage. `attempts`: those that were sent. `again`: another one may succeed. `features`: what a
    `FeatureModel` tells of the input, in place of an answer.
    """

    answer: str | None
    confidence: float = -math.inf
    cost: float = 0.0
    probabilities: tuple[float, ...] | None = None
    failed: str = ""
    bound: float = 0.0
    unbilled: float = 0.0
    attempts: int = 1
    lied: bool = False
    again: bool = False
    features: tuple[float, ...] | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is an answer, or features."""
        return self.answer is not None or self.features is not None

    @property
    def billed(self) -> float:
        """US dollars of all attempts, without those that failed and told no bill: limits count these, means do not."""
        return self.cost - self.unbilled


def shares_of(reply: Reply, classes: Sequence[str]) -> Floats:
    """Return the probabilities (k,) of the classes: those of the reply, or its confidence for its answer and the rest
    shared evenly. All are NaN for no answer.

    Raises InputError for a confidence outside [0, 1].
    """
    if reply.answer is None:
        return np.full(len(classes), np.nan)
    if reply.probabilities is not None:
        return np.array(reply.probabilities)
    if not 0 <= reply.confidence <= 1:
        raise InputError(
            f"confidences of classes are probabilities, from 0 to 1, got {reply.confidence:g}: let the model return "
            "such, or make policies from the table, where they may be anything"
        )
    k = len(classes)
    confidence = max(reply.confidence, (1 + _AHEAD) / k)  # the answer is the likeliest class
    shares = np.full(k, (1 - confidence) / (k - 1))
    shares[list(classes).index(reply.answer)] = confidence
    return shares


_LATE = Reply(None, failed=LATE, attempts=0)


class FailedAttempt(Exception):  # noqa: N818 - says what happened
    """An attempt without an answer. `cost`: None if it is unknown. `after`: how long the service asks to wait, in s."""

    def __init__(
        self,
        why: str,
        *,
        again: bool = False,
        cost: float | None = None,
        after: float = 0.0,
        lied: bool = False,
    ) -> None:
        super().__init__(why)
        self.why, self.again, self.cost, self.after, self.lied = why, again, cost, after, lied


class LiveModel(ABC):
    """A model that is asked over a network, or a function.

    `classes`: names of the classes among which it chooses; None if it answers in text. `concurrency`: attempts at the
    same time. `timeout_s`: of an attempt. `max_answer`: the most bytes of an answer over a network. `retries`: further
    attempts after failures that may pass, with growing waits, or with the wait that the service asks for. `counts`:
    answers, failures, retries and lies so far.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str] | None = None,
        concurrency: int = 64,
        timeout_s: float = 60.0,
        retries: int = 3,
        max_answer: int = 16 << 20,
    ) -> None:
        check_between(timeout_s, "timeout_s", 0.0, _LONGEST_TIMEOUT_S)
        check_positive(max_answer, "max_answer")
        if concurrency < 1 or retries < 0:
            raise InputError(
                f"concurrency must be at least 1 and retries at least 0, got {concurrency} and {retries}"
            )
        if isinstance(classes, str):
            raise InputError(f"classes are a list of texts, got {classes!r}")
        if wrong := [class_ for class_ in classes or () if type(class_) not in (str, int)]:
            raise InputError(f"classes are texts, got {wrong[0]!r}: in YAML write 'yes' and 'no' in quotes")
        self.classes = None if classes is None else tuple(map(str, classes))
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise InputError(f"give at least two classes, each once, got {', '.join(self.classes)}")
        self.concurrency, self.timeout_s, self.retries = concurrency, timeout_s, retries
        self.max_answer = max_answer
        self.counts: Counter[str] = Counter()
        self._opened: WeakKeyDictionary[Any, tuple[asyncio.Semaphore, Any]] = WeakKeyDictionary()

    @abstractmethod
    def most(self, content: Any) -> float:
        """Return the most that one attempt at this input may cost. Raises InputError for another kind of input."""

    @abstractmethod
    async def _call(self, content: Any, client: Any) -> Reply:
        """Make an attempt. Its cost is NaN if it is not reported. Raises FailedAttempt."""

    def _connect(self) -> Any:
        """Return the client for this event loop."""
        return None

    async def _disconnect(self, client: Any) -> None:  # noqa: ARG002 - for models that have one
        """Close a client."""
        return

    @property
    def identity(self) -> str:
        """What tells models apart whose answers differ; it holds no keys."""
        return f"{type(self).__name__} {self.classes}"

    async def close(self) -> None:
        """Close the connections of this event loop; they are opened again when they are needed."""
        if opened := self._opened.pop(asyncio.get_running_loop(), None):
            await self._disconnect(opened[1])

    async def ask(
        self,
        content: Any,
        *,
        name: str = "model",
        ledger: Ledger | None = None,
        key: str = "",
        promised: bool = False,
        until: float = math.inf,
        final: bool = False,  # noqa: ARG002 - for models whose answers come in parts
    ) -> Reply:
        """Ask about an input. `key`: what attempts are called in the ledger, with the model's `name`; "" keeps no
        settled ones there. Where too little is left because of others' attempts, this waits for them, at most
        `timeout_s`. `until`: the time of the event loop at which this ends with what it has, no answer perhaps.

        Failures of the service are part of the reply. Raises InputError for an input of another kind.
        """
        loop, maximum = asyncio.get_running_loop(), self.most(content)
        if loop not in self._opened:
            self._opened[loop] = asyncio.Semaphore(self.concurrency), self._connect()
        slots, client = self._opened[loop]
        pay = (
            None
            if ledger is None
            else partial(ledger.reserve, maximum, model=name, promised=promised, limit_s=self.timeout_s)
        )
        call = f"{key}/{name}/{uuid4().hex[:12]}" if key else None
        cost, bound, unbilled, lied, sent = 0.0, 0.0, 0.0, False, 0
        for attempt in range(self.retries + 1):
            paid = None if pay is None else partial(pay, key=call and f"{call}/{attempt}")
            reply, wait = await self._attempt(content, (slots, client), maximum, paid, until)
            cost, bound, lied = cost + reply.cost, bound + reply.bound, lied or reply.lied
            unbilled += 0.0 if reply.is_given else reply.bound
            sent += reply.attempts
            wait += random.uniform(0.5, 1.0) * min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)  # noqa: S311
            if not (reply.again and reply.attempts) or attempt == self.retries or wait > _LONGEST_WAIT_S:
                break
            if loop.time() + wait >= until:
                reply = replace(reply, failed=LATE)
                break
            self.counts["retries"] += 1
            await asyncio.sleep(wait)
        self.counts["failed" if reply.failed else "answered"] += 1
        return replace(reply, cost=cost, bound=bound, unbilled=unbilled, lied=lied, attempts=sent)

    async def _attempt(
        self, content: Any, opened: Any, maximum: float, pay: Callable[[], Reservation] | None, until: float
    ) -> tuple[Reply, float]:
        """Make an attempt that is paid for; return the reply and how long the service asks to wait.

        While what is held for others may come back, it waits for money, and leaves its slot to those who have some.
        """
        loop, (slots, client) = asyncio.get_running_loop(), opened
        end, wait = min(loop.time() + self.timeout_s, until), _FIRST_LOOK_S
        while True:
            if not await _acquired(slots, until - loop.time()):
                return _LATE, 0.0
            try:
                return await self._admitted_attempt(content, client, maximum, pay, until)
            except (OverBudget, ModelStopped, _LeaseEnded) as error:
                if loop.time() >= until:
                    return _LATE, 0.0
                if not (isinstance(error, OverBudget) and error.passing) or loop.time() >= end:
                    return Reply(None, failed=f"{NOT_ASKED}: {error}", attempts=0, again=True), 0.0
            finally:
                slots.release()
            await asyncio.sleep(min(wait * random.uniform(0.5, 1.0), max(0.0, end - loop.time())))  # noqa: S311
            wait = min(2 * wait, 1.0)

    async def _admitted_attempt(
        self, content: Any, client: Any, maximum: float, pay: Callable[[], Reservation] | None, until: float
    ) -> tuple[Reply, float]:
        """Make the attempt if the ledger admits it. Raises OverBudget and ModelStopped."""
        loop = asyncio.get_running_loop()
        if loop.time() >= until:
            return _LATE, 0.0
        held = None if pay is None or maximum <= 0 else await admitted(pay)
        if held is not None and loop.time() >= until:
            await PAYING.run(held.settle, 0.0, answered=False)
            return _LATE, 0.0
        timeout_s = min(self.timeout_s, until - loop.time())
        after = 0.0
        try:
            reply = self._checked(await asyncio.wait_for(self._call(content, client), timeout_s))
        except FailedAttempt as failed:
            spent = math.nan if failed.cost is None else failed.cost
            reply = Reply(None, cost=spent, failed=failed.why, lied=failed.lied, again=failed.again)
            after = failed.after
        except (asyncio.TimeoutError, TimeoutError):
            cut = timeout_s < self.timeout_s
            why = LATE if cut else f"no answer within {timeout_s:g} s"
            reply = Reply(None, cost=math.nan, failed=why, again=not cut)
        known, answered = math.isfinite(reply.cost), reply.answer is not None
        if held is not None and (known or answered):
            bill = min(reply.cost, _HIGHEST_BILL) if known else None
            await PAYING.run(held.settle, bill, answered=answered)
        elif held is not None:  # nothing came back: its maximum counts until it is reconciled
            await PAYING.run(held.charge)
        credible = known and reply.cost <= maximum * (1 + 1e-9)
        lied = reply.lied or (known and not credible)
        self.counts["lies"] += lied
        return replace(
            reply, cost=reply.cost if credible else maximum, bound=0.0 if credible else maximum, lied=lied
        ), after

    def _checked(self, reply: Reply) -> Reply:
        """Return the reply, without an answer that is none of the classes, or whose confidence is no number."""
        if reply.features is not None:
            return reply
        if reply.answer is None:
            return replace(reply, failed=reply.failed or GAVE_NONE)
        if self.classes is not None and reply.answer not in self.classes:
            why = f"its answer is none of the classes: {reply.answer!r:.60}"
            return Reply(None, cost=reply.cost, failed=why, lied=reply.lied)
        if not math.isfinite(reply.confidence):
            return Reply(None, cost=reply.cost, failed="its confidence is not finite", lied=reply.lied)
        return reply


class _LeaseEnded(InputError):  # noqa: N818 - says what happened
    """An attempt was not dispatched within its lease."""


async def admitted(pay: Callable[[], Reservation]) -> Reservation:
    """Hold the money for an attempt and mark it as sent. The store may wait for a disk.

    Who is cancelled meanwhile pays nothing. Raises OverBudget and ModelStopped.
    """
    turn, held, cancelled = threading.Lock(), list[Reservation](), False

    def is_sent() -> bool:
        reservation = pay()
        if not reservation.dispatch():
            return not reservation.release()
        with turn:  # for a moment only: the event loop may wait for it
            held.append(reservation)
            unwanted = cancelled
        if unwanted:
            undo()
        return True

    def admit() -> None:
        if not is_sent() and not cancelled:
            is_sent()  # tells why, where the model was stopped between the two steps

    def undo() -> None:
        held.pop().settle(0.0, answered=False)  # nothing was sent

    try:
        await asyncio.shield(PAYING.run(admit))
    except asyncio.CancelledError:
        with turn:
            cancelled, unwanted = True, bool(held)
        if unwanted:
            PAYING.begin(undo)
        raise
    if not held:
        raise _LeaseEnded("its lease ended before it could be sent")
    return held[0]


async def _acquired(slots: asyncio.Semaphore, within_s: float) -> bool:
    """Take a slot; return False if there is none in time."""
    if within_s == math.inf or not slots.locked():
        await slots.acquire()
        return True
    try:
        return await asyncio.wait_for(slots.acquire(), within_s)
    except (asyncio.TimeoutError, TimeoutError):
        return False


def check_unit(ledger: Ledger | None) -> None:
    """Raise InputError for a ledger in another unit than the models' prices."""
    if ledger is not None and not hasattr(ledger, "reserve"):
        raise InputError(f"give a ledger, such as Ledger(total='5 usd'), got {ledger!r:.80}")
    if ledger is not None and ledger.unit != "usd":
        raise InputError(
            f"prices of live models are in usd, and the ledger is in {ledger.unit}: give an amount such as '5 usd'"
        )


def status_failure(status: int, headers: Mapping[str, str], code: object = "") -> FailedAttempt:
    """Return what a status other than 200 means. A service bills no request that it refuses (4xx).

    The message holds no text of the service, which may repeat a key or the input. `code`: a word for the reason.
    """
    named = f" ({code})" if isinstance(code, str) and code.isidentifier() and len(code) < 50 else ""
    passing = status in (408, 409, 425, 429) or status >= 500
    after = _wait_asked_for(headers.get("retry-after", "")) if passing else 0.0
    cost = 0.0 if 300 <= status < 500 and status != 408 else None
    return FailedAttempt(f"status {status}{named}", again=passing, cost=cost, after=after)


def transport_failure(error: Exception) -> FailedAttempt:
    """Return what a broken connection means: a request that may have arrived may be billed."""
    import httpx

    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return FailedAttempt(
        f"connection failed ({type(error).__name__})", again=True, cost=0.0 if unsent else None
    )


def _wait_asked_for(text: str) -> float:
    """Read a header Retry-After: seconds, or a date."""
    try:
        return max(0.0, float(text)) if math.isfinite(float(text)) else _LONGEST_WAIT_S
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (OverflowError, TypeError, ValueError):
        return 0.0


def at_path(data: Any, path: str) -> Any:
    """Return what lies at a path such as "choices.0.text" in JSON. Raises FailedAttempt if nothing does."""
    try:
        for part in path.split("."):
            data = data[int(part)] if isinstance(data, list) else data[part]
    except (KeyError, IndexError, TypeError, ValueError):
        raise FailedAttempt(f"its answer has no {path}", again=True) from None
    return data


async def work_through(items: Iterable[T], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do the work for all items, so many at a time. An error, or being cancelled, ends it."""
    waiting, ended = iter(items), False

    async def worker() -> None:
        for task in waiting:
            if ended:  # where a library lost that this was cancelled
                return
            await work(task)

    tasks = [asyncio.ensure_future(worker()) for _ in range(concurrency)]
    try:
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
    finally:
        ended = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
