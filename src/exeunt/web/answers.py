"""Answers of servers other than predictions: events, counts, and the shared parts of their pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.staticfiles import StaticFiles

PARTS = "/page/web"
"""The path of the files that all pages share."""


def events_response(events: AsyncIterable[Any]) -> StreamingResponse:
    """Return an answer of server-sent events, each of which is JSON-able."""

    async def lines() -> AsyncIterator[str]:
        async for event in events:
            yield f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def counts_response(exposition: bytes) -> Response:
    """Return counts for Prometheus."""
    return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")


def page_parts() -> StaticFiles:
    """Return the application that serves the files that all pages share."""
    return StaticFiles(packages=[("exeunt.web", "page")])
