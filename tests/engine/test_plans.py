"""Plans and profiles: what pays by brute force over all ways of dropping, files, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exeunt as ex
from exeunt.engine.plan import Plan, check_segments
from exeunt.timing.planner import joined_segments, plan_from_profile
from exeunt.timing.profile import Profile

SIZES = (1, 2, 4, 8, 16, 32, 64)


def profile(per_row, *, fixed=0.0, gather_row=0.0, gather_fixed=0.0):
    """Seconds linear in rows: `per_row` (s,) of each segment."""
    s = len(per_row)
    run, head = np.outer(per_row, SIZES) + fixed, np.zeros((s, len(SIZES)))
    gather = np.outer(np.ones(s), SIZES) * gather_row + gather_fixed
    return Profile("made", tuple((i, i) for i in range(s)), SIZES, run, head, gather)


def brute_force(made, reach, segment, height, alive):
    """The least seconds from a segment on over all ways to drop or ride, (if dropped first, if not)."""
    best = {True: np.inf, False: np.inf}
    left = [alive * reach[t] / reach[segment] for t in range(len(reach))]
    for ways in product([True, False], repeat=len(reach) - segment):
        rows, total = height, 0.0
        for at, drops in enumerate(ways, start=segment):
            if drops:  # as many rows are moved as leave or as stay
                total += made.gather_seconds(at, min(left[at], rows - left[at]))
                rows = left[at]
            total += made.seconds(at, rows)
        best[ways[0]] = min(best[ways[0]], total)
    return best[True], best[False]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_dropping_is_planned_where_brute_force_says_it_pays(seed):
    rng = np.random.default_rng(seed)
    s = int(rng.integers(2, 6))
    per_row, (fixed, row, gather_fixed) = rng.uniform(0.1, 2, s), rng.uniform(0, [3, 1, 4])
    made = profile(per_row, fixed=fixed, gather_row=row, gather_fixed=gather_fixed)
    leaving = rng.dirichlet(np.ones(s))
    reach = 1 - np.concatenate([[0], np.cumsum(leaving)[:-1]])
    plan = plan_from_profile(made, leaving=leaving)
    for segment, height in product(range(1, s), (8, 64)):
        most = plan.most_alive[segment][SIZES.index(height)]
        if most:
            drop, ride = brute_force(made, reach, segment, height, most)
            assert drop <= ride + 1e-9
        if most < height:  # plans look at 32nds of a state
            parts = np.arange(1, 33) / 32 * height
            beyond = parts[(most < parts) & (parts <= most + 1 + height / 32)]
            tried = [brute_force(made, reach, segment, height, alive) for alive in beyond]
            assert any(drop >= ride - 1e-9 for drop, ride in tried)


def test_free_copies_are_always_made_and_expensive_ones_never():
    for seconds in (0.0, 1e6):
        plan = plan_from_profile(profile([1.0] * 4, gather_fixed=seconds))
        drops = [plan.drops(segment, 64, alive) for segment in (1, 2, 3) for alive in (1, 30, 61)]
        assert drops == [seconds == 0] * 9


def test_segments_between_which_nothing_is_dropped_are_fused():
    leaving = [0.4, 0.0, 0.4, 0.0, 0.2]
    # Copies pay only where a good share left.
    made = profile([1.0] * 5, gather_fixed=20.0)
    assert joined_segments(made, leaving=leaving) == ((0, 0), (1, 2), (3, 4))
    assert joined_segments(profile([1.0] * 5, gather_fixed=1e6), leaving=leaving) == ((0, 4),)
    assert joined_segments(profile([1.0] * 5), leaving=[0.2] * 5) == tuple((i, i) for i in range(5))


def slow_from_32_rows(**options):
    """From 32 rows on the caches are too small for the first segment: smaller calls save half of its time."""
    made = profile([1.0, 1.0], **options)
    run = made.run.copy()
    run[0, SIZES.index(32) :] *= 2
    return replace(made, run=run)


def test_pieces_are_where_a_row_is_cheapest():
    piece = plan_from_profile(slow_from_32_rows(fixed=1.0)).piece
    assert piece[0] < 32
    assert piece[1] == 64


@pytest.mark.parametrize(("copied", "splits"), [(0.5, True), (3.0, False)])
def test_calls_are_split_only_where_that_saves_more_than_it_copies(copied, splits):
    made = slow_from_32_rows(gather_row=copied)
    assert (plan_from_profile(made).piece[0] < 32) == splits
    assert plan_from_profile(made, leaving=[1.0, 0.0]).piece[0] < 32  # nobody is left to copy


@pytest.mark.parametrize(
    ("gather_row", "fixed", "min_batch"),
    [(0, 64, 64), (100, 64, 1), (0, 0, 1), (3, 8, 4), (0.5, 8, 16)],
)
def test_rows_wait_in_a_stream_while_a_larger_call_saves_more_than_it_copies(gather_row, fixed, min_batch):
    """A row takes 1 second and its share of what a call takes whatever its size: half a second at 16 rows of 8."""
    made = profile([1.0, 1.0], fixed=fixed, gather_row=gather_row)
    assert plan_from_profile(made).min_batch == (min_batch, min_batch)
    sizes = np.array(SIZES)
    around = (0.75, 1.0, 1.5)
    alone = [np.mean([made.seconds(1, part * size) / part / size for part in around]) for size in sizes]
    for size, seconds in zip(sizes, alone, strict=True):
        best = min((one + gather_row for one in np.array(alone)[sizes > size]), default=seconds)
        assert (seconds <= 1.03 * best) == (size >= min_batch)


def test_seconds_between_and_beyond_the_sizes():
    made = profile([2.0])
    assert [made.seconds(0, rows) for rows in (3, 0.5, 640, 0)] == pytest.approx([6.0, 1.0, 1280.0, 0.0])


def test_calls_are_of_the_planned_size_to_half_as_many_more():
    plan = Plan("made", ((0, 0),), (64,))
    assert [plan.calls(0, rows) for rows in (1, 64, 95, 96, 128, 640)] == [1, 1, 1, 2, 2, 10]


def test_rows_are_dropped_at_the_share_of_the_next_smaller_size():
    plan = Plan("made", ((0, 0), (1, 1)), (64, 64), sizes=(4, 16), most_alive=((0, 0), (3, 8)))
    most = {2: 1, 3: 2, 4: 3, 8: 6, 15: 11, 16: 8, 32: 16}
    for rows, alive in most.items():
        assert plan.drops(1, rows, alive)
        assert not plan.drops(1, rows, alive + 1)
    assert not plan.drops(0, 16, 1)


def test_a_plan_of_nothing_measured_always_drops():
    plan = Plan.unmeasured("made", ((0, 1), (2, 2)))
    assert plan == Plan("made", ((0, 1), (2, 2)), (64, 64))
    assert plan.drops(1, 64, 63)
    assert plan.min_batch == plan.piece
    assert (plan.n_exits, Plan.unmeasured("made", ((0, 0), (1, 1), (2, 4))).n_exits) == (3, 5)
    assert Plan.unmeasured("made", ((0, 0),), piece=5).piece == (5,)


def test_a_plan_comes_back_from_json():
    plan = Plan("made", ((0, 0), (1, 2)), (8, 4), (1, 16), ((1, 9), (0, 3)), {"cores": 2})
    body = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(body) == plan
    body["company"] = body.pop("min_batch")  # as older versions named it
    assert Plan.from_dict(body) == plan


ONES = ((1, 1), (1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": ((0, 1), (1, 2))}, r"must follow one another from exit 0 on, got \(\(0, 1\), \(1,"),
        ({"segments": ((1, 1), (2, 2))}, "from exit 0 on"),
        ({"segments": ((0, 1), (2, 1))}, "from exit 0 on"),
        ({"segments": ()}, r"segments must hold some exits, got \(\)"),
        ({"segments": ((0, 2),)}, r"piece must be 1 numbers of rows of at least 1, got \(4, 4\)"),
        ({"piece": (0, 1)}, "piece"),
        ({"piece": (1,)}, "piece"),
        ({"min_batch": (1,)}, "min_batch"),
        ({"min_batch": (4, 0)}, "min_batch"),
        ({"sizes": (2, 1), "most_alive": ONES}, r"ascending numbers of rows from 1 on, got \(2, 1\)"),
        ({"sizes": (1, 1), "most_alive": ONES}, "ascending"),
        ({"sizes": (0, 1), "most_alive": ONES}, "ascending"),
        ({"sizes": (1, 2), "most_alive": ((1, 2),)}, r"most_alive must be 2 rows of 2, got \(\(1, 2\),\)"),
        ({"sizes": (1, 2), "most_alive": ((1, 2), (1,))}, "most_alive"),
        ({"sizes": (1, 2), "most_alive": ((1,), (1,))}, "most_alive"),
    ],
)
def test_plans_that_make_no_sense_are_refused(change, message):
    sound = {"executor": "made", "segments": ((0, 0), (1, 1)), "piece": (4, 4)}
    Plan(**sound)
    Plan(**sound, sizes=(1, 2), most_alive=((1, 2), (0, 0)))
    with pytest.raises(ex.InputError, match=message):
        Plan(**{**sound, **change})


def test_segments_must_hold_all_exits():
    check_segments(((0, 1), (2, 2)), 3)
    for n_exits in (2, 4):
        with pytest.raises(ex.InputError, match=f"segments must hold {n_exits} exits, got"):
            check_segments(((0, 1), (2, 2)), n_exits)
