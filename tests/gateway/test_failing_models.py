"""One model that fails does not take the others down, and who rests is told."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tests.live.service import unreachable

from exeunt.gateway.failure_log import _OncePerMinute
from exeunt.gateway.mock_provider import MockProvider

from .running_gateway import PRICES, Running, answer, error_of, eventually, models, running
from .test_saved_policies import policy

SHADOW = "{models: [small], share: 0.001, audit: 0.001, spend: '100 usd'}"


class Partly(MockProvider):
    """A provider of which some models answer with a status."""

    def __init__(self, **statuses: int) -> None:
        super().__init__(answer, PRICES, wait_s=0.15)
        self.statuses = statuses
        self.failed = 0

    async def _completions(self, request: Request) -> Response:
        name = (await request.json())["model"]
        if name in self.statuses:
            self.failed += 1
            return JSONResponse({"error": {"message": "secret", "code": "overloaded"}}, self.statuses[name])
        return await super()._completions(request)


def asked_by_16(run: Running, model: str, n: int) -> tuple[list[int], list[float]]:
    """Return the statuses and the seconds of n requests by 16 clients, each of which asks one after the other."""
    statuses, seconds = list[int](), list[float]()

    def client(k: int) -> None:
        with run.http() as http:
            for i in range(n // 16):
                body = {"model": model, "messages": [{"role": "user", "content": f"{model} {k} {i}"}]}
                started = time.monotonic()
                statuses.append(http.post("/v1/chat/completions", json=body).status_code)
                seconds.append(time.monotonic() - started)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    return statuses, seconds


@pytest.mark.parametrize(("status", "turns"), [(500, 2), (403, 0)])
def test_a_cheap_model_that_fails_takes_the_reference_down_for_nobody(
    tmp_path: Path, status: int, turns: int
) -> None:
    """`turns`: how often it is timed beside the reference alone, since the machine may do other work for a while."""
    provider = Partly(small=status)
    with running(tmp_path, provider, shadow=SHADOW) as run:
        run.gateway.policies.add(policy())
        statuses, _ = asked_by_16(run, "auto:p1", n=32)
        above = []
        for _ in range(turns):
            usual = asked_by_16(run, "auto", n=48)
            again, seconds = asked_by_16(run, "auto:p1", n=48)
            statuses += usual[0] + again
            above.append(median(seconds) - 1.2 * median(usual[1]))
        assert {*statuses} == {200}
        assert min(above, default=0.0) <= 0.01  # seconds
        assert provider.failed <= 16 + 10
        (resting,) = run.state()["resting"]
        assert (resting["name"], resting["models"]) == ("small", ["small"])
        assert resting["why"] == f"status {status} (overloaded)"
        found = re.search(r'rests_until_seconds\{name="small",why="(.*)"\} (.*)', run.metrics())
        assert found is not None
        assert found[1] == f"status {status} (overloaded)"
        assert 0 < float(found[2]) - time.time() < 60
        provider.statuses.clear()
        run.gateway.config.models["small"].breaker._until = 0.0  # the pause is over
        run.ask("later", model="auto:p1")
        eventually(lambda: run.ask("later", model="small").status_code == 200)
        assert run.gateway.config.resting == []


def test_a_key_that_is_refused_rests_all_models_of_the_provider(tmp_path: Path) -> None:
    provider = Partly(small=401)
    with running(tmp_path, provider, shadow="") as run:
        for i in range(5):
            assert run.ask(f"x {i}", model="small").status_code == 502
        assert provider.failed == 3
        (resting,) = run.state()["resting"]
        assert (resting["name"], resting["models"]) == ("mock", ["small", "large"])
        assert "rests" in error_of(run.ask("x"))


class Slow(MockProvider):
    """A provider whose small model takes a second: before it answers, or between the pieces of its answer."""

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        given = await super()._completions(request)
        if body["model"] == "small" and not body.get("stream"):
            await asyncio.sleep(1.0)
        return given

    async def _chunks(self, completion: Any) -> AsyncIterator[str]:
        async for chunk in super()._chunks(completion):
            yield chunk
            await asyncio.sleep(0.25)


@pytest.mark.parametrize("streams", [False, True])
def test_a_slow_answer_of_one_model_keeps_no_other_waiting_for_their_provider(
    tmp_path: Path, streams: bool
) -> None:
    mock = Slow(answer, PRICES)
    with running(tmp_path, mock, shadow="") as run, ThreadPoolExecutor(1) as pool:
        provider = run.gateway.config.models["large"].provider
        for _ in range(provider.failures):
            provider.begin().end("connection failed (ConnectError)")
        assert "rests" in error_of(run.ask("x"))
        provider._until = 0.0  # the pause is over
        first = pool.submit(run.ask, "slow", model="small", stream=streams)
        eventually(lambda: len(mock.received) == 1)
        eventually(lambda: not provider.rests)
        if not streams:
            assert run.ask("y").status_code == 200
        eventually(lambda: provider._in_a_row == 0)  # its status says: the connection and the key are good
        assert not first.done()
        assert first.result().status_code == 200


@pytest.mark.parametrize("leaves", [True, False])
def test_a_fault_after_the_beginning_of_a_stream_is_logged_though_its_client_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, leaves: bool
) -> None:
    monkeypatch.setattr("exeunt.gateway.failure_log._faults", _OncePerMinute())
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with running(tmp_path, Slow(answer, PRICES), shadow="") as run:
        answered = run.gateway.answer

        async def broken(*given: Any) -> Any:
            await answered(*given)
            raise KeyError("fault")

        monkeypatch.setattr(run.gateway, "answer", broken)
        with run.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as told:
            if leaves:
                next(told.iter_lines())
            else:
                *_, failed, done = filter(None, told.iter_lines())
                assert "the answer was cut off" in failed
                assert done == "data: [DONE]"
        eventually(lambda: not run.gateway._tasks, tries=500)
    found = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert found == ["failed: a request: unexpected KeyError"]


def test_a_provider_that_cannot_be_reached_rests_and_is_paid_nothing(tmp_path: Path) -> None:
    with unreachable() as url:
        options = {"shadow": "", "providers": f"{{mock: {{base_url: '{url}/v1', failures: 2, pause_s: 30}}}}"}
        large = models(large="1, timeout_s: 0.3, retries: 0")
        with running(tmp_path, models=large, **options) as run:
            for i in range(2):
                assert "connection failed (ConnectTimeout)" in run.ask(f"x {i}").text
            assert "mock failed 2 times in a row and rests" in run.ask("y").text
            assert run.gateway.money.total.spent == 0.0


def test_clients_that_leave_and_requests_that_are_refused_rest_nobody(tmp_path: Path) -> None:
    provider: Any = Partly(large=400)
    with running(tmp_path, provider, shadow="") as run:
        for i in range(5):
            assert run.ask(f"x {i}").status_code == 400
        provider.statuses.clear()
        provider.wait_s = 1.0
        for i in range(3):
            body = {"model": "auto", "messages": [{"role": "user", "content": f"y {i}"}]}
            with run.http() as http, pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, timeout=0.1)
        assert run.gateway.config.resting == []
        provider.wait_s = 0.0
        assert run.ask("z").status_code == 200


def test_a_slow_grader_keeps_no_client_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that never ends: all are answered before any grade is there."""
    graded = threading.Event()
    monkeypatch.setattr("exeunt.gateway.judge.grader_named", lambda _: lambda *_: float(graded.wait(60)))
    with running(tmp_path, Partly()) as run:
        for _ in range(2):  # at the second time graders have work
            statuses, _ = asked_by_16(run, "auto", n=32)
            assert {*statuses} == {200}
        under_way = r"\nexeunt_gateway_graders_under_way (\S+)"
        # All threads are busy, and others wait.
        eventually(lambda: float(re.findall(under_way, run.metrics())[0]) > 8)
        assert run.n_compared == 0
        graded.set()
