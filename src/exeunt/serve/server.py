"""Running the application with uvicorn: processes and signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from exeunt._support.files import locks
from exeunt.errors import ArtefactError
from exeunt.serve.app import make_app
from exeunt.serve.live_budget import LiveBudgetFile
from exeunt.serve.loaded_run import load_run
from exeunt.serve.metrics import SHARED_FOLDER
from exeunt.serve.recent import forget_worker
from exeunt.serve.service import Service
from exeunt.serve.settings import Settings
from exeunt.web.server import START_S, check_address, drain_on_signal, uvicorn_config

_log = logging.getLogger("exeunt.serve")
_SHARED = "exeunt-serve-"
_SWITCH_S = 0.0005
_LOOK_S = 0.5
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""Workers that do not start are started again after pauses that double."""


def serve(settings: Settings) -> None:
    """Serve until a signal ends it. Open requests are answered first.

    Raises InputError for an address that cannot be had, and what loading the run raises.
    """
    check_address(settings.host, settings.port, "--port")
    loaded = load_run(settings)  # here, so that what is wrong with it is an error of the command
    controller = loaded.controller(settings)
    if controller is not None and settings.budget is not None:
        controller.set_budget(loaded.policies[loaded.at(settings.budget)].cost.amount(settings.budget))
    alone = settings.workers == 1
    new_app: Callable[..., Any] = partial(make_app, settings, around=_own_process)
    if alone:
        app = new_app(loaded)
        new_app = lambda: app  # noqa: E731
    del loaded, controller  # each worker has its own, and the run may be replaced
    config = uvicorn_config(
        new_app,
        settings.host,
        settings.port,
        settings.workers,
        max_connections=settings.max_connections,
        proxies=settings.proxies,
    )
    address = config.bind_socket()
    address.listen(config.backlog)  # else another server could take the same address unnoticed
    _replace_live_budget(settings)
    if alone:
        server = uvicorn.Server(config)
        server.run(sockets=[address])
        failed = not server.started
    else:
        supervisor = _Workers(config, sockets=[address])
        with _shared_folder() as folder:
            os.environ[SHARED_FOLDER] = folder
            supervisor.run()
            del os.environ[SHARED_FOLDER]
        failed = supervisor.failed
    if failed:
        sys.exit(1)


def _replace_live_budget(settings: Settings) -> None:
    """Let a budget of the command replace the one that was set earlier, here and on all servers of the run."""
    live = LiveBudgetFile(settings.live_budget_file)
    # If the file is damaged, the service says so, and has the budget of the command.
    with suppress(ArtefactError):
        earlier = live.read().budget
        if settings.budget is not None and earlier not in (None, settings.budget):
            live.set_budget(settings.budget)
            fields = {"budget": settings.budget, "replaces": earlier, "file": str(live.path)}
            _log.warning("--budget replaces the budget that was set earlier", extra={"fields": fields})


# -- processes and signals ----------------------------------------------------------------------------------


@contextmanager
def _shared_folder() -> Iterator[str]:
    """Yield a folder for the counts of all workers. Remove those of killed servers, whose locks nobody holds."""
    for lock in Path(gettempdir()).glob(f"{_SHARED}*/lock"):
        with suppress(OSError), lock.open("r+b") as file:
            if locks(file):
                shutil.rmtree(lock.parent)
    with TemporaryDirectory(prefix=_SHARED) as folder, (new := Path(folder, "lock.new")).open("wb") as file:
        locks(file)  # before it has its name
        new.rename(new.with_suffix(""))
        yield folder


@contextmanager
def _own_process(service: Service) -> Iterator[None]:
    """Run a service in a process that does nothing else.

    Objects made so far are taken out of garbage collection, which would stop everything for 0.1 s again and again. The
    engine's thread takes turns with a busy event loop more often than every 5 ms, which is Python's default: it waits
    for its turn after each call of the network. The process ends with its engine, or with the process that started it.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_SWITCH_S)
    _end_with_parent()
    drain_on_signal(service.drain)
    watch = asyncio.get_running_loop().create_task(_end_with_engine(service))
    yield
    watch.cancel()


def _end_with_parent() -> None:
    """End a worker as by a signal if its supervisor is killed: the worker would hold the address for ever."""
    if (parent := multiprocessing.parent_process()) is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="exeunt-parent", daemon=True).start()


async def _end_with_engine(service: Service) -> None:
    """End the process, as an error, if its engine has ended, so that its supervisor starts another."""
    while service.alive:
        await asyncio.sleep(_LOOK_S)
    await asyncio.sleep(_LOOK_S)  # open requests get their errors
    os._exit(1)


class _Workers(Multiprocess):
    """Worker processes. One that dies is replaced, and its waiting rows are no longer counted. If it does not start,
    because the run was damaged meanwhile or memory is short, the others go on, and it is tried again after pauses that
    grow. `failed`: no worker is left, and none starts.

    uvicorn's supervisor waits for a worker that does not answer, and meanwhile handles no signal and no other worker.
    It ends with the first that does not start.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.failed = False
        self._pinged: dict[int | None, float] = {}  # when each was pinged that has not answered
        self._seen: set[int | None] = set()
        self._started: set[int | None] = set()
        self._pause_s, self._next_start = 0.0, 0.0

    def keep_subprocess_alive(self) -> None:
        """Look after all workers; called twice a second."""
        now = time.monotonic()
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            dead = worker.parent_conn.closed
            if not dead and worker.process.is_alive() and self._answers(worker):
                continue
            if not dead:
                self._bury(worker, now)
            if now >= self._next_start:
                self.processes[place] = Process(self.config, self.sockets)
                self.processes[place].start()
        there = {worker.pid for worker in self.processes if not worker.parent_conn.closed}
        for pid in self._seen - there:
            forget_worker(pid)
            self._pinged.pop(pid, None)
            self._started.discard(pid)
        self._seen = there
        if not there:
            self.failed = True
            self.should_exit.set()

    def _bury(self, worker: Process, now: float) -> None:
        worker.kill()
        worker.join()
        # Workers that fail together count once.
        if worker.pid not in self._started and now >= self._next_start:
            self._pause_s = min(2 * self._pause_s or _PAUSE_S, _LONGEST_PAUSE_S)
            self._next_start = now + self._pause_s
        next_start_s = round(max(self._next_start - now, 0.0), 1)
        fields = {"pid": worker.pid, "exitcode": worker.exitcode, "next_start_s": next_start_s}
        _log.error("a worker died", extra={"fields": fields})

    def _answers(self, worker: Process) -> bool:
        """Whether a worker has answered lately. It answers with whether it has started."""
        if worker.pid not in self._pinged:
            worker.parent_conn.send(b"ping")
            self._pinged[worker.pid] = time.monotonic()
        elif worker.parent_conn.poll(0):
            if worker.parent_conn.recv() and worker.pid not in self._started:
                self._started.add(worker.pid)
                self._pause_s = 0.0
            del self._pinged[worker.pid]
        return time.monotonic() - self._pinged.get(worker.pid, math.inf) < START_S
