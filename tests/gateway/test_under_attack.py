"""Clients at once, one request in ten cut off, a provider that fails, and a gateway that is killed again and again."""

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

from .running_gateway import PRICES, answer, config_text, eventually, free_port, right_answer

KILLS, CLIENTS = 200, 8


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
def test_two_hundred_kills(tmp_path: Path) -> None:
    """While clients ask and their requests are compared: no wrong answer, nothing over, no raw error, no hang."""
    provider, file, port = (
        MockProvider(answer, PRICES, wait_s=0.05, fails=0.05),
        tmp_path / "gateway.yaml",
        free_port(),
    )
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
            n, lots = 0, random.Random(number)
            with httpx.Client(
                base_url=running.url, headers={"authorization": f"Bearer {client}"}, timeout=30
            ) as http:
                while not stopped.is_set():
                    text = f"question {number}/{(n := n + 1)}"
                    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
                    try:
                        timeout = 0.1 if lots.random() < 0.1 else 30
                        said = http.post("/v1/chat/completions", json=body, timeout=timeout)
                    except httpx.HTTPError:
                        time.sleep(0.05)
                        continue
                    assert said.status_code in (200, 502, 503), said.text
                    if said.status_code == 200:
                        assert said.json()["choices"][0]["message"]["content"] == right_answer(text)
                        answered[0] += 1

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(go_on_asking, number) for number in range(CLIENTS)]
            try:
                for _ in range(KILLS):
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
        # What was held when it was killed comes back when its lease ends.
        eventually(lambda: gateway.money.total.reserved == 0, tries=15_000)
        spent, records = gateway.money.total.spent, gateway.records.count("1")
        asyncio.run(gateway.close())
    print(answered, records, spent, provider.spent)
    assert "Traceback" not in running.log.read_text()
    assert 0 < provider.spent <= spent + 1e-9 <= 9
    assert answered[0] > KILLS / 2
    assert records > 0
