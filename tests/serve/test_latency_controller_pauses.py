"""When the controller leaves a policy, when it takes it again, what it measures, and its deadlines: by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated_server import affordable

from exeunt.serve.latency_controller import Controller, Load, OperatingPoint

CHEAP, MIDDLE, DEAR = (
    OperatingPoint(name, budget, accuracy, row_s, 1e-3)
    for name, budget, accuracy, row_s in [
        ("cheap", 1.0, 0.7, 1e-4), ("middle", 2.0, 0.8, 1e-3), ("dear", 3.0, 0.9, 2e-3)
    ]
)  # fmt: skip
FLOOD = Load(waiting=10**6)


@pytest.fixture
def controller():
    """One that has looked once, at 0 s."""
    made = Controller([MIDDLE, DEAR, CHEAP], slo_s=0.05)
    assert made.observe(0.0, Load()) == DEAR
    assert made.slo_s == 0.05
    return made


def settled(controller, now, load):
    """Return the policy that it settles on."""
    controller.observe(now, load)
    return controller.settled


def rises(controller, since, to, load=Load(), most=60.0):  # noqa: B008 - a load is frozen
    """Return after how many seconds, in steps of 10 ms, a policy becomes active."""
    for step in range(1, round(100 * most)):
        if controller.observe(since + step / 100, load) == to:
            return step / 100
    return math.inf


@pytest.mark.parametrize(("rate", "found"), [(399, DEAR), (401, MIDDLE), (799, MIDDLE), (801, CHEAP)])
def test_a_policy_is_left_once_it_takes_four_fifths_of_the_time(controller, rate, found):
    """Rows take 2 and 1 ms. The most expensive one that still sustains the load is taken, however many are skipped."""
    assert controller.observe(60.0, Load(rows=60 * rate, requests=60 * rate, together=60 * rate)) == found


@pytest.mark.parametrize(("own", "found"), [(0.19, DEAR), (0.21, MIDDLE), (0.49, MIDDLE), (0.51, CHEAP)])
def test_what_rows_take_that_name_a_policy_is_a_part_of_the_time(controller, own, found):
    """Of each second, whatever is active; the others come 300 in a second."""
    load = Load(rows=60 * 300, requests=60 * 300, together=60 * 300, own_s=60 * own)
    assert controller.observe(60.0, load) == found
    after = Controller([MIDDLE, DEAR, CHEAP], slo_s=0.05)
    after.take_over(controller)
    assert after.active == found


@pytest.mark.parametrize(("own", "found"), [(0.13, DEAR), (0.14, MIDDLE)])
def test_what_they_take_is_as_slow_as_the_rest(controller, own, found):
    """The engine takes half as much more than profiled: 200 rows of 2 ms in a second take .6 s."""
    n = 60 * 200
    load = Load(rows=n, requests=n, together=n, own_s=60 * own, busy_s=1.5e6, expected_s=1e6)
    assert controller.observe(60.0, load) == found


@pytest.mark.parametrize(("waiting", "found"), [(37, DEAR), (38, MIDDLE), (74, MIDDLE), (76, CHEAP)])
def test_a_policy_is_left_once_what_waits_takes_one_and_a_half_times_the_latency(controller, waiting, found):
    """75 ms, of rows that take 2 and 1 ms."""
    assert settled(controller, 0.01, Load(waiting=waiting)) == found


@pytest.mark.parametrize(("waiting", "found"), [(19, MIDDLE), (18, DEAR)])
def test_a_policy_is_taken_once_what_waits_takes_three_quarters_of_the_latency(controller, waiting, found):
    assert settled(controller, 0.01, Load(waiting=40)) == MIDDLE
    assert settled(controller, 30.0, Load(waiting=waiting)) == found


@pytest.mark.parametrize(("waiting", "found"), [(8, DEAR), (10, MIDDLE), (17, MIDDLE), (181, CHEAP)])
def test_rows_begin_under_the_best_policy_that_answers_what_waits_in_time(controller, waiting, found):
    """In three fifths of the 30 ms to the deadline, of rows that take 2, 1 and .1 ms; at once, and no longer."""
    assert controller.observe(0.01, Load(waiting=waiting)) == found
    assert controller.settled == (DEAR if waiting < 38 else CHEAP)
    slow = Controller([CHEAP, MIDDLE, DEAR], slo_s=0.05)
    load = Load(waiting=waiting / 2, busy_s=1e6, expected_s=5e5)  # calls take twice as long as by the profile
    assert slow.observe(0.0, load) == found
    if waiting < 38:
        assert controller.observe(0.02, Load(waiting=8)) == DEAR


def test_in_time_goes_before_the_least_accuracy():
    controller = Controller([CHEAP, MIDDLE, DEAR], slo_s=0.05, min_accuracy=0.8)
    assert controller.observe(0.0, FLOOD) == CHEAP
    assert controller.settled == MIDDLE
    assert controller.observe(0.1, Load()) == MIDDLE


def test_upward_it_goes_one_policy_at_a_time(controller):
    assert controller.observe(0.01, FLOOD) == CHEAP
    assert controller.observe(30.0, Load()) == MIDDLE
    assert controller.observe(30.01, Load()) == MIDDLE
    assert controller.observe(31.0, Load()) == DEAR
    assert controller.observe(90.0, Load()) == DEAR


@pytest.mark.parametrize("stayed", [4.0, 60.0])
def test_a_policy_that_is_not_left_soon_is_taken_again_after_a_quarter_of_a_second(stayed):
    controller = Controller([CHEAP, DEAR], slo_s=0.05)
    controller.observe(0.0, Load())
    assert controller.observe(stayed, FLOOD) == CHEAP
    assert controller.observe(stayed + 0.24, Load()) == CHEAP
    assert controller.observe(stayed + 0.25, Load()) == DEAR


def test_the_pause_before_a_policy_doubles_each_time_that_it_is_left_soon():
    """Without load a quarter of it is waited, and it is 32 s at most."""
    controller = Controller([CHEAP, DEAR], slo_s=0.05)
    controller.observe(0.0, Load())
    now, waited = 0.0, []
    for _ in range(7):
        now += 0.5
        assert controller.observe(now, FLOOD) == CHEAP
        assert controller.observe(now, FLOOD) == CHEAP  # it is left once
        waited.append(rises(controller, now, DEAR))
        now += waited[-1]
    np.testing.assert_allclose(waited, [0.5, 1, 2, 4, 8, 8, 8], atol=0.011)
    now += 4 * 32 - 0.1  # it is soon as long as four pauses have not passed
    controller.observe(now, FLOOD)
    assert rises(controller, now, DEAR) == pytest.approx(8, abs=0.011)
    now += 8 + 4 * 32 + 0.1
    controller.observe(now, FLOOD)
    assert rises(controller, now, DEAR) == pytest.approx(0.25, abs=0.011)


@pytest.mark.parametrize(("rate", "waited"), [(199, 0.25), (202, 1.0), (346, 1.0), (349, math.inf)])
def test_a_policy_is_taken_sooner_where_it_would_bear_twice_the_load(rate, waited):
    """It sustains 400 rows per second. At 1.15 times the load it is taken after all of its pause of a second."""
    controller = Controller([CHEAP, DEAR], slo_s=0.05)
    assert (affordable(controller, 400), affordable(controller, 401)) == (DEAR, CHEAP)
    for second in range(60):
        assert controller.observe(float(second), Load(rows=rate, requests=rate, together=rate)) == DEAR
    controller.observe(59.0, FLOOD)
    steady = Load(rows=rate / 100, requests=rate / 100, together=rate / 100)
    assert rises(controller, 59.0, DEAR, steady, most=20.0) == pytest.approx(waited, abs=0.011)


def test_upward_the_load_of_the_last_seconds_counts_too():
    """It falls with a time constant of 3 s, the rate itself with one of 2."""
    controller = Controller([CHEAP, DEAR], slo_s=0.05)
    for second in range(60):
        controller.observe(float(second), Load(rows=1000, requests=1000, together=1000))
    assert controller.active == CHEAP
    wanted = 3 * math.log(1.15 * 1000 / 400)
    assert rises(controller, 59.0, DEAR) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize(("rows", "found"), [(18, DEAR), (20, MIDDLE)])
def test_rows_that_come_together_are_served_together(controller, rows, found):
    """With two passes they take 38 and 42 ms, of 40."""
    assert controller.observe(10.0, Load(rows=rows, requests=1, together=rows)) == found


def test_how_many_rows_come_together_is_measured_with_a_time_constant_of_two_seconds(controller):
    """After a request of 100 rows and, two seconds later, one of a single row these are 27.6: too many at 2 ms each."""
    size = (100 * math.exp(-1) + 1) / (math.exp(-1) + 1)
    assert [affordable(controller, 0.0, size=size), affordable(controller, 0.0, size=19)] == [MIDDLE, DEAR]
    controller.observe(1.0, Load(rows=100, requests=1, together=100))
    controller.observe(3.0, Load(rows=1, requests=1, together=1))
    after = Controller([MIDDLE, DEAR, CHEAP], slo_s=0.05)
    after.take_over(controller)
    assert after.active == MIDDLE


def test_the_very_first_request_counts():
    controller = Controller([MIDDLE, DEAR, CHEAP], slo_s=0.05)
    assert controller.observe(0.0, Load(rows=20, requests=1, together=20)) == MIDDLE


def test_a_policy_of_just_the_least_accuracy_is_a_choice():
    controller = Controller([CHEAP, MIDDLE, DEAR], slo_s=0.05, min_accuracy=0.8)
    controller.set_budget(MIDDLE.budget)
    assert controller.observe(0.0, Load(rows=100_000, requests=1, together=1)) == MIDDLE


@pytest.mark.parametrize("times", [{"row_s": 0.015}, {"row_s": 1e-5, "pass_s": 0.015}])
def test_a_machine_that_is_slow_is_asked_for_less(times):
    """A row of 15 ms is in time, and two passes are, but not if all takes some twenty times as long."""
    controller = Controller([CHEAP, OperatingPoint("slow", 2.0, 0.9, **times)], slo_s=0.05)
    assert controller.observe(0.0, Load()).name == "slow"
    assert controller.observe(0.1, Load(busy_s=10.0)) == CHEAP


def test_a_row_alone_that_is_just_in_time():
    """Of 40 ms it takes 38."""
    just = OperatingPoint("just", 2.0, 0.9, 0.038)
    controller = Controller([CHEAP, just], slo_s=0.05)
    assert affordable(controller, 0.0) == controller.observe(0.0, Load()) == just
    assert affordable(controller, 0.0, size=1.1) == CHEAP


def test_of_two_that_answer_as_well_the_more_expensive_is_no_choice():
    assert Controller([CHEAP, OperatingPoint("as well", 2.0, 0.7, 1e-4)], slo_s=0.05).points == (CHEAP,)


def test_what_is_measured():
    """The rate with a time constant of 2 s; the slowness in 10, beside half a second as profiled."""
    controller = Controller([CHEAP, MIDDLE, DEAR], slo_s=0.05)
    controller.observe(5.0, Load(rows=99, requests=99, together=99))
    assert (controller.rate, controller.slowness) == (0.0, 1.0)
    controller.observe(6.0, Load(rows=30, requests=10, together=30, busy_s=0.2, expected_s=0.024))
    assert controller.rate == pytest.approx(30 * (1 - math.exp(-0.5)))
    assert controller.slowness == pytest.approx((0.5 + 0.2) / (0.5 + 0.024))
    controller.observe(8.0, Load())
    assert controller.rate == pytest.approx(30 * (1 - math.exp(-0.5)) * math.exp(-1.0))
    kept = math.exp(-0.2)
    assert controller.slowness == pytest.approx((0.5 + kept * 0.2) / (0.5 + kept * 0.024))
    before = controller.rate
    controller.observe(7.0, Load(rows=50))  # a clock that goes back measures no rate
    assert controller.rate == before


@pytest.mark.parametrize(("rate", "found"), [(0, DEAR), (600, MIDDLE), (2000, CHEAP), (10**5, CHEAP)])
def test_a_controller_goes_on_where_another_one_was(controller, rate, found):
    """A run that is loaded again does not begin with the most expensive policy under a load that it cannot sustain."""
    for second in range(1, 31):
        controller.observe(float(second), Load(rows=rate, requests=rate, together=rate))
    controller.observe(30.0, Load(answered=10, late=10))
    after = Controller([MIDDLE, DEAR, CHEAP], slo_s=0.05)
    after.take_over(controller)
    assert (after.active, after.rate) == (found, controller.rate)
    assert after.within_s == controller.within_s < 0.03
    assert after.observe(30.1, Load(rows=rate // 10, requests=rate // 10, together=rate // 10)) == found
    assert after.rate == pytest.approx(rate, rel=1e-3)


def test_when_rows_are_answered_at_the_latest(controller):
    """Three fifths of the latency after they came, at first.

    While half are late, it is 1.225 times the latency less each second, and while none is, a fortieth of it more.
    """
    assert (controller.within_s, controller.late_s) == pytest.approx((0.03, 0.045))
    controller.observe(1.0, Load(rows=1000, requests=1000, together=1000))
    assert controller.rate == pytest.approx(1000 * (1 - math.exp(-0.5)))
    seconds = 2 / controller.rate
    controller.observe(1.0, Load(answered=2, late=1))
    assert controller.within_s == pytest.approx(0.03 - seconds * 2.5 * (0.5 - 0.01) * 0.05)
    before = controller.within_s
    controller.observe(1.0, Load(answered=2))
    assert controller.within_s == pytest.approx(before + seconds * 2.5 * 0.01 * 0.05)


@pytest.mark.parametrize("rate", [0, 10])
def test_what_is_answered_at_once_counts_as_a_fiftieth_of_a_second(controller, rate):
    """Few rows come: were they seconds' worth, one that is late would decide alone."""
    controller.observe(60.0, Load(rows=60 * rate, requests=60 * rate, together=60 * rate))
    controller.observe(60.0, Load(answered=5, late=2))
    assert controller.within_s == pytest.approx(0.03 - 0.02 * 2.5 * (0.4 - 0.01) * 0.05)


