"""Running the application with uvicorn: one worker or several, logs as JSON lines."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from exeunt.errors import InputError
from exeunt.serve.app import make_app
from exeunt.serve.opened_run import OpenedRun, open_run
from exeunt.serve.steering import controller_of
from exeunt.serve.traffic import SHARED

if TYPE_CHECKING:
    from fastapi import FastAPI

    from exeunt.serve.settings import Settings

__all__ = ["JsonLines", "serve", "uvicorn_config"]

_log = logging.getLogger("exeunt.serve")
_HEADERS_S, _HEADERS_BYTES = 10.0, 1 << 16
_IDLE_S = 75
"""Longer than load balancers keep connections open: who ends one while a request comes in loses it."""
_UNREAD_S = 30.0
_DRAIN_S = 60
_START_S = 60
"""A worker says that it is there once it has imported what it needs; then it loads the run. One that replaces another,
after SIGHUP, has so long for both."""


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until a signal ends it. What is open by then is answered first.

    Raises InputError for an address that cannot be had, and what opening the run raises.
    """
    _check_address(host, port)
    opened = open_run(settings)  # so that what is wrong with it is an error of the command
    if settings.slo_s is not None:
        _check_controller(opened, settings)
    if settings.workers > 1:
        del opened  # each worker has its own
        config = uvicorn_config(
            partial(make_app, settings, alone=True), host=host, port=port, workers=settings.workers
        )
        address = config.bind_socket()
        address.listen(config.backlog)  # else another server can have the same one, and nobody is told
        supervisor = _Workers(config, sockets=[address])
        with TemporaryDirectory(prefix="exeunt-") as folder:
            os.environ[SHARED] = folder
            supervisor.run()
            del os.environ[SHARED]
        if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
            sys.exit(1)
        return
    app = make_app(settings, opened, alone=True)
    server = uvicorn.Server(uvicorn_config(lambda: app, host=host, port=port))
    server.run()
    if not server.started:
        sys.exit(1)


def _check_controller(opened: OpenedRun, settings: Settings) -> None:
    """Raise InputError if no policy is as accurate as is asked for, or none of those is within the budget."""
    controller = controller_of(opened, settings)
    if settings.budget is not None:
        controller.set_budget(opened.policies[opened.at(settings.budget)].cost.amount(settings.budget))


def _check_address(host: str, port: int) -> None:
    """Raise InputError if nobody can listen there: uvicorn would say so once the network is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot listen at {host}, port {port}: {error}") from error


def uvicorn_config(app: Callable[[], FastAPI], *, host: str, port: int, workers: int = 1) -> uvicorn.Config:
    """Return how uvicorn is to run an application, given as what makes it."""
    return uvicorn.Config(
        app,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        http=_Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_config=_LOGS,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        timeout_worker_healthcheck=_START_S,
    )


class _Workers(Multiprocess):
    """Workers, in whose place others start where they die. What waited in one that died waits no more.

    uvicorn's own waits for a worker that does not answer, and meanwhile hears no signal and sees no other one die.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._asked: dict[int | None, float] = {}  # when each was asked that has not answered
        self._seen: set[int | None] = set()

    def keep_subprocess_alive(self) -> None:
        """Look after all of them; called twice a second."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set() or (worker.process.is_alive() and self._answers(worker)):
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:  # another one would fail likewise
                self.should_exit.set()
                return
            _log.error("a worker died", extra={"fields": {"pid": worker.pid, "exitcode": worker.exitcode}})
            self.processes[place] = Process(self.config, self.sockets)
            self.processes[place].start()
        there = {worker.pid for worker in self.processes}
        for pid in self._seen - there:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
            self._asked.pop(pid, None)
        self._seen = there

    def _answers(self, worker: Process) -> bool:
        """Whether a worker has answered lately."""
        if worker.pid not in self._asked:
            worker.parent_conn.send(b"ping")
            self._asked[worker.pid] = time.monotonic()
        elif worker.parent_conn.poll(0):
            worker.parent_conn.recv()
            del self._asked[worker.pid]
        return time.monotonic() - self._asked.get(worker.pid, math.inf) < _START_S


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP that gives up on connections whose headers do not end, soon or at all, and whose answers are not read."""

    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _taken = 0

    def connection_made(self, transport: Any) -> None:
        """Wait for a first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait for the headers to end, unless they have."""
        super().data_received(data)
        self._taken += len(data)
        self._watch()
        if self._taken > _HEADERS_BYTES:
            self._give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._wait_no_longer()
        self._was_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read what fills the buffer. Only to close would keep it until it is read."""
        super().pause_writing()
        self._was_read()
        self._unread = self.loop.call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has."""
        super().resume_writing()
        self._was_read()

    def _was_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_longer()
            self._taken = 0
        elif self._patience is None:
            self._patience = self.loop.call_later(_HEADERS_S, self._give_up)

    def _give_up(self) -> None:
        self._patience = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _wait_no_longer(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class JsonLines(logging.Formatter):
    """A line of JSON per record: time, level, what happened, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {"t": round(record.created, 3), "level": record.levelname.lower(), "what": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


_LOGS: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "exeunt.serve": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
