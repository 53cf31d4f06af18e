"""What goes wrong on a server: a burst, many clients, memory over an hour, kill -9."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.serving import wire
from benchmarks.serving.client import Answers, Asked, answers
from benchmarks.serving.loads import CONTROLLED, EACH_CORE, READY, SLO_S, asked, poisson, summary, systems
from benchmarks.serving.servers import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.serving.prepared import Prepared

SIZE = 16
_BURST_S, _BEFORE_S, _AFTER_S = 5.0, 5.0, 30.0


def measure(prepared: Prepared, seconds: float, unit: float) -> dict[str, Any]:
    """Return what came of each kind of trouble. `unit`: rows a second that loads are shares of."""
    system = next(one for one in systems(prepared, SIZE) if one.name == f"{CONTROLLED}{EACH_CORE}")
    ways: dict[str, Callable[[Prepared, Running, float, float], dict[str, Any]]] = {
        "burst": burst, "clients": clients, "memory": memory, "killed": killed
    }  # fmt: skip
    found = {}
    with running(system.command, READY, prepared.folder / "servers.log") as server:
        answers(Asked(port=server.port, bodies=str(_bodies(prepared)), connections=8, seconds=1.0))  # warm
        for name, way in ways.items():
            found[name] = way(prepared, server, seconds, unit)
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found[name].items() if key != "by_second"),
                  flush=True)  # fmt: skip
    return found


def burst(prepared: Prepared, server: Running, _seconds: float, unit: float) -> dict[str, Any]:
    """Ten times the original model's capacity for five seconds, 0.3 of it before and after."""
    whole = _BEFORE_S + _BURST_S + _AFTER_S
    due = np.sort(np.concatenate([
        poisson(0.3 * unit / SIZE, whole, 0), poisson(10 * unit / SIZE, _BURST_S, 1, start=_BEFORE_S),
    ]))  # fmt: skip
    found = answers(asked(prepared.folder, server, _bodies(prepared), due, give_up_s=30.0, connections=4000))
    latency = np.where(found.status == 200, found.latency, np.inf)
    bins = range(int(whole))
    by_second = [_p99(latency[(found.due >= t) & (found.due < t + 1)]) for t in bins]
    end = _BEFORE_S + _BURST_S
    back = next((t for t in bins if t >= end and by_second[t] <= SLO_S), whole)
    in_burst = summary(prepared, found, SIZE, _BEFORE_S, end)
    return {
        "seconds_until_p99_is_back": float(back - end),
        **_totals(prepared, found),
        "in_time_in_burst": in_burst["in_time"],
        "accuracy_in_burst": in_burst["accuracy"],
        "longest_s": float(np.nanmax(found.latency)),
        "by_second": [None if not np.isfinite(p99) else 1e3 * float(p99) for p99 in by_second],
    }


def clients(prepared: Prepared, server: Running, seconds: float, _unit: float) -> dict[str, Any]:
    """500 clients at once, each of which asks for one image again and again."""
    bodies = prepared.bodies("infer", wire.infer, 1)
    found = answers(Asked(port=server.port, bodies=str(bodies), connections=500, seconds=seconds))
    return {
        **_totals(prepared, found, 1),
        "requests_per_s": float((found.status == 200).sum() / found.wall_s),
        "p99_ms": 1e3 * float(np.nanquantile(found.latency, 0.99)),
    }


def memory(prepared: Prepared, server: Running, seconds: float, unit: float) -> dict[str, Any]:
    """As many requests as it can answer, until they are what an hour brings at the original model's capacity.

    That is with the usual ten seconds at a load, else six minutes for each second. Resident memory meanwhile.
    """
    seen: list[float] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.5):
            seen.append(server.memory_mb())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    part = Asked(port=server.port, bodies=str(_bodies(prepared)), connections=16, seconds=6 * seconds)
    rows, lost, wanted = 0, 0, 360 * seconds * unit
    while rows < wanted and lost == 0:
        found = answers(part)
        rows += int((found.status == 200).sum()) * SIZE
        lost += int((found.status == 0).sum())
    stop.set()
    watcher.join()
    tenth = max(len(seen) // 10, 1)
    return {"rows": rows, "hours_at_the_capacity_of_the_original_network": rows / unit / 3600, "lost": lost,
            "memory_mb_in_the_second_tenth": float(np.mean(seen[tenth : 2 * tenth])),
            "memory_mb_in_the_last_tenth": float(np.mean(seen[-tenth:]))}  # fmt: skip


def killed(prepared: Prepared, server: Running, seconds: float, unit: float) -> dict[str, Any]:
    """kill -9 and start again, twice, beside half the load, with a client that asks again until it is answered."""
    whole = max(3 * seconds, 12.0)
    due = poisson(0.5 * unit / SIZE, whole, 5)
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(
            answers, asked(prepared.folder, server, _bodies(prepared), due, retry=True, give_up_s=120.0)
        )
        for _ in range(2):
            time.sleep(whole / 4)
            server.end(signal.SIGKILL)
            server.start()
        found = others.result()
    return {**_totals(prepared, found), "kills": 2, "longest_s": float(np.nanmax(found.latency))}


# -- small parts --------------------------------------------------------------------------------------------


def _bodies(prepared: Prepared) -> Path:
    return prepared.bodies("infer", wire.infer, SIZE)


def _totals(prepared: Prepared, found: Answers, size: int = SIZE) -> dict[str, Any]:
    whole = summary(prepared, found, size, -np.inf, np.inf)
    return {
        name: whole[name]
        for name in ("requests", "lost", "refused", "no_answer", "expired", "degraded", "accuracy")
    }


def _p99(latency: np.ndarray) -> float:
    """Return the 99 % quantile, infinite where more had no answer."""
    return float(np.quantile(latency, 0.99, method="inverted_cdf")) if len(latency) else 0.0