@pytest.mark.parametrize(("late", "within_s"), [(5, 0.025), (0, 0.045)])
def test_between_half_and_nine_tenths_of_the_latency_rows_are_answered(controller, late, within_s):
    for _ in range(1000):
        controller.observe(1.0, Load(answered=5, late=late))
    assert controller.within_s == pytest.approx(within_s)


@pytest.mark.parametrize(
    ("late", "after_s", "busy", "found"),
    [
        (5, 0.99, 0.9, DEAR),
        (5, 1.0, 0.9, MIDDLE),
        (0, 1.0, 0.9, DEAR),
        (5, 1, 0.51, MIDDLE),
        (5, 1, 0.49, DEAR),
    ],
)
def test_a_policy_is_left_where_rows_are_late_at_the_largest_reserve(controller, late, after_s, busy, found):
    """But not within its first second: they may be late because of the policy before. Nor where the engine is idle most
    of the time.
    """
    for _ in range(1000):
        assert controller.observe(0.5, Load(answered=5, late=5)) == DEAR
    controller.observe(0.5, Load(answered=5, late=late))
    controller._busy, taken = busy, (after_s - 0.5) * busy
    assert controller.observe(after_s, Load(busy_s=taken, expected_s=taken)) == found


def test_how_busy_the_engine_is_is_measured_with_a_time_constant_of_two_seconds(controller):
    controller.observe(2.0, Load(busy_s=1.5, expected_s=1.5))
    assert controller._busy == pytest.approx(0.75 * (1 - math.exp(-1)))
    controller.observe(4.0, Load())
    assert controller._busy == pytest.approx(0.75 * (1 - math.exp(-1)) * math.exp(-1))


