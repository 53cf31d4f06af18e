"""What a user of a ledger calls: amounts, errors and their messages, keys, nesting, stopped models."""

import decimal
import enum
import logging
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from made_stores import EVERY_KIND, buy, sent

import exeunt as ex
from exeunt.errors import InputError, ModelStopped, OverBudget
from exeunt.ledger import sqlite_store

HUGE = pytest.param(10**5000, id="huge")
"""An integer of more digits than Python writes."""


@pytest.fixture
def ledger():
    return ex.Ledger(total="5 usd")


def test_a_cycle(ledger):
    held = ledger.reserve(0.012, model="large", key="input-17/large/1")
    assert (held.state, held.maximum, held.cost) == ("reserved", 0.012, None)
    assert (ledger.spent, ledger.reserved, ledger.left, held.dispatch()) == (0, 0.012, 4.988, True)
    assert (ledger.spent, ledger.reserved) == (0.012, 0)
    held.settle(0.008)
    assert (held.state, held.cost, ledger.spent, ledger.left) == ("settled", 0.008, 0.008, 4.992)
    assert repr(ledger) == "<Ledger 'ledger': 0.008 usd spent, 0 usd reserved, 4.992 usd left>"


def test_over_budget_says_what_is_left_and_how_to_mend_it(ledger):
    ledger.reserve(4.99)
    with pytest.raises(OverBudget) as error:
        ledger.reserve(0.012, model="large")
    assert (error.value.asked, error.value.left, error.value.wait_s) == (0.012, 0.01, None)
    assert str(error.value) == (
        "an attempt at the model 'large' may cost 0.012 usd, and the ledger 'ledger' has 0.01 usd left of 5 usd: "
        "wait until what is under way is settled, or raise the total"
    )


def test_over_a_rate_says_when_to_try_again(store, clock):
    ledger = ex.Ledger(rate="36 usd/hour", burst="1 usd", store=store)
    ledger.reserve(0.95).dispatch()
    with pytest.raises(OverBudget, match=r"0\.05 usd left of a burst of 1 usd: try again in 5 s") as error:
        ledger.reserve(0.1)
    assert error.value.wait_s == 5
    clock.move(60)
    assert (ledger.reserved, ledger.unsettled()[0].state) == (0, "charged")
    clock.move(5)
    sent(ledger, 0.1)
    with pytest.raises(OverBudget, match="raise the burst") as error:
        ledger.reserve(1.1)
    assert error.value.wait_s is None


def test_one_key_is_one_reservation_and_is_sent_once(ledger):
    first, second = (ledger.reserve(0.5, key="a") for _ in range(2))
    assert (ledger.reserved, second.dispatch(), first.dispatch()) == (0.5, True, False)
    first.settle(0.25)
    second.settle(0.25)
    with pytest.raises(InputError, match=r"settled at 0.25, not at 0.3: correct it by reconcile\(\)"):
        second.settle(0.3)
    assert ledger.reserve(0.5, key="a").cost == 0.25
    with pytest.raises(InputError, match="a key of its own"):
        ledger.reserve(0.4, key="a")


def test_what_is_released_or_was_not_dispatched_has_no_cost(ledger):
    held = ledger.reserve(0.5, key="a")
    with pytest.raises(InputError, match="was not dispatched"):
        held.settle(0.1)
    assert (held.release(), held.release(), held.dispatch(), ledger.left) == (True, True, False, 5)
    assert (sent(ledger, 0.4, key="a").release(), ledger.spent) == (False, 0.4)


def test_a_lease_that_ends_gives_back_what_was_not_dispatched(store, clock):
    ledger = ex.Ledger(total="1 usd", store=store, lease_s=30)
    lost = ledger.reserve(0.6, key="lost")
    sent(ledger, 0.4, key="sent")
    clock.move(30)
    assert not lost.dispatch()
    sent(ledger, 0.6, key="more")
    assert [one.key for one in ledger.unsettled()] == ["sent", "more"]
    for cost, left in ((0.1, 0.3), (0.2, 0.2)):
        ledger.reconcile("sent", cost)
        assert ledger.left == left
    with pytest.raises(InputError, match="no attempt with the key 'lost'"):
        ledger.reconcile("lost", 0.1)


@pytest.mark.parametrize("store_and_clock", ["memory", "file"], indirect=True)
def test_a_lease_ends_so_long_after_what_the_attempt_may_take(store, clock):
    ledger = ex.Ledger(total="1 usd", store=store, lease_s=30)
    slow, usual = ledger.reserve(0.4, key="slow", limit_s=90), ledger.reserve(0.5, key="usual")
    assert slow.dispatch()
    clock.move(119)
    sent(ledger, 0.6, key="more")  # in place of the usual one
    assert not usual.dispatch()
    assert {one.key: one.state for one in ledger.unsettled()} == dict.fromkeys(("slow", "more"), "dispatched")
    slow.settle(0.01)
    assert ledger.left == 0.39
    with pytest.raises(InputError, match="limit_s must be finite"):
        ledger.reserve(0.1, limit_s=float("inf"))


