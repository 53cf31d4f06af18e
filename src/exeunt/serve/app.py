"""The web application: what takes inputs in front, and FastAPI for all else. Every error is answered as JSON.

For operators it has the budget, reloading, metrics, the page, and the events that the page shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import Field, StrictFloat
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from exeunt._version import __version__
from exeunt.errors import ExeuntError
from exeunt.serve import inference_protocol
from exeunt.serve.error_answers import error_body, told
from exeunt.serve.events import about
from exeunt.serve.inference_protocol import service_of
from exeunt.serve.input_routes import InputRoutes
from exeunt.serve.loaded_run import LoadedRun
from exeunt.serve.metrics import Metrics
from exeunt.serve.openapi import describe
from exeunt.serve.prediction import StrictModel
from exeunt.serve.service import Service
from exeunt.serve.settings import Settings
from exeunt.web.answers import PARTS, counts_response, events_response, page_parts
from exeunt.web.connection import REFUSED
from exeunt.web.limits import TOO_MANY
from exeunt.web.security import SecurityMiddleware

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
    return counts_response(service_of(request).metrics.exposition())


@_operators.get("/events")
async def events(request: Request) -> Response:
    """Server-sent events, one a second: JSON of what the page shows (see `exeunt.serve.events.snapshot`)."""
    return events_response(service_of(request).events)


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
) -> SecurityMiddleware:
    """Return the application. It answers the rows in its engine before it ends.

    `loaded`: the run; by default it is loaded when the application starts. `around`: entered once the service has
    started, and left before it stops.
    """
    metrics, first = Metrics(), [loaded]

    def refused_connection() -> bytes:
        metrics.refused()
        return error_body(TOO_MANY)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        service = app.state.service = Service(settings, metrics)
        await service.start(first.pop())  # no reference stays here: the run may be replaced
        with around(service):
            yield {"inputs": routes, REFUSED: refused_connection}
        await service.stop()

    app = FastAPI(
        title="Exeunt",
        version=__version__,
        summary="A classifier that answers within a budget.",
        lifespan=lifespan,
        redoc_url=None,
    )
    for kind in (HTTPException, RequestValidationError, ExeuntError, Exception):
        app.add_exception_handler(kind, _answer_error)
    for router in (inference_protocol.router, _operators):
        app.include_router(router)
    app.mount(PARTS, page_parts())
    app.mount("/page", StaticFiles(directory=_PAGE, check_dir=False))
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    routes = InputRoutes(app, lambda: app.state.service)
    return SecurityMiddleware(routes, settings.limits, metrics, settings.api_keys)


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    status, why, headers = told(error)
    if status == 404 and why == "Not Found":  # the router's own
        why = "there is no such address: /openapi.json describes those there are"
    elif status == 405:
        why = f"this address does not take {request.method}: /openapi.json says what it does"
    return JSONResponse({"error": why}, status, headers)
