"""Running a gateway."""

from __future__ import annotations

import sys

import uvicorn

from exeunt._files import locked
from exeunt.gateway.app import make_app
from exeunt.gateway.config import GatewayConfig
from exeunt.gateway.folder import LOCK, gateway_folder
from exeunt.gateway.gateway import Gateway
from exeunt.live.http_model import key_named
from exeunt.web.server import check_address, drain_on_signal, uvicorn_config

_RUNS = (
    "a gateway runs in {} already, and one folder takes one gateway: stop that one, or name another folder in the file "
    "(folder)"
)


def serve_gateway(config: GatewayConfig) -> None:
    """Answer requests until a signal. Raises InputError without keys, of clients or of providers, where nobody can
    listen, and where another gateway runs in the folder.
    """
    listen = config.listen
    check_address(listen.host, listen.port)
    lock = gateway_folder(config.folder) / LOCK
    with locked(lock, config.folder, refusal=_RUNS):
        _serve(Gateway(config))


def _serve(gateway: Gateway) -> None:
    config, listen = gateway.config, gateway.config.listen
    gateway.keys.check()
    for model in config.models.values():
        if model.key is not None:
            key_named(model.key)  # raises if it is not set
    app = make_app(gateway, on_start=lambda: drain_on_signal(gateway.closing.set))
    server = uvicorn.Server(
        uvicorn_config(
            lambda: app,
            listen.host,
            listen.port,
            max_connections=listen.max_connections,
            proxies=listen.proxies,
        )
    )
    server.run()
    if not server.started:
        sys.exit(1)
