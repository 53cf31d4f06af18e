"""Items come in order of arrival, each once, whatever the order in which they end, and none waits beyond its limit."""

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exeunt.stream.order import InOrder


@dataclass
class Record:
    """What was told of an item. The first end counts."""

    began: float
    limit_s: float
    ended: float = math.inf
    item: int | None = None


def decided(record, now):
    """Return whether it is known by now that an item is there, or will never be."""
    return record.ended <= now or now > record.began + record.limit_s


def ready(records, now):
    """Return all items that may have been taken by now: a loop over everything from the start."""
    items = []
    for record in records:
        if not decided(record, now):
            break
        if record.item is not None and record.ended <= record.began + record.limit_s:
            items.append(record.item)
    return items


LIMITS = st.sampled_from([0.0, 1.0, 3.0, math.inf])
ACTIONS = st.one_of(
    st.tuples(st.just("begin"), LIMITS),
    st.tuples(st.just("end"), st.integers(0, 30)),
    st.tuples(st.just("leave out"), st.integers(0, 30)),
    st.tuples(st.just("take"), st.none()),
)
SCRIPTS = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 1.0, 2.0]), ACTIONS), max_size=60)


def played(script, *, takes=True):
    """Yield what is taken, what a loop over all that was told says, and how many wait, after each action."""
    order, places, records, now, taken = InOrder[int](), [], [], 0.0, []
    for number, (later, (action, which)) in enumerate(script):
        now += later
        if action == "begin":
            places.append(order.begin(now, limit_s=which))
            records.append(Record(now, which))
        elif action == "take":
            if takes:
                taken += order.take_ready(now)
                yield taken, ready(records, now), len(order)
        elif places:
            k = which % len(places)
            item = number if action == "end" else None
            order.end(places[k], item, now)
            if records[k].ended == math.inf:
                records[k].ended, records[k].item = now, item
    taken += order.take_ready(now)
    yield taken, ready(records, now), len(order)


@given(SCRIPTS)
def test_what_is_taken_is_what_a_loop_over_all_that_was_told_says(script):
    for taken, expected, _ in played(script):
        assert taken == expected


@given(SCRIPTS)
def test_how_often_it_is_asked_changes_nothing(script):
    *_, (often, _, waiting) = played(script)
    *_, (once, _, waiting_too) = played(script, takes=False)
    assert (often, waiting) == (once, waiting_too)


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_without_limits_all_items_come_in_the_order_in_which_they_began(ends, left_out):
    order = InOrder[int]()
    places = [order.begin() for _ in ends]
    assert [place.number for place in places] == list(range(8))
    taken = []
    for rank, k in enumerate(ends):
        assert len(order) == 8 - min(set(ends[rank:]))  # up to the first that is under way
        order.end(places[k], None if k in left_out else k)
        taken += order.take_ready()
    assert taken == [k for k in range(8) if k not in left_out]
    assert (len(order), order.n_begun, order.take_ready()) == (0, 8, [])


def test_of_nothing_nothing_comes():
    order = InOrder[str]()
    assert (order.take_ready(), order.take_ready(1e9), len(order), order.n_begun) == ([], [], 0, 0)


def test_a_late_item_holds_back_those_behind_it_until_its_limit_and_is_then_left_out_for_good():
    order = InOrder[str]()
    late, quick = order.begin(10.0, limit_s=60.0), order.begin(11.0, limit_s=0.5)
    order.end(quick, "quick", 11.5)  # as long as it may take, no longer
    assert order.take_ready(70.0) == []  # 60 seconds after it began the late one may still come
    assert order.take_ready(70.001) == ["quick"]
    order.end(late, "late", 70.002)
    assert order.take_ready(1e9) == []
    assert late.item is None


def test_an_item_that_ends_beyond_its_limit_is_left_out_also_if_nobody_asked_in_between():
    order = InOrder[str]()
    late, other = order.begin(0.0, limit_s=5.0), order.begin(0.0)
    order.end(late, "late", 5.1)
    order.end(other, "other", 5.2)
    assert order.take_ready(5.2) == ["other"]


def test_what_ended_first_stays():
    order = InOrder[str]()
    first, second = order.begin(), order.begin()
    order.end(first, "once")
    order.end(first, "twice")
    order.end(second, None)
    order.end(second, "after all")
    assert order.take_ready() == ["once"]


def test_items_that_count_as_false_are_items():
    order = InOrder[object]()
    for item in (0, "", [], False, 0.0):
        order.end(order.begin(), item)
    assert order.take_ready() == [0, "", [], False, 0.0]


def test_in_order_of_arrival_the_first_are_a_sample_of_all_and_in_order_of_their_ends_they_are_easy():
    """Half of the items are hard, and take twelve times as long."""
    rng, order, taken = np.random.default_rng(0), InOrder[int](), []
    hard, began = rng.random(4000) < 0.5, 0.02 * np.arange(4000)
    ends = began + np.where(hard, 6.0, 0.5)
    by_end = np.argsort(ends, kind="stable")
    places = [order.begin(now, limit_s=60) for now in began]
    for k in by_end:
        order.end(places[k], int(k), ends[k])
        taken += order.take_ready(ends[k])
    assert taken == list(range(4000))
    assert hard[by_end[:200]].mean() < 0.2
    assert 0.4 < hard[taken[:200]].mean() < 0.6
