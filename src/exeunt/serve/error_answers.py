"""What clients are told of errors: each is answered as {"error": why}, as the Open Inference Protocol has it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Send

from exeunt.errors import ExeuntError, InputError, OverBudget, QueueFull, one_line
from exeunt.serve.engine_thread import EngineStopped
from exeunt.web.answers import missing_money

_log = logging.getLogger("exeunt.serve")
_SHOWN = 3

ErrorAnswer = tuple[int, str, Mapping[str, str]]
"""Status, why, and headers."""


@singledispatch
def told(error: Exception) -> ErrorAnswer:
    """Return what a client is told of an error."""
    return 500, f"unexpected {type(error).__name__}: see the log of the server", {}


@told.register
def _(error: ExeuntError) -> ErrorAnswer:
    _log.error(one_line(error))
    return 500, str(error), {}


@told.register
def _(error: InputError) -> ErrorAnswer:
    return 422, str(error), {}


@told.register(QueueFull)
@told.register(EngineStopped)
def _(error: Exception) -> ErrorAnswer:
    return 503, str(error), {"retry-after": "1"}


@told.register
def _(error: OverBudget) -> ErrorAnswer:
    return missing_money(error, program="server")


@told.register
def _(error: HTTPException) -> ErrorAnswer:
    return error.status_code, error.detail, error.headers or {}


@told.register
def _(_: ClientDisconnect) -> ErrorAnswer:
    return 499, "the client disconnected", {}  # only the log reads it


@told.register(RequestValidationError)
@told.register(ValidationError)
def _(error: RequestValidationError | ValidationError) -> ErrorAnswer:
    return 422, problems(error), {}


def problems(error: RequestValidationError | ValidationError, subject: str = "the body") -> str:
    """Return what is wrong and where, without the given values. `subject`: the place of what has no other."""
    listed = [_problem(error, subject) for error in error.errors()[:_SHOWN]]
    more = len(error.errors()) - len(listed)
    return "; ".join(listed) + (f"; and {more} more" if more else "")


def _problem(error: Mapping[str, Any], subject: str) -> str:
    place, why = ".".join(map(str, error["loc"])) or subject, error["msg"]
    if error["type"] == "json_invalid" and why == "JSON decode error":  # FastAPI's, whose place is a byte
        place, why = subject, f"Invalid JSON: {error['ctx']['error']}"
    elif error["type"] == "model_attributes_type":
        why = "send a JSON object, with content-type: application/json"
    return f"{place}: {why}"


def error_body(why: str) -> bytes:
    """Return the body of the answer of an error."""
    return msgspec.json.encode({"error": why})


async def send_error(send: Send, status: int, why: str, headers: Mapping[str, str]) -> None:
    """Send the answer of an error."""
    about = [(name.encode(), header.encode("latin-1")) for name, header in headers.items()]
    await send_answer(send, status, error_body(why), [(b"content-type", b"application/json"), *about])


async def send_answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send an answer whose body is there. `headers`: its own; they are extended."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
