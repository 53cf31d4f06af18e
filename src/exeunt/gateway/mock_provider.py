"""A provider that invents its answers, for the demonstration and for tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
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
from exeunt.live.token_price import TokenPrice, Usage

_LETTERS = 4
"""Of a token."""
_FIRST, _STEP, _KEPT_S = 1024, 128, 300.0


class MockProvider:
    """Answers chat completions by `answer(model, text)`, where the text is the user's last message.

    `wait_s`: how long an answer takes. `fails`: the share of requests that end with status 503. `calls`: by model, of
    those that were answered; `spent`: US dollars by `prices`, each a `TokenPrice`, or (input, output) for a million
    tokens. `logprobs`: whether it gives log-probabilities to who asks for them. `cache`: of prompts; None for none.
    """

    def __init__(
        self,
        answer: Callable[[str, str], str],
        prices: Mapping[str, TokenPrice | tuple[float, float]],
        *,
        wait_s: float = 0.0,
        fails: float = 0.0,
        cache: PromptCache | None = None,
    ) -> None:
        self.answer, self.wait_s, self.fails, self.cache = answer, wait_s, fails, cache
        self.prices = {
            name: price if isinstance(price, TokenPrice) else TokenPrice(*price)
            for name, price in prices.items()
        }
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
        usage = self._usage(body, content)
        self.calls[name] += 1
        self.spent += self.prices[name].cost(usage)
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
                "prompt_tokens": usage.input,
                "completion_tokens": usage.output,
                "total_tokens": usage.input + usage.output,
                "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
            },
        }
        if body.get("stream"):
            return StreamingResponse(self._chunks(completion), media_type="text/event-stream")
        return JSONResponse(completion)

    def _usage(self, body: Mapping[str, Any], content: str) -> Usage:
        """Return the usage of an answer: four letters are a token."""
        prompt = json.dumps(body["messages"])
        n_input, n_output = max(1, len(prompt) // _LETTERS), max(1, len(content) // _LETTERS)
        if self.cache is None:
            return Usage(n_input, n_output)
        cached, written = self.cache.look_up(f"{body['model']} {body.get('prompt_cache_key')}", prompt)
        is_billed = self.prices[body["model"]].cache_write is not None
        return Usage(n_input, n_output, cached, written if is_billed else 0)

    async def _chunks(self, completion: Mapping[str, Any]) -> AsyncIterator[str]:
        for chunk in chunks_of(completion, logprobs=True):
            yield event(chunk)
            await asyncio.sleep(self.wait_s / 10)
        yield DONE


class PromptCache:
    """A prompt cache by the rules that OpenAI and others publish: prefixes of 1,024 tokens and more, in steps of 128,
    are remembered for five minutes after they were last used. `clock`: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._used = clock, dict[bytes, float]()

    def look_up(self, scope: str, prompt: str) -> tuple[int, int]:
        """Return how many tokens of a prompt come from the cache, and how many further ones are written to it. Prompts
        of another `scope`, such as another model, are not looked at.
        """
        now, digest, cached, last = self._clock(), hashlib.sha256(scope.encode()), 0, 0
        step = _STEP * _LETTERS
        for end in range(step, len(prompt) + 1, step):
            digest.update(prompt[end - step : end].encode())
            if end < _FIRST * _LETTERS:
                continue
            key, last = digest.digest(), end // _LETTERS
            if now - self._used.get(key, -math.inf) <= _KEPT_S:
                cached = last
            self._used[key] = now
        return cached, last - cached


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
