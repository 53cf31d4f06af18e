"""Every error as {"error": why}, as the Open Inference Protocol has it, with the status that fits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from exeunt.errors import ExeuntError, InputError, QueueFull, one_line
from exeunt.serve.engine_thread import EngineStopped

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

__all__ = ["add_error_handlers"]

_log = logging.getLogger("exeunt.serve")
_SOON = {"retry-after": "1"}
_SHOWN = 3


def add_error_handlers(app: FastAPI) -> None:
    """Let the app answer errors as JSON."""

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        why = error.detail
        if why == "Not Found":  # the router's own
            why = "there is no such address: /openapi.json describes those there are"
        elif error.status_code == 405:
            why = f"this address does not take {request.method}: /openapi.json says what it does"
        return JSONResponse({"error": why}, error.status_code, error.headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, (RequestValidationError, ValidationError))  # noqa: S101
        return JSONResponse({"error": _said(error)}, 422)

    async def wrong(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    async def full(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, _SOON)

    async def ours(_: Request, error: Exception) -> JSONResponse:
        _log.error(one_line(error))
        return JSONResponse({"error": str(error)}, 500)

    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"unexpected {type(error).__name__}: see the log of the server"}, 500)

    async def left(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "the client left"}, 499)  # nobody reads it but the log

    app.add_exception_handler(Exception, unexpected)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ValidationError, invalid)
    app.add_exception_handler(InputError, wrong)
    app.add_exception_handler(QueueFull, full)
    app.add_exception_handler(EngineStopped, full)
    app.add_exception_handler(ExeuntError, ours)


def _said(error: RequestValidationError | ValidationError) -> str:
    """Return what is wrong and where, without what was given."""
    found = [_line(one) for one in error.errors()[:_SHOWN]]
    more = len(error.errors()) - len(found)
    return "; ".join(found) + (f"; and {more} more" if more else "")


def _line(one: Mapping[str, Any]) -> str:
    place, why = ".".join(map(str, one["loc"])) or "the body", one["msg"]
    if (
        one["type"] == "json_invalid" and why == "JSON decode error"
    ):  # FastAPI's, with its place among the bytes
        place, why = "the body", f"Invalid JSON: {one['ctx']['error']}"
    elif one["type"] == "model_attributes_type":
        why = "send a JSON object, with content-type: application/json"
    return f"{place}: {why}"
