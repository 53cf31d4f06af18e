"""The web application: a service behind FastAPI."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from exeunt._version import __version__
from exeunt.serve import inference_protocol, operation, predict_route
from exeunt.serve.errors_as_json import add_error_handlers
from exeunt.serve.guard import Guard
from exeunt.serve.opened_run import OpenedRun
from exeunt.serve.service import Service
from exeunt.serve.traffic import Traffic

if TYPE_CHECKING:
    from exeunt.serve.settings import Settings

__all__ = ["make_app"]

_LOOK_S = 0.5


def make_app(settings: Settings, opened: OpenedRun | None = None, *, alone: bool = False) -> FastAPI:
    """Return the application. It answers what is inside before it ends.

    `opened`: the run, if it is open already; else it is opened when the application starts.
    `alone`: whether the process does nothing else. Then what was made until it starts is taken out of garbage
    collection, which else stops everything for some 0.1 s again and again, and the process ends with its engine, or
    with the process that has started it.
    """
    traffic, first = Traffic(), [opened]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = Service(settings, traffic)
        await service.start(first.pop())  # not kept: it may be replaced
        if alone:
            gc.collect()
            gc.freeze()
            _end_with_the_parent()
        with _told_of_the_end(service):
            watch = asyncio.create_task(_end_with_the_engine(service)) if alone else None
            yield
        if watch is not None:
            watch.cancel()
        await service.stop()

    app = FastAPI(
        title="Exeunt",
        version=__version__,
        summary="A classifier that answers within a budget.",
        lifespan=lifespan,
        docs_url=None,  # a route of its own, which says what it needs
        redoc_url=None,
    )
    add_error_handlers(app)
    for part in (predict_route, inference_protocol, operation):
        app.include_router(part.router)
    app.mount("/page", StaticFiles(directory=operation.PAGE, check_dir=False))
    app.add_middleware(Guard, settings=settings, traffic=traffic)
    return app


async def _end_with_the_engine(service: Service) -> None:
    """End the process, as an error, if its engine has ended, so that whatever looks after it starts another."""
    while service.alive:
        await asyncio.sleep(_LOOK_S)
    await asyncio.sleep(_LOOK_S)  # who waits is told
    os._exit(1)


def _end_with_the_parent() -> None:
    """Let a worker end as by a signal if what looks after it is killed: it would hold the address for ever."""
    if (parent := multiprocessing.parent_process()) is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="exeunt-parent", daemon=True).start()


@contextmanager
def _told_of_the_end(service: Service) -> Iterator[None]:
    """Tell the service at once of a signal to end: uvicorn waits for what is open, and events have no end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(service.drain)
        if callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    for number in before:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
