"""Running a gateway."""

from __future__ import annotations

import socket
import sys
from contextlib import closing
from pathlib import Path

import uvicorn

from exeunt._support.files import locked
from exeunt._support.text import echo
from exeunt.errors import InputError
from exeunt.gateway.app import make_app
from exeunt.gateway.config import GatewayConfig
from exeunt.gateway.folder import LOCK, gateway_folder
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.key_store import Keys, check_clients
from exeunt.live.http_model import key_named
from exeunt.web.limits import listens_everywhere
from exeunt.web.server import check_address, drain_on_signal, uvicorn_config

RUNS = (
    "a gateway runs in {} already, and one folder takes one gateway: stop that one, or name another folder in the file "
    "(folder)"
)


def serve_gateway(config: GatewayConfig, file: Path) -> None:
    """Answer requests until a signal. `file`: that the configuration is of, for messages.

    Raises InputError without keys, of clients or of providers, where nobody can listen, where another gateway runs in
    the folder, and for a grader or an encoder that cannot be opened. Then no folder is made.
    """
    listen = config.listen
    check_address(listen.host, listen.port, "`listen: {port: ...}` in the file of the gateway")
    if not config.folder.exists():
        check_clients(())
    for model in config.all_models.values():
        for deployment in model.deployments.all:
            if deployment.key is not None:
                key_named(deployment.key)  # raises if it is not set
    lock = gateway_folder(config.folder) / LOCK
    with locked(lock, config.folder, refusal=RUNS):
        with closing(Keys(config.folder)) as keys:
            keys.check()
        try:
            gateway = Gateway(config)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        _serve(gateway)


def _serve(gateway: Gateway) -> None:
    listen = gateway.config.listen
    app = make_app(gateway, on_start=lambda: drain_on_signal(gateway.closing.set))
    server = _Server(
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


class _Server(uvicorn.Server):
    """Says where the page is once it can be opened."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.config.host, self.servers[0].sockets[0].getsockname()[1]
        shown = "localhost" if listens_everywhere(host) else f"[{host}]" if ":" in host else host
        echo(
            f"the page of the gateway is at http://{shown}:{port}/, with the key of who administers it; clients take "
            f"http://{shown}:{port}/v1 as their base URL. Ctrl-C ends it"
        )
