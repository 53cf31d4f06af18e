"""Places of exits by time, with measured times from a fake."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunt.errors import InputError
from exeunt.timing.exit_placement import MOST_ADDED, SMALLER, MeasuredPlaces, choose_exits

NAMES = tuple(f"block{i}" for i in range(7))


class FakeBench:
    """A network of `stage_ms` (p + 1,), with heads of `head_ms` (p,) at 128 units, and as much less as `falls` says.

    As built, heads take `built` times what they do one by one.
    """

    def __init__(self, stage_ms, head_ms, *, falls=0.5, kilobytes=1.0, built=1.0, batches=1):
        self.stage_ms, self.head_ms = np.tile(stage_ms, (batches, 1)), np.tile(head_ms, (batches, 1))
        self.falls, self.kilobytes, self.built = falls, kilobytes, built
        self.tried = []

    def measure(self, hidden):
        times = self.falls ** np.log2(128 / hidden)
        p = self.head_ms.shape[1]
        return MeasuredPlaces(
            names=NAMES[:p],
            whole=self.stage_ms.sum(axis=1),
            stage=self.stage_ms,
            head=self.head_ms * times,
            bytes=np.full(p, 1e3 * self.kilobytes * hidden / 128),
            network_bytes=1e4,
        )

    def with_exits(self, hidden, places):
        self.tried.append((hidden, tuple(places)))
        return 1 + self.built * self.measure(hidden).added[:, list(places)].sum(axis=1)


EVEN = [1.0] * 8


def chosen(stage_ms, head_ms, hidden=(128,), **options):
    return choose_exits(FakeBench(stage_ms, head_ms, **options), list(hidden), [64])


def expected(stage_ms, head_ms, places):
    """Mean time, as a share of the network's, of inputs that need a uniform part of it and leave where they have it."""
    total, depth = sum(stage_ms), np.cumsum(stage_ms)[list(places)]
    heads = np.cumsum([head_ms[place] for place in places])
    taken = np.append(depth + heads, total + heads[-1])
    needs = (np.arange(4000) + 0.5) / 4000 * total
    return taken[np.searchsorted(depth, needs)].mean() / total


@given(
    st.lists(st.floats(0.5, 3), min_size=2, max_size=5),
    st.lists(st.floats(0.001, 0.4), min_size=4, max_size=4),
)
def test_no_other_places_have_a_lower_expected_time(stage_ms, head_ms):
    p = len(stage_ms) - 1
    head_ms = head_ms[:p]
    total = sum(stage_ms)
    every = [places for size in range(1, p + 1) for places in combinations(range(p), size)]
    within = [one for one in every if sum(head_ms[place] for place in one) <= MOST_ADDED * total]
    if not within:
        with pytest.raises(InputError, match=r"heads may take 10% of the network's time .*1 head takes \d+%"):
            chosen(stage_ms, head_ms)
        return
    found = chosen(stage_ms, head_ms)
    assert found.places in within
    assert found.nobody_leaves.max() <= 1 + MOST_ADDED
    # Of each number of exits, the best that ends at each place is looked at; some of these may exceed the limit.
    free = min(every, key=lambda one: expected(stage_ms, head_ms, one))
    if free in within:
        assert expected(stage_ms, head_ms, found.places) == pytest.approx(
            expected(stage_ms, head_ms, free), abs=1e-3
        )


def test_cheap_heads_are_many_and_dear_ones_few():
    counts = [len(chosen(EVEN, [ms] * 7).places) for ms in (0.01, 0.1, 0.19, 0.3, 0.5)]
    assert counts == [7, 7, 4, 2, 1]


def test_places_are_even_in_time_and_not_in_number():
    slow_first = [4.0, 2.0, 1.0, 0.25, 0.25, 0.25, 0.15, 0.1]
    assert chosen(slow_first, [0.19] * 7).names == ("block0", "block1", "block2", "block4")


def test_smaller_heads_are_tried_only_where_larger_ones_are_too_dear():
    assert chosen(EVEN, [0.01] * 7, [128, 64, 32]).hidden == 128
    found = chosen(EVEN, [0.35] * 7, [128, 64, 32], falls=0.2)
    assert found.hidden == 64
    assert len(found.places) > 2
    assert SMALLER < 0.1
    # Where a smaller head takes as long, the larger one is better.
    assert chosen(EVEN, [0.35] * 7, [128, 64, 32], falls=0.99).hidden == 128


def test_heads_weigh_no_more_than_the_network():
    found = chosen(EVEN, [0.001] * 7, kilobytes=4)
    assert len(found.places) == 2
    assert found.measured.bytes[list(found.places)].sum() <= found.measured.network_bytes


def test_exits_hold_for_each_size_of_batches():
    class OneIsSlow(FakeBench):
        def measure(self, hidden):
            found = super().measure(hidden)
            found.head[0] *= 5  # of batches of one
            return found

    assert len(chosen(EVEN, [0.05] * 7, batches=1).places) == 7
    both = choose_exits(OneIsSlow(EVEN, [0.05] * 7, batches=2), [128], [1, 64])
    assert len(both.places) == 3
    assert "94%" not in both.describe()
    assert "109% of the network's 8 ms at batch 1, 102% of the network's 8 ms at batch 64" in both.describe()


def test_what_takes_longer_than_promised_is_taken_back():
    bench = FakeBench(EVEN, [0.1] * 7, built=3.0)
    found = choose_exits(bench, [128], [64])
    assert found.nobody_leaves.max() <= 1 + MOST_ADDED
    assert len(bench.tried) > 1
    assert len(found.places) == 2
    assert len(chosen(EVEN, [0.01] * 7, built=70.0).places) == 1
    with pytest.raises(InputError, match=r"1 head takes 12%.*--exit-batch"):
        chosen(EVEN, [0.01] * 7, built=100.0)


def test_the_table_says_what_each_exit_takes_and_weighs():
    told = chosen([1.0] * 4, [0.05] * 3).describe().splitlines()
    assert told[0].split("  ")[0] == "exit after"
    assert [line.split()[0] for line in told[2:5]] == ["block0", "block1", "block2"]
    assert told[2].split() == ["block0", "1", "ms", "0.05", "ms", "0.00", "MB"]
    assert (
        told[-2]
        == "heads have hidden layers of 128 units and weigh 0.00 MB beside 0.01 MB; times are per input"
    )
    assert told[-1] == "where nobody leaves, an input takes 104% of the network's 4 ms at batch 64"