def test_it_says_where_nothing_helps(controller):
    """A cheaper policy may, where the engine is busy and there is one. Without requests nothing is late."""
    late = Load(answered=100, late=100)
    for _ in range(1000):
        controller.observe(0.1, late)
    assert controller.out_of_options
    assert controller.observe(0.2, late) == DEAR
    controller._busy = 0.9
    controller.observe(0.2, late)
    assert not controller.out_of_options
    controller.observe(0.3, FLOOD)
    assert controller.active == CHEAP
    assert not controller.out_of_options
    controller.observe(0.3, late)
    assert controller.out_of_options
    for _ in range(1000):
        controller.observe(0.3, Load(answered=100))
    controller.observe(0.3, late)
    assert not controller.out_of_options


def test_what_rows_of_other_policies_take_is_measured_with_a_time_constant_of_two_seconds(controller):
    controller.observe(2.0, Load(own_s=0.5))
    assert controller._own == pytest.approx(0.25 * (1 - math.exp(-1)))
    controller.observe(4.0, Load())
    assert controller._own == pytest.approx(0.25 * (1 - math.exp(-1)) * math.exp(-1))
    controller.observe(5.0, Load(own_s=0.4))
    before, kept = 0.25 * (1 - math.exp(-1)) * math.exp(-1), math.exp(-0.5)
    assert controller._own == pytest.approx(kept * before + (1 - kept) * 0.4)


