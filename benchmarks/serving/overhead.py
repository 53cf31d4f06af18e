"""What the server takes beside the engine: the same rows through both, and requests a second of tiny inputs."""

from __future__ import annotations

import base64
import io
import resource
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.serving import wire
from benchmarks.serving.client import Asked, answers
from benchmarks.serving.loads import READY, SIZES
from benchmarks.serving.servers import exeunt_server, running
from PIL import Image

from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import load

if TYPE_CHECKING:
    from benchmarks.serving.prepared import Prepared


def measure(prepared: Prepared, seconds: float) -> dict[str, Any]:
    """Return rows and processor seconds of the engine alone, of the server, and requests a second of /predict."""
    policy = RunFolder.open(prepared.served).policy_set.policies[4]
    budget = f"{100 * policy.cost.share(policy.budget):.6g}%"
    found: dict[str, Any] = {"budget": budget, "engine": {}, "server": {}}
    found["engine"] = {str(size): _engine(prepared, policy, size, seconds) for size in SIZES}
    command = exeunt_server(prepared.served, "--budget", budget)
    with running(command, READY, prepared.folder / "servers.log") as server:
        for size in SIZES:
            bodies = prepared.bodies("infer", wire.infer, size)
            for taken in (1.0, seconds):  # first warm
                before = server.cpu_s()
                done = answers(
                    Asked(port=server.port, bodies=str(bodies), connections=128 // size, seconds=taken)
                )
            rows = int((done.status == 200).sum()) * size
            found["server"][str(size)] = {
                "rows_per_s": rows / done.wall_s,
                "cpu_ms_per_row": 1e3 * (server.cpu_s() - before) / rows,
                "client_cpu_ms_per_row": 1e3 * done.cpu_s / rows,
            }
        file = io.BytesIO()
        Image.fromarray(prepared.images[0]).save(file, "PNG")
        png = base64.b64encode(file.getvalue()).decode()
        least = RunFolder.open(prepared.served).policy_set.policies[0]
        tiny = wire.predict(
            {"images": [png], "budget": f"{100 * least.cost.share(least.budget) + 0.01:.6g}%"}
        )
        body = wire.write_bodies(prepared.folder / "tiny.npz", [tiny])
        done = answers(Asked(port=server.port, bodies=str(body), connections=32, seconds=seconds))
        found["predict"] = {
            "requests_per_s": float((done.status == 200).sum() / done.wall_s),
            "p50_ms": 1e3 * float(np.nanmedian(done.latency)),
            "failed": int((done.status != 200).sum()),
            "client_cores": done.cpu_s / done.wall_s,
        }
    print(found, flush=True)
    return found


def _engine(prepared: Prepared, policy: Any, size: int, seconds: float) -> dict[str, float]:
    """Answer batches of `size` images as a stream, as the server's engine does, without a server."""
    runner = load(prepared.served, policy=policy)
    count = len(prepared.images) // size

    def batches() -> Any:
        while True:
            for i in range(count):
                yield runner.prepare(prepared.images[i * size : (i + 1) * size])

    answered = runner.stream(batches(), ordered=False)
    for _ in islice(answered, 256 // size):  # warm
        pass
    before, began, rows = resource.getrusage(resource.RUSAGE_SELF), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        rows += len(next(answered).label)
    after, wall_s = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"rows_per_s": rows / wall_s, "cpu_ms_per_row": 1e3 * cpu_s / rows}
