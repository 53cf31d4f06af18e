"""Hostile requests of every kind, between which good ones are answered as without a server."""

from __future__ import annotations

import base64
import json
import re
import time

import numpy as np
import pytest
from hostile_images import many_scans
from hostile_requests import Generator, Hostile, alone, attack, exchanged, good_images, served, status_of


@pytest.mark.slow
def test_a_generator_makes_the_same_requests_again():
    first, again, other = (Generator(seed, "m", 80) for seed in (3, 3, 4))
    made = [first() for _ in range(60)]
    assert made == [again() for _ in range(60)]
    assert made != [other() for _ in range(60)]
    assert len({request.kind for request in made}) == 10


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_three_thousand_hostile_requests(exported, workers):
    """No crash, no way around the keys, no wrong answer for good requests, and no more memory at the end."""
    wanted = alone(exported.path)
    with served(exported.path, workers) as (port, pid):
        report = attack(port, pid, wanted, model=exported.path.name, n=3000, seed=38 + workers, clients=4)
    assert report.wrong == []
    assert report.statuses["good", 200] == 300
    assert report.statuses.total() == 3000
    if workers == 1:
        first, *held = report.memory
        assert np.median(held[len(held) // 2 :]) < first + 100  # glibc alone would keep 250 MiB


@pytest.mark.slow
@pytest.mark.parametrize("scans", [1500, 3500, 25])
def test_scan_bombs_to_two_workers_hold_up_neither_answers_nor_the_end(exported, scans, capsys):
    """Six blank images of 25 million pixels, whose senders disconnect. 25 scans are within what is read."""

    def asked(image):
        return generator.request(body=json.dumps({"images": [base64.b64encode(image).decode()]}).encode())

    with served(exported.path, 2) as (port, _):
        generator = Generator(0, "run", port)
        good, bomb = asked(good_images()[0]), asked(many_scans(scans=scans))
        for _ in range(6):
            exchanged(port, Hostile(bomb, cut=len(bomb)))
        begun = time.monotonic()
        for _ in range(8):
            assert status_of(exchanged(port, Hostile(good))) == 200
        taken = time.monotonic() - begun
    ended = float(re.search(r"it ended (\S+) s after", capsys.readouterr().out)[1])
    print(f"{taken:.1f} s for eight answers, {ended} s to end")
    assert taken < 8
    assert ended < 8