def test_a_smaller_budget_begins_a_policys_time_and_the_same_one_does_not(controller):
    assert controller.observe(10.0, Load()) == DEAR
    controller.set_budget(2.0)
    controller.set_budget(3.0)
    assert controller.observe(10.2, Load()) == MIDDLE
    assert controller.observe(10.26, Load()) == DEAR
    assert controller.observe(20.0, Load()) == DEAR
    controller.set_budget(3.0)
    assert controller.observe(20.1, FLOOD) == CHEAP  # not soon: it was active for long
    assert rises(controller, 20.1, MIDDLE) == 0.25
    assert rises(controller, 20.35, DEAR) == 0.25


def test_a_policy_that_was_taken_over_has_just_begun(controller):
    """Where it has to be left soon it is tried again after twice the time."""
    controller.observe(30.0, Load())
    after = Controller([MIDDLE, DEAR, CHEAP], slo_s=0.05)
    after.take_over(controller)
    assert after.observe(31.0, FLOOD) == CHEAP
    assert rises(after, 31.0, MIDDLE) == 0.25
    assert rises(after, 31.25, DEAR) == 0.5


def test_lateness_is_judged_from_when_a_policy_became_active(controller):
    for _ in range(1000):
        controller.observe(9.9, Load(answered=5, late=5))
    assert settled(controller, 10.0, Load(waiting=40)) == MIDDLE
    controller._busy = 0.9
    for second in (10.5, 10.9):
        load = Load(answered=5, late=5, waiting=30, busy_s=0.45, expected_s=0.45)
        assert settled(controller, second, load) == MIDDLE
    assert controller.observe(11.01, load) == CHEAP


def test_one_late_row_is_enough_to_say_that_nothing_helps(controller):
    for _ in range(1000):
        controller.observe(0.1, Load(answered=100, late=100))
    controller.observe(0.1, Load(answered=1, late=1))
    assert controller.out_of_options
