"""An open-loop client in a process of its own: it sends when a request is due, whether or not others are answered.

    python benchmarks/serving/client.py SPEC.json

A latency is counted from the time at which a request was due, so a client that falls behind, or a server that lets it
wait, is no excuse (coordinated omission). Raw HTTP/1.1 over kept connections, requests built beforehand, answers parsed
afterwards: the client shares two cores with the server. `Asked` says what is asked, `answers` asks it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

LOST, REFUSED = 0, 503
"""Statuses: no answer at all (connection lost, or none in time); sent away."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client asks.

    `bodies`: a file of requests, see `wire.write_bodies`. `due`: a file of seconds (n,) at which requests are due;
    "" for a closed loop of `connections`, each asking again as soon as it is answered, for `seconds`.
    `give_up_s`: a request without an answer so long after it was due is lost. `cancel_every`: of so many requests one
    is cancelled `cancel_after_s` after it was sent; 0 for none. `retry`: ask again where a connection is lost or a
    request refused, until it is answered.
    """

    port: int
    bodies: str
    due: str = ""
    connections: int = 1024
    seconds: float = 0.0
    give_up_s: float = 10.0
    cancel_every: int = 0
    cancel_after_s: float = 0.0
    retry: bool = False


@dataclass(frozen=True, eq=False)
class Answers:
    """What came of it. All (n,): `due` seconds, `latency` seconds (NaN for none), `status`; `sent_late`: seconds
    from due to sent. `bodies`: of the answers. `which`: the request that was sent. `cpu_s` in `wall_s`: of the client.
    """

    due: np.ndarray
    latency: np.ndarray
    status: np.ndarray
    sent_late: np.ndarray
    which: np.ndarray
    bodies: list[bytes]
    cpu_s: float
    wall_s: float


def answers(asked: Asked) -> Answers:
    """Run a client in a process of its own and return what came of it."""
    with TemporaryDirectory() as folder:
        spec, out = Path(folder) / "spec.json", Path(folder) / "out.npz"
        spec.write_text(json.dumps({**asdict(asked), "out": str(out)}))
        subprocess.run([sys.executable, __file__, str(spec)], check=True)
        found = np.load(out)
        ends, whole = found["ends"], found["bodies"].tobytes()
        bodies = [whole[a:b] for a, b in zip([0, *ends][:-1], ends, strict=True)]
        cpu_s, wall_s = found["cpu_wall_s"]
        columns = {name: found[name] for name in ("due", "latency", "status", "sent_late", "which")}
        return Answers(**columns, bodies=bodies, cpu_s=float(cpu_s), wall_s=float(wall_s))


# -- in the client's process --------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One connection: it carries one request at a time."""

    def __init__(self, client: _Client) -> None:
        self.client, self.request, self.left = client, -1, -1
        self.status, self.body, self.parts = 0, b"", bytearray()
        self.transport: Any = None
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self.transport, self.open = transport, True

    def ask(self, request: int, body: bytes) -> None:
        self.request, self.left, self.parts = request, -1, bytearray()
        self.transport.write(body)

    def data_received(self, data: bytes) -> None:
        self.parts += data
        if self.left < 0:
            end = self.parts.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.parts[:end]).lower()
            self.status = int(head[9:12])
            at = head.find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self.left = end + 4 + length
        if len(self.parts) >= self.left and self.request >= 0:
            request, self.request = self.request, -1
            self.client.answered(self, request, self.status, bytes(self.parts[: self.left]))

    def connection_lost(self, _: Exception | None) -> None:
        self.open = False
        request, self.request = self.request, -1
        self.client.lost(self, request)


