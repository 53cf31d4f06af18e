"""The web application of a gateway: what clients ask, and what administers it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from exeunt._support.outside_json import outside_json
from exeunt._support.threads import PAYING, read_beside
from exeunt.errors import ArtefactError, ExeuntError, FileError, InputError, OverBudget
from exeunt.gateway.access import AccessMiddleware, error_response, nothing_at
from exeunt.gateway.answering import Answered
from exeunt.gateway.chat_request import ChatRequest, request_body
from exeunt.gateway.completion_chunks import Sink, chunks_of
from exeunt.gateway.embedding_request import PATH, EmbeddingRequest
from exeunt.gateway.failure_log import log_failure
from exeunt.gateway.feedback import PATH as FEEDBACK
from exeunt.gateway.feedback import FeedbackRequest, GradedAlready, NoSuchAnswer
from exeunt.gateway.gateway import Gateway, NoSuchModel
from exeunt.gateway.key_api import KEY_ROUTES
from exeunt.gateway.key_store import Client, KeyConflict, NoSuchClient, check_name
from exeunt.gateway.metrics import CONNECTIONS
from exeunt.gateway.page_state import PageState
from exeunt.gateway.protocols import PROTOCOLS, Exchange, Messages, Writer, protocol_of
from exeunt.web.answers import PARTS, counts_response, events_response, missing_money, page_parts
from exeunt.web.connection import REFUSED
from exeunt.web.limits import TOO_MANY

_log = logging.getLogger("exeunt.gateway")
_PAGE = Path(__file__).parent / "page"
_EVENTS_S = 1.0
_RETRY = "x-stainless-retry-count"
"""How often a request was sent before, as the clients of OpenAI say."""
_STATUSES: Mapping[type, int] = {
    **dict.fromkeys((NoSuchModel, NoSuchAnswer, NoSuchClient), 404),
    **dict.fromkeys((GradedAlready, KeyConflict), 409),
}
"""Of what is asked amiss; 400 for all else."""


def make_app(gateway: Gateway, *, on_start: Callable[[], None] = lambda: None) -> Starlette:
    """Return the application of a gateway, which it closes at its end. `on_start`: called in its event loop."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        on_start()
        tidying = asyncio.get_running_loop().create_task(gateway.tidy())
        yield {REFUSED: partial(_refused_connection, gateway)}
        tidying.cancel()
        with suppress(asyncio.CancelledError):
            await tidying
        await gateway.close()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            *(Route(protocol.path, _asked, methods=["POST"]) for protocol in PROTOCOLS),
            Route("/v1/messages/count_tokens", _count, methods=["POST"]),
            Route(PATH, _embed, methods=["POST"]),
            Route(FEEDBACK, _grade, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/admin/state", _state),
            Route("/admin/policy", _set_policy, methods=["PUT"]),
            Route("/admin/rollback", _roll_back, methods=["POST"]),
            Route("/admin/models/{name:path}/resume", _resume, methods=["POST"]),
            Route("/admin/clients/{name}", _forget, methods=["DELETE"]),
            *KEY_ROUTES,
            Route("/metrics", _metrics),
            Route("/events", _events),
            Route("/health", _health),
            Route("/", _page),
            Mount(PARTS, page_parts()),
            Mount("/page", StaticFiles(directory=_PAGE)),
        ],
        exception_handlers={
            HTTPException: _http,
            ClientDisconnect: _left,
            OverBudget: _no_money,
            InputError: _bad_input,
            ExeuntError: _failure,
            Exception: _failure,
        },
    )
    app.state.gateway, app.state.page = gateway, PageState(gateway)
    app.add_middleware(AccessMiddleware, gateway=gateway)
    return app


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


# -- for clients ------------------------------------------------------------------------------------------------


async def _asked(request: Request) -> Response:
    """Answer a request in its protocol, with what it cost in headers.

    What was sent to a provider is paid for whether or not the client still waits, so it is never cut off.
    """
    gateway, client = _gateway(request), request.state.key
    exchange = await _read(request)
    sink = Sink() if exchange.chat.stream else None
    chat = exchange.chat.changed(sink=sink, is_retry=request.headers.get(_RETRY, "0") != "0")
    answering = gateway.later(_answered(gateway, gateway.answer(chat, client), sink), awaited=True)
    if sink is not None:
        chunks = aiter(sink)
        if (first := await anext(chunks, None)) is not None:
            headers = _headers(gateway, exchange, str(first["model"]), sink.policy)
            return _stream(_events_of(exchange.begin(), first, chunks, answering), headers)
    answered = await asyncio.shield(answering)
    if answered.reply is None:
        return await _unanswered(request, exchange.chat, answered)
    body = {**(answered.reply.body or {}), "model": answered.model}
    headers = _headers(gateway, exchange, answered.model, answered.policy)
    headers |= await _money_headers(gateway, client, answered)
    if chat.stream:
        writer, logprobs = exchange.begin(), bool(chat.options.get("logprobs"))
        events = [event for chunk in chunks_of(body, logprobs=logprobs) for event in writer.chunk(chunk)]
        return _stream(iter([*events, *writer.end()]), headers)
    # As JSON in ASCII: a provider may cut a character in two.
    content = json.dumps(exchange.answer(body))
    return Response(content, media_type="application/json", headers=headers)


