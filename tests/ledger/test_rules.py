"""Single rules of a ledger, each at its edge; those of what is stored, in stores of every kind."""

import pytest
from made_stores import EVERY_KIND, buy, sent

import exeunt as ex
from exeunt.errors import OverBudget

LEASE = 10


@pytest.fixture
def total(store):
    return lambda amount, **options: ex.Ledger(total=f"{amount} usd", store=store, lease_s=LEASE, **options)


@pytest.fixture
def rates(store):
    """Open a rate: a hundredth of a dollar a second, and at once a dollar, or what `burst` says."""
    return lambda burst=1: ex.Ledger(rate="36 usd/hour", burst=f"{burst} usd", store=store, lease_s=LEASE)


@pytest.fixture
def rate(rates):
    return rates()


def fits(ledger, amount, **options):
    try:
        return ledger.reserve(amount, **options).release()
    except OverBudget:
        return False


# -- rates -------------------------------------------------------------------------------------------------------------


def test_parts_of_a_billionth_add_up(rate, clock):
    buy(rate, 1, 1)
    for _ in range(100):
        clock.now += 50  # allows half a billionth
        buy(rate, 0, 0)
    assert rate.left == 50e-9


@EVERY_KIND
def test_parts_of_a_billionth_above_the_burst_are_lost(rate, clock):
    clock.now += 50
    buy(rate, 1, 1)
    clock.now += 50
    assert rate.left == 0


# -- promises ----------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_an_input_without_an_answer_is_still_to_come(total):
    ledger = total(2, inputs=2)
    ledger.promise(0.5)
    assert ledger.to_come == 2
    held = ledger.reserve(0.5, promised=True)
    assert (ledger.to_come, fits(ledger, 1), held.dispatch()) == (1, True, True)
    held.settle(0, answered=False)
    assert (ledger.to_come, fits(ledger, 1), fits(ledger, 1.1)) == (2, True, False)
    ledger.reserve(0.5, promised=True).release()
    assert not fits(ledger, 1.1)
    buy(ledger, 0.5, 0, promised=True)
    assert fits(ledger, 1.5)
    for _ in range(2):  # more inputs than were announced
        buy(ledger, 0.5, 0, promised=True)
    assert (ledger.to_come, fits(ledger, 2)) == (0, True)


def test_opening_it_again_keeps_the_promise(total):
    total(1, inputs=10).promise(0.05)
    assert not fits(total(1), 0.51)


def test_a_promise_counts_no_reservation_whose_lease_has_ended(total, clock):
    ledger = total(1, inputs=2)
    ledger.reserve(0.5)
    with pytest.raises(OverBudget):
        ledger.promise(0.5)
    clock.move(LEASE)
    ledger.promise(0.5)


# -- leases ------------------------------------------------------------------------------------------------------------


def test_the_lease_of_what_is_dispatched_begins_then(total, clock):
    ledger = total(1)
    held = ledger.reserve(0.5)
    clock.move(9)
    assert held.dispatch()
    for seconds, state in ((9, "dispatched"), (1, "charged")):
        clock.move(seconds)
        assert (ledger.spent, ledger.unsettled()[0].state) == (0.5, state)


@pytest.mark.parametrize("after", [LEASE / 2, LEASE, 3 * LEASE])
def test_a_key_that_was_sent_is_never_sent_again_however_late_it_is_asked_for(total, clock, after):
    ledger = total(5)
    sent(ledger, 2, key="a")
    clock.move(after)
    again = ledger.reserve(2, key="a")
    assert again.state == ("dispatched" if after < LEASE else "charged")
    assert (again.dispatch(), again.release(), ledger.spent, ledger.reserved) == (False, False, 2, 0)
    clock.move(LEASE)
    assert (ledger.reserve(2, key="a").dispatch(), ledger.spent, ledger.reserved) == (False, 2, 0)
    again.settle(0.5)
    assert ledger.spent == 0.5


