"""A server that speaks OpenAI's protocol and answers from a table, with faults at random; and a ledger in memory."""

import asyncio
import json
import random
import socket
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from exeunt.errors import OverBudget

PRICE = {"input": 10.0, "output": 30.0}
"""US dollars per million tokens."""
LIES = {"negative": {"completion_tokens": -1}, "huge": {"prompt_tokens": 10**6, "total_tokens": 10**7}}
"""What a service says with two of the faults."""
FAULTS = ("429", "500", "cut", "cut early", "not JSON", "odd JSON", "refusal", "negative", "huge", "redirect")


@dataclass
class Service:
    """`answers`: (class, log-probability) by model and text. `faults`: the share of calls with each fault."""

    answers: dict
    faults: dict = field(default_factory=dict)
    delay_s: float = 0.0
    seed: int = 0
    likeliest: bool = False
    calls: Counter = field(default_factory=Counter)
    happened: dict = field(default_factory=lambda: defaultdict(list))
    books: Counter = field(default_factory=Counter)
    times: dict = field(default_factory=lambda: defaultdict(list))
    bodies: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    busy: int = 0
    busiest: int = 0

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        raw, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            raw, more = raw + event["body"], event.get("more_body", False)
        self.headers.append(dict(scope["headers"]))
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await self._answer(json.loads(raw), send)
        finally:
            self.busy -= 1

    async def _answer(self, body, send):
        self.bodies.append(body)
        model, text = body["model"], body["messages"][-1]["content"].rpartition("Text: ")[2]
        call = (model, text)
        self.calls[call] += 1
        self.times[call].append(time.monotonic())
        rng = random.Random(f"{self.seed} {call} {self.calls[call]}")
        await asyncio.sleep(self.delay_s * (0.5 + rng.random()))
        shares = [*self.faults.values(), 1 - sum(self.faults.values())]
        (fault,) = rng.choices([*self.faults, ""], shares)
        self.happened[call].append(fault)
        used = {"prompt_tokens": len(text.split()), "completion_tokens": rng.randint(1, 5)}
        used["total_tokens"] = sum(used.values())
        if fault not in ("429", "500", "cut early", "redirect"):
            tokens = used["prompt_tokens"] * PRICE["input"] + used["completion_tokens"] * PRICE["output"]
            self.books[call] += tokens / 1e6
        if fault in ("429", "500", "redirect"):
            headers = {"429": [(b"retry-after", b"0.05")], "redirect": [(b"location", b"/v1/elsewhere")]}
            status = 307 if fault == "redirect" else int(fault)
            body = b'{"error": {"message": "sk-secret", "code": "slow"}}'
            return await _send(send, status, body, headers.get(fault, []))
        label, log = self.answers[model][text]
        refused = {"content": None, "refusal": "no"}
        choice = {
            "message": refused if fault == "refusal" else {"content": f"{label}."},
            "finish_reason": "stop",
        }
        choice["logprobs"] = self._logs(label, log)
        whole = json.dumps({"choices": [choice], "usage": {**used, **LIES.get(fault, {})}}).encode()
        if fault in ("cut", "cut early"):
            half = b"" if fault == "cut early" else whole[: len(whole) // 2]
            start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9999")]}
            await send(start)
            return await send({"type": "http.response.body", "body": half, "more_body": False})
        odd = {"not JSON": b"<html>", "odd JSON": b'[{"choices": 3}]'}
        return await _send(send, 200, odd.get(fault, whole))

    def _logs(self, label, log):
        top = [{"token": label[:2], "logprob": log}, {"token": "The", "logprob": -9.0}]
        return {"content": [{"token": label, "logprob": log, "top_logprobs": top if self.likeliest else []}]}


async def _send(send, status, body, headers=()):
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(app):
    """Serve an ASGI application in a thread; yield its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(60)


class MemoryLedger:
    """The interface of a ledger; what is dispatched and not settled is charged in full."""

    unit = "usd"

    def __init__(self, total):
        self.total, self.held, self.keys, self.settled = total, {}, [], {}
        self.refused = self.sent = 0
        self._lock = threading.Lock()

    @property
    def spent(self):
        return sum(self.settled.values())

    def reserve(self, amount, *, model, key, promised=False, limit_s=0.0):
        with self._lock:
            assert key is None or key not in self.keys, "an attempt is a reservation of its own"
            key = key or f"without a key, number {len(self.keys)}"
            self.keys.append(key)
            if self.spent + sum(self.held.values()) + amount > self.total * (1 + 1e-12):
                self.refused += 1
                raise OverBudget(f"{amount:g} usd asked for, less is left", asked=amount, left=0.0)
            self.held[key] = amount
        return _Held(self, key)


class _Held:
    def __init__(self, ledger, key):
        self.ledger, self.key = ledger, key

    def dispatch(self):
        with self.ledger._lock:
            self.ledger.settled[self.key] = self.ledger.held.pop(self.key)  # in full, until it is settled
            self.ledger.sent += 1
        return True

    def settle(self, cost=None, *, answered=True):
        with self.ledger._lock:
            assert self.key in self.ledger.settled
            if cost is not None:
                self.ledger.settled[self.key] = min(cost, self.ledger.settled[self.key])  # more is disputed

    def charge(self):
        assert self.key in self.ledger.settled


@contextmanager
def unreachable():
    """Yield the address of a socket of this machine that takes no connection, and refuses none."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # whom nobody accepts
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
