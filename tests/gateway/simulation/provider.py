"""A provider in virtual time, in place of the HTTP client that the gateway's models use, with books of every call."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec
from tests.gateway.simulation.kinds import Saying, answer
from tests.gateway.simulation.worlds import Event, World, tokens_of

from exeunt.gateway.chat_model import ChatModel
from exeunt.gateway.chat_request import text_of

SECOND = "small-2"
"""The small model that a change puts in the place of the first."""
_NEVER_S = 1e4


class Sent:
    """The provider's answer to one call, as the client of HTTP has it."""

    def __init__(self, status_code: int, body: bytes) -> None:
        self.status_code, self.is_success, self._body = status_code, status_code == 200, body
        self.headers: Mapping[str, str] = {}

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        yield self._body


class Provider:
    """Answers as the world says. `books`: US dollars that its calls have cost, by model; `calls`: how many there were.

    `asked`: the models that were asked about each prompt.
    """

    def __init__(self, world: World, events: list[Event]) -> None:
        self._world = world
        self._sayings: dict[int, Saying] = {event.saying.prompt: event.saying for event in events}
        self._price = dict(zip(("small", "large"), world.prices, strict=True)) | {SECOND: world.prices[0]}
        self._factor = {"small": 1.0, SECOND: world.second, "large": 0.0}
        self._lots = random.Random(f"provider {world.seed}")
        self._moods = random.Random(f"moods {world.seed}")
        self.books: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.asked: defaultdict[int, set[str]] = defaultdict(set)

    @property
    def spent(self) -> float:
        """US dollars of all calls."""
        return sum(self.books.values())

    @asynccontextmanager
    async def stream(self, _: str, url: str, *, content: bytes, **__: Any) -> AsyncIterator[Sent]:
        """Answer a call, as `httpx.AsyncClient.stream` does."""
        body = msgspec.json.decode(content)
        name, messages = body["model"], body["messages"]
        saying = self._sayings[int(text_of(messages[-1]).partition(" ")[0])]
        self.asked[saying.prompt].add(name)
        if self._world.hangs and self._lots.random() < self._world.hangs:
            await asyncio.sleep(_NEVER_S)
        await asyncio.sleep(saying.seconds[name == "large"])
        if self._world.fails and self._lots.random() < self._world.fails:
            yield Sent(500, b'{"error": {"code": "overloaded"}}')
            return
        n_input = tokens_of(sum(len(message["content"]) for message in messages), len(messages))
        self.calls[name] += 1
        self.books[name] += self._price[name] * (n_input + 4 * saying.tokens) / 1e6
        now = self._moods.random() if saying.lot is None else 0.0
        said = answer(saying, saying.wrong(self._factor[name], now))
        choice: dict[str, Any] = {
            "index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop",
        }  # fmt: skip
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": said, "logprob": saying.score}]}
        usage = {
            "prompt_tokens": n_input, "completion_tokens": saying.tokens, "total_tokens": n_input + saying.tokens,
        }  # fmt: skip
        yield Sent(200, json.dumps({"model": name, "choices": [choice], "usage": usage}).encode())

    async def aclose(self) -> None:
        """Close nothing."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let all models of gateways ask this provider."""
        with patch.object(ChatModel, "_connect", lambda _: self):
            yield
