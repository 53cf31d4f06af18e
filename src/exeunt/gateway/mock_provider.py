"""A provider that invents its answers, for the demonstration and for tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from exeunt.gateway.chat_request import text_of
from exeunt.gateway.completion_chunks import DONE, chunks_of, event


class MockProvider:
    """Answers chat completions by `answer(model, text)`, where the text is the user's last message.

    `wait_s`: how long an answer takes. `fails`: the share of requests that end with status 503. `calls`: by model, of
    those that were answered; `spent`: US dollars by `prices`, (input, output) for a million tokens. `logprobs`: whether
    it gives log-probabilities to who asks for them.
    """

    def __init__(
        self,
        answer: Callable[[str, str], str],
        prices: Mapping[str, tuple[float, float]],
        *,
        wait_s: float = 0.0,
        fails: float = 0.0,
    ) -> None:
        self.answer, self.prices, self.wait_s, self.fails = answer, prices, wait_s, fails
        self.calls: Counter[str] = Counter()
        self.spent, self.logprobs = 0.0, True
        self.received: list[dict[str, Any]] = []
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._completions, methods=["POST"])])

    async def _completions(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.received.append({"body": body, "headers": dict(request.headers)})
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        if chance(len(self.received), "fails") < self.fails:
            return JSONResponse({"error": {"message": "down", "code": "overloaded"}}, 503)
        name, text = body["model"], text_of(body["messages"][-1])
        content = self.answer(name, text)
        n_input, n_output = max(1, len(json.dumps(body["messages"])) // 4), max(1, len(content) // 4)
        self.calls[name] += 1
        price = self.prices[name]
        self.spent += (n_input * price[0] + n_output * price[1]) / 1e6
        message = {"role": "assistant", "content": content}
        logs = [{"token": content, "logprob": -chance(name, text, "sure"), "top_logprobs": []}]
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        if self.logprobs and body.get("logprobs"):
            choice["logprobs"] = {"content": logs}
        completion = {
            "id": f"chatcmpl-{len(self.received)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
            "choices": [choice],
            "usage": {
                "prompt_tokens": n_input,
                "completion_tokens": n_output,
                "total_tokens": n_input + n_output,
            },
        }
        if body.get("stream"):
            return StreamingResponse(self._chunks(completion), media_type="text/event-stream")
        return JSONResponse(completion)

    async def _chunks(self, completion: Mapping[str, Any]) -> AsyncIterator[str]:
        for chunk in chunks_of(completion, logprobs=True):
            yield event(chunk)
            await asyncio.sleep(self.wait_s / 10)
        yield DONE


def chance(*parts: object) -> float:
    """Return a number in [0, 1) that these parts always have."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on a free port of this machine, in a thread, and yield its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
