"""Access to a gateway: clients ask models, and administrators everything else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Scope

from exeunt.errors import ExeuntError
from exeunt.gateway.failure_log import log_failure
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.key_store import Client
from exeunt.gateway.protocols import PROTOCOLS, Messages, protocol_of
from exeunt.web.security import SecurityMiddleware, bearer

_PATH = re.compile(
    r"(/v1/chat/completions|/v1/messages(?:/count_tokens)?|/v1/responses|/v1/embeddings|/v1/feedback|/v1/models|/admin/(?:state|policy|rollback|clients|models|keys)|/metrics|/events|/health|/)(/.*)?"
)
_ADMINISTERS = re.compile("/(admin|metrics|events)")


class AccessMiddleware(SecurityMiddleware):
    """Guards a gateway as a server is guarded, with hashed keys of clients and of administrators."""

    health = re.compile(r"/health")
    inputs = re.compile(r"/v1/(chat/completions|messages|messages/count_tokens|responses|embeddings)")
    allow_name = "add its name to allowed_hosts of listen in the gateway's file"

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        super().__init__(app, gateway.config.listen.limits, gateway.metrics)
        self._clients = gateway.keys

    def _key(self, headers: Mapping[bytes, bytes]) -> Client | None:  # type: ignore[override]
        return self._clients.of(bearer(headers) or headers.get(b"x-api-key", b""))

    def _name(self, key: Client | None) -> str:
        return "" if key is None else key.digest

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        try:
            refusal = super()._refusal(scope)
        except ExeuntError as error:
            log_failure(error, "looking up a key")
            scope["state"]["refused"] = True  # else each request would be logged
            headers = {"retry-after": "1", "connection": "close"}
            return self._error(scope, 503, "keys cannot be looked up now: try again soon", headers)
        client = scope["state"].get("key")
        if refusal is not None or client is None:
            return refusal
        path, asks_models = scope["path"], scope["path"].startswith("/v1/")
        # Not by the paths of routes, which match more, such as a line's end.
        if not (asks_models or client.admin):
            if _ADMINISTERS.match(path):
                return error_response(scope, 403, "this needs the key of who administers the gateway")
            return error_response(scope, 404, nothing_at(path))
        if asks_models and client.admin:
            return error_response(
                scope, 403, "this key administers the gateway: ask models with the key of a client"
            )
        return None

    def _error(self, scope: Scope, status: int, why: str, headers: dict[str, str]) -> JSONResponse:
        return error_response(scope, status, why, headers)

    def _path(self, scope: Scope) -> str:
        match = _PATH.fullmatch(scope["path"])
        return match[1] if match else "other"


def nothing_at(path: str) -> str:
    """Return what is said of a path that is none of the gateway's, such as of a client whose base URL lacks /v1."""
    return (
        f"there is nothing at {path!r:.80}: clients ask {', '.join(protocol.path for protocol in PROTOCOLS)}, "
        "/v1/embeddings, /v1/feedback and /v1/models, so their base URL ends with /v1, and that of Anthropic's "
        "clients ends before it"
    )


def error_response(
    scope: Scope, status: int, why: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error as the client reads it. At paths that protocols share, Anthropic's clients tell their version."""
    path = scope["path"]
    shared = not any(path.startswith(protocol.path) for protocol in PROTOCOLS)
    tells_version = any(name == b"anthropic-version" for name, _ in scope["headers"])
    protocol = Messages if shared and tells_version else protocol_of(path)
    return JSONResponse(protocol.error(status, why), status, headers)
