"""Requests of one PNG image each: processor time a request, and how many are answered in time.

Bare uvicorn with the same decoding, our server, another checkout of it and LitServe, one after the other in one run.
"""

from __future__ import annotations

import importlib.util
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.serving import wire
from benchmarks.serving.client import Answers, Asked, answers
from benchmarks.serving.loads import (
    POINTS,
    QUANTILE,
    READY,
    READY_LITSERVE,
    SLO_S,
    asked,
    goodput,
    poisson,
    summary,
)
from benchmarks.serving.servers import Running, bare_server, exeunt_server, litserve_server, running
from PIL import Image

from exeunt.serve.loaded_run import load_run
from exeunt.serve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.serving.prepared import Prepared

BARE, NETWORK, BARE_WHOLE = "bare uvicorn", "bare uvicorn and cascade", "bare uvicorn and int8 network"
BEFORE, AFTER, WHOLE, LITSERVE = "before", "now", "int8 network alone", "LitServe"
CAREFUL = "now, one point"
KINDS = {"form": wire.form, "base64": wire.in_base64, "binary": wire.infer}
RATES, WORKERS, ROUNDS, SECONDS = (200.0, 800.0), (1, 2), 2, 2.0
LOADS = (300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 1000.0, 1200.0, 1500.0, 1800.0, 2200.0)
LEAST = 2000
"""Requests at each load, so that the points of accuracy lost are not those of a few images."""
BEYOND, BEYOND_S = (1.5, 3.0), 4.0
SETTLE_S, HOPELESS = 1.0, 0.1
_CONNECTIONS, _GIVE_UP_S = 256, 2.0


@dataclass(frozen=True)
class Server:
    """A server: its name, its command on a port, what answers once it is ready, and the requests that it is sent."""

    name: str
    command: Callable[[int], Sequence[str]]
    bodies: Path
    ready: str = READY


def measure(prepared: Prepared, source: Path | None) -> dict[str, Any]:
    """Return what each server takes and answers. `source`: another checkout, measured as "before".

    Processor time is measured under the cheapest policy that loses at most `POINTS`, as estimated.
    """
    files = {kind: _bodies(prepared, kind, make) for kind, make in KINDS.items()}
    least = prepared.accuracy_less(POINTS)
    accuracy = load_run(Settings(run=prepared.served, threads=1)).accuracy
    budget = next(
        (name for name, estimate in accuracy.items() if (estimate or 0.0) >= least), list(accuracy)[-1]
    )
    found: dict[str, Any] = {
        "policy": budget,
        "careful": f"{least:.1%}",
        "processor": [
            row for workers in WORKERS for row in _processor(prepared, source, files, workers, budget)
        ],
        "load": [row for workers in WORKERS for row in _rising(prepared, source, files["form"], workers)],
    }
    return found


def _bodies(prepared: Prepared, kind: str, make: Callable[[Any], bytes]) -> Path:
    if kind == "binary":
        return prepared.bodies("single-binary", make, 1)
    return prepared.bodies(f"single-{kind}", lambda pixels: make(_png(pixels[0])), 1)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _ours(run: Path, workers: int, *options: str, source: Path | None = None) -> Callable[[int], list[str]]:
    slo = ("--slo-ms", f"{1e3 * SLO_S:g}", "--slo-quantile", f"{QUANTILE:g}")
    each = ("--workers", str(workers), "--threads", "1")
    return exeunt_server(run, *slo, *each, *options, source=source)


# -- processor time -----------------------------------------------------------------------------------------


