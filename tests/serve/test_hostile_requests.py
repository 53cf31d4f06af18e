"""Hostile requests of every kind, between which good ones are answered as without a server."""

from __future__ import annotations

import numpy as np
import pytest
from hostile_requests import alone, attack, served


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