def test_without_a_key_nothing_is_kept_once_it_is_settled(ledger):
    held = buy(ledger, 0.5, 0.2)
    held.settle(0.2)
    assert (ledger._store.books.holds, ledger.spent, held.release()) == ({}, 0.2, False)


def test_a_bill_above_the_maximum_counts_at_that_and_stops_its_model(caplog):
    whole = ex.Ledger(total="5 usd")
    one, other = (ex.Ledger(total="5 usd", name=name, within=whole) for name in ("one", "other"))
    waiting = other.reserve(0.1, model="large")
    with caplog.at_level(logging.ERROR, "exeunt.ledger"):
        buy(one, 0.1, 0.3, model="large")
    assert "'large' billed 0.3 usd" in caplog.text
    assert (whole.spent, one.stopped, other.stopped, whole.stopped) == (0.1, ("large",), (), ("large",))
    assert not waiting.dispatch()
    with pytest.raises(ModelStopped, match=r"more than its stated maximum.*resume\('large'\)"):
        other.reserve(0.1, model="large")
    sent(other, 0.1, model="small")
    one.resume("large")
    sent(other, 0.1, model="large")


def test_after_a_bill_is_booked_the_error_says_how_long_it_takes_to_pay_it_off(store):
    ledger = ex.Ledger(rate="20 usd/day", store=store)
    buy(ledger, 1, 10_001, model="large").book()
    left = r"0 usd left \(it is overdrawn by 9981 usd\) of a burst of 20 usd"
    with pytest.raises(OverBudget, match=rf"has {left}: try again in 500 days, or raise"):
        ledger.reserve(1, model="small")


def test_a_disputed_bill_is_booked_or_dropped(ledger):
    bills = [sent(ledger, 0.1, model="large") for _ in range(2)]
    for held, bill in zip(bills, (8.0, 0.3), strict=True):
        held.settle(bill)
        held.settle(bill)  # once more changes nothing
    assert (ledger.spent, [one.claimed for one in ledger.disputed]) == (0.2, [8.0, 0.3])
    assert [one.state for one in ledger.unsettled()] == ["charged"] * 2
    with pytest.raises(ModelStopped):
        ledger.reserve(0.1, model="large")
    ledger.resume("large")
    first, second = ledger.disputed
    first.settle()
    assert (first.claimed, first.cost, ledger.spent) == (None, 0.1, 0.2)
    second.book()
    assert (second.claimed, second.cost, ledger.spent, ledger.disputed) == (None, 0.3, 0.4, [])
    assert ledger.stopped == ()  # somebody has decided
    with pytest.raises(InputError, match="this attempt has no disputed bill: it is settled"):
        second.book()


def test_bills_are_decided_together(ledger):
    for model in ("large", "large", "small"):
        buy(ledger, 0.1, 8.0, model=model)
        ledger.resume(model)
    *large, small = ledger.disputed
    buy(ledger, 0.1, 9.0, model="large")  # comes after they were read
    assert ledger.decide(large, book=True) == 2
    assert (ledger.spent, [one.claimed for one in ledger.disputed]) == (16.2, [8.0, 9.0])
    assert (ledger.decide(large, book=True), ledger.decide([small], book=False)) == (0, 1)
    assert (ledger.spent, [one.claimed for one in ledger.disputed]) == (16.2, [9.0])


