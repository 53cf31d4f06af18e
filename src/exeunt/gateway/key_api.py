"""Keys by API, for whoever administers a gateway. Each use is a line of its audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exeunt._support.outside_json import outside_json
from exeunt._support.threads import PAYING
from exeunt.errors import InputError
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.key_store import Client, check_name, check_spend

_KINDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "admin": (bool,),
    "shadow": (bool,),
    "spend": (str, type(None)),
}
_MAKE = 'send {"name": ...} and perhaps "spend" ("5 usd/day"; null for none), "shadow" and "admin" (true or false)'
_CHANGE = 'send "spend" ("5 usd/day"; null for none), "shadow" (true or false), or both'


class _Keys(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        """List who has keys."""
        gateway = _gateway(request)
        async with gateway.audit.use(request.state.key.name, "list") as note:
            await note()
            return JSONResponse({"keys": [_shown(client) for client in gateway.keys.clients]})

    async def post(self, request: Request) -> Response:
        """Make a key for a name that has none."""
        gateway = _gateway(request)
        async with gateway.audit.use(request.state.key.name, "make") as note:
            body = await _body(request, ("name", "admin", "shadow", "spend"), _MAKE)
            if "name" not in body:
                raise InputError(_MAKE)
            name = check_name(body.pop("name"))
            await note(client=name, **body)
            key = await asyncio.to_thread(gateway.keys.add, name, is_new=True, **body)
            return _with_key(name, key, status=201)


class _Key(HTTPEndpoint):
    async def patch(self, request: Request) -> Response:
        """Change what a client may spend, and whether its requests are compared. Its key stays."""
        gateway = _gateway(request)
        async with gateway.audit.use(request.state.key.name, "limit") as note:
            name = await _known(request)
            if not (changes := await _body(request, ("shadow", "spend"), _CHANGE)):
                raise InputError(_CHANGE)
            await note(client=name, **changes)
            client = await asyncio.to_thread(gateway.keys.change, name, **changes)
            await PAYING.run(gateway.money.limit, client)
            return JSONResponse(_shown(client))

    async def delete(self, request: Request) -> Response:
        """Take a key back. Records of its client stay."""
        gateway = _gateway(request)
        async with gateway.audit.use(request.state.key.name, "revoke") as note:
            await note(client=(name := await _known(request)))
            await asyncio.to_thread(gateway.keys.revoke, name)
            return JSONResponse({"revoked": name})


async def _rotate(request: Request) -> Response:
    """Make another key in place of a client's, which is void at once."""
    gateway = _gateway(request)
    async with gateway.audit.use(request.state.key.name, "rotate") as note:
        await note(client=(name := await _known(request)))
        return _with_key(name, await asyncio.to_thread(gateway.keys.rotate, name))


KEY_ROUTES = (
    Route("/admin/keys", _Keys),
    Route("/admin/keys/{name}", _Key),
    Route("/admin/keys/{name}/rotate", _rotate, methods=["POST"]),
)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _known(request: Request) -> str:
    """Return the name in a path, if somebody has it: anything else there, such as a key, is in no log.

    Raises NoSuchClient.
    """
    return (await asyncio.to_thread(_gateway(request).keys.client, request.path_params["name"])).name


async def _body(request: Request, names: tuple[str, ...], form: str) -> dict[str, Any]:
    """Return the options that a body holds. Raises InputError, which says the form, for any other body."""
    try:
        body = dict(outside_json(await request.body()))
    except (TypeError, ValueError):
        raise InputError(form) from None
    if not all(name in names and isinstance(option, _KINDS[name]) for name, option in body.items()):
        raise InputError(form)
    check_spend(body.get("spend"))
    return body


def _shown(client: Client) -> dict[str, Any]:
    """Return what is told of a client: not the digest of its key."""
    return {"name": client.name, "admin": client.admin, "shadow": client.shadow, "spend": client.spend}


def _with_key(name: str, key: str, *, status: int = 200) -> Response:
    return JSONResponse({"name": name, "key": key}, status, {"cache-control": "no-store"})
