"""Hostile requests by the thousand, between which good ones must be answered rightly: as a test, or as a campaign.

    python tests/serve/hostile_requests.py RUN --requests 100000

serves a run of images, sends it hostile and good requests, and prints what was answered, and the memory of the server
over time.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hostile_images import BOMBS

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "a key of 27 characters long"
OPEN = re.compile(r"/(v2/health/(live|ready)|page/(web/)?[a-z]+\.[a-z]+)?")
"""Paths that are answered without a key."""
INCOMPLETE = ("mutated", "lengths", "junk")
"""Kinds of requests that may not end: the client does not wait for long."""
EACH = 10
"""Of so many requests one is good."""


@cache
def bombs() -> list[bytes]:
    return [make() for _, make in BOMBS.values()]


@cache
def good_images(n: int = 24, seed: int = 5) -> list[bytes]:
    """Images of many sizes and formats that are read exactly."""
    from PIL import Image

    rng, made = np.random.default_rng(seed), []
    for i in range(n):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        sides = tuple(rng.integers(8, 300, 2).tolist())
        image = Image.fromarray(small).resize(sides, Image.Resampling.BICUBIC)
        image.save(file := io.BytesIO(), ("PNG", "BMP", "PNG", "GIF", "JPEG", "WEBP")[i % 6])
        made.append(file.getvalue())
    return made


@dataclass
class Hostile:
    """A request as bytes. `cut`: how many of them are sent before the client leaves; None to wait for an answer."""

    sent: bytes
    cut: int | None = None
    keyless: bool = False
    kind: str = ""


class Generator:
    """Makes hostile requests, always the same ones for a seed."""

    def __init__(self, seed: int, model: str, port: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.model, self.port = model, port
        kinds = ("images", "form", "tensor", "deep", "many", "lengths", "junk", "paths", "mutated", "admin")
        self.kinds = [getattr(self, f"_{name}") for name in kinds]

    def __call__(self) -> Hostile:
        make = self.kinds[self.rng.integers(len(self.kinds))]
        made = make()
        made.kind = make.__name__[1:]
        if self.rng.random() < 0.05:
            made.cut = int(self.rng.integers(len(made.sent) + 1))
        return made

    def pick(self, *things: Any) -> Any:
        return things[self.rng.integers(len(things))]

    def request(
        self,
        path: str = "/predict",
        body: bytes = b"",
        kind: str = "application/json",
        *headers: str,
        method: str = "POST",
        key: str | None = f"Bearer {KEY}",
    ) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: close"]
        lines += [] if key is None else [f"Authorization: {key}"]
        lines += [f"Content-Type: {kind}", *(headers or (f"Content-Length: {len(body)}",))]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body

    def image(self) -> bytes:
        """A bomb, or a good image with bytes flipped, doubled or cut off."""
        if self.rng.random() < 0.3:
            return self.pick(*bombs())
        return self.changed(self.pick(*good_images()))

    def changed(self, given: bytes) -> bytes:
        made = bytearray(given)
        for _ in range(self.rng.integers(1, 5)):
            at, how = int(self.rng.integers(len(made) or 1)), self.rng.integers(4)
            if how == 0:
                made[at : at + 1] = self.rng.bytes(1)
            elif how == 1:
                number = self.pick(0, 1, 2**16, 2**31, 2**32 - 1)
                made[at : at + 4] = struct.pack(self.pick("<I", ">I"), number)
            elif how == 2:
                made[at:at] = made[at : at + int(self.rng.integers(1, 300))]
            else:
                del made[at : at + int(self.rng.integers(1, 300))]
        return bytes(made)

    def _images(self) -> Hostile:
        images = [self.image() for _ in range(self.rng.integers(1, 4))]
        body = {"images": [base64.b64encode(one).decode() for one in images]}
        return Hostile(self.request(body=json.dumps(body).encode()))

    def _form(self) -> Hostile:
        mark = self.pick("b", "x" * 70, "", '"', "b\x80")
        name = self.pick("images", "budget", "", "a" * 9000)
        parts = [
            f'--{mark}\r\nContent-Disposition: form-data; name="{name}"'.encode()
            + self.pick(b'; filename="../../etc/passwd"', b"", b"; filename*=utf-8''%ff")
            + b"\r\n\r\n"
            + self.image()
            + b"\r\n"
            for _ in range(self.rng.integers(0, 30))
        ]
        body = b"".join(parts) + self.pick(f"--{mark}--\r\n".encode("latin-1"), b"", b"--")
        return Hostile(self.request("/predict", body, f"multipart/form-data; boundary={mark}"))

    def _tensor(self) -> Hostile:
        image = self.image()
        raw = self.pick(struct.pack("<I", len(image)) + image, image, b"", self.rng.bytes(300))
        size = self.pick(len(raw), 0, -1, 2**63, None, "1", 1.5)
        sides = (0, 1, -1, 3, 2**31, 2**63 - 1, 2**64, 1.0, None, "1")
        shape = [self.pick(*sides) for _ in range(self.rng.integers(6))]
        tensor = {
            "name": self.pick("image", "text", "", 3),
            "shape": self.pick(shape, [1], [1, 8, 8, 3], [1, 3, 8, 8]),
            "datatype": self.pick("BYTES", "UINT8", "FP32", "FP16", "INT64", None),
            "parameters": self.pick({"binary_data_size": size}, {}, None),
            "data": self.pick(None, [], [0] * 192, [float("nan")] * 192, ["AAAA"], [[["a"]]], 1e400),
        }
        wanted = self.pick([{"name": "label"}], [{"name": "label"}] * 2, [{"name": "x"}], [], None)
        inputs = self.pick([tensor], [tensor, tensor], {}, None)
        asked = {"inputs": inputs, "outputs": wanted, "parameters": {"tier": 1}}
        head = json.dumps({name: asked[name] for name in asked if self.rng.random() < 0.9}).encode()
        told = self.pick(len(head), 0, -1, 10**20, len(head) + 7, "x")
        headers = (f"Content-Length: {len(head) + len(raw)}", f"Inference-Header-Content-Length: {told}")
        name = self.pick(self.model, self.model, "other", "..", "%00")
        path = f"/v2/models/{name}/infer"
        return Hostile(self.request(path, head + raw, "application/octet-stream", *headers))

    def _deep(self) -> Hostile:
        depth = int(10 ** self.rng.uniform(1, 5.5))
        body = self.pick(
            b"[" * depth,
            b'{"a":' * depth,
            b'{"images":' + b"[" * depth + b"]" * depth + b"}",
            b'{"images":["a"],"budget":' + b"[" * depth + b"]" * depth + b"}",
            b'{"images":["a"],"deadline_ms":' + b"9" * depth + b"}",
            b'{"images":["a"],"budget":"' + b"9" * depth + b'%"}',
            b'{"' + b"a" * depth + b'":1}',
            b'{"images":["' + b"\\ud800" * 99 + b'"]}',
            b"\xff\xfe" + b"\0" * depth,
            b'{"images":["a"],"images":["b"],"budget":NaN}',
            b'{"images":null,"texts":null}',
            b'{"texts":["a"]}',
            b"[]",
            b"1",
        )
        return Hostile(self.request(self.pick("/predict", f"/v2/models/{self.model}/infer"), body))

    def _many(self) -> Hostile:
        n = int(10 ** self.rng.uniform(2, 4.9))
        half = b'"' + base64.b64encode(good_images()[0][:40]) + b'"'
        one = self.pick(b'""', b'"AAAA"', b"1", b"null", b"[]", half)
        return Hostile(self.request(body=b'{"images":[' + b",".join([one] * n) + b"]}"))

    def _lengths(self) -> Hostile:
        body = json.dumps({"images": ["AAAA"]}).encode()
        told = self.pick(0, 5, len(body) + 3, 10**9, 10**30, -1, "abc", "+5", "5, 6", " ")
        headers = self.pick(
            (f"Content-Length: {told}",),
            (f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"),
            ("Content-Length: 3", "Content-Length: 30"),
            ("Transfer-Encoding: chunked, chunked",),
            (f"Content-Length: {len(body)}", "Content-Encoding: gzip"),
            (f"Content-Length: {len(body)}", "Expect: 100-continue"),
        )
        return Hostile(self.request("/predict", body, "application/json", *headers), len(body) + 150)

    def _junk(self) -> Hostile:
        return Hostile(
            self.pick(
                self.rng.bytes(int(self.rng.integers(1, 300))) + b"\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self.rng.bytes(200),
                b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
                b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
                b"POST /predict HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
                b"GET /budget HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n" % self.rng.bytes(40),
                b"GET /budget HTTP/1.0\r\n\r\n" * 50,
            ),
            keyless=True,
        )

    def _paths(self) -> Hostile:
        """What needs a key, without one, by every way around it."""
        closed = ("/budget", "/metrics", "/predict", "/events", "/reload", "/docs", "/v2")
        path = self.pick("/openapi.json", *closed)
        ways = (
            "{} /{} /.{} /page/..{} /page/%2e%2e{} /v2/health/live/..{} {}/ {}%00 /v2/health/live{} {};a=/page/x "
            "{}?/page/ http://127.0.0.1{} //127.0.0.1{} /%2f{} /page/....//....//....//etc/passwd {}#/page/ "
            "/page/%2e%2e/%2e%2e/app.py \\page\\..{}"
        )
        path = self.pick(*ways.split()).format(path)
        keys = ("", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Basic {KEY}", KEY)
        more_keys = (KEY.upper(), f"x, Bearer {KEY}", f"x\r\nX-Authorization: Bearer {KEY}")
        key = self.pick(None, *keys, *(f"Bearer {one}" for one in more_keys))
        method = self.pick("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "get", "PATCH")
        more = self.pick((), ("X-Original-URL: /page/x",), ("X-Forwarded-For: ::1",), ("X-Rewrite-URL: /",))
        body = self.pick(b"", json.dumps({"budget": "1%"}).encode())
        headers = (f"Content-Length: {len(body)}", *more)
        sent = self.request(path, body, "application/json", *headers, method=method, key=key)
        return Hostile(sent, keyless=True)

    def _mutated(self) -> Hostile:
        body = json.dumps({"images": [base64.b64encode(self.pick(*good_images())).decode()]})
        return Hostile(self.changed(self.request(body=body.encode())))

    def _admin(self) -> Hostile:
        texts = ("1%", "100%", "", "1e999", "-5%", "nan", "5 GPUs", "%" * 9000)
        budget = self.pick(*texts, 1e308, -1, None, [], True)
        path, method = self.pick(("/budget", "PUT"), ("/budget", "POST"), ("/metrics", "GET"))
        return Hostile(self.request(path, json.dumps({"budget": budget}).encode(), method=method))


# -- sending --------------------------------------------------------------------------------------------------


def exchanged(port: int, request: Hostile) -> bytes:
    """Send a request, and return what comes back, b"" if the client leaves first."""
    timeout_s = 0.3 if request.kind in INCOMPLETE else 60
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as opened:
        found = b""
        try:
            opened.sendall(request.sent if request.cut is None else request.sent[: request.cut])
            if request.cut is None:
                while len(found) < 50_000_000 and (block := opened.recv(1 << 16)):
                    found += block
        except OSError:
            pass  # it was refused before all was sent, or nothing came within the time
        return found


def status_of(answer: bytes) -> int | None:
    head = re.match(rb"HTTP/1.1 (\d{3})", answer)
    return None if head is None else int(head[1])


@dataclass
class Report:
    """What was answered, by kind and status; what was wrong; how many MiB the server held over time."""

    statuses: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def memory_of(pid: int) -> int:
    """MiB that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def attack(
    port: int, pid: int, wanted: list[dict[str, Any]], *, model: str, n: int, seed: int, clients: int
) -> Report:
    """Send n requests from so many clients, of which every tenth is good and must get its part of `wanted`."""
    report, lock = Report(memory=[memory_of(pid)]), threading.Lock()

    def good(generator: Generator, rng: np.random.Generator) -> tuple[Hostile, bytes, str]:
        places = rng.integers(len(wanted), size=rng.integers(1, 6)).tolist()
        images = [base64.b64encode(good_images()[place]).decode() for place in places]
        request = Hostile(generator.request(body=json.dumps({"images": images}).encode()), kind="good")
        answer = exchanged(port, request)
        rows = json.loads(answer.partition(b"\r\n\r\n")[2])["answers"] if status_of(answer) == 200 else []
        found = [{name: row[name] for name in wanted[0]} for row in rows]
        right = found == [wanted[place] for place in places]
        return request, answer, "" if right else f"good {places}: {answer[:300]!r}"

    def client(number: int) -> None:
        generator = Generator(seed * 1000 + number, model, port)
        rng = np.random.default_rng([seed, number])
        for i in range(n // clients):
            if i % EACH == 0:
                request, answer, wrong = good(generator, rng)
            else:
                answer = exchanged(port, request := generator())
                wrong = complaint(request, answer)
            with lock:
                report.statuses[request.kind, status_of(answer)] += 1
                report.wrong += [wrong] * bool(wrong)
                if report.statuses.total() % max(1, n // 50) == 0:
                    report.memory.append(memory_of(pid))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return report


def complaint(request: Hostile, answer: bytes) -> str:
    """What is wrong with an answer to a hostile request; "" for nothing."""
    status = status_of(answer)
    said = f"{request.kind}: {request.sent[:300]!r} got {answer[:300]!r}"
    if status is not None and status >= 500 and status != 503:
        return said
    if status == 200 and request.keyless:
        path = request.sent.split(b" ")[1].decode("latin-1")
        return "" if OPEN.fullmatch(path.split("?")[0]) else said
    return ""


@contextmanager
def served(run: Path, workers: int = 1) -> Iterator[tuple[int, int]]:
    """Serve a run in a process with an API key, and yield its port and process id."""
    with tempfile.TemporaryDirectory() as folder:
        (keys := Path(folder, "keys")).write_text(KEY)
        log, due = Path(folder, "log"), time.monotonic() + 120
        command = [sys.executable, "-m", "exeunt", "serve", str(run), "--api-key-file", str(keys)]
        command += ["--port", "0", "--workers", str(workers)]
        with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr) as process:
            try:
                started = "startup complete"
                while (text := log.read_text()).count(started) < workers or "running on" not in text:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < due, log.read_text()
                    time.sleep(0.05)
                (port,) = re.findall(r"running on http://127.0.0.1:(\d+)", text)
                yield int(port), process.pid
                assert process.poll() is None, log.read_text()[-3000:]
                assert "Traceback" not in log.read_text(), log.read_text()[-3000:]
            finally:
                process.terminate()
                process.wait(60)


def alone(run: Path, names: tuple[str, ...] = ("label", "exit")) -> list[dict[str, Any]]:
    """What the run answers to `good_images` without a server."""
    from exeunt.runs import load

    runner = load(run)
    answers = runner(runner.prepare(good_images()))
    return [{name: int(getattr(answers, name)[i]) for name in names} for i in range(len(good_images()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    for name, default in (("requests", 100_000), ("clients", 4), ("seed", 1), ("workers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with served(given.run, given.workers) as (port, pid):
        options = {"n": given.requests, "seed": given.seed, "clients": given.clients}
        report = attack(port, pid, alone(given.run), model=given.run.resolve().name, **options)
    for (kind, status), count in sorted(report.statuses.items(), key=str):
        print(f"{kind:10} {status}: {count:,}")
    print(f"MiB that the server held: {report.memory}\nwrong: {report.wrong[:20] or 'none'}")


if __name__ == "__main__":
    main()
