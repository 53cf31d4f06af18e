"""Rising load on each server: what comes in time, how late the rest is, and how right the answers are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.serving import wire
from benchmarks.serving.client import Answers, Asked, answers
from benchmarks.serving.servers import Running, exeunt_server, litserve_server, running

from exeunt._support.limits import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from benchmarks.serving.prepared import Prepared

SLO_S, QUANTILE = 0.05, 0.99
LOADS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of the original fp32 network's capacity, measured through our server with requests of the same size."""
TWICE, LONGER = 2.0, 3
"""At this load so many times as long, since it is what is quoted."""
POINTS = 1.0
"""Of accuracy that may be lost."""
HOPELESS = 0.01
"""Higher loads are left out once less than this share was answered in time at two loads, the last at least 1."""
BURSTY = (0.3, 1.0)
"""Loads on average whose rate changes between a quarter and seven quarters of it every half second."""
SIZES = (16, 1)
"""Images of a request."""
SETTLE_S, RECOVER_S = 3.0, 10.0
"""What is asked in the first seconds at a load is answered, and not counted. After its capacity was measured, a server
has so many seconds to itself."""
CONTROLLED, EACH_CORE = "controlled", ", a worker a core"
READY, READY_LITSERVE = "/v2/health/ready", "/health"
_RIVAL_ROWS = 64  # rows that LitServe puts together, as our engine does


@dataclass(frozen=True)
class System:
    """A server to measure: its name, its command on a port, what answers once it is ready, and how it is asked."""

    name: str
    command: Callable[[int], Sequence[str]]
    ready: str
    body: Callable[[np.ndarray], bytes]

    @property
    def kind(self) -> str:
        """Name of the form of its requests."""
        return "litserve" if self.ready == READY_LITSERVE else "infer"


