"""One model that fails does not take the others down, and who rests is told."""

from __future__ import annotations

import asyncio
import re
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

from .running_gateway import PRICES, Running, answer, eventually, running
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


def asked_by_16(run: Running, model: str, n: int = 128) -> tuple[list[int], list[float]]:
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


@pytest.mark.parametrize("status", [500, 429, 403])
def test_a_cheap_model_that_fails_takes_the_reference_down_for_nobody(tmp_path: Path, status: int) -> None:
    provider = Partly(small=status)
    with running(tmp_path, provider, shadow=SHADOW) as run:
        run.gateway.policies.add(policy())
        above = []
        for _ in range(3):  # in turns: the machine may do other work for a while
            usual = asked_by_16(run, "auto")
            statuses, seconds = asked_by_16(run, "auto:p1")
            assert {*usual[0], *statuses} == {200}
            above.append(median(seconds) - 1.2 * median(usual[1]))
        assert min(above) <= 0.01  # seconds
        assert provider.failed <= 16 + 10
        with run.http(run.admin) as http:
            (resting,) = http.get("/admin/state").json()["resting"]
            assert (resting["name"], resting["models"]) == ("small", ["small"])
            assert resting["why"] == f"status {status} (overloaded)"
            found = re.search(
                r'rests_until_seconds\{name="small",why="(.*)"\} (.*)', http.get("/metrics").text
            )
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
        with run.http(run.admin) as http:
            (resting,) = http.get("/admin/state").json()["resting"]
        assert (resting["name"], resting["models"]) == ("mock", ["small", "large"])
        assert "rests" in run.ask("x").json()["error"]["message"]


class Slow(MockProvider):
    """A provider whose small model takes two seconds: before it answers, or between the pieces of its answer."""

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        given = await super()._completions(request)
        if body["model"] == "small" and not body.get("stream"):
            await asyncio.sleep(2.0)
        return given

    async def _chunks(self, completion: Any) -> AsyncIterator[str]:
        async for chunk in super()._chunks(completion):
            yield chunk
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("streams", [False, True])
def test_a_slow_answer_of_one_model_keeps_no_other_waiting_for_their_provider(
    tmp_path: Path, streams: bool
) -> None:
    mock = Slow(answer, PRICES)
    with running(tmp_path, mock, shadow="") as run, ThreadPoolExecutor(1) as pool:
        provider = run.gateway.config.models["large"].provider
        for _ in range(provider.failures):
            provider.begin().end("connection failed (ConnectError)")
        assert "rests" in run.ask("x").json()["error"]["message"]
        provider._until = 0.0  # the pause is over
        first = pool.submit(run.ask, "slow", model="small", stream=streams)
        eventually(lambda: len(mock.received) == 1)
        eventually(lambda: not provider.rests)
        if not streams:
            assert run.ask("y").status_code == 200
        eventually(
            lambda: provider._in_a_row == 0
        )  # its status says that the connection and the key are good
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
        models = (
            "{%s: {provider: mock, price: {input: 1, output: 1}, max_tokens: 9, timeout_s: 1, retries: 0}}"
        )
        with running(tmp_path, models=models % "large", **options) as run:
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
        for i in range(5):
            body = {"model": "auto", "messages": [{"role": "user", "content": f"y {i}"}]}
            with run.http() as http, pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, timeout=0.1)
        assert run.gateway.config.resting == []
        provider.wait_s = 0.0
        assert run.ask("z").status_code == 200


def slowly(*_: Any) -> float:
    time.sleep(0.5)
    return 1.0


def test_a_slow_grader_keeps_no_client_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medians = []
    for grader in (lambda *_: 1.0, slowly):
        monkeypatch.setattr("exeunt.gateway.judge.grader_named", lambda _, own=grader: own)
        folder = tmp_path / grader.__name__
        folder.mkdir()
        with running(folder, Partly()) as run:
            asked_by_16(run, "auto", n=32)  # now graders have work
            statuses, seconds = asked_by_16(run, "auto", n=32)
            assert {*statuses} == {200}
            medians.append(median(seconds))
            if grader is slowly:
                with run.http(run.admin) as http:
                    found = re.search(r"\nexeunt_gateway_graders_under_way (\S+)", http.get("/metrics").text)
    assert medians[1] <= 1.5 * medians[0]
    assert found is not None
    assert float(found[1]) > 8  # all threads were busy, and others waited
