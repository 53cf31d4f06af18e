"""Any service over HTTP as a model: its request and its response are small templates."""

from __future__ import annotations

import math
import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from exeunt._support.outside_json import outside_json
from exeunt._support.threads import read_beside
from exeunt.errors import InputError, require
from exeunt.live.function_model import checked_price
from exeunt.live.live_model import (
    FailedAttempt,
    LiveModel,
    Reply,
    at_path,
    status_failure,
    transport_failure,
)

_KEY = re.compile(r"\$(\w+)")
_SECRET = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
_PARTS = ("answer", "confidence", "cost")
_CONNECT_S = 10.0
"""The longest that connecting may take: less than an attempt, so that it is known that nothing was sent."""


class OverHTTP(LiveModel):
    """A live model that is asked by a POST of JSON."""

    def _headers(self) -> dict[str, str]:
        """Return what is sent with each request, such as the key."""
        return {}

    def _connect(self) -> Any:
        return http_client(self, headers=self._headers())

    async def _disconnect(self, client: Any) -> None:
        await client.aclose()

    async def _posted(self, client: Any, url: str, body: Any) -> Any:
        """Return the JSON that answers. Raises FailedAttempt for another status or a broken connection."""
        httpx = require("httpx", extra="live")
        try:
            sent = await client.post(url, json=body)
        except httpx.HTTPError as error:
            raise transport_failure(error) from None
        if not sent.is_success:
            raise status_failure(sent.status_code, sent.headers, await read_beside(error_code, sent.content))
        try:
            return await read_beside(outside_json, sent.content)
        except ValueError:
            raise FailedAttempt("its answer is no JSON", again=True) from None


class HTTPModel(OverHTTP):
    """A service that answers a POST of JSON with JSON.

    `request`: the JSON to send, with "{input}" in place of the input. `response`: where in the answer is what, such as
    {"answer": "results.0.label", "confidence": "results.0.score"}; with "cost" the US dollars that were billed. Without
    a confidence it is 0. `price`: the most that a call can cost, and what it does cost where no cost is reported.
    `headers`: $NAME stands for the environment variable NAME, the only place for a key. Other options: see `LiveModel`.
    Redirects are not followed.
    """

    def __init__(
        self,
        url: str,
        *,
        request: Any,
        response: Mapping[str, str],
        price: float,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.url, self.request, self.response = checked_url(url), request, dict(response)
        self.price, self.headers = checked_price(price), dict(headers or {})
        if "answer" not in self.response or not set(self.response) <= set(_PARTS):
            raise InputError(
                f"response names the places of {', '.join(_PARTS)}, and at least that of the answer, got "
                f"{', '.join(self.response) or 'nothing'}"
            )
        for name, header in self.headers.items():
            if _SECRET.search(name) and not _KEY.search(header):
                raise InputError(
                    f"the header {name!r} holds a key, which belongs in the environment: write such as 'Bearer $MY_KEY'"
                )

    @property
    def identity(self) -> str:
        """What tells models apart whose answers differ."""
        return f"{super().identity} {self.url} {self.request} {self.response}"

    def most(self, content: Any) -> float:  # noqa: ARG002 - of any input
        """Return the price of a call."""
        return self.price

    def _headers(self) -> dict[str, str]:
        return {
            name: _KEY.sub(lambda match: key_named(match[1]), header) for name, header in self.headers.items()
        }

    async def _call(self, content: Any, client: Any) -> Reply:
        data = await self._posted(client, self.url, _filled(self.request, content))
        parts = {part: at_path(data, path) for part, path in self.response.items()}
        cost, lied = parts.get("cost", self.price), False
        if not _is_amount(cost):
            cost, lied = math.nan, True
        if parts["answer"] is None:
            return Reply(None, cost=cost, lied=lied)
        try:
            confidence = float(parts.get("confidence", 0.0))
        except (TypeError, ValueError):
            raise FailedAttempt("its confidence is no number", cost=cost, lied=lied) from None
        return Reply(str(parts["answer"]), confidence, cost, lied=lied)


def _is_amount(cost: Any) -> bool:
    return isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < math.inf


def _filled(template: Any, content: Any) -> Any:
    """Return the template with the input in place of "{input}"."""
    if isinstance(template, str):
        return content if template == "{input}" else template.replace("{input}", str(content))
    if isinstance(template, Mapping):
        return {name: _filled(part, content) for name, part in template.items()}
    return [_filled(part, content) for part in template] if isinstance(template, list) else template


def error_code(body: bytes) -> object:
    """Return the word that a service gives for an error, as OpenAI's protocol has it; "" if there is none."""
    try:
        return outside_json(body)["error"]["code"]
    except (KeyError, TypeError, ValueError):
        return ""


def key_named(variable: str) -> str:
    """Return a key from the environment. Raises InputError if it is not set."""
    if not (key := os.environ.get(variable, "").strip()):
        raise InputError(f"the environment variable {variable} is not set: set it to the key of the service")
    return key


def checked_variable(name: str | None) -> str | None:
    """Return the name of an environment variable. Raises InputError for anything else, which may be a key itself."""
    if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise InputError(
            "key= names the environment variable that holds the key, such as OPENAI_API_KEY, not the key"
        )
    return name


def checked_url(url: str) -> str:
    """Return a URL. Raises InputError for one that is not of HTTP, or holds a key."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            "a URL begins with http:// or https:// and a host, such as https://host/path: this does not"
        )
    if parts.username or parts.password or _SECRET.search(parts.query):
        raise InputError("a URL may hold no key: name its environment variable instead")
    return url


def http_client(model: LiveModel, *, headers: Mapping[str, str] | None = None) -> Any:
    """Return a client of HTTP that follows no redirects, and reads no answer that is compressed or too large: it raises
    FailedAttempt for these. Texts are read as UTF-8, whatever the service says.
    """
    httpx = require("httpx", extra="live")

    class Bounded(httpx.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            taken = 0
            async for piece in self._stream:
                if (taken := taken + len(piece)) > model.max_answer:
                    raise FailedAttempt(f"its answer has more than {model.max_answer:,} bytes", again=True)
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(answer: Any) -> None:
        # Of a compressed answer nobody knows how large it becomes.
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise FailedAttempt("its answer is compressed, which it was not asked for", again=True)
        answer.stream = Bounded(answer.stream)
        # httpx would take any codec of Python, such as hex or idna, which raise errors of their own.
        answer.encoding = "utf-8"

    n = model.concurrency
    return httpx.AsyncClient(
        follow_redirects=False,
        limits=httpx.Limits(max_connections=n, max_keepalive_connections=n),
        timeout=httpx.Timeout(model.timeout_s, connect=min(model.timeout_s / 2, _CONNECT_S)),
        headers={"accept-encoding": "identity", **(headers or {})},
        event_hooks={"response": [bound]},
    )
