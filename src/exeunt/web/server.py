"""Running an application with uvicorn: its address, its connections, its signals, and logs as JSON lines."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn

from exeunt.errors import InputError
from exeunt.web.connection import Connection, Room

_IDLE_S = 75
"""Longer than load balancers keep connections open: a request is lost if its connection is closed while it comes in."""
_DRAIN_S = 60
START_S = 60
"""A worker answers once it has imported what it needs; then it loads the run. A worker that replaces another one after
SIGHUP has this time for both."""
_OWN_FILES = 512
"""Files that a server has open beside its connections."""


def check_address(host: str, port: int, option: str) -> None:
    """Raise InputError if nobody can listen there: uvicorn would say so only once the network is loaded. `option`: by
    which another port is chosen.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(
                f"port {port} at {host} is in use: end what listens there, or choose another port by {option}"
            ) from error
        raise InputError(f"cannot listen at {host}, port {port}: {error}") from error


def uvicorn_config(
    app: Callable[[], Any],
    host: str,
    port: int,
    workers: int = 1,
    *,
    max_connections: int = 4096,
    proxies: tuple[str, ...] = (),
) -> uvicorn.Config:
    """Return how uvicorn is to run an application. `app`: makes it. `max_connections`: of all workers together;
    `proxies`: see `exeunt.web.connection.Room`.
    """
    connections = math.ceil(max_connections / workers)
    _allow_files(connections + _OWN_FILES)
    return uvicorn.Config(
        app,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        http=partial(Connection, room=Room(connections, proxies)),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        headers=[("content-security-policy", "frame-ancestors 'none'")],
        log_config=_LOGS,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        timeout_worker_healthcheck=START_S,
    )


def _allow_files(needed: int) -> None:
    """Let this process and its workers have so many files open, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def drain_on_signal(drain_service: Callable[[], object]) -> None:
    """Call this at once on a signal to end: uvicorn waits for open requests, and events never end."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def drain(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(drain_service)
        if callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    for number in before:
        signal.signal(number, drain)  # uvicorn restores the handlers when it ends


# -- logs ---------------------------------------------------------------------------------------------------


class JsonLines(logging.Formatter):
    """A line of JSON per record: time, level, what happened, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
        line = {"t": round(record.created, 3), "level": record.levelname.lower(), "what": message}
        line |= getattr(record, "fields", {})
        if message.startswith("Traceback"):  # Starlette's, of a start that failed
            line |= {"what": message.strip().splitlines()[-1], "traceback": message}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


_LOGS: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("uvicorn", "exeunt.serve", "exeunt.gateway")
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