def systems(prepared: Prepared, size: int) -> list[System]:
    """Return the servers. Loads are shares of what the first, with the original fp32 model, answers at most."""
    onnx, each_core = ("--executor", "onnx"), ("--workers", str(usable_cores()), "--threads", "1")
    slo = (
        "--slo-ms",
        f"{1e3 * SLO_S:g}",
        "--slo-quantile",
        f"{QUANTILE:g}",
        "--min-accuracy",
        prepared.least_accuracy,
    )
    batch, found = max(1, _RIVAL_ROWS // size), []

    def add(name: str, command: Callable[[int], Sequence[str]], *, rival: bool = False) -> None:
        ask = (READY_LITSERVE, wire.litserve) if rival else (READY, wire.infer)
        found.append(System(name, command, *ask))

    for precision, run in (("fp32", prepared.fp32), ("int8", prepared.int8)):
        add(f"original model, {precision}", exeunt_server(run, *onnx))
        add(f"original model, {precision}{EACH_CORE}", exeunt_server(run, *onnx, *each_core))
    add("LitServe, int8", litserve_server(prepared.int8, batch=batch), rival=True)
    command = litserve_server(prepared.int8, batch=batch, workers=usable_cores())
    add(f"LitServe, int8{EACH_CORE}", command, rival=True)
    add(CONTROLLED, exeunt_server(prepared.served, *slo))
    add(f"{CONTROLLED}{EACH_CORE}", exeunt_server(prepared.served, *slo, *each_core))
    return found


def measure(
    prepared: Prepared, seconds: float, loads: Sequence[float] = LOADS, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """Return a row for each system, size of requests and load, and the capacities."""
    rows: list[dict[str, Any]] = []
    capacities: dict[str, dict[str, float]] = {}
    for size in sizes:
        unit = 0.0
        for system in systems(prepared, size):
            bodies = prepared.bodies(system.kind, system.body, size)
            with running(system.command, system.ready, prepared.folder / "servers.log") as server:
                capacity = capacity_of(server, bodies, size, seconds)
                unit = unit or capacity
                capacities.setdefault(str(size), {})[system.name] = capacity
                print(f"{system.name}, {size} a request: {capacity:.0f} rows a second at most", flush=True)
                time.sleep(RECOVER_S)
                hopeless = 0
                patterns = [*(("Poisson", one) for one in loads), *(("bursty", one) for one in BURSTY)]
                # Ascending: a server may go on with what was asked of it at a load beyond its capacity.
                for pattern, load in sorted(patterns, key=lambda one: one[1]):
                    if hopeless >= 2 and load >= 1:
                        continue
                    for_s = seconds * (LONGER if load == TWICE else 1)
                    row = at_load(prepared, server, bodies, size, load * unit, for_s, pattern)
                    hopeless += row["in_time"] < HOPELESS
                    rows.append(
                        {"system": system.name, "size": size, "load": load, "pattern": pattern, **row}
                    )
                    shown = (
                        "load",
                        "pattern",
                        "p50_ms",
                        "p99_ms",
                        "in_time",
                        "accuracy",
                        "lost",
                        "client_cores",
                        "sent_late_ms",
                    )
                    print("  ", {name: rows[-1][name] for name in shown}, flush=True)
    return {"capacities": capacities, "rows": rows}


def unit_of(prepared: Prepared, found: dict[str, Any], seconds: float) -> float:
    """Return what loads are shares of, for requests of the first size; measured now if it was not yet."""
    size = SIZES[0]
    first = systems(prepared, size)[0]
    if str(size) in found.get("loads", {}).get("capacities", {}):
        return float(found["loads"]["capacities"][str(size)][first.name])
    bodies = prepared.bodies(first.kind, first.body, size)
    with running(first.command, first.ready, prepared.folder / "servers.log") as server:
        return capacity_of(server, bodies, size, seconds)


def capacity_of(server: Running, bodies: Path, size: int, seconds: float) -> float:
    """Return rows a second where 64 rows or more are always asked for: as many as the server can answer."""
    connections = max(8, 128 // size)
    closed = Asked(port=server.port, bodies=str(bodies), connections=connections, seconds=seconds)
    answers(Asked(port=server.port, bodies=str(bodies), connections=connections, seconds=1.0))  # warm
    found = answers(closed)
    done = found.due + found.latency
    answered = int(((found.status == 200) & (done <= seconds)).sum())
    if not answered:
        raise RuntimeError(
            f"{' '.join(server.command)} answers nothing within {seconds:g} s: see {server.log}"
        )
    return size * answered / seconds


def at_load(
    prepared: Prepared,
    server: Running,
    bodies: Path,
    size: int,
    rate: float,
    seconds: float,
    pattern: str = "Poisson",
) -> dict[str, Any]:
    """Return what came of arrivals at `rate` rows a second on average."""
    due = ARRIVALS[pattern](rate / size, seconds + SETTLE_S)
    before = server.cpu_s()
    found = answers(asked(prepared.folder, server, bodies, due))
    return {
        "rate": rate,
        **summary(prepared, found, size, SETTLE_S, seconds + SETTLE_S),
        "server_cores": (server.cpu_s() - before) / found.wall_s,
    }


def asked(folder: Path, server: Running, bodies: Path, due: np.ndarray, **options: Any) -> Asked:
    """Return what asks at the seconds `due`."""
    path = folder / "due.npy"
    np.save(path, due)
    return Asked(port=server.port, bodies=str(bodies), due=str(path), **options)


def poisson(rate: float, seconds: float, seed: int = 0, start: float = 0.0) -> np.ndarray:
    """Return arrival times of a Poisson process of `rate` a second."""
    rng = np.random.default_rng(seed)
    return start + np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def bursty(rate: float, seconds: float) -> np.ndarray:
    """Return arrival times of a process of `rate` a second on average, that is slow and fast in turns."""
    turns = np.arange(0.0, seconds, 0.5)
    parts = [poisson(rate * (0.25, 1.75)[i % 2], 0.5, i, start) for i, start in enumerate(turns)]
    return np.concatenate(parts)


ARRIVALS = {"Poisson": poisson, "bursty": bursty}


def goodput(rows: Iterable[dict[str, Any]], points: float = np.inf) -> float:
    """Return the most rows a second that were answered in time, where at most so many points of accuracy are lost.

    Loads that were chosen as multiples of a goodput ("times") do not count.
    """
    kept = [row["goodput"] for row in rows if "times" not in row and (row["points_lost"] or 0.0) <= points]
    return max(kept, default=0.0)


def summary(prepared: Prepared, found: Answers, size: int, since: float, until: float) -> dict[str, Any]:
    """Return quantiles of latency, goodput, accuracy and losses of the requests that were due in this time."""
    here = np.flatnonzero((found.due >= since) & (found.due < until))
    answered = here[found.status[here] == 200]
    latency = np.where(found.status == 200, found.latency, np.inf)[here]
    columns = [wire.columns_of(found.bodies[i]) for i in answered]
    accuracy, whole = prepared.accuracies(found.which[answered], [one["label"] for one in columns], size)
    seconds = until - since
    return {
        "requests": len(here),
        **{f"p{q:g}_ms": _quantile_ms(latency, q / 100) for q in (50, 95, 99)},
        "goodput": float(size * (latency <= SLO_S).sum() / seconds),
        "in_time": float((latency <= SLO_S).mean()) if len(here) else None,
        "accuracy": accuracy,
        "points_lost": None if accuracy is None else 100 * (whole - accuracy),
        "lost": int((found.status[here] == 0).sum()),
        "refused": int(((found.status[here] != 0) & (found.status[here] != 200)).sum()),
        "expired": int(sum(one["expired"].sum() for one in columns if "expired" in one)),
        "degraded": int(sum(one["degraded"].sum() for one in columns if "degraded" in one)),
        "no_answer": int(sum((one["label"] < 0).sum() for one in columns)),
        "client_cores": found.cpu_s / found.wall_s,
        "sent_late_ms": _quantile_ms(found.sent_late[here], 0.99),
    }


def _quantile_ms(seconds: np.ndarray, q: float) -> float | None:
    """Return a quantile in ms, None where it is of a request without an answer."""
    if not len(seconds):
        return None
    value = np.quantile(seconds, q, method="inverted_cdf")
    return float(1e3 * value) if np.isfinite(value) else None