async def _embed(request: Request) -> Response:
    """Embed texts, with what it cost in headers. What was sent to a provider is paid for, as of other requests."""
    gateway, client = _gateway(request), request.state.key
    asked = await read_beside(EmbeddingRequest.read, await request.body())
    answered = await asyncio.shield(
        gateway.later(_answered(gateway, gateway.embed(asked, client)), awaited=True)
    )
    if answered.reply is None:
        return await _unanswered(request, asked, answered)
    headers = {
        "x-exeunt-model": answered.model,
        "x-exeunt-policy": "none",
        **await _money_headers(gateway, client, answered),
    }
    content = await asyncio.to_thread(msgspec.json.encode, answered.reply.body)
    return Response(content, media_type="application/json", headers=headers)


async def _read(request: Request) -> Exchange:
    """Read a request in its protocol."""
    protocol = protocol_of(request.url.path)
    return await read_beside(lambda data: protocol(request_body(data)), await request.body())


def _headers(gateway: Gateway, exchange: Exchange, model: str, policy: str) -> dict[str, str]:
    """Return what is said of every answer: who gave it, and what of the request counted less than it says."""
    headers = {"x-exeunt-model": model, "x-exeunt-policy": policy or "none"}
    asked = gateway.config.models[model]
    limit, dropped = asked.limit(exchange.chat), [*exchange.dropped, *asked.drops(exchange.chat)]
    if exchange.chat.limit is not None and limit < exchange.chat.limit:
        headers["x-exeunt-max-tokens"] = str(limit)
    if dropped:
        headers["x-exeunt-dropped"] = ", ".join(dropped).encode("ascii", "replace").decode()
    return headers


async def _money_headers(gateway: Gateway, client: Client, answered: Answered) -> dict[str, str]:
    """Return what an answer cost, and what is left of the limits of its client, if there are any."""
    left = await gateway.left(client)
    cost = {"x-exeunt-cost": f"{answered.cost:.9f}"}
    return cost if left is None else {**cost, "x-exeunt-left": f"{left:.6f}"}


async def _answered(gateway: Gateway, answer: Awaitable[Answered], sink: Sink | None = None) -> Answered:
    """Await an answer, count it, and end its stream."""
    begun = time.monotonic()
    try:
        answered = await answer
    finally:
        if sink is not None:
            sink.end()
    now = time.monotonic()
    gateway.metrics.answered(answered, now - begun)
    gateway.failures.answered(answered, now)
    return answered


