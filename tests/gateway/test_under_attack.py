"""500 clients at once, one in ten cut off, providers that fail, and a gateway that is killed twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from exeunt.gateway.config import read_config
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.mock_provider import MockProvider, served

from .running_gateway import PRICES, answer, config_text, free_port, right_answer

CLIENTS, EACH, POOL = 500, 4, 50


class Killed:
    """A gateway in a process of its own."""

    def __init__(self, file: Path, port: int) -> None:
        self.command = [sys.executable, "-m", "exeunt", "gateway", str(file)]
        self.url, self.log = f"http://127.0.0.1:{port}", file.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log)
        end = time.monotonic() + 60
        while not self.answers():
            assert time.monotonic() < end, "it did not start"
            time.sleep(0.05)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=1).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
def test_no_answer_is_lost_or_anothers_and_no_limit_is_passed(tmp_path: Path) -> None:
    provider = MockProvider(answer, PRICES, wait_s=0.2, fails=0.05)
    with served(provider.app) as upstream:
        file, port = tmp_path / "gateway.yaml", free_port()
        listen = f"{{port: {port}, max_open: 1000}}"
        text = config_text(upstream, listen=listen, spend="{total: '9 usd'}", shadow="")
        text = text.replace("retries: 0", "retries: 2").replace("failures: 3, pause_s: 30", "pause_s: 1")
        file.write_text(text)
        gateway = Gateway(read_config(file))
        client, _ = gateway.keys.add("alice"), gateway.keys.add("root", admin=True)
        asyncio.run(gateway.close())
        running = Killed(file, port)
        try:
            answered = asyncio.run(attack(running, client))
        finally:
            running.process.terminate()
            running.process.wait(60)
        gateway = Gateway(read_config(file))
        for _ in range(70):  # what was held when it was killed comes back when its lease ends
            if gateway.money.total.reserved == 0:
                break
            time.sleep(1)
        assert gateway.money.total.reserved == 0
        spent = gateway.money.total.spent
        asyncio.run(gateway.close())
    assert len(answered) == CLIENTS * EACH
    for text, said in answered.items():
        assert said == right_answer(text)
    assert provider.spent <= spent + 1e-9 <= 9  # what nobody knows of counts at its maximum


@pytest.mark.slow
def test_two_hundred_kills(tmp_path: Path) -> None:
    """While clients ask and their requests are compared: no wrong answer, nothing over, no raw error, no hang."""
    provider, file, port = MockProvider(answer, PRICES, wait_s=0.05), tmp_path / "gateway.yaml", free_port()
    rng, stopped, answered = random.Random(3), threading.Event(), [0]
    with served(provider.app) as upstream:
        shadow = "{models: [small], share: 1, audit: 1, spend: '3 usd'}"
        file.write_text(
            config_text(upstream, listen=f"{{port: {port}}}", spend="{total: '9 usd'}", shadow=shadow)
        )
        gateway = Gateway(read_config(file))
        client, _ = gateway.keys.add("alice"), gateway.keys.add("root", admin=True)
        asyncio.run(gateway.close())
        running = Killed(file, port)

        def go_on_asking(number: int) -> None:
            n = 0
            with httpx.Client(
                base_url=running.url, headers={"authorization": f"Bearer {client}"}, timeout=30
            ) as http:
                while not stopped.is_set():
                    text = f"question {number}/{(n := n + 1)}"
                    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
                    try:
                        said = http.post("/v1/chat/completions", json=body)
                    except httpx.HTTPError:
                        time.sleep(0.05)
                        continue
                    assert said.status_code in (200, 502, 503), said.text
                    if said.status_code == 200:
                        assert said.json()["choices"][0]["message"]["content"] == right_answer(text)
                        answered[0] += 1

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(go_on_asking, number) for number in range(8)]
            try:
                for _ in range(200):
                    time.sleep(rng.uniform(0.0, 0.5))
                    running.kill()
                    running.start()
            finally:
                stopped.set()
                running.process.terminate()
                running.process.wait(60)
            for one in clients:
                one.result()
        gateway = Gateway(read_config(file))
        spent, records = gateway.money.total.spent, gateway.records.count("1")
        asyncio.run(gateway.close())
    print(answered, records, spent, provider.spent)
    assert "Traceback" not in running.log.read_text()
    assert 0 < provider.spent <= spent + 1e-9 <= 9
    assert answered[0] > 100
    assert records > 0


async def ask(http: httpx.AsyncClient, text: str, rng: random.Random) -> str:
    """Ask until there is an answer; one request in ten is cut off."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    for _ in range(200):
        try:
            timeout = 0.1 if rng.random() < 0.1 else 60
            said = await http.post("/v1/chat/completions", json=body, timeout=timeout)
        except httpx.HTTPError:
            await asyncio.sleep(1)
            continue
        if said.status_code == 200:
            return said.json()["choices"][0]["message"]["content"]
        assert said.status_code in (502, 503), said.text
        await asyncio.sleep(1)
    raise AssertionError("there was no answer")


async def attack(running: Killed, key: str) -> dict[str, str]:
    """Let all clients ask until they have their answers, while the gateway is killed twice."""
    answered: dict[str, str] = {}
    rng = random.Random(0)
    headers = {"authorization": f"Bearer {key}"}

    async def client(http: httpx.AsyncClient, number: int) -> None:
        for i in range(EACH):
            text = f"question {number}/{i}"
            answered[text] = await ask(http, text, rng)

    async def some_clients(first: int) -> None:
        async with httpx.AsyncClient(base_url=running.url, headers=headers) as http:  # a large pool is slow
            await asyncio.gather(*(client(http, number) for number in range(first, first + POOL)))

    async def kill_twice() -> None:
        for share in (0.2, 0.6):
            while len(answered) < share * CLIENTS * EACH:
                await asyncio.sleep(0.1)
            await asyncio.to_thread(running.kill)
            await asyncio.to_thread(running.start)

    await asyncio.gather(kill_twice(), *map(some_clients, range(0, CLIENTS, POOL)))
    return answered
