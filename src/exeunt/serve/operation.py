"""What operators ask: the budget, events for the page, metrics, and loading the run again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import Field, StrictFloat
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from exeunt.serve.answering import OnlyKnown

if TYPE_CHECKING:
    from exeunt.serve.service import Service

__all__ = ["PAGE", "router"]

PAGE = Path(__file__).parent / "page"
_EMPTY = b'<div id="swagger-ui">'
_WITHOUT_INTERNET = b"""
<p>This page loads its script from cdn.jsdelivr.net. Where the browser has no internet, read
<a href="openapi.json">openapi.json</a>: it describes every address and option.</p>
"""

router = APIRouter(tags=["operation"])


class Budget(OnlyKnown):
    """The most to spend per row on average."""

    budget: StrictFloat | str = Field(
        description='Such as "50%", "30 MMACs", or a number in the unit of the costs.'
    )


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("/budget")
async def budget(request: Request) -> dict[str, Any]:
    """Return the budget, the policy that is active under it, and what there is to choose from."""
    return _service(request).about


@router.put("/budget")
async def set_budget(request: Request, wanted: Budget) -> dict[str, Any]:
    """Activate a budget, on all servers of the run. What has not begun is answered under it."""
    service = _service(request)
    await service.set_budget(wanted.budget)
    return service.about


@router.post("/reload")
async def reload(request: Request) -> dict[str, Any]:
    """Load the run again, on all its servers. What is inside is answered by the run before."""
    service = _service(request)
    await service.load_again()
    return {"run": service.opened.run.digest}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Everything that is counted, for Prometheus."""
    return Response(
        _service(request).traffic.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


@router.get("/events")
async def events(request: Request) -> Response:
    """Server-sent events, one a second: JSON of what the page shows (see `exeunt.serve.events.snapshot`)."""

    async def lines() -> AsyncIterator[str]:
        async for event in _service(request).events():
            yield f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Return the page of the interface. Its script comes from the internet, and says so until it is there."""
    page = get_swagger_ui_html(openapi_url="openapi.json", title="Exeunt", swagger_favicon_url="data:,")
    return HTMLResponse(bytes(page.body).replace(_EMPTY, _EMPTY + _WITHOUT_INTERNET, 1))


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page that shows the server at work."""
    return FileResponse(PAGE / "page.html")