def _processor(
    prepared: Prepared, source: Path | None, files: dict[str, Path], workers: int, budget: str
) -> list[dict[str, Any]]:
    """Return a row for each server, kind of request and rate: the least processor time of some rounds."""
    commands = {
        BARE: bare_server(workers=workers),
        NETWORK: bare_server("--run", str(prepared.served), "--budget", budget, workers=workers),
        BARE_WHOLE: bare_server("--run", str(prepared.int8), "--budget", "100%", workers=workers),
    }
    if source is not None:
        commands[BEFORE] = _ours(prepared.served, workers, "--budget", budget, source=source)
    commands[AFTER] = _ours(prepared.served, workers, "--budget", budget)
    rows = []
    for name, command in commands.items():
        with running(command, READY, prepared.folder / "servers.log") as server:
            for kind, bodies in files.items():
                _warm(server, bodies)
                for rate in RATES:
                    taken = [
                        _asked_at(prepared, server, bodies, rate, SECONDS, seed) for seed in range(ROUNDS)
                    ]
                    ms, done = min(taken, key=lambda one: one[0])
                    late = np.where(done.status == 200, done.latency, np.inf)
                    rows.append({
                        "server": name, "workers": workers, "kind": kind, "rate": rate, "ms": ms,
                        "of_rounds": [one for one, _ in taken], "in_time": float((late <= SLO_S).mean()),
                        "answered": float((done.status == 200).mean()),
                    })  # fmt: skip
                    print(rows[-1], flush=True)
    return rows


def _warm(server: Running, bodies: Path) -> None:
    found = answers(Asked(port=server.port, bodies=str(bodies), connections=8, seconds=0.5))
    if not (found.status == 200).any():
        raise RuntimeError(f"{' '.join(server.command)} does not answer: {found.bodies[0][:500]!r}")


def _asked_at(
    prepared: Prepared, server: Running, bodies: Path, rate: float, seconds: float, seed: int = 0
) -> tuple[float, Answers]:
    """Return milliseconds of processor a request that is answered, at a rate, and the answers."""
    before = server.cpu_s()
    due = poisson(rate, seconds, seed)
    found = answers(
        asked(prepared.folder, server, bodies, due, connections=_CONNECTIONS, give_up_s=_GIVE_UP_S)
    )
    return 1e3 * (server.cpu_s() - before) / max(int((found.status == 200).sum()), 1), found


# -- rising load --------------------------------------------------------------------------------------------


def _rising(prepared: Prepared, source: Path | None, form: Path, workers: int) -> list[dict[str, Any]]:
    """Return a row for each server and rate: what is answered in time, and how many points of accuracy it loses."""
    least = ("--min-accuracy", prepared.least_accuracy)
    whole = exeunt_server(prepared.int8, "--executor", "onnx", "--workers", str(workers), "--threads", "1")
    servers = [Server(WHOLE, whole, form)]
    if importlib.util.find_spec("litserve") is not None:
        images = prepared.bodies("single-litserve", lambda pixels: wire.litserve_image(_png(pixels[0])), 1)
        rival = litserve_server(prepared.int8, batch=64, workers=workers)
        servers.append(Server(LITSERVE, rival, images, READY_LITSERVE))
    if source is not None:
        servers.append(Server(BEFORE, _ours(prepared.served, workers, *least, source=source), form))
    servers.append(Server(AFTER, _ours(prepared.served, workers, *least), form))
    at_most = ("--min-accuracy", f"{prepared.accuracy_less(POINTS):.1%}")
    servers.append(Server(CAREFUL, _ours(prepared.served, workers, *at_most), form))
    rows = []
    for one in servers:
        with running(one.command, one.ready, prepared.folder / "servers.log") as server:
            _warm(server, one.bodies)
            own: list[dict[str, Any]] = []
            for rate in LOADS:
                own.append(_loaded(prepared, server, one, workers, rate, max(SECONDS, LEAST / rate)))
                if len(own) > 1 and own[-1]["in_time"] < HOPELESS:
                    break
            if one.name == AFTER:
                most = goodput(own)
                own += [
                    {**_loaded(prepared, server, one, workers, times * most, BEYOND_S), "times": times}
                    for times in BEYOND
                    if most
                ]
            rows += own
    return rows


def _loaded(
    prepared: Prepared, server: Running, one: Server, workers: int, rate: float, seconds: float
) -> dict[str, Any]:
    ms, found = _asked_at(prepared, server, one.bodies, rate, seconds + SETTLE_S)
    row = {
        "server": one.name, "workers": workers, "rate": rate, "ms": ms,
        **summary(prepared, found, 1, SETTLE_S, seconds + SETTLE_S),
    }  # fmt: skip
    print({name: row[name] for name in ("server", "workers", "rate", "ms", "in_time", "goodput", "points_lost",
                                        "refused", "p50_ms", "client_cores")}, flush=True)  # fmt: skip
    time.sleep(1.0)
    return row
