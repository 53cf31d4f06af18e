"""Clients in parallel while inputs drift, a server responds to the alarm, and its run is loaded again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import httpx
import numpy as np
import pytest
from made_server import CLASSES, EXITS, HARD, classes_of, in_base64, made_images, made_run, running, until

pytest.importorskip("fastapi")

ROWS = 20


class Load:
    """Clients that ask. `harder`: for half the ease of the inputs of calibration. `asked`: when a request began and
    ended, and the exits of its rows.
    """

    def __init__(self, url):
        self.url, self.harder, self.stopped = url, threading.Event(), threading.Event()
        self.asked, self._numbers = [], count()

    def client(self, _):
        with httpx.Client(base_url=self.url, timeout=30) as http:
            while not self.stopped.is_set():
                pixels = made_images(ROWS, next(self._numbers))
                if self.harder.is_set():
                    pixels[:, 0, 0, 1] //= 2
                begun = time.monotonic()
                told = http.post("/predict", json={"images": in_base64(pixels)})
                assert told.status_code == 200, told.text
                answers = told.json()["answers"]
                exits = np.array([answer["exit"] for answer in answers])
                wrong = pixels[:, 0, 0, 1] < np.array(HARD)[exits]  # an exit is wrong where it is hard for it
                assert [answer["error"] for answer in answers] == [None] * ROWS
                expected = (classes_of(pixels) + wrong) % CLASSES
                assert [answer["label"] for answer in answers] == expected.tolist()
                self.asked.append((begun, time.monotonic(), exits))

    def more(self, n):
        least = len(self.asked) + n
        until(lambda: len(self.asked) >= least or self.stopped.is_set(), 60)

    def exits(self, begin, end):
        """Return the exits of the rows of requests that began and ended between two times."""
        return np.concatenate([exits for begun, ended, exits in self.asked if begin < begun and ended < end])


def campaign(folder, response, rounds, clients):
    """Let inputs drift, so many times; return how many requests were answered."""
    run = made_run(folder / "pixels", budgets=("60%",))
    policy = run.policies[0]
    planned = float(policy.planned_shares @ policy.cost.cumulative)
    with running(run, on_drift=response) as one, ThreadPoolExecutor(clients) as pool:
        load = Load(one.url)
        working = [pool.submit(load.client, number) for number in range(clients)]
        try:
            for _ in range(rounds):
                begun = time.monotonic()
                load.more(20)
                assert set(load.exits(begun, time.monotonic())) == set(range(EXITS))
                active = one.layer("state").state.service.active
                load.harder.set()
                until(lambda now=active.after_drift: now.receipts or now.notes, 60)
                fallen = time.monotonic()
                load.more(20)
                exits = load.exits(fallen, time.monotonic())
                if response == "reference":
                    assert set(exits) == {EXITS - 1}
                if response == "quota":
                    assert policy.cost.cumulative[exits].mean() <= 1.05 * planned
                if response == "recalibrate":
                    until(lambda now=active.after_drift: now.receipts, 60)
                load.harder.clear()
                httpx.post(f"{one.url}/reload", timeout=30).raise_for_status()
        finally:
            load.stopped.set()
        for each in working:
            each.result()
    return len(load.asked)


def test_the_last_exit_answers_whoever_asks_meanwhile(tmp_path):
    assert campaign(tmp_path, "reference", rounds=1, clients=3) > 40


@pytest.mark.slow
@pytest.mark.parametrize("response", ["quota", "reference", "recalibrate"])
def test_inputs_drift_ten_times_while_eight_clients_ask(tmp_path, response):
    n = campaign(tmp_path, response, rounds=10, clients=8)
    print(n)
    assert n > 400
