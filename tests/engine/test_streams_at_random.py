"""The loop under random policies, plans, batches, bounds and failures: every answer is that of the replay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_streams import made_stream


def picks(seed):
    rng = np.random.default_rng(seed)
    return lambda low, high: int(rng.integers(low, high + 1))


@pytest.mark.parametrize("seed", range(6))
def test_streams_of_hundreds_of_rows(seed):
    for number in range(8):
        made_stream(picks([seed, number]), 200).check()


@settings(max_examples=60)
@given(st.data())
def test_streams_of_few_rows(data):
    made_stream(lambda low, high: data.draw(st.integers(low, high)), 9).check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 40))
def test_many_streams(seed):
    """At least 10,000 rows for each seed."""
    rows = number = 0
    while rows < 10_000:
        stream = made_stream(picks([seed, number]), 300)
        stream.check()
        rows, number = rows + len(stream.id_), number + 1
