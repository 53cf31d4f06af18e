"""Answers of a provider that are damaged, endless, absurd or malicious, from a seed."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from exeunt.gateway.chat_request import text_of
from exeunt.gateway.mock_provider import MockProvider

from .running_gateway import PRICES, answer

BIG = 10**400
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 2**63, -(2**63), 999_999_999, BIG, -BIG, 1e308, float("nan"), float("inf"),
    "", "x", "\ud83d", "\x00", "NaN", "a" * 50_000, [], {}, [[]], [None], {"": None}, {"a": {"b": []}},
    json.loads("[" * 150 + "]" * 150),
)  # fmt: skip
"""What stands in the place of any part of an answer."""
SECOND = "the second choice"
CALLS: tuple[Any, ...] = (
    7, "x", {"a": 1}, [5], [None], [[]], [{"index": 0, "id": "1", "function": 7}], [{"index": {}, "id": "1"}],
    [{"index": 0, "id": "1", "function": {"name": 5, "arguments": []}}], [{"index": "a"}, {"index": 1}],
)  # fmt: skip
"""What stands in the place of calls of tools."""
HEADERS = (
    {}, {"retry-after": "99999999999999999999"}, {"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"},
    {"retry-after": "-5"}, {"content-type": "text/html"}, {"location": "http://127.0.0.1:1/elsewhere"},
    {"set-cookie": "a=" + "b" * 4_000}, {"content-type": "application/json; charset=hex"},
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where the parts of JSON lie."""
    entries = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    return [at, *(place for key, one in entries for place in places(one, (*at, key)))]


def put(value: Any, at: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return JSON with a change of what holds a place."""
    made = inner = copy.deepcopy(value)
    for key in at[:-1]:
        inner = inner[key]
    change(inner, at[-1])
    return made


def damaged(body: Any, lots: random.Random) -> bytes:
    """Return JSON with up to three parts replaced or removed, or its bytes cut, flipped or repeated. A completion, or a
    chunk of one, may be misshapen first.
    """
    if "choices" in body and lots.random() < 0.3:
        body = misshapen(body, lots)
    for _ in range(lots.randrange(3)):
        where = [place for place in places(body) if place]
        if where and isinstance(body, dict | list):
            odd = lots.choice(ODD)
            replaced = lots.random() < 0.75
            body = put(
                body, lots.choice(where),
                (lambda inner, key, odd=odd: inner.__setitem__(key, odd))
                if replaced
                else (lambda inner, key: inner.__delitem__(key)),
            )  # fmt: skip
    data = json.dumps(body).encode()
    kind = lots.randrange(8)
    at = lots.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([lots.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        return lots.choice(
            [b"", b"null", b"5", b"\xef\xbb\xbf" + data, b"[" * 60_000, data + data, b"1e999", b"\xff"]
        )
    return data


def misshapen(body: Any, lots: random.Random) -> Any:
    """Return a completion, or a chunk of one, with a second choice, or with texts or calls of tools of other types."""
    choice, odd = body["choices"][0], lots.choice(ODD)
    part = "delta" if "delta" in choice else "message"
    kind = lots.randrange(3)
    if kind == 0:
        second = lots.choice([odd, {**choice, "index": 1, part: {"content": SECOND}}])
        return {**body, "choices": [choice, second]}
    name = lots.choice(["content", "refusal"])
    more = {name: odd} if kind == 1 else {"tool_calls": lots.choice([*CALLS, odd])}
    return {**body, "choices": [{**choice, part: {**choice[part], **more}}]}


class Hostile(MockProvider):
    """Damages every answer of one model but each tenth; those of the others are right."""

    def __init__(self, seed: int, damages: str = "large") -> None:
        super().__init__(answer, PRICES)
        self.lots, self.asked, self.damages = random.Random(seed), 0, damages

    async def _completions(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if body["model"] != self.damages:
            return await super()._completions(request)
        self.asked += 1
        if self.asked % 10 == 0:
            return await super()._completions(request)
        lots = random.Random(self.lots.random())
        text = text_of(body["messages"][-1])
        said = {
            "id": "1", "object": "chat.completion", "created": 1, "model": self.damages,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": answer(self.damages, text)},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "a", "logprob": -0.25, "top_logprobs": []}]},
            }],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
        }  # fmt: skip
        status = lots.choice([200] * 12 + [201, 204, 302, 400, 401, 404, 408, 418, 429, 500, 503, 599])
        if not body.get("stream"):
            data = b"" if status == 204 else damaged(said, lots)
            return Response(data, status, {**lots.choice(HEADERS)}, "application/json")
        if status == 204:
            return Response(b"", status)
        return StreamingResponse(self._damaged_chunks(said, lots), status, {**lots.choice(HEADERS)})

    async def _damaged_chunks(self, said: dict[str, Any], lots: random.Random) -> AsyncIterator[bytes]:
        choice = said["choices"][0]
        delta = {"choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": said["usage"]}
        for chunk in (delta, end):
            data = damaged(chunk, lots) if lots.random() < 0.7 else json.dumps(chunk).encode()
            yield lots.choice([b"data: ", b"data:", b"event: x\n", b": note\ndata: "]) + data
            yield lots.choice([b"\n\n", b"\n", b"\r\n\r\n", b""])
            await asyncio.sleep(0)
        if lots.random() < 0.7:
            yield b"data: [DONE]\n\n"


class Damaging(MockProvider):
    """Answers with a completion in place of that of one model, in one chunk if it is to come in parts."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(answer, PRICES)
        self.body, self.damages = body, "large"

    async def _completions(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        if asked["model"] != self.damages:
            return await super()._completions(request)
        if not asked.get("stream"):
            return Response(json.dumps(self.body))
        chunk = json.loads(json.dumps(self.body).replace('"message"', '"delta"'))
        return Response(f"data: {json.dumps(chunk)}\n\n")
