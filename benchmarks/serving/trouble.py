"""What goes wrong on a server: bursts, many clients, poison, malformed and cancelled requests, memory, kill -9."""

from __future__ import annotations

import io
import re
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import wire
from client import Answers, Asked, answers
from loads import CONTROLLED, EACH_CORE, READY, SLO_S, asked, poisson, summary, systems
from PIL import Image
from servers import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prepared import Prepared

SIZE = 16
_BURST_S, _BEFORE_S, _AFTER_S = 5.0, 5.0, 30.0
_MALFORMED, _CANCELLED = 1000, 10_000
_CANCELLED_LOAD = 0.5  # of the original model's capacity, in requests of one image


def measure(prepared: Prepared, seconds: float, unit: float) -> dict[str, Any]:
    """Return what came of each kind of trouble. `unit`: rows a second that loads are shares of."""
    system = next(one for one in systems(prepared, SIZE) if one.name == f"{CONTROLLED}{EACH_CORE}")
    ways: dict[str, Callable[[Prepared, Running, float, float], dict[str, Any]]] = {
        "burst": burst, "clients": clients, "poisoned": poisoned, "malformed": malformed, "cancelled": cancelled,
        "memory": memory, "killed": killed,
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
    """Ten times the original model's capacity for five seconds, .3 of it before and after."""
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
    bodies = prepared.bodies("checked", wire.infer("model", wire.CHECKED), 1)
    found = answers(Asked(port=server.port, bodies=str(bodies), connections=500, seconds=seconds))
    return {
        **_totals(prepared, found, 1),
        "requests_per_s": float((found.status == 200).sum() / found.wall_s),
        "p99_ms": 1e3 * float(np.nanquantile(found.latency, 0.99)),
    }


def poisoned(prepared: Prepared, server: Running, seconds: float, unit: float) -> dict[str, Any]:
    """Encoded images at half the load; in one request of a hundred one image cannot be read."""
    images = [encoded(one) for one in prepared.images[: 200 * SIZE]]
    broken = {i: i % SIZE for i in range(0, 200, 100)}
    requests = []
    for i in range(200):
        rows = images[i * SIZE : (i + 1) * SIZE]
        if i in broken:
            rows[broken[i]] = rows[broken[i]][:60]
        requests.append(wire.infer_encoded("model", rows))
    bodies = wire.write_bodies(prepared.folder / "poisoned.npz", requests)
    found = answers(asked(prepared.folder, server, bodies, poisson(0.5 * unit / SIZE, 4 * seconds, 2)))
    mistaken = 0
    for i in np.flatnonzero(found.status == 200):
        label = wire.columns_of(found.bodies[i])["label"]
        wanted = np.ones(SIZE, bool)
        if (which := int(found.which[i])) in broken:
            wanted[broken[which]] = False
        mistaken += int(((label >= 0) != wanted).sum())
    return {**_totals(prepared, found), "poisoned_requests": int(np.isin(found.which, list(broken)).sum()),
            "rows_answered_that_must_not_be_or_the_reverse": mistaken}  # fmt: skip


def malformed(prepared: Prepared, server: Running, seconds: float, unit: float) -> dict[str, Any]:
    """A thousand malformed requests beside half the load."""
    rng = np.random.default_rng(3)
    good = wire.infer("model")(prepared.images[:SIZE])
    with ThreadPoolExecutor(9) as pool:
        due = poisson(0.5 * unit / SIZE, max(seconds, 5.0), 3)
        others = pool.submit(answers, asked(prepared.folder, server, _bodies(prepared), due))
        bad = [wire.malformed(good, rng) for _ in range(_MALFORMED)]
        statuses = Counter(pool.map(lambda body: _status(server.port, body), bad))
        found = others.result()
    return {**_totals(prepared, found), "statuses": {str(k): v for k, v in sorted(statuses.items())},
            "p99_ms_of_the_others": summary(prepared, found, SIZE, 0, np.inf)["p99_ms"]}  # fmt: skip


def cancelled(prepared: Prepared, server: Running, _seconds: float, unit: float) -> dict[str, Any]:
    """Ten thousand requests whose client leaves after 2 ms, and as many that wait; at half the load."""
    before = server.memory_mb()
    bodies = prepared.bodies("infer", wire.infer("model"), 1)
    rate = _CANCELLED_LOAD * unit
    due = poisson(rate, 2 * _CANCELLED / rate, 4)
    found = answers(asked(prepared.folder, server, bodies, due, cancel_every=2, cancel_after_s=0.002))
    place = np.arange(len(found.due))
    stayed = place % 2 == 1
    time.sleep(1.0)
    return {
        "cancelled": int((found.status[~stayed] == 0).sum()),
        "others": int(stayed.sum()),
        "others_answered": int((found.status[stayed] == 200).sum()),
        "others_refused": int((found.status[stayed] >= 400).sum()),
        "rows_left_inside": _metric(server, "exeunt_rows_waiting"),
        "memory_mb_before": before,
        "memory_mb_after": server.memory_mb(),
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
    return prepared.bodies("checked", wire.infer("model", wire.CHECKED), SIZE)


def _totals(prepared: Prepared, found: Answers, size: int = SIZE) -> dict[str, Any]:
    whole = summary(prepared, found, size, -np.inf, np.inf)
    return {
        name: whole[name]
        for name in ("requests", "lost", "refused", "no_answer", "wrong", "expired", "degraded", "accuracy")
    }


def _p99(latency: np.ndarray) -> float:
    """Return the 99 % quantile, infinite where more had no answer."""
    return float(np.quantile(latency, 0.99, method="inverted_cdf")) if len(latency) else 0.0


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _status(port: int, body: bytes) -> str:
    """Return the status that a request gets; "closed" or "silent" for none."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.settimeout(0.3)
        try:
            connection.sendall(body)
            answer = connection.recv(4096)
        except TimeoutError:
            return "silent"  # it waits for the rest
        except OSError:
            return "closed"
    return answer[9:12].decode() if answer else "closed"


def _metric(server: Running, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as response:
        text = response.read().decode()
    match = re.search(rf"^{name} (\S+)$", text, re.M)
    return float(match[1]) if match else float("nan")
