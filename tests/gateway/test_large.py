"""Requests that are large, and answers without an end."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from exeunt._support.outside_json import outside_json
from exeunt.errors import InputError
from exeunt.gateway.breaker import Breaker
from exeunt.gateway.chat_model import ChatModel
from exeunt.gateway.chat_request import ChatRequest, request_body
from exeunt.gateway.completion_chunks import Sink
from exeunt.gateway.mock_provider import MockProvider

from .running_gateway import PRICES, Running, answer, running
from .test_hostile import said, stream

MOST = 100_000
IMAGE = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 1000).decode()


def asked(url: str = IMAGE) -> bytes:
    parts = [{"type": "text", "text": "What is ½ of it? ﷺ"}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "system", "content": "[be] {short}"}, {"role": "user", "content": parts}]
    return json.dumps({"model": "auto", "messages": messages, "stop": ["x"]}).encode()


class Endless(MockProvider):
    """Answers with `start`, and then with `again` for ever. `sent`: bytes so far."""

    def __init__(self, start: bytes, again: bytes, *, status: int = 200, encoding: str = "identity") -> None:
        super().__init__(answer, PRICES)
        self.start, self.again, self.status, self.encoding, self.sent = start, again, status, encoding, 0

    async def _completions(self, request: Request) -> Response:
        self.received.append({"headers": dict(request.headers)})
        return StreamingResponse(self._pieces(), self.status, {"content-encoding": self.encoding})

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield self.start
        while True:
            self.sent += len(self.again)
            yield self.again
            await asyncio.sleep(0)  # so that it notices that nobody listens any more


@pytest.mark.parametrize(
    ("streams", "provider", "why"),
    [
        (False, Endless(b'{"choices": [{"message": {"content": "', b"x" * 4096), "more than 100,000 bytes"),
        (True, Endless(b"data: ", b"x" * 4096), "more than 100,000 bytes"),
        (True, Endless(b"", b": nothing\n" * 400), "more than 100,000 bytes"),
        (True, Endless(b"", stream(said("y" * 200)) * 20), "the answer was cut off"),
        (False, Endless(b"", b"x" * 4096, status=500), "more than 100,000 bytes"),
        (False, Endless(b"", gzip.compress(b" " * 1_000_000), encoding="gzip"), "its answer is compressed"),
    ],
)
def test_an_answer_without_an_end_is_cut_off(
    tmp_path: Path, streams: bool, provider: Endless, why: str
) -> None:
    with running(tmp_path, provider, shadow="", max_answer=MOST) as run:
        text = run.ask("x", stream=streams).text
        assert why in text
        assert "xxx" not in text
        assert "yyy" not in text.partition("error")[2]
        assert len(text) < 3 * MOST
        (held,) = run.gateway.money.total.unsettled()
        assert held.state == "charged"
        run.ask("x")
        run.ask("x")
        assert run.gateway.config.models["large"].breaker.rests
    assert provider.sent < 3 * (MOST + (10 << 20))  # what lies in sockets
    assert provider.received[0]["headers"]["accept-encoding"] == "identity"


def test_an_answer_may_be_as_long_as_is_stated(run: Running) -> None:
    run.provider.answer = lambda *_: "z" * 200_000
    assert len(run.ask("x").json()["choices"][0]["message"]["content"]) == 200_000


def test_a_large_request_is_read_beside_the_event_loop(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noted(data: bytes) -> Any:
        threads.append(threading.get_ident())
        return request_body(data)

    monkeypatch.setattr("exeunt.gateway.app.request_body", noted)
    for data in (asked("data:,"), asked(), asked("data:,")):
        assert "takes no images" in run.post(data).text
    first, large, last = threads
    assert first == last != large


@pytest.mark.parametrize("streams", [False, True])
def test_a_large_answer_is_read_beside_the_event_loop(
    run: Running, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    threads: dict[int, bool] = {}

    def noted(data: str | bytes) -> Any:
        threads[threading.get_ident()] = threads.get(threading.get_ident(), False) or len(data) > 1 << 18
        return outside_json(data)

    for module in ("chat_model", "completion_chunks"):
        monkeypatch.setattr(f"exeunt.gateway.{module}.outside_json", noted)
    monkeypatch.setattr("exeunt.gateway.completion_chunks._LENGTH", 1 << 20)  # all in one chunk
    for length in (9, 300_000):
        run.provider.answer = lambda *_, n=length: "z" * n
        assert "z" * length in run.ask("x", stream=streams).text
    loop, *others = threads.values()
    assert (loop, {*others}) == (False, {True})


def test_a_request_is_written_once_and_its_image_neither_counted_nor_tokenised() -> None:
    one, small = ChatRequest.read(asked()), ChatRequest.read(asked("data:,"))
    assert one.changed(sink=Sink()).written is one.written
    assert one.n_bytes == small.n_bytes < 500
    assert one.content != small.content
    assert one.opening != small.opening
    indented = json.dumps(json.loads(asked("data:,")), indent=1).encode()
    assert small.content == ChatRequest.read(indented).content
    given: list[str] = []
    options: Any = {"base_url": "http://x", "price": {"input": 1, "output": 1}, "image_tokens": 9}
    options |= {"breaker": Breaker("m"), "provider": Breaker("p")}
    ChatModel("m", name="m", tokenizer=lambda text: given.append(text) or 1, **options).most(one)
    assert "What is ½" in given[0]
    assert len(given[0]) < 500
    assert json.loads(b"[" + b",".join(one.written) + b"]") == json.loads(asked())["messages"]


def test_a_request_of_millions_of_lists_is_not_read() -> None:
    lists = b",".join([b"[]"] * 500_001)
    with pytest.raises(InputError, match="it may have 500,000 opening brackets"):
        ChatRequest.read(asked().replace(b'["x"]', b"[" + lists + b"]"))