def test_attempts_without_an_answer_do_not_slow_down_what_is_disputed(tmp_path):
    ledger = ex.Ledger(total="5 usd", file=tmp_path / "money.db")
    for _ in range(3):
        sent(ledger, 0.1, model="large").charge()
    with closing(sqlite3.connect(tmp_path / "money.db")) as connection:
        (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {sqlite_store._STATEMENTS['disputed']}")
    assert plan[3] == "SCAN hold USING INDEX disputed"
    ledger.close()


def test_nested_ledgers_hold_both_or_neither():
    whole = ex.Ledger(total="1 usd", name="all")
    one, other = (ex.Ledger(total="0.7 usd", name=name, within=whole) for name in ("one", "other"))
    sent(one, 0.6, key="a")
    with pytest.raises(OverBudget, match=r"'all' has 0\.4 usd left"):
        other.reserve(0.6, key="a")
    assert (one.spent, other.left, whole.spent) == (0.6, 0.7, 0.6)
    with pytest.raises(OverBudget, match=r"'all/one' has 0\.1 usd left"):
        one.reserve(0.2)
    other.reserve(0.4, key="a")
    assert (whole.left, other.left, [one.key for one in whole.unsettled()]) == (0, 0.3, ["a"])


def test_a_job_that_goes_on_promises_anew_what_was_under_way_when_it_was_killed():
    ledger = ex.Ledger(total="1 usd", inputs=10)
    ledger.promise(0.05)
    sent_before, held_before = (ledger.reserve(0.1, promised=True) for _ in range(2))
    sent_before.dispatch()
    assert (ledger.to_come, ledger.available) == (8, pytest.approx(0.8))
    ledger.promise(0.05, answered=0)
    assert (ledger.to_come, ledger.available) == (10, pytest.approx(0.9))  # one was sent, and may be billed
    sent_before.settle(0.1)  # it is nobody's answer
    held_before.release()
    assert (ledger.to_come, ledger.available) == (10, pytest.approx(0.9))


def test_every_input_is_promised_the_cheapest_answer():
    ledger = ex.Ledger(total="1 usd", inputs=10)
    with pytest.raises(OverBudget, match=r"an answer for each of 10 inputs to come may cost 1\.1 usd"):
        ledger.promise(0.11)
    ledger.promise(0.05)
    sent(ledger, 0.5)
    kept = r"0 usd left of 1 usd \(besides 0.5 usd kept for the inputs to come\)"
    with pytest.raises(OverBudget, match=kept):
        ledger.reserve(0.01)
    for _ in range(10):
        buy(ledger, 0.05, None, promised=True)
    assert ledger.left == 0


def test_opening_it_again_changes_the_limit_and_nothing_else(store):
    ledger = ex.Ledger(total="1 usd", store=store)
    sent(ledger, 1, key="a")
    more = ex.Ledger(total="1.5 usd", store=store)
    assert (ledger.left, more.spent, ex.Ledger(store=store).left) == (0.5, 1, 0.5)
    with pytest.raises(InputError, match="use one unit"):
        ex.Ledger(total="3 cent", store=store)
    rate = ex.Ledger(rate="1 usd/day", name="rate", store=store)
    assert rate.left == 1
    assert ex.Ledger(rate="1 usd/day", burst="0.5 usd", name="rate", store=store).left == rate.left == 0.5


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "there is no ledger 'ledger' here: open it with a total or a rate"),
        ({"total": "5"}, "write a number with its unit"),
        ({"total": "5 usd per 10k"}, "write a number with its unit"),
        ({"total": "-5 usd"}, "from 0 to"),
        ({"total": "5 usd", "rate": "1 usd/day"}, "or a rate with a burst"),
        ({"rate": "5 usd"}, "an amount per second, minute"),
        ({"rate": "1 usd/day", "burst": "1 cent"}, "use one unit"),
        ({"rate": "1 usd/day", "inputs": 5}, "give a total instead of a rate"),
        ({"inputs": 5}, "give it too"),
        ({"total": "5 usd", "lease_s": 1e300}, "lease_s must lie in [0, 1e+09], got 1e+300"),
        ({"total": "5 usd", "lease_s": 10**5000}, "lease_s must be finite, got a number of too many digits"),
        ({"total": "5 usd", "lease_s": 0}, "lease_s is a number of seconds above 0, got 0"),
        ({"total": "5 usd", "lease_s": "soon"}, "lease_s must be a number, got 'soon'"),
        ({"total": "5 usd", "name": "a/b"}, "without '/'"),
        ({"total": "5 usd", "name": 7}, "the name of a ledger is a text of at most 1,000 bytes"),
        ({"rate": "5 us\ud800/day"}, "a unit is a text of at most 1,000 bytes"),
        ({"total": "1e99999999999999999999 usd"}, "has an exponent that no amount has"),
        ({"total": "5 usd", "file": 7}, "file is a path, or the address of a database, got 7"),
    ],
)
def test_what_cannot_be_a_ledger_is_named(given, why):
    with pytest.raises(InputError, match=re.escape(why)):
        ex.Ledger(**given)


@pytest.mark.parametrize("amount", [-0.1, float("nan"), 1e10, "1 usd", True, HUGE])
def test_what_cannot_be_an_amount_is_named(ledger, amount):
    with pytest.raises(InputError, match="from 0 to"):
        ledger.reserve(amount)
    with pytest.raises(InputError, match="from 0 to"):
        buy(ledger, 1, amount)


NO_NUMBERS_OF_INPUTS = [
    float("nan"),
    2.0,
    True,
    np.True_,
    "2",
    10**5000,
    10**12 + 1,
    -(10**30),
    np.float64(2),
]


