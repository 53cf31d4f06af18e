"""A client that leaves does not wait for its answers: they are given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["unless_it_leaves"]

T = TypeVar("T")


async def unless_it_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, once the body of the request was read; cancel it if the client leaves.

    Raises ClientDisconnect then.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
