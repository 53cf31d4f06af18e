"""The web application: a service behind FastAPI. Every error is answered as JSON.

For operators it has the budget, reloading, metrics, the page, and the events that the page shows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import Field, StrictFloat, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Message

from exeunt._version import __version__
from exeunt.errors import ExeuntError, InputError, OverBudget, QueueFull, one_line
from exeunt.serve import inference_protocol, predict_route
from exeunt.serve.api_keys_and_limits import SecurityMiddleware
from exeunt.serve.engine_thread import EngineStopped
from exeunt.serve.events import about
from exeunt.serve.inference_protocol import service_of
from exeunt.serve.loaded_run import LoadedRun
from exeunt.serve.metrics import Metrics
from exeunt.serve.prediction import StrictModel
from exeunt.serve.service import Service
from exeunt.serve.settings import Settings

_log = logging.getLogger("exeunt.serve")
_SHOWN = 3
_PAGE = Path(__file__).parent / "page"

# -- for operators ----------------------------------------------------------------------------------------

_operators = APIRouter(tags=["admin"])


class Budget(StrictModel):
    """The largest mean cost per row."""

    budget: StrictFloat | str = Field(
        description='Such as "50%", "30 MMACs", or a number in the unit of the costs.'
    )


@_operators.get("/budget")
async def budget(request: Request) -> dict[str, Any]:
    """Return the budget, the active policy, and the policies to choose from."""
    service = service_of(request)
    return about(service.active, service.settings)


@_operators.put("/budget")
async def set_budget(request: Request, wanted: Budget) -> dict[str, Any]:
    """Set the budget, on all servers of the run. It applies to rows that have not begun."""
    service = service_of(request)
    await service.set_budget(wanted.budget)
    return about(service.active, service.settings)


@_operators.post("/reload")
async def reload(request: Request) -> dict[str, Any]:
    """Reload the run, on all its servers. The previous run answers the rows that it has."""
    service = service_of(request)
    await service.reload()
    return {"run": service.active.loaded.run.digest}


@_operators.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics, for Prometheus."""
    return Response(
        service_of(request).metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


@_operators.get("/events")
async def events(request: Request) -> Response:
    """Server-sent events, one a second: JSON of what the page shows (see `exeunt.serve.events.snapshot`)."""

    async def lines() -> AsyncIterator[str]:
        async for event in service_of(request).events:
            yield f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@_operators.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page that shows the server at work."""
    return FileResponse(_PAGE / "page.html")


# -- the application --------------------------------------------------------------------------------------


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
        await _warm_up(app)
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
    for router in (predict_route.router, inference_protocol.router, _operators):
        app.include_router(router)
    app.mount("/page", StaticFiles(directory=_PAGE, check_dir=False))
    app.add_middleware(SecurityMiddleware, settings=settings, metrics=metrics)
    return app


async def _warm_up(app: FastAPI) -> None:
    """Send an empty request to each route of predictions, which refuses it. FastAPI builds a route when it is first
    asked, and that may take longer than a latency target.
    """

    async def send(_: Message) -> None:
        pass

    now = time.monotonic()
    for path in ("/predict", f"/v2/models/{app.state.service.settings.model_name}/infer"):
        received: asyncio.Queue[Message] = asyncio.Queue()
        received.put_nowait({"type": "http.request"})
        scope = {
            "type": "http", "method": "POST", "path": path, "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "state": {"begun": now, "read": now, "internal": True},
        }  # fmt: skip
        await app(scope, received.get, send)


# -- errors ---------------------------------------------------------------------------------------------------


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

    async def no_money(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, OverBudget)  # noqa: S101
        why = f"this may cost {error.asked:g}, and {error.left:g} of what you may spend is left"
        wait_s = 1.0 if error.passing else error.wait_s
        if wait_s is None:
            return JSONResponse({"error": f"{why}: ask who runs this server for more"}, 402)
        after = math.ceil(wait_s)
        return JSONResponse({"error": f"{why}: try again in {after} s"}, 429, {"retry-after": str(after)})

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(OverBudget, no_money)
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
