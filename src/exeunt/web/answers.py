"""Answers of servers other than predictions: events, counts, and the shared parts of their pages."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime, timezone
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from exeunt.errors import OverBudget

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


_DAY_S = 86_400
_LONGEST_S = 36_500 * _DAY_S
"""Nobody waits longer for money."""


def missing_money(
    error: OverBudget, *, program: str, unit: str = "", less: str = ""
) -> tuple[int, str, dict[str, str]]:
    """Return status, why, and headers: 429 with the time when there may be money again, else 402.

    `program`: what the client asks, such as "server". `unit`: of the amounts, where the client knows it. `less`: how to
    ask for what costs less. Beyond a day the time is a date: what was booked above a limit is paid off by its rate.
    """
    amount_asked, amount_left = (f"{amount:g} {unit}".strip() for amount in (error.asked, error.left))
    why = f"this may cost {amount_asked}, and {amount_left} of what may be spent is left"
    wait_s = 1.0 if error.passing else error.wait_s
    more = f"ask who runs this {program} for more"
    if wait_s is None or wait_s > _LONGEST_S:
        return 402, f"{why}: {f'{less}, or ' if less else ''}{more}", {}
    after = math.ceil(wait_s)
    again = f"try again in {after} s"
    if after > _DAY_S:
        day = datetime.fromtimestamp(time.time() + after, timezone.utc)
        again = f"there is enough on {day:%Y-%m-%d} (UTC) at the earliest, so {more}"
    return 429, f"{why}: {again}", {"retry-after": str(after)}
