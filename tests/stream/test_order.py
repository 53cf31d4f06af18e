"""Items come in order of arrival, each once, whatever the order in which they end, and none waits beyond its limit."""

import math
from dataclasses import dataclass

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
            assert (places[-1].number, order.n_begun) == (len(records), len(records) + 1)
            records.append(Record(now, which))
        elif action == "take":
            if takes:
                taken += order.take_ready(now)
                yield taken, ready(records, now), len(order)
        elif places:
            k = which % len(places)
            item = number - 1 if action == "end" else None  # 0 is one, too
            order.end(places[k], item, now)
            if records[k].ended == math.inf:
                records[k].ended, records[k].item = now, item
    taken += order.take_ready(now)
    yield taken, ready(records, now), len(order)
    assert len(order) == len(records) - next(
        (k for k, record in enumerate(records) if not decided(record, now)), len(records)
    )
    assert all(
        place.item is None
        for place, record in zip(places, records, strict=True)
        if record.ended > record.began + record.limit_s
    )


@given(SCRIPTS)
def test_what_is_taken_is_what_a_loop_over_all_that_was_told_says(script):
    for taken, expected, _ in played(script):
        assert taken == expected


@given(SCRIPTS)
def test_how_often_it_is_asked_changes_nothing(script):
    *_, (often, _, waiting) = played(script)
    *_, (once, _, waiting_too) = played(script, takes=False)
    assert (often, waiting) == (once, waiting_too)


def test_without_times_items_come_in_the_order_in_which_they_began_and_a_limit_may_be_reached():
    order = InOrder[str]()
    late, quick = order.begin(), order.begin()
    order.end(quick, "quick")
    assert order.take_ready() == []
    order.end(late, "late")
    assert order.take_ready() == ["late", "quick"]
    exact = order.begin(10.0, limit_s=0.5)
    order.end(exact, "exact", 10.5)
    assert order.take_ready(11.0) == ["exact"]
