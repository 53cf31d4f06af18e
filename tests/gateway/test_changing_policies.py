"""Clients in parallel while policies are activated, rolled back, and ended by alarms of their watch."""

from __future__ import annotations

import gc
import json
import random
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from exeunt.gateway.mock_provider import chance

from .made_state import made_policy
from .running_gateway import Running, answer, eventually, lines_of, running, text_of_chunks

POLICIES = {"p1": "60%", "p2": "40%"}
"""Budgets: where small is about as sure as usual, p2 asks large less often."""
SHADOW = "{models: [small], share: 0.05, audit: 0.05, spend: '1 usd'}"


class Asked(NamedTuple):
    """A request: when it began and ended, who chose by its header, and who answered."""

    begun: float
    ended: float
    text: str
    policy: str
    model: str


class Load:
    """Clients that ask. `harder`: only what small is not sure of, as no policy was certified for."""

    def __init__(self, run: Running) -> None:
        self.run, self.asked, self.harder = run, list[Asked](), False
        self.stopped, self._numbers = threading.Event(), count()
        self.active: list[list[Any]] = [["reference", 0.0, float("inf")]]

    def client(self, _: int) -> None:
        with self.run.http() as http:
            while not self.stopped.is_set():
                texts = (f"question {next(self._numbers)}" for _ in count())
                text = next(one for one in texts if not self.harder or sure(one) < 0.1)
                body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
                begun = time.monotonic()
                told = http.post("/v1/chat/completions", json={**body, "stream": len(self.asked) % 3 == 0})
                assert told.status_code == 200, told.text
                model = told.headers["x-exeunt-model"]
                assert said(told) == answer(model, text)
                policy = told.headers["x-exeunt-policy"]
                self.asked.append(Asked(begun, time.monotonic(), text, policy, model))

    def follows(self, name: str, begun: float) -> None:
        """Take note that another policy answers from now on, if not since `begun`."""
        self.active[-1][2] = time.monotonic()
        self.active.append([name, begun, float("inf")])

    def change(self, name: str) -> None:
        begun = time.monotonic()
        told = self.run.owner.post("/admin/rollback") if name == "back" else self.run.take(policy=name)
        assert told.status_code == 200, told.text
        self.follows(told.json()["policy"], begun)

    def let_it_drift(self) -> None:
        """Wait until the watch of the active policy raises its alarm, and the reference answers."""
        begun, self.harder = time.monotonic(), True
        eventually(lambda: self.run.gateway.live.fallen is not None, tries=3_000)
        self.harder = False
        self.follows("reference", begun)

    def more(self, n: int) -> None:
        """Wait until n more requests are answered."""
        least = len(self.asked) + n
        eventually(lambda: len(self.asked) >= least or self.stopped.is_set(), tries=3_000)

    def check(self) -> Counter[str]:
        """Check who chose and who answered each request; return how many each policy answered."""
        sure_of: dict[tuple[str, str], list[float]] = {}
        for one in self.asked:
            spans = [(begin, end) for name, begin, end in self.active if name == one.policy]
            assert any(begin <= one.ended and one.begun <= end for begin, end in spans), one
            sure_of.setdefault((one.policy, one.model), []).append(sure(one.text))
        assert ("reference", "small") not in sure_of
        borders = [min(sure_of[name, "small"]) for name in POLICIES]
        assert all(
            max(sure_of[name, "large"]) < border for name, border in zip(POLICIES, borders, strict=True)
        )
        assert borders[0] != borders[1]
        return Counter(one.policy for one in self.asked)


def sure(text: str) -> float:
    """Return how sure small is of a text, from 0 to 1."""
    return 1 - chance("small", text, "sure")


def said(told: Any) -> str:
    if told.headers["content-type"].startswith("text/event-stream"):
        return text_of_chunks([json.loads(line) for line in lines_of(told)])
    return told.json()["choices"][0]["message"]["content"]


def campaign(folder: Path, clients: int, rounds: int, seed: int) -> Counter[str]:
    rng, held = random.Random(seed), []
    with running(folder, shadow=SHADOW, spend="{total: '9 usd'}") as run, ThreadPoolExecutor(clients) as pool:
        for budget in POLICIES.values():
            run.gateway.policies.add(made_policy(budget))
        load = Load(run)
        working = [pool.submit(load.client, number) for number in range(clients)]
        try:
            for _ in range(rounds):
                some = rng.choices(["p1", "p2", "reference"], k=4)
                for name in ("p1", "p2", "back", *some, "p1", "p2"):
                    load.change(name)
                    load.more(rng.randrange(20))
                load.let_it_drift()
                load.more(10)
                run.provider.received.clear()
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            load.stopped.set()
        for one in working:
            one.result()
        eventually(lambda: not run.gateway._tasks, tries=3_000)
        assert sum(bool(alarm.get("ends")) for alarm in run.gateway.live.alarms) == min(rounds, 20)
        money = run.gateway.money.total
        assert money.reserved == 0
        assert run.provider.spent == pytest.approx(money.spent)
        assert money.spent <= 9
        assert run.gateway.money.shadow.spent <= 1
    assert held[-1] < held[len(held) // 3] + (8 << 20)
    return load.check() + Counter(alarms=rounds, changes=len(load.active) - 1)


def test_policies_change_while_four_clients_ask(tmp_path: Path) -> None:
    found = campaign(tmp_path, clients=4, rounds=1, seed=1)
    assert min(found.values()) > 0


@pytest.mark.slow
def test_policies_change_three_hundred_times_while_sixteen_clients_ask(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        found = campaign(tmp_path, clients=16, rounds=30, seed=2)
    finally:
        tracemalloc.stop()
    print(found)