def test_numbers_of_inputs_are_whole_and_in_a_range(store):
    why = r"is a whole number from {} to 1,000,000,000,000, got [^\n]{{1,80}}$"
    ledger = ex.Ledger(total="5 usd", inputs=np.int64(2), store=store)
    for wrong in (*NO_NUMBERS_OF_INPUTS, -1, None):
        with pytest.raises(InputError, match="inputs " + why.format(0)):
            ex.Ledger(total="5 usd", inputs=wrong, store=store)
    for wrong in NO_NUMBERS_OF_INPUTS:
        with pytest.raises(InputError, match="answered " + why.format("-1,000,000,000,000")):
            ledger.promise(1, answered=wrong)
    ledger.promise(1, answered=np.int32(1))
    assert (ledger.to_come, ledger.left) == (1, 5)
    ledger.promise(1, answered=-2)  # two more than announced
    assert ledger.to_come == 4
    assert ex.Ledger(total="5 usd", inputs=10**12, store=store).to_come == 10**12 + 2


@pytest.mark.parametrize("wrong", [0, b"large", ["large"], Path("large")])
def test_keys_models_and_names_are_texts(ledger, wrong):
    for call in (
        lambda: ledger.reserve(0.1, key=wrong),
        lambda: ledger.reserve(0.1, model=wrong),
        lambda: ledger.reconcile(wrong, 0.1),
        lambda: ledger.resume(wrong),
        lambda: ex.Ledger(total="1 usd", name=wrong),
        lambda: ex.Ledger(total="1 usd", name=wrong, within=ledger),
    ):
        with pytest.raises(InputError, match=r"is a text of at most 1,000 bytes .* got "):
            call()
    assert ledger.reserved == 0


class Name(str, enum.Enum):
    LARGE = "large"


@EVERY_KIND
def test_texts_and_bools_of_other_kinds_are_kept_as_pythons_own(store):
    name = Name.LARGE
    ledger = ex.Ledger(total="1 usd", name=name, inputs=1, store=store)
    ledger.promise(0.1)
    sent(ledger, 0.1, model=name, key=name, promised=np.True_).settle(0.1, answered=np.True_)
    again = ex.Ledger(name="large", store=store)
    assert (again.spent, again.to_come) == (0.1, 0)
    assert repr(again) == "<Ledger 'large': 0.1 usd spent, 0 usd reserved, 0.9 usd left>"
    again = again.reserve(0.1, model="large", key="large")
    assert (type(again.key), type(again.model), again.cost) == (str, str, 0.1)


@pytest.mark.parametrize(
    "context",
    [
        decimal.Context(prec=2),
        decimal.Context(prec=1, Emax=1, Emin=-1, rounding=decimal.ROUND_UP),
        decimal.Context(traps=list(decimal.Context().flags)),
    ],
)
def test_amounts_do_not_depend_on_the_decimal_context_of_the_thread(context):
    with decimal.localcontext(context):
        ledger = ex.Ledger(total="1.29 usd")
        assert ledger.left == 1.29
        bought = sent(ledger, decimal.Decimal("0.1234567891"))
        assert ledger.spent == 0.123456790
        bought.settle(0.1111111111)
        assert "0.111111112 usd spent, 0 usd reserved, 1.178888888 usd left>" in repr(ledger)
        why = r"cost 1\.234567891 usd, and .* has 1\.178888888 usd left of 1\.29 usd"
        with pytest.raises(OverBudget, match=why):
            ledger.reserve("1.2345678901")
        assert ex.Ledger(rate="1.29 usd/hour", burst="1.0000000019 usd").left == 1.000000001
        assert ledger.reserve("1e-999999999").maximum == 1e-9
        with pytest.raises(InputError, match="from 0 to"):
            ledger.reserve("a")


@EVERY_KIND
def test_more_than_databases_count_is_refused(store):
    whole = ex.Ledger(total="1 usd", name="all", store=store)
    ledger = ex.Ledger(rate="1 usd/day", name="one", within=whole)
    for key in "abc":
        sent(ledger, 0.1, key=key)
    ledger.reconcile("a", 4.6e9)
    ledger.reconcile("b", 4.6e9)
    most = r"'all/one' counts at most 9223372035\.854775807 usd, and 9200000000"
    with pytest.raises(InputError, match=most):
        ledger.reconcile("c", 4.6e9)
    ledger.reconcile("c", 1)
    assert ledger.spent == whole.spent == 9.2e9 + 1


def test_a_ledger_within_another_has_its_unit_and_a_name(ledger):
    with pytest.raises(InputError, match="use one unit"):
        ex.Ledger(total="5 cent", name="one", within=ledger)
    with pytest.raises(InputError, match="has a name"):
        ex.Ledger(total="5 usd", within=ledger)
