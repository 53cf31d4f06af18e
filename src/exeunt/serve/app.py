"""The web application: a service behind FastAPI. Every error is answered as JSON."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from exeunt._version import __version__
from exeunt.errors import ExeuntError, InputError, QueueFull, one_line
from exeunt.serve.engine_thread import EngineStopped
from exeunt.serve.loaded_run import LoadedRun
from exeunt.serve.metrics import Metrics
from exeunt.serve.routes import admin, inference_protocol, predict
from exeunt.serve.security import SecurityMiddleware
from exeunt.serve.service import Service

if TYPE_CHECKING:
    from starlette.requests import Request

    from exeunt.serve.settings import Settings


_log = logging.getLogger("exeunt.serve")
_SHOWN = 3


def make_app(
    settings: Settings,
    loaded: LoadedRun | None = None,
    *,
    around: Callable[[Service], AbstractContextManager[Any]] = nullcontext,
) -> FastAPI:
    """Return the application. It answers the rows in its engine before it ends.

    `loaded`: the run; by default it is loaded when the application starts. `around`: entered once the service has
    started, and left before it stops.
    """
    metrics, first = Metrics(), [loaded]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = Service(settings, metrics)
        await service.start(first.pop())  # no reference stays here: the run may be replaced
        with around(service):
            yield
        await service.stop()

    app = FastAPI(
        title="Exeunt",
        version=__version__,
        summary="A classifier that answers within a budget.",
        lifespan=lifespan,
        redoc_url=None,
    )
    _add_error_handlers(app)
    for part in (predict, inference_protocol, admin):
        app.include_router(part.router)
    app.mount("/page", StaticFiles(directory=admin.PAGE, check_dir=False))
    app.add_middleware(SecurityMiddleware, settings=settings, metrics=metrics)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error as {"error": why}, as the Open Inference Protocol has it, with the status that fits."""

    def answer(
        kind: type[Exception],
        status: int,
        why: Callable[[Any], str] = str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        async def handler(_: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"error": why(error)}, status, headers)

        app.add_exception_handler(kind, handler)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        why = error.detail
        if why == "Not Found":  # the router's own
            why = "there is no such address: /openapi.json describes those there are"
        elif error.status_code == 405:
            why = f"this address does not take {request.method}: /openapi.json says what it does"
        return JSONResponse({"error": why}, error.status_code, error.headers)

    async def failure(_: Request, error: Exception) -> JSONResponse:
        _log.error(one_line(error))
        return JSONResponse({"error": str(error)}, 500)

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ExeuntError, failure)
    answer(Exception, 500, lambda error: f"unexpected {type(error).__name__}: see the log of the server")
    answer(ClientDisconnect, 499, lambda _: "the client disconnected")  # only the log reads it
    answer(RequestValidationError, 422, _problems)
    answer(ValidationError, 422, _problems)
    answer(InputError, 422)
    answer(QueueFull, 503, headers={"retry-after": "1"})
    answer(EngineStopped, 503, headers={"retry-after": "1"})


def _problems(error: RequestValidationError | ValidationError) -> str:
    """Return what is wrong and where, without the given values."""
    found = [_problem(one) for one in error.errors()[:_SHOWN]]
    more = len(error.errors()) - len(found)
    return "; ".join(found) + (f"; and {more} more" if more else "")


def _problem(one: Mapping[str, Any]) -> str:
    place, why = ".".join(map(str, one["loc"])) or "the body", one["msg"]
    if one["type"] == "json_invalid" and why == "JSON decode error":  # FastAPI's, whose place is a byte
        place, why = "the body", f"Invalid JSON: {one['ctx']['error']}"
    elif one["type"] == "model_attributes_type":
        why = "send a JSON object, with content-type: application/json"
    return f"{place}: {why}"
