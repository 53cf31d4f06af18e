"""For operators: the budget, reloading the run, metrics, events for the page, and the page itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import Field, StrictFloat
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from exeunt.serve.prediction import StrictModel

if TYPE_CHECKING:
    from exeunt.serve.service import Service


PAGE = Path(__file__).parents[1] / "page"

router = APIRouter(tags=["admin"])


class Budget(StrictModel):
    """The largest mean cost per row."""

    budget: StrictFloat | str = Field(
        description='Such as "50%", "30 MMACs", or a number in the unit of the costs.'
    )


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("/budget")
async def budget(request: Request) -> dict[str, Any]:
    """Return the budget, the active policy, and the policies to choose from."""
    return _service(request).about


@router.put("/budget")
async def set_budget(request: Request, wanted: Budget) -> dict[str, Any]:
    """Set the budget, on all servers of the run. It applies to rows that have not begun."""
    service = _service(request)
    await service.set_budget(wanted.budget)
    return service.about


@router.post("/reload")
async def reload(request: Request) -> dict[str, Any]:
    """Reload the run, on all its servers. The previous run answers the rows that it has."""
    service = _service(request)
    await service.reload()
    return {"run": service.active.loaded.run.digest}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics, for Prometheus."""
    return Response(
        _service(request).metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


@router.get("/events")
async def events(request: Request) -> Response:
    """Server-sent events, one a second: JSON of what the page shows (see `exeunt.serve.events.snapshot`)."""

    async def lines() -> AsyncIterator[str]:
        async for event in _service(request).events:
            yield f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page that shows the server at work."""
    return FileResponse(PAGE / "page.html")