@EVERY_KIND
def test_asking_for_a_key_that_was_sent_does_not_renew_its_lease(total, clock):
    ledger = total(5)
    sent(ledger, 2, key="a")
    clock.move(LEASE * 0.6)
    ledger.reserve(2, key="a")
    clock.move(LEASE * 0.6)
    assert ledger.unsettled()[0].state == "dispatched"  # nobody has looked since
    assert ledger.spent == 2  # this looks
    assert ledger.unsettled()[0].state == "charged"


def test_what_cost_its_maximum_is_not_kept_without_a_key(total, store):
    buy(total(5), 2, 2)
    assert store.run(lambda books, _: books.hold("ledger", 1)) is None


# -- limits that change ------------------------------------------------------------------------------------------------


def test_opening_a_rate_again_fills_no_burst(rate, rates, clock):
    buy(rate, 1, 1)
    again = rates()
    assert again.left == 0
    clock.move(5)
    assert again.left == 0.05


def test_a_clock_that_goes_back_lets_nothing_grow_until_it_has_caught_up(rate, clock):
    buy(rate, 1, 1)
    clock.move(-500)
    assert rate.left == 0
    with pytest.raises(OverBudget, match=r"try again in 505 s, or raise the rate") as error:
        rate.reserve(0.05)
    assert error.value.wait_s == 505
    for seconds, left in ((499, 0), (6, 0.05), (1000, 1)):
        clock.move(seconds)
        assert rate.left == left


def test_jumps_back_and_forth_allow_one_burst(rate, clock):
    buy(rate, 1, 1)
    for _ in range(20):
        clock.move(3600)
        if fits(rate, 1):
            buy(rate, 1, 1)
        clock.move(-3600)
        assert not fits(rate, 0.01)
    assert rate.spent == 2


def test_opened_again_after_the_clock_went_back_no_time_counts_twice(rate, rates, clock):
    buy(rate, 1, 1)
    clock.move(-3600)
    again = rates()
    clock.move(3600)
    assert again.left == 0


def test_opening_it_again_with_more_inputs_promises_them_an_answer(total):
    ledger = total(5, inputs=2)
    ledger.promise(1)
    assert fits(ledger, 3)
    total(5, inputs=4)
    assert (fits(ledger, 1), fits(ledger, 2)) == (True, False)


@EVERY_KIND
def test_a_total_may_become_a_rate_and_a_rate_a_total(total, rates, clock):
    ledger = total(5)
    buy(ledger, 3, 3)
    sent(ledger, 1)
    as_rate = rates(burst=2)
    assert as_rate.left == ledger.left == -1  # no burst, and what is under way counts
    clock.move(105)
    assert as_rate.left == rates(burst=2).left == 0.05
    assert (total(5).left, rates(burst=2).left, total(8).left) == (1, 0, 4)


@EVERY_KIND
def test_a_job_that_goes_on_says_how_many_inputs_have_their_answer(total, clock):
    ledger = total(5, inputs=5)
    ledger.promise(1)
    for _ in range(3):
        sent(ledger, 1, promised=True)  # and the process dies
    assert ledger.left == 2
    assert not fits(ledger, 0.5)  # for the two others
    with pytest.raises(OverBudget, match="an answer for each of 4 inputs to come may cost 4 usd"):
        ledger.promise(1, answered=1)
    ledger = total(8, inputs=5)
    ledger.promise(1, answered=1)
    assert (fits(ledger, 1), fits(ledger, 1.5)) == (True, False)
    clock.move(2 * LEASE)
    assert not fits(ledger, 1.5)  # what is charged now was nobody's answer
    assert ledger.spent == 3


@pytest.mark.parametrize(
    ("price", "bill", "stopped"),
    [(0.3, 0.1 + 0.2, ()), (1e6, 1e6 * (1 + 1e-12), ()), (1e-9, 1.5e-9, ()), (0.3, 0.3 + 3e-9, ("large",))],
)
def test_a_bill_stops_its_model_that_is_higher_not_by_rounding_alone(total, price, bill, stopped):
    ledger = total(2_000_000)
    buy(ledger, price, bill, model="large")
    assert (ledger.stopped, ledger.spent) == (stopped, price)