class _Client:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        bodies = np.load(spec["bodies"])
        ends, whole = bodies["ends"], bodies["whole"].tobytes()
        self.requests = [whole[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        self.free: list[_Connection] = []
        self.waiting: list[int] = []  # requests without a connection
        self.count = 0
        self.due: list[float] = []
        self.latency: list[float] = []
        self.status: list[int] = []
        self.late: list[float] = []
        self.bodies: list[bytes] = []
        self.open = 0
        self.last = False
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()

    def new(self, due: float) -> int:
        self.due.append(due)
        self.latency.append(float("nan"))
        self.status.append(LOST)
        self.late.append(0.0)
        self.bodies.append(b"")
        self.open += 1
        return len(self.due) - 1

    def send(self, request: int) -> None:
        while self.free:
            connection = self.free.pop()
            if connection.open:
                self._ask(connection, request)
                return
        self.waiting.append(request)
        if self.count < self.spec["connections"]:
            self.count += 1
            self.loop.create_task(self._connect())

    def _ask(self, connection: _Connection, request: int) -> None:
        self.late[request] = time.monotonic() - self.began - self.due[request]
        connection.ask(request, self.requests[request % len(self.requests)])
        every = self.spec["cancel_every"]
        if every and request % every == 0:
            self.loop.call_later(self.spec["cancel_after_s"], self._cancel, connection, request)

    def _cancel(self, connection: _Connection, request: int) -> None:
        if connection.request == request and connection.open:
            connection.transport.abort()

    async def _connect(self) -> None:
        try:
            _, connection = await self.loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self.spec["port"]
            )
        except OSError:
            self.count -= 1
            if self.waiting:
                request = self.waiting.pop(0)
                if self.spec["retry"]:
                    await asyncio.sleep(0.1)
                    self.send(request)
                else:
                    self._end(request, LOST, b"")
            return
        self.give(connection)

    def give(self, connection: _Connection) -> None:
        if self.waiting:
            self._ask(connection, self.waiting.pop(0))
        elif connection.open:
            self.free.append(connection)

    def answered(self, connection: _Connection, request: int, status: int, body: bytes) -> None:
        if status == REFUSED and self.spec["retry"]:
            self.loop.call_later(0.1, self.send, request)
        else:
            self._end(request, status, body)
        self.give(connection)

    def lost(self, connection: _Connection, request: int) -> None:
        self.count -= 1
        if connection in self.free:
            self.free.remove(connection)
        if request >= 0:
            if self.spec["retry"]:
                self.loop.call_later(0.1, self.send, request)
            else:
                self._end(request, LOST, b"")

    def _end(self, request: int, status: int, body: bytes) -> None:
        if self.latency[request] == self.latency[request] or self.done.done():
            return
        self.status[request], self.bodies[request] = status, body
        self.latency[request] = time.monotonic() - self.began - self.due[request]
        self.open -= 1
        if not self.spec["due"] and self.latency[request] + self.due[request] < self.spec["seconds"]:
            self.send(self.new(time.monotonic() - self.began))
        elif self.open == 0 and self.last:
            self.done.set_result(None)

    async def run(self) -> None:
        spec = self.spec
        self.began = time.monotonic() + 0.05
        if spec["due"]:
            for due in np.load(spec["due"]).tolist():
                wait = due - (time.monotonic() - self.began)
                if wait > 0:
                    await asyncio.sleep(wait)
                self.send(self.new(due))
        else:
            for _ in range(spec["connections"]):
                self.send(self.new(0.0))
        self.last = True
        if self.open:
            end = self.began + (self.due[-1] if spec["due"] else spec["seconds"]) + spec["give_up_s"]
            await asyncio.wait([self.done], timeout=max(end - time.monotonic(), 0.1))


async def _main(spec: dict[str, Any]) -> None:
    client = _Client(spec)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    await client.run()
    after, wall_s = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    n = len(client.due)
    np.savez(
        spec["out"], due=np.array(client.due), latency=np.array(client.latency), status=np.array(client.status),
        sent_late=np.array(client.late), which=np.arange(n) % len(client.requests),
        ends=np.cumsum([len(body) for body in client.bodies]), cpu_wall_s=np.array([cpu_s, wall_s]),
        bodies=np.frombuffer(b"".join(client.bodies), dtype=np.uint8),
    )  # fmt: skip


if __name__ == "__main__":
    with_loop = asyncio.run
    try:
        import uvloop

        with_loop = uvloop.run
    except ImportError:
        pass
    with_loop(_main(json.loads(Path(sys.argv[1]).read_text())))
