"""A stand-in for the server behind the page: made events, as fast as a test wants, and a budget that can be put."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import numpy as np

PAGE, PARTS = files("exeunt.serve") / "page", files("exeunt.web") / "page"
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
POLICIES = [
    {
        "name": f"{b}%",
        "budget": 1.257e6 * b,
        "expected_cost": 1.25e6 * b,
        "accuracy": 0.94 - 0.03 * (1 - (b - 18) / 37) ** 2,
    }
    for b in (18, 22, 26, 30, 34, 40, 45, 55)
]
EXITS = [f"resnet20 exit {i}" for i in (2, 5, 8)] + ["resnet56 exit 2"]


def made_about() -> dict[str, Any]:
    return {"model": "cifar10-cascade", "budget": POLICIES[6]["budget"], "unit": "MACs", "full_cost": 1.257e8,
            "budget_active": POLICIES[6]["budget"],
            "policies": POLICIES, "exit_names": EXITS, "policy": "45%", "slo_ms": 50.0, "slo_quantile": 0.99,
            "tiers": {}, "workers": 1, "warning": ""}  # fmt: skip


def made_events(n: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """A quiet minute, a burst that lowers the budget, and the way back."""
    rng = np.random.default_rng(seed)
    made = []
    for t in range(n):
        busy = 1 / (1 + np.exp(-(t - 90) / 4)) * (1 / (1 + np.exp((t - 160) / 4)))
        place = round(6 - 5 * busy)
        policy = POLICIES[place]
        rows = (600 + 2400 * busy) * rng.normal(1, 0.04)
        p50 = (6 + 9 * busy) * rng.normal(1, 0.05)
        made.append({
            "t": 1000.0 + t, "requests_per_s": rows / 16, "rows_per_s": rows,
            "latency_ms": {"p50": p50, "p95": p50 * 1.9, "p99": p50 * 2.6},
            "mean_cost": policy["budget"] * rng.normal(0.97, 0.01),
            "budget_active": policy["budget"], "workers": 1, "unit": "MACs", "exits_now": [0.3, 0.21, 0.37, 0.12],
            "exits_plan": [0.31, 0.2, 0.36, 0.13], "policy": policy["name"], "estimated_accuracy": policy["accuracy"],
            "accuracy_without_load": POLICIES[6]["accuracy"], "rows_waiting": int(20 + 200 * busy),
            "degraded_per_s": 0.0, "expired_per_s": 0.0, "refused_per_s": 0.0,
            "errors_per_s": 0.4 if t == n - 1 else 0.0,
            "budget": POLICIES[6]["budget"], "exit_names": EXITS, "policies": [one["name"] for one in POLICIES],
            "policy_without_load": POLICIES[6]["name"], "drift": {}, "recalibrated": {},
            "drift_evidence": min(0.3 + 0.1 * np.sin(t / 9) + max(0.0, (t - 150) * 0.02), 1.1),
        })  # fmt: skip
    return made


class PageServer(ThreadingHTTPServer):
    """Sends all of `events` at once, then holds the connection until `close`. `put`: budgets that were put.

    Budgets are answered while `answering` is set.
    """

    daemon_threads = True

    def __init__(
        self, events: list[dict[str, Any]], key: str = "", refuse: str = "", about: Any = ()
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events, self.key, self.refuse = events, key, refuse
        self.about, self.put = made_about() | dict(about), []
        self.ended, self.answering = threading.Event(), threading.Event()
        self.answering.set()
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()  # else it ends late

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def close(self) -> None:
        self.ended.set()
        self.answering.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        given, key = self.headers.get("Authorization"), self.server.key
        if self.path in ("/budget", "/events") and key and given != f"Bearer {key}":
            self._answer(401, {"error": "an API key is needed"})
        elif self.path == "/budget":
            self._answer(200, self.server.about)
        elif self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in self.server.events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
            self.server.ended.wait()
        else:
            name = "page.html" if self.path == "/" else self.path.removeprefix("/page/")
            file = PARTS / name[len("web/") :] if name.startswith("web/") else PAGE / name
            self._send(200, file.read_bytes(), TYPES[name.rpartition(".")[2]])

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refuse:
            self._answer(422, {"error": self.server.refuse})
            return
        self.server.put.append(body)
        self.server.answering.wait()
        self.server.about["budget"] = body["budget"]
        self._answer(200, self.server.about)

    def _answer(self, status: int, body: Any) -> None:
        self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
