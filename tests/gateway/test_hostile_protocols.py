"""Hostile answers of providers, told in each protocol: clients get what their types hold, or an error."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic.types as at
import openai.types.responses as rt
import pytest
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from exeunt._support.outside_json import outside_json
from exeunt.gateway.mock_provider import served

from .hostile_answers import HEADERS, Hostile, damaged
from .running_gateway import Running, right_answer, running
from .scripted_provider import Said, dumped, message, message_events
from .test_hostile_answers import never_rest, settle

SHADOW = "{models: [small], share: 0.001, audit: 0.001, spend: '1 usd'}"
EVENTS: dict[str, Any] = {
    "/v1/messages": TypeAdapter(at.RawMessageStreamEvent),
    "/v1/responses": TypeAdapter(rt.ResponseStreamEvent),
}


class HostileMessages(Hostile):
    """Speaks Anthropic's protocol for the large model, and damages most of its answers."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, damages="")
        self.app.routes.append(Route("/v1/messages", self._messages, methods=["POST"]))

    async def _messages(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.asked += 1
        lots = random.Random(self.lots.random())
        text = body["messages"][-1]["content"][0]["text"]
        said = Said(right_answer(text), thinking="Hm.", calls=[("c", "f", '{"a": 1}')] * lots.randrange(2))
        harm = self.asked % 10 > 0
        if not body.get("stream"):
            whole = dumped(message(said))
            status = lots.choice([200] * 12 + [302, 400, 401, 404, 429, 500, 529]) if harm else 200
            data = damaged(whole, lots) if harm else json.dumps(whole).encode()
            return Response(data, status, {**lots.choice(HEADERS)} if harm else {}, "application/json")
        events = [dumped(event) for event in message_events(said)]
        return StreamingResponse(self._events(events, lots, harm), 200)

    async def _events(self, events: list[Any], lots: random.Random, harm: bool) -> AsyncIterator[bytes]:
        for event in events:
            if harm and lots.random() < 0.1:
                continue
            data = damaged(event, lots) if harm and lots.random() < 0.3 else json.dumps(event).encode()
            yield b"event: x\ndata: " + data + b"\n\n"
            await asyncio.sleep(0)


def body_of(path: str, text: str, **more: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": text}], "max_tokens": 50}
    return {"model": "auto", **({"input": text} if path == "/v1/responses" else said), **more}


def told(run: Running, path: str, i: int) -> str:
    """Ask in a protocol, every third in parts. Returns the model that answered, "" if the answer was cut off."""
    text, streams = f"easy {i}", i % 3 == 0
    key = {"authorization": f"Bearer {run.client}"}
    got = run.open.post(path, headers=key, json=body_of(path, text, stream=streams))
    assert got.status_code == 200, got.text[:500]
    model = got.headers["x-exeunt-model"]
    if path == "/v1/chat/completions":
        return model
    if not streams:
        kind: Any = at.Message if path == "/v1/messages" else rt.Response
        kind.model_validate(outside_json(got.content), strict=True)
        assert model == "large" or right_answer(text) in got.text
        return model
    events = [outside_json(line[6:]) for line in got.text.split("\n") if line.startswith("data: ")]
    for event in events:
        if event["type"] != "error":
            EVENTS[path].validate_python(event, strict=True)
    last = events[-1]["type"]
    assert last in {"message_stop", "error", "response.completed", "response.incomplete", "response.failed"}
    return "" if last in ("error", "response.failed") else model


def campaign(folder: Path, provider: Hostile, n: int, protocol: str) -> dict[str, int]:
    price = "price: {input: 10, output: 10}, max_tokens: 100, retries: 0"
    models = f"{{small: {{provider: chat, {price}}}, large: {{provider: mock, {price}, tools: true}}}}"
    counts: dict[str, int] = {}
    with served(provider.app) as url:
        providers = (
            f"{{chat: {{base_url: '{url}/v1'}}, mock: {{base_url: '{url}/v1', protocol: {protocol}}}}}"
        )
        options = {"shadow": SHADOW, "models": models, "providers": providers, "fallback": "[small]"}
        with running(folder, provider, **options) as run, ThreadPoolExecutor(4) as pool:
            never_rest(run, "large")
            paths = ("/v1/messages", "/v1/responses", "/v1/chat/completions")
            for begin in range(0, n, 25):
                for model in pool.map(lambda i: told(run, paths[i % 3], i // 3), range(begin, begin + 25)):
                    counts[model] = counts.get(model, 0) + 1
                settle(run)
            assert provider.spent <= run.gateway.money.total.spent + 1e-9
    return counts


PROVIDERS = {"openai": Hostile, "anthropic": HostileMessages}


@pytest.mark.parametrize("protocol", PROVIDERS)
def test_ninety_hostile_answers_in_each_protocol(tmp_path: Path, protocol: str) -> None:
    counts = campaign(tmp_path, PROVIDERS[protocol](seed=3), 100, protocol)
    assert min(counts["small"], counts["large"]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
def test_three_thousand_hostile_answers_in_each_protocol(tmp_path: Path, protocol: str) -> None:
    counts = campaign(tmp_path, PROVIDERS[protocol](seed=4), 3_000, protocol)
    print(counts)
    assert min(counts["small"], counts["large"]) > 300
