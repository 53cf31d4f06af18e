"""Thousands of hostile answers of a provider: what clients get, what is paid, and what stays in memory."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from exeunt._support.outside_json import outside_json
from exeunt.gateway.completion_chunks import chunks_of, data_of, understood
from exeunt.gateway.completion_chunks import lines_of as lines_in

from .hostile_answers import CALLS, SECOND, Damaging, Hostile
from .made_state import made_policy
from .running_gateway import Running, answer, lines_of, models, running, text_of_chunks

MODELS = models(small="1, retries: 0, logprobs: true", large="10, retries: 0, logprobs: true")
SHADOW = "{models: [small], share: 0.001, audit: 0.001, spend: '1 usd'}"
USAGE = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}


def ask(run: Running, i: int, damages: str) -> str:
    """Ask for a completion, every third in parts; return by which model it was answered, "" by none.

    The large model is the reference, and the small one its fallback; it is the first that a policy asks.
    """
    text, streams = f"easy {i}", i % 3 == 0
    asked = "auto" if damages == "large" else "auto:p1"
    told = run.ask(text, model=asked, stream=streams, logprobs=i % 2 == 0)
    assert told.status_code == 200, (told.status_code, told.text[:500])
    assert SECOND not in told.text
    model = told.headers["x-exeunt-model"]
    if not streams:
        body = outside_json(told.content)
        assert is_readable(body, "message")
        said = body["choices"][0]["message"].get("content")
    else:
        chunks = [outside_json(line) for line in lines_of(told)]
        assert all(is_readable(chunk, "delta") for chunk in chunks if "error" not in chunk)
        if any("error" in chunk for chunk in chunks):
            return ""
        said = text_of_chunks(chunks)
    if model != damages:
        assert said == answer(model, text)
    return model


def is_readable(body: Any, part: str) -> bool:
    """Return whether texts and calls of tools have the types that clients expect, in one choice at most."""
    (message,) = [choice[part] for choice in body["choices"]] or [{}]
    calls = message.get("tool_calls") or []
    return (
        all(isinstance(message.get(name) or "", str) for name in ("content", "refusal"))
        and isinstance(calls, list)
        and all(isinstance(call.get("function") or {}, dict) for call in calls)
    )


def never_rest(run: Running, *names: str) -> None:
    """Let models be asked however often they fail."""
    for model in map(run.gateway.config.models.__getitem__, names):
        model.breaker.failures = model.provider.failures = 10**9


def settle(run: Running) -> None:
    """Let models be asked again that billed too much: their bills are dropped."""
    money = run.gateway.money
    for ledger in filter(None, (money.total, money.shadow)):
        for one in ledger.disputed:
            one.settle()
        for name in ledger.stopped:
            money.total.resume(name)


def campaign(folder: Path, n: int, seed: int, damages: str) -> dict[str, int]:
    provider = Hostile(seed, damages)
    given = {"shadow": SHADOW, "models": MODELS, "fallback": "[small]", "spend": "{day: '10 usd'}"}
    found: dict[str, int] = {}
    with running(folder, provider, **given) as run, ThreadPoolExecutor(4) as pool:
        run.gateway.policies.add(made_policy())
        never_rest(run, damages)
        peaks = []
        for begin in range(0, n, 50):
            for model in pool.map(lambda i: ask(run, i, damages), range(begin, min(begin + 50, n))):
                found[model] = found.get(model, 0) + 1
            settle(run)
            gc.collect()
            peaks.append(tracemalloc.get_traced_memory()[0])
        money = run.gateway.money.total
        assert provider.spent <= money.spent + 1e-9
        assert money.spent < 10
        json.dumps([*run.gateway.live.alarms], allow_nan=False)
    if len(peaks) > 20:
        assert peaks[-1] < peaks[len(peaks) // 3] + (8 << 20)
    return found


@pytest.mark.parametrize("damages", ["large", "small"])
def test_a_hundred_hostile_answers(tmp_path: Path, damages: str) -> None:
    found = campaign(tmp_path, 100, seed=1, damages=damages)
    assert min(found["small"], found["large"]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("damages", ["large", "small"])
def test_three_thousand_hostile_answers(tmp_path: Path, damages: str) -> None:
    tracemalloc.start()
    try:
        found = campaign(tmp_path, 3_000, seed=2, damages=damages)
    finally:
        tracemalloc.stop()
    print(found)
    assert min(found["small"], found["large"]) > 300


MESSAGES: list[Any] = [
    5, {"content": 5}, {"content": {"a": 1}}, {"content": ["x"]}, {"content": "x", "refusal": {"a": 1}},
    *({"content": "x", "tool_calls": calls} for calls in CALLS[:7:2]),
]  # fmt: skip


@pytest.fixture(scope="module")
def damaging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("damaging")
    with running(folder, Damaging({}), shadow=SHADOW, models=MODELS, fallback="[small]") as run:
        run.gateway.policies.add(made_policy())
        never_rest(run, "small", "large")
        yield run


@pytest.mark.parametrize("message", MESSAGES)
def test_the_fallback_answers_for_a_message_that_is_not_understood(damaging: Running, message: Any) -> None:
    """Also where it would come in parts, and where a policy has asked the model."""
    provider: Any = damaging.provider
    provider.body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
    for streams in (False, True):
        for model, damaged, other in (("auto", "large", "small"), ("auto:p1", "small", "large")):
            provider.damages = damaged
            told = damaging.ask("easy 1", model=model, stream=streams)
            assert (told.status_code, told.headers["x-exeunt-model"]) == (200, other), told.text


@pytest.mark.parametrize("second", [None, {"message": {"content": SECOND}}])
def test_no_choice_but_the_first_is_an_answer(tmp_path: Path, second: Any) -> None:
    first = {"index": 0, "message": {"role": "assistant", "content": "first"}, "finish_reason": "stop"}
    with running(tmp_path, Damaging({"choices": [first, second], "usage": USAGE}), shadow="") as run:
        assert run.ask("x").json()["choices"] == [first]
        parts = run.ask("x", stream=True).text
    assert "first" in parts
    assert SECOND not in parts


def test_a_line_of_a_stream_may_come_in_pieces_and_the_last_one_without_its_end() -> None:
    async def read(*pieces: bytes) -> list[Any]:
        async def sent() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return [await data_of(line) async for line in lines_in(sent())]

    found = asyncio.run(read(b'data: {"a": 1}\n\nda', b'ta: {"b"', b": 2}"))
    assert found == [{"a": 1}, None, {"b": 2}]
    with pytest.raises(ValueError, match="a chunk is an object"):
        asyncio.run(read(b"data: [1]\n"))


def test_an_answer_in_parts_of_a_message_is_passed_on() -> None:
    parts = [{"type": "text", "text": "a text of more than twenty characters"}]
    body = {"choices": [{"index": 0, "message": {"content": parts}, "finish_reason": "stop"}]}
    assert understood(body, "message") == body
    said = [chunk["choices"][0]["delta"] for chunk in chunks_of(body)]
    assert said == [{"role": "assistant", "content": ""}, {"content": parts}, {}]
