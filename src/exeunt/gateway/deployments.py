"""Deployments: several keys or addresses of one model. Each request goes to the one that has the most room."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from exeunt.errors import InputError
from exeunt.gateway.breaker import Breaker, Call
from exeunt.live.http_model import checked_url, checked_variable
from exeunt.stream.units import DAY_S

_MINUTE_S = 60.0
_LOOK_AGAIN_S = 1.0
"""The wait for a deployment of which only requests that are under way fill the limits."""
_CONVERSATIONS = 10_000
"""Of so many the deployment is remembered."""


@dataclass(frozen=True)
class DeploymentOptions:
    """A deployment in the file. `base_url` and `key`: as of a provider, and by default its own. `rpm`, `tpm`: the most
    requests and tokens a minute; None for no limit.
    """

    base_url: str | None = None
    key: str | None = None
    rpm: int | None = None
    tpm: int | None = None

    def __post_init__(self) -> None:
        if self.base_url is not None:
            checked_url(self.base_url)
        checked_variable(self.key)
        for name in ("rpm", "tpm"):
            if (limit := getattr(self, name)) is not None and limit < 1:
                raise InputError(f"{name} must be at least 1, got {limit}: leave it out if there is no limit")


@dataclass(eq=False)
class Deployment:
    """A key at an address, and what was used of its limits in the last minute.

    A request counts from when it is sent until a minute after its status came, so that it counts for at least as long
    as at the service, whenever it arrived there. `n_sent`: requests so far. `lock`: of what is counted, which the
    metrics read in another thread.
    """

    base_url: str
    key: str | None
    breaker: Breaker
    rpm: int | None = None
    tpm: int | None = None
    n_sent: int = 0
    n_open: int = 0
    _requests: int = 0
    _tokens: int = 0
    _leaving: deque[Use] = field(default_factory=deque)
    _failed_until: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def room(self, tokens: int) -> float:
        """Return the share of its limits that is left after one more request; below 0 if there is no room for it. A
        request of more tokens than a whole minute's takes those.
        """
        now = self.breaker.clock()
        with self.lock:
            while self._leaving and self._leaving[0].until <= now:
                self._forget(self._leaving.popleft())
            return self._room(tokens, self._requests, self._tokens)

    def _room(self, tokens: int, n_requests: int, n_tokens: int) -> float:
        left = 1.0
        if self.rpm is not None:
            left = min(left, (self.rpm - n_requests - 1) / self.rpm)
        if self.tpm is not None:
            left = min(left, (self.tpm - n_tokens - min(tokens, self.tpm)) / self.tpm)
        return left

    def wait_s(self, tokens: int) -> float:
        """Return the seconds until there is room for a request, and it does not rest."""
        rests_s = max(self.breaker.rests_s, _LOOK_AGAIN_S if self.breaker.rests else 0.0)
        if self.room(tokens) >= 0:
            return rests_s
        with self.lock:
            n_requests, n_tokens, leaving = self._requests, self._tokens, list(self._leaving)
        now = self.breaker.clock()
        for use in leaving:
            n_requests, n_tokens = n_requests - 1, n_tokens - use.tokens
            if self._room(tokens, n_requests, n_tokens) >= 0:
                return max(use.until - now, rests_s)
        return max(_LOOK_AGAIN_S, rests_s)

    @property
    def failed_lately(self) -> bool:
        """Whether it failed less than its first pause ago: it is asked only where no other has room."""
        return self.breaker.clock() < self._failed_until

    def begin(self, tokens: int) -> Use:
        """Count a request that is sent now."""
        with self.lock:
            self.n_sent, self.n_open = self.n_sent + 1, self.n_open + 1
            self._requests, self._tokens = self._requests + 1, self._tokens + tokens
        return Use(self, self.breaker.begin(), tokens)

    def _forget(self, use: Use) -> None:
        self._requests, self._tokens = self._requests - 1, self._tokens - use.tokens
        use.counts = False


@dataclass(eq=False)
class Use:
    """A request to a deployment that is under way. `tokens`: that it may take, or took. `until`: when it counts no
    more.
    """

    deployment: Deployment
    call: Call
    tokens: int
    until: float = 0.0
    counts: bool = True
    _ended: bool = False

    def arrived(self) -> None:
        """Note that the service has the request: it counts for a minute from now."""
        with self.deployment.lock:
            if not self.until:
                self.until = self.deployment.breaker.clock() + _MINUTE_S
                self.deployment._leaving.append(self)

    def took(self, tokens: int) -> None:
        """Note how many tokens it took."""
        with self.deployment.lock:
            if self.counts:
                self.deployment._tokens += tokens - self.tokens
            self.tokens = tokens

    def end(self, failed: str | None, *, after_s: float = 0.0) -> None:
        """Note how the request ended, once, as `Call.end`. `after_s`: how long the service asks not to be asked."""
        if self._ended:
            return
        self._ended = True
        self.arrived()
        with self.deployment.lock:
            self.deployment.n_open -= 1
        if failed:
            breaker = self.deployment.breaker
            self.deployment._failed_until = breaker.clock() + breaker.pause_s
            if after_s > 0:
                breaker.rest(min(after_s, DAY_S), failed)
                failed = None
        self.call.end(failed)


class Deployments:
    """Those of a model. `several`: whether the file names them; else there is one, whose breaker is its provider's."""

    def __init__(self, model: str, deployments: Sequence[Deployment], *, several: bool) -> None:
        self.all, self.several = tuple(deployments), several
        self._model, self._lock = model, threading.Lock()
        self._of_conversation: OrderedDict[int, Deployment] = OrderedDict()

    @property
    def rest(self) -> bool:
        """Whether none may be asked now."""
        return all(deployment.breaker.rests for deployment in self.all)

    @property
    def reason(self) -> str:
        """Why none may be asked, as a sentence."""
        reason = min(self.all, key=lambda deployment: deployment.breaker.rests_s).breaker.reason
        return f"all deployments of {self._model} rest: {reason}" if self.several else reason

    def begin(
        self, tokens: int, conversation: int, tried: Sequence[Deployment], *, goes_on: bool = False
    ) -> Use | None:
        """Begin a request at the deployment that has the most room of those that were not tried; None if there is none.

        `goes_on`: whether the conversation has begun earlier. Then it stays where it is while there is room, since the
        prompt cache of the service knows it there.
        """
        with self._lock:
            rooms = {
                deployment: room
                for deployment in self.all
                if deployment not in tried and not deployment.breaker.rests
                if (room := deployment.room(tokens)) >= 0
            }
            if not rooms:
                return None
            best = max(
                rooms,
                key=lambda one: (not one.failed_lately, rooms[one], -one.n_open, -one.n_sent),
            )
            usual = self._of_conversation.get(conversation) if goes_on else None
            if usual in rooms and not usual.failed_lately:
                best = usual
            if self.several:
                self._of_conversation[conversation] = best
                self._of_conversation.move_to_end(conversation)
                if len(self._of_conversation) > _CONVERSATIONS:
                    self._of_conversation.popitem(last=False)
            return best.begin(tokens)

    def told(self) -> list[tuple[str, int, float]]:
        """Return the name of each, the requests that it got, and what share of its limits is free; nothing if the file
        names none.
        """
        with self._lock:
            return [(one.breaker.name, one.n_sent, max(one.room(0), 0.0)) for one in self.all if self.several]

    def wait_s(self, tokens: int) -> float:
        """Return the seconds until one has room for a request."""
        with self._lock:
            return min(deployment.wait_s(tokens) for deployment in self.all)


def deployments_of(
    model: str,
    entries: Mapping[str, DeploymentOptions],
    default: DeploymentOptions,
    make_breaker: Callable[[str], Breaker],
) -> list[Deployment]:
    """Return the deployments of a model. `default`: the address and the key of its provider.

    The key of the provider is sent to no other address. Raises InputError for two that are the same, or one without a
    key where others have one.
    """
    made: dict[tuple[str | None, str | None], str] = {}
    deployments = []
    has_keys = default.key is not None or any(entry.key is not None for entry in entries.values())
    for name, entry in entries.items():
        url = entry.base_url or default.base_url or ""
        is_own = url.rstrip("/") == (default.base_url or "").rstrip("/")
        key = entry.key or (default.key if is_own else None)
        if key is None and has_keys:
            raise InputError(
                f"deployment {name!r} has no key, as others have: name its environment variable, key: NAME"
            )
        if twin := made.get((url.rstrip("/"), key)):
            raise InputError(
                f"deployments {twin!r} and {name!r} have one address and one key, so they are one: give one of them "
                "another base_url or key"
            )
        made[url.rstrip("/"), key] = name
        deployments.append(Deployment(url, key, make_breaker(f"{model}/{name}"), entry.rpm, entry.tpm))
    return deployments
