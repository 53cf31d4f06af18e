"""Requests that come to an engine in virtual time: only calls of the network, and reading requests, let it pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exeunt.serve.active_run import LoadMeter
from exeunt.serve.metrics import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from exeunt.serve.latency_controller import Controller

TICK_S = 0.005


class Answered(NamedTuple):
    """A request that is answered: its place, its ticket, and the seconds from when it came to its answer."""

    place: int
    ticket: Any
    seconds: float


def answered(
    engine: Any,
    executor: Any,
    due: np.ndarray,
    size: int,
    rows_of: Callable[[int], tuple[Any, dict[str, Any]]],
    *,
    controller: Controller | None = None,
    call_seconds: Any = None,
    row_seconds: Mapping[str, float] | None = None,
    own: Callable[[int], str | None] = lambda _: None,
    read_s: float = 0.0,
) -> Iterator[Answered]:
    """Yield requests of `size` rows, which come at the times `due` (n,), as they are answered.

    `executor`: that of the engine; `took` is what its calls have taken, in seconds. `rows_of`: returns the rows of the
    request at a place, and further options of `Engine.submit`. `controller`: chooses the policy, by what
    `LoadMeter(..., call_seconds, row_seconds)` measures. `own`: returns the policy that a request names. `read_s`: what
    reading a row takes.
    """
    thread = SimpleNamespace(work=np.array(engine.work), busy_s=0.0)
    meter = None if controller is None else LoadMeter(thread, call_seconds, row_seconds or {})
    waiting: dict[int, tuple[int, Any]] = {}
    news, now, told, begun = Counts(), 0.0, 0.0, 0
    while begun < len(due) or engine.rows:
        while begun < len(due) and due[begun] <= now:
            now += read_s * size
            by = None if controller is None else due[begun] + controller.within_s
            (rows, more), policy = rows_of(begun), own(begun)
            ticket = engine.submit(rows, now, policy=policy, deadline=by, soft=True, **more)
            waiting[id(ticket)] = begun, ticket
            if policy is None:
                news.arrived += size
                news.requests += 1
                news.together += size
            else:
                news.own[policy] += size
            begun += 1
        if controller is not None and meter is not None and now - told >= TICK_S:
            thread.work = np.array(engine.work)
            load = meter.measure(news, len(waiting) * size, controller.late_s)
            engine.active = controller.observe(now, load).name
            told, news = now, Counts()
        executor.took = 0.0
        done = engine.step(now, force=True)
        now, thread.busy_s = now + executor.took, thread.busy_s + executor.took
        for ticket in done:
            place, _ = waiting.pop(id(ticket))
            news.seconds.append((now - due[place], size, False))
            yield Answered(place, ticket, now - due[place])
        if not executor.took:
            now = max(now, min(due[begun] if begun < len(due) else now, now + TICK_S))
