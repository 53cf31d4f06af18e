"""Thousands of hostile answers of a provider: what clients get, what is paid, and what stays in memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")
pytest.importorskip("starlette")

from exeunt._outside import outside_json

from .hostile_answers import Hostile
from .running_gateway import Running, answer, running

MODELS = (
    "{small: {provider: mock, price: {input: 1, output: 1}, max_tokens: 100, retries: 0},"
    " large: {provider: mock, price: {input: 10, output: 10}, max_tokens: 100, retries: 0, logprobs: true}}"
)


def ask(run: Running, i: int) -> str:
    """Ask for a completion, every third in parts; return by which model it was answered, "" by none."""
    text, streams = f"easy {i}", i % 3 == 0
    told = run.ask(text, stream=streams, logprobs=i % 2 == 0)
    assert told.status_code == 200, (told.status_code, told.text[:500])
    model = told.headers["x-exeunt-model"]
    if not streams:
        body = strictly(told.content)
        said = body["choices"][0]["message"].get("content")
    else:
        lines = [line[6:] for line in told.text.split("\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        chunks = [strictly(line) for line in lines[:-1]]
        if any("error" in chunk for chunk in chunks):
            return ""
        said = "".join(
            choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ())
            if isinstance(choice.get("delta"), dict) and isinstance(choice["delta"].get("content"), str)
        )  # fmt: skip
    if model == "small":
        assert said == answer("small", text)
    return model


def strictly(data: str | bytes) -> Any:
    """Read JSON as strict clients do."""
    return outside_json(data)


def settle(run: Running) -> None:
    """Let models be asked again that billed too much: their bills are dropped."""
    money = run.gateway.money
    for ledger in filter(None, (money.whole, money.shadow)):
        for one in ledger.disputed:
            one.settle()
        for name in ledger.stopped:
            money.resume(name, run.gateway.keys.clients)


def campaign(folder: Path, n: int, seed: int) -> dict[str, int]:
    provider = Hostile(seed)
    given = {"shadow": "", "models": MODELS, "fallback": "[small]", "spend": "{day: '10 usd'}"}
    found: dict[str, int] = {}
    with running(folder, provider, **given) as run, ThreadPoolExecutor(4) as pool:
        for breaker in (
            run.gateway.config.models["large"].breaker,
            run.gateway.config.models["large"].provider,
        ):
            breaker.failures = 10**9  # else nobody asks the provider any more
        peaks = []
        for begin in range(0, n, 50):
            for model in pool.map(lambda i: ask(run, i), range(begin, min(begin + 50, n))):
                found[model] = found.get(model, 0) + 1
            settle(run)
            gc.collect()
            peaks.append(tracemalloc.get_traced_memory()[0])
        money = run.gateway.money.whole
        assert provider.spent <= money.spent + 1e-9
        assert money.spent < 10
        json.dumps([*run.gateway.live.alarms], allow_nan=False)
    if len(peaks) > 20:
        assert peaks[-1] < peaks[len(peaks) // 3] + (8 << 20)
    return found


def test_a_hundred_hostile_answers(tmp_path: Path) -> None:
    found = campaign(tmp_path, 100, seed=1)
    assert found["small"] > 15
    assert found["large"] > 10


@pytest.mark.slow
def test_three_thousand_hostile_answers(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        found = campaign(tmp_path, 3_000, seed=2)
    finally:
        tracemalloc.stop()
    print(found)
    assert found["small"] > 500
    assert found["large"] > 300
