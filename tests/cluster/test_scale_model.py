"""The model of docs/scale.md: its simulation against what is known in closed form."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

from scale_model import Machines, Seconds, job_seconds, limits, simulated


@pytest.mark.parametrize(("blocks", "machines"), [(1, 1), (100, 7), (98, 7), (3, 7)])
def test_without_deaths_machines_answer_in_turns(blocks, machines):
    seconds, lost = simulated(2.0, blocks, machines, window=4)
    assert seconds == pytest.approx(2.0 * math.ceil(blocks / machines))
    assert lost == 0


def test_the_driver_limits_many_machines():
    seconds, _ = simulated(1.5, 3_000, 100, window=64, driver_s=0.02)
    assert seconds == pytest.approx(3_000 * 0.02 + 1.5)


@pytest.mark.parametrize(("per_hour", "replaced_s"), [(30.0, 20.0), (60.0, 0.0)])
def test_work_that_is_begun_again_takes_as_long_as_renewal_theory_says(per_hour, replaced_s):
    """A block of t seconds, begun again at each death of rate d: (exp(d t) - 1) (1 / d + r) seconds on average."""
    t, rate = 60.0, per_hour / 3600
    runs = [
        simulated(t, 200, 1, window=1, lost_per_hour=per_hour, replaced_s=replaced_s, seed=seed)
        for seed in range(40)
    ]
    seconds, lost = np.array(runs).T / 200
    deaths = math.expm1(rate * t)
    for found, expected in ((seconds, deaths * (1 / rate + replaced_s)), (lost, deaths)):
        assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(len(runs))


def test_the_slowest_part_decides():
    parts = Seconds(1e-4, 2e-4, 1e-4, block=0.2, driver=0.004, start=10.0, row_bytes=1e4)
    few = Machines(2, 16, bandwidth=1e9)
    most = limits(parts, few, 1000)
    assert most["cores"] == pytest.approx(32 * 1000 / 0.6)
    assert most["driver"] == pytest.approx(250_000)
    assert job_seconds(parts, few, 1e6, 1000) == pytest.approx(10 + 1e6 / most["cores"] + 0.3)
    many = Machines(1000, 16, bandwidth=1e6)
    assert job_seconds(parts, many, 1e6, 1000) == pytest.approx(10 + 1e6 / 1e5 + 0.3)
