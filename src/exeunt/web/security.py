"""Security, before every request: Host and Origin, API keys, limits on number, size and time. The log of requests."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exeunt._support.files import why_it_failed
from exeunt._support.paths import read_bytes
from exeunt.errors import InputError
from exeunt.web.limits import Limits, client_of

_log = logging.getLogger("exeunt.serve.requests")
_PORT = re.compile(r":\d*$")
_OTHER = 100_000
"""Bytes of a request without inputs at most."""
_OWN_SITE = (b"same-origin", b"none")
"""Values of Sec-Fetch-Site if the server's own page, or the user of the browser, makes the request."""
_HELD = 1 << 30
"""Bytes of all open requests at most."""
_FEW_NAMES = 256
_WITHOUT_BODY = ("GET", "HEAD")
_CLOSE = {"connection": "close"}  # the rest of the request may not have been read
_TOO_LARGE = 413
_LEVELS = {4: logging.WARNING, 5: logging.ERROR}


class Counts(Protocol):
    """Counts requests."""

    def ended(self, path: str, status: int) -> None:
        """Count a request to a path that was answered with a status."""

    def refused(self) -> None:
        """Count a request that was refused because too much was open."""


class SecurityMiddleware:
    """Passes a request to `app` if it has a key and there is room; ends a request that is too large or too slow.

    `health`: paths that everybody may ask, by any name of the server: what watches it calls it by its own address.
    `page`: paths that need no key: the page asks for one. `inputs`: paths that take inputs. Requests to all others are
    small. `allow_name`: what lets a server be called by a further name.
    """

    health = re.compile(r"/v2/health/(live|ready)")
    page = re.compile(r"/(page/.*)?")
    allow_name = "start it with --allowed-host"
    inputs = re.compile(r"/predict|/v2/models/.*/infer")

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Counts, keys: Sequence[str] = ()) -> None:
        self.app, self._limits, self._metrics = app, limits, metrics
        self._keys = [key.encode() for key in keys]
        self._open = self._held = 0  # requests, and bytes of them
        self._coming: Counter[str] = Counter()  # bodies that come in, by client
        self._has_name = lru_cache(_FEW_NAMES)(self._names_it)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = scope.setdefault("state", {}).setdefault("begun", time.monotonic())
        status = 499  # the client left before there was one

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        # GET requests are not counted: event streams have no end, and health must answer under any load. So must PUT,
        # such as of a budget, of which only the bodies that come in are counted. Refused requests are not counted
        # either: a slow sender of one would keep others out.
        refusal = self._refusal(scope)
        counted = refusal is None and scope["method"] == "POST"
        self._open += counted
        if refusal is None and scope["method"] not in _WITHOUT_BODY:
            scope["state"]["coming"] = client = self._client(scope)
            self._coming[client] += 1
        try:
            if refusal is None:
                await self.app(scope, self._bounded(receive, scope), send_noted)
            else:
                if refusal.status_code != _TOO_LARGE:
                    await _drain(self._bounded(receive, scope, keeps=False))
                await refusal(scope, receive, send_noted)
        except Exception:
            status = 500
            raise
        finally:
            self._open -= counted
            self._has_come(scope["state"])
            self._held -= scope["state"].get("held", 0)
            self._log(scope, status, time.monotonic() - begun)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers, public = dict(scope["headers"]), self.health.fullmatch(scope["path"]) is not None
        needs_key = not (public or self.page.fullmatch(scope["path"]))
        host = headers.get(b"host", b"").lower()
        if not (public or self._has_name(host, (scope.get("server") or (None,))[0])):
            name = host.decode("latin-1")
            why = f"this server does not answer as {name!r}: if clients may call it so, {self.allow_name}"
            return self._error(scope, 403, why, _CLOSE)
        scope["state"]["key"] = key = self._key(headers) if needs_key else None
        if key is None and needs_key:
            why = "the API key is missing or not known: give one as `Authorization: Bearer KEY`"
            return self._error(scope, 401, why, {"www-authenticate": "Bearer", **_CLOSE})
        if scope["method"] != "GET" and not _of_own_page(headers, host):
            why = (
                "a page of another site may not ask this server: ask it from your own program; a proxy in front of the "
                "server must pass on the Host header"
            )
            return self._error(scope, 403, why, _CLOSE)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > (limit := self._body_limit(scope)):
            return self._error(scope, _TOO_LARGE, _too_large(limit), _CLOSE)
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return self._error(scope, 415, "compressed requests are not taken", _CLOSE)
        if scope["method"] not in _WITHOUT_BODY and (why := self._too_many(scope)):
            self._metrics.refused()
            scope["state"]["refused"] = True
            return self._error(
                scope, 503, f"{why}, which is the limit: try again soon", {"retry-after": "1", **_CLOSE}
            )
        return None

    def _too_many(self, scope: Scope) -> str:
        """Return why there is no room for one more request; "" if there is."""
        if scope["method"] == "POST" and self._open >= self._limits.max_open:
            return f"there are {self._limits.max_open} open requests"
        client = self._client(scope)
        if client and self._coming.get(client, 0) >= self._limits.of_one:
            return f"{self._limits.of_one} requests of yours are still coming in"
        return ""

    def _client(self, scope: Scope) -> str:
        """Return whose request this is, by its key, else by its address; "" if neither tells."""
        address, _ = scope.get("client") or ("", 0)
        return self._name(scope["state"].get("key")) or client_of(address, self._limits.proxies)

    def _has_come(self, state: dict[str, Any]) -> None:
        """Count a body no longer that has come in, or will not."""
        if (client := state.pop("coming", None)) is not None:
            self._coming[client] -= 1
            if not self._coming[client]:
                del self._coming[client]

    def _bounded(self, receive: Receive, scope: Scope, *, keeps: bool = True) -> Receive:
        """Return `receive` with limits in bytes and in seconds. It notes when the request has come in whole.

        `keeps`: the body stays in memory until the request is over.
        """
        limits, state, taken, complete = self._limits, scope["state"], 0, False
        due, limit = time.monotonic() + limits.slow_s, self._body_limit(scope)

        async def bounded() -> Message:
            nonlocal taken, complete
            if complete:  # the next message is that the client disconnected
                return await receive()
            try:
                if "read" in state:  # it has come in, and nobody waits for it
                    message = await receive()
                else:
                    message = await _in_time(receive, max(due - time.monotonic(), 0.001))
            except TimeoutError:
                why = f"the request did not come in within {limits.slow_s:g} seconds"
                raise HTTPException(408, why, _CLOSE) from None
            size = len(message.get("body", b""))
            taken += size
            if keeps:
                state["held"] = taken
                self._held += size
            complete = not message.get("more_body", False)
            if complete:
                self._has_come(state)
                state.setdefault("read", time.monotonic())
            if taken > limit:
                raise HTTPException(_TOO_LARGE, _too_large(limit), _CLOSE)
            if keeps and self._held > max(_HELD, limits.max_body):
                self._metrics.refused()
                why = f"the bodies of open requests have {_HELD:,} bytes, which is the limit: try again soon"
                raise HTTPException(503, why, {"retry-after": "1", **_CLOSE})
            return message

        return bounded

    def _body_limit(self, scope: Scope) -> int:
        """Return the most bytes that a request may have."""
        limit = self._limits.max_body
        return limit if self.inputs.fullmatch(scope["path"]) else min(limit, _OTHER)

    def _names_it(self, host: bytes, address: str | None) -> bool:
        """Whether a Host header is a name of the server, or the address that the request came to. The page of another
        site that lets its name lead to this server still sends that name.
        """
        name = _PORT.sub("", host.decode("latin-1")).strip("[]")
        return name == address or any(fnmatchcase(name, pattern) for pattern in self._limits.hosts)

    def _key(self, headers: Mapping[bytes, bytes]) -> Any:
        """Return the API key of a request, "" where none is needed, None where one is missing or wrong."""
        key = bearer(headers)
        fits = [
            hmac.compare_digest(key, known_key) for known_key in self._keys
        ]  # all, so that it takes equal time
        return key.decode() if any(fits) else None if self._keys else ""

    def _name(self, key: Any) -> str:
        """Return the owner of a key; "" without a key."""
        return key or ""

    def _error(self, scope: Scope, status: int, why: str, headers: dict[str, str]) -> JSONResponse:  # noqa: ARG002
        return JSONResponse({"error": why}, status, headers)

    def _path(self, scope: Scope) -> str:
        """Return what the address of a request is called in counts and logs."""
        route = scope.get("route")
        return "other" if route is None else str(route.path)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        path = self._path(scope)
        self._metrics.ended(path, status)
        # Under overload many are refused, which the service says once in a while.
        refused = scope["state"].get("refused", False)
        level = logging.INFO if refused else _LEVELS.get(status // 100, logging.INFO)
        if level > logging.INFO or self._limits.log_requests:
            ms = round(1e3 * seconds, 3)
            fields = {"method": scope["method"], "path": path, "status": status, "ms": ms}
            _log.log(level, "request", extra={"fields": fields})


def bearer(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key that a request carries, b"" for none."""
    kind, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key if kind.lower() == b"bearer" else b""


def _of_own_page(headers: Mapping[bytes, bytes], host: bytes) -> bool:
    """Whether a request comes from the server's own page or from a program: only browsers send these headers."""
    origin = headers.get(b"origin", b"//" + host).lower()
    return headers.get(b"sec-fetch-site", b"none") in _OWN_SITE and origin.partition(b"//")[2] == host


async def _in_time(receive: Receive, seconds: float) -> Message:
    """Return the next message. Raises TimeoutError if none comes within so many seconds."""
    loop, task, late = asyncio.get_running_loop(), asyncio.current_task(), False

    def end() -> None:
        nonlocal late
        late = True
        if task is not None:
            task.cancel()

    timer = loop.call_later(seconds, end)
    try:
        return await receive()
    except asyncio.CancelledError:
        if late:
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


async def _drain(receive: Receive) -> None:
    """Read a request to its end: a client that is still sending would lose the answer with the connection."""
    with suppress(HTTPException):  # it is too large or too slow
        while (await receive()).get("more_body", False):
            pass


def _too_large(limit: int) -> str:
    return f"a request may have at most {limit:,} bytes here: if it holds inputs, send fewer at a time"


def read_api_keys(file: Path) -> tuple[str, ...]:
    """Return the keys of a file, one on a line; lines that start with # are comments. Raises InputError without any."""
    try:
        lines = [line.strip() for line in read_bytes(file).decode().splitlines()]
    except OSError as error:
        raise InputError(f"cannot read the API keys in {file}: {why_it_failed(error)}") from error
    except UnicodeDecodeError:
        raise InputError(
            f"cannot read the API keys in {file}: it is not UTF-8 text, save it as such"
        ) from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"{file} holds no API key: write one on a line")
    return keys
