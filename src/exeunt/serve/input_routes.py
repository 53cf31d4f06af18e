"""The addresses that take inputs, as a plain ASGI application in front of the framework, which serves all others.

Most requests hold one small input. The framework's routing, validation and middlewares would take as long as the
network.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from exeunt.errors import ExeuntError, QueueFull
from exeunt.serve.active_run import TOO_MANY
from exeunt.serve.error_answers import error_body, send_answer, send_error, told
from exeunt.serve.inference_protocol import Infer
from exeunt.serve.input_reader import InputReader
from exeunt.serve.predict_route import Predict
from exeunt.serve.prediction import PredictRequest, PredictResponse, in_thread_if_large
from exeunt.serve.service import Service

T = TypeVar("T")
_OWN_DEADLINE = (b"deadline_ms", b'"timeout"')
"""What a request holds that has a deadline of its own: the latency target is none of its business."""
_SOON_S = 0.02
"""A request that is not answered by then is watched for its client's leaving."""


class Exchange(Protocol):
    """A request to one of the addresses, and its answer. It may raise what `told` tells clients of."""

    def __call__(self, reader: InputReader) -> PredictRequest:
        """Read the inputs; called in the event loop, or in a thread."""

    def written(self, response: PredictResponse) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return body and headers of the answer."""


@dataclass(frozen=True)
class _Route:
    """An address. `path`: as metrics and logs name it. `exchange`: see `Exchange`, called with the service, headers,
    query, body and the parts of the address.
    """

    path: str
    address: re.Pattern[str]
    exchange: Callable[..., Exchange]


_ROUTES = (
    _Route("/predict", re.compile("/predict"), Predict),
    _Route("/v2/models/{model}/infer", re.compile("/v2/models/([^/]+)/infer"), Infer),
    _Route(
        "/v2/models/{model}/versions/{version}/infer",
        re.compile("/v2/models/([^/]+)/versions/([^/]+)/infer"),
        Infer,
    ),
)


class InputRoutes:
    """Answers requests that hold inputs, and passes all others on to `app`. `service`: returns what answers."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service]) -> None:
        self.app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. An unexpected error is raised, too, so that it is logged."""
        for route in _ROUTES if scope["type"] == "http" else ():
            if match := route.address.fullmatch(scope["path"]):
                break
        else:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        try:
            body, headers = await self._answer(route, match.groups(), scope, receive)
        except Exception as error:
            status, why, about = told(error)
            scope["state"]["refused"] = isinstance(error, QueueFull)
            await send_error(send, status, why, about)
            if status == 500 and not isinstance(error, ExeuntError):
                raise
        else:
            await send_answer(send, 200, body, headers)

    def is_late(self, arrived: float) -> bool:
        """Whether a request that came at this time is refused, unless it has a deadline of its own."""
        return self._service().is_late(arrived)

    def refusal(self, url: bytes, body: bytes | bytearray) -> bytes | None:
        """Return the body of the answer to a request that is late; None if it must be handled all the same.

        Where nearly all are refused, this takes a fraction of the time that `__call__` does.
        """
        path, _, query = url.partition(b"?")
        route = next(
            (candidate for candidate in _ROUTES if candidate.address.fullmatch(path.decode("latin-1"))), None
        )
        service = self._service()
        if route is None or service.settings.log_requests or _has_own_deadline(query, body):
            return None
        service.metrics.refused()
        service.metrics.ended(route.path, 503)
        return error_body(TOO_MANY)

    async def _answer(
        self, route: _Route, parts: tuple[str, ...], scope: Scope, receive: Receive
    ) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        if scope["method"] != "POST":
            why = f"this address does not take {scope['method']}: /openapi.json says what it does"
            raise HTTPException(405, why, {"allow": "POST"})
        service, state = self._service(), scope["state"]
        body, query = await _body_of(receive), scope["query_string"]
        if not _has_own_deadline(query, body) and service.is_late(state["read"]):
            service.metrics.refused()
            raise QueueFull(TOO_MANY)
        exchange = route.exchange(service, dict(scope["headers"]), query, body, *parts)
        answering = service.answer(exchange, len(body), state["begun"], state["read"], state.get("key", ""))
        response = await _unless_it_leaves(receive, answering)
        return await in_thread_if_large(exchange.written, len(response.answers), response)


def _has_own_deadline(query: bytes, body: bytes | bytearray) -> bool:
    return any(name in query or name in body for name in _OWN_DEADLINE)


async def _body_of(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _unless_it_leaves(receive: Receive, work: Awaitable[T]) -> T:
    """Return what work on a request returns. If its client disconnects, cancel the work and raise ClientDisconnect."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    watches: list[asyncio.Task[None]] = []
    left = False

    async def wait() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        if task is not None:
            task.cancel()

    timer = loop.call_later(_SOON_S, lambda: watches.append(loop.create_task(wait())))
    try:
        return await work
    except asyncio.CancelledError:
        if left:
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for watch in watches:
            watch.cancel()