def _stream(events: Any, headers: Mapping[str, str]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events_of(
    writer: Writer,
    first: Mapping[str, Any],
    rest: AsyncIterator[Mapping[str, Any]],
    answering: asyncio.Task[Answered],
) -> AsyncIterator[str]:
    """Yield the events of an answer that comes in, the last of which says so if it was cut off."""
    for event in writer.chunk(first):
        yield event
    async for chunk in rest:
        for event in writer.chunk(chunk):
            yield event
    answered: Answered | None = None
    with suppress(Exception):  # the gateway has logged a fault
        answered = await asyncio.shield(answering)
    for event in writer.cut_off() if answered is None or answered.reply is None else writer.end():
        yield event


async def _unanswered(
    request: Request, asked: ChatRequest | EmbeddingRequest, answered: Answered
) -> Response:
    """Say why no model answered. Raises OverBudget where money is why."""
    if answered.short_of_money:
        await _gateway(request).raise_over_budget(asked, request.state.key, answered)
    if answered.clients_fault:
        return error_response(request.scope, 400, f"the provider refuses this request: {answered.why}")
    return error_response(request.scope, 502, f"no model answered: {answered.why}", {"retry-after": "1"})


async def _count(request: Request) -> Response:
    """Estimate how many tokens the input of a request has, as Anthropic's clients ask it."""
    data = await request.body()
    exchange = await read_beside(lambda data: Messages({"max_tokens": 1, **request_body(data)}), data)
    return JSONResponse({"input_tokens": _gateway(request).input_tokens(exchange.chat)})


async def _grade(request: Request) -> Response:
    """Keep the grade that a client gives to an answer of its own."""
    feedback = FeedbackRequest.read(await request.body())
    await _gateway(request).grade(feedback, request.state.key)
    return JSONResponse({"id": feedback.id, "grade": feedback.grade})


async def _models(request: Request) -> Response:
    """Return the models that a client may ask."""
    gateway = _gateway(request)
    names = [*gateway.names, *gateway.config.embeddings]
    openai, anthropic = {"object": "model", "created": 0, "owned_by": "exeunt"}, {"type": "model"}
    anthropic["created_at"] = "1970-01-01T00:00:00Z"
    data = [{"id": name, "display_name": name, **openai, **anthropic} for name in names]
    ends = {"first_id": names[0], "last_id": names[-1], "has_more": False}
    return JSONResponse({"object": "list", "data": data, **ends})


# -- for who administers it --------------------------------------------------------------------------------------


async def _state(request: Request) -> Response:
    """Return what the page shows."""
    return JSONResponse(await asyncio.to_thread(request.app.state.page.read))


async def _set_policy(request: Request) -> Response:
    """Let another policy answer: {"policy": "p2"}, or {"budget": "40%"} for the dearest certified one within that."""
    gateway = _gateway(request)
    try:
        ((choice, text),) = outside_json(await request.body()).items()
    except (AttributeError, ValueError):
        choice, text = "", None
    if choice not in ("policy", "budget") or not isinstance(text, str):
        raise InputError('send {"policy": "NAME"}, "reference" for the reference alone, or {"budget": "40%"}')
    try:
        name = text if choice == "policy" else gateway.live.within(text, gateway.certified)
        changed = gateway.live.activate(name)
    except ArtefactError as error:  # made for other models
        raise InputError(str(error)) from None
    note = {} if changed else {"note": f"{name} answers already: nothing has changed"}
    return JSONResponse({"policy": name, **note})


async def _roll_back(request: Request) -> Response:
    """Let the policy answer that did before."""
    try:
        return JSONResponse({"policy": _gateway(request).live.roll_back()})
    except ArtefactError as error:
        raise InputError(str(error)) from None


async def _resume(request: Request) -> Response:
    """Let a model be asked again that was stopped because it billed more than it may cost by the file."""
    gateway, name = _gateway(request), request.path_params["name"]
    if name not in (known := gateway.config.all_models):
        raise NoSuchModel(f"there is no model {name!r:.80}; there are {', '.join(known)}")
    await PAYING.run(gateway.money.total.resume, name)
    return JSONResponse({"resumed": name})


async def _forget(request: Request) -> Response:
    """Remove what is kept of a client."""
    gateway = _gateway(request)
    async with gateway.audit.use(request.state.key.name, "forget") as note:
        name = check_name(request.path_params["name"])
        await note(client=name)
        return JSONResponse({"removed": await gateway.forget(name)})


async def _metrics(request: Request) -> Response:
    """All counts, for Prometheus."""
    return counts_response(await PAYING.run(_gateway(request).metrics.exposition))


async def _events(request: Request) -> Response:
    """Server-sent events, one a second: JSON of what the page shows."""
    gateway, page = _gateway(request), request.app.state.page

    async def states() -> AsyncIterator[dict[str, Any]]:
        while not gateway.closing.is_set():
            yield await asyncio.to_thread(page.read)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(gateway.closing.wait(), _EVENTS_S)

    return events_response(states())


async def _health(_: Request) -> Response:
    """Answer that the gateway runs."""
    return JSONResponse({"live": True})


async def _page(_: Request) -> Response:
    """Return the page that shows the gateway at work."""
    return FileResponse(_PAGE / "page.html")


# -- errors -------------------------------------------------------------------------------------------------------


async def _http(request: Request, error: Any) -> Response:
    why, path = str(error.detail), request.url.path
    if error.status_code == 404:
        why = nothing_at(path)
    elif error.status_code == 405:
        why = f"{request.method} is not taken at {path!r:.80}, only {error.headers['Allow']}"
    return error_response(request.scope, error.status_code, why, error.headers)


def _refused_connection(gateway: Gateway) -> bytes:
    """Count a connection for which there is no room, and return the body of its answer."""
    gateway.metrics.refused(CONNECTIONS)
    return bytes(error_response({"path": "", "headers": ()}, 503, TOO_MANY).body)


async def _left(request: Request, __: Exception) -> Response:
    return error_response(request.scope, 499, "the client disconnected")  # only the log reads it


async def _bad_input(request: Request, error: Exception) -> Response:
    return error_response(request.scope, _STATUSES.get(type(error), 400), str(error))


async def _no_money(request: Request, error: Any) -> Response:
    less = "send less at a time" if request.url.path == PATH else "lower max_tokens"
    status, why, headers = missing_money(error, program="gateway", unit="usd", less=less)
    return error_response(request.scope, status, why, headers)


async def _failure(request: Request, error: Exception) -> Response:
    log_failure(error, "a request")
    if isinstance(error, FileError):
        why = "the gateway cannot read or write its files: see its log"
        return error_response(request.scope, 503, why, {"retry-after": "10"})
    why = f"unexpected {type(error).__name__}: see the log of the gateway"
    return error_response(request.scope, 500, why)
