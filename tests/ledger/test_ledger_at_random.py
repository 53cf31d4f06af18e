"""Random calls against an oracle that keeps a list of attempts in exact fractions, and adds it up each time."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_stores import SHARED, buy, made_store, sent

import exeunt as ex
from exeunt.errors import InputError, ModelStopped, OverBudget

LEASE = 10
TOTALS = {"all": "1", "all/a": "0.7", "all/b": "0.6"}
AMOUNTS = st.integers(0, 50).map(lambda hundredths: hundredths / 100)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.sampled_from(list(TOTALS)), AMOUNTS, st.sampled_from("xy"),
                  st.sampled_from([None, "1", "2", "3"])),
        st.tuples(st.just("buy"), st.sampled_from(list(TOTALS)), AMOUNTS, st.sampled_from("xy"), st.none(), AMOUNTS),
        st.tuples(st.sampled_from(["dispatch", "release", "book"]), st.integers(0, 9)),
        st.tuples(st.just("settle"), st.integers(0, 9), st.one_of(st.none(), AMOUNTS)),
        st.tuples(st.just("reconcile"), st.sampled_from(list(TOTALS)), st.sampled_from("123"), AMOUNTS),
        st.tuples(st.just("tick"), st.sampled_from([1, 4, 9.5, LEASE, 1000, -3, -LEASE, -1000])),
        st.tuples(st.just("resume"), st.sampled_from(list(TOTALS)), st.sampled_from("xy")),
    ),
    max_size=40,
)  # fmt: skip


def exact(amount):
    return Fraction(str(amount))


class Attempt:
    """One attempt of the oracle."""

    def __init__(self, ledger, maximum, model, key, since):
        self.ledger, self.maximum, self.model, self.key = ledger, exact(maximum), model, key
        self.since, self.state, self.cost = since, "reserved", None


class Oracle:
    """The same calls, without sums that are kept. Each returns what it returns, or the error that it raises."""

    def __init__(self):
        self.now, self.attempts, self.stopped = Fraction(0), [], set()

    def forget_expired(self):
        for one in self.attempts:
            if one.state == "reserved" and abs(self.now - one.since) >= LEASE:
                one.state = "gone"

    def used(self, ledger, *states):
        mine = [one for one in self.attempts if one.ledger.startswith(ledger) and one.state in states]
        return sum((one.cost if one.state == "settled" else one.maximum for one in mine), Fraction(0))

    def spent(self, ledger):
        return self.used(ledger, "dispatched", "disputed", "settled")

    def left(self, ledger):
        return exact(TOTALS[ledger]) - self.spent(ledger) - self.used(ledger, "reserved")

    def of_key(self, ledger, key):
        mine = (one for one in self.attempts if (one.ledger, one.key) == (ledger, key) and key is not None)
        return next((one for one in mine if one.state != "gone"), None)

    def chain(self, ledger):
        return {ledger, "all"}

    def reserve(self, ledger, amount, model, key):
        if old := self.of_key(ledger, key):
            if (old.maximum, old.model) != (exact(amount), model):
                return InputError
            if old.state == "reserved":
                old.since = self.now
            return old
        if any((one, model) in self.stopped for one in self.chain(ledger)):
            return ModelStopped
        if any(exact(amount) > self.left(one) for one in self.chain(ledger)):
            return OverBudget
        self.attempts.append(Attempt(ledger, amount, model, key, self.now))
        return self.attempts[-1]

    def dispatch(self, one):
        stopped = any((ledger, one.model) in self.stopped for ledger in self.chain(one.ledger))
        if one.state != "reserved" or stopped:
            return False
        one.state = "dispatched"
        return True

    def release(self, one):
        was_not_sent = one.state in ("reserved", "gone")
        if was_not_sent:
            one.state = "gone"
        return was_not_sent

    def settle(self, one, cost, correct=False):
        if one.state in ("reserved", "gone"):
            return InputError
        cost = one.maximum if cost is None else exact(cost)
        if one.state == "settled" and cost != one.cost and not correct:
            return InputError
        if one.state == "settled" and cost == one.cost:
            return None  # a bill that was booked stays booked
        if cost > one.maximum and cost != one.cost:
            self.stopped |= {(ledger, one.model) for ledger in self.chain(one.ledger)}
        one.state, one.cost = "settled" if correct or cost <= one.maximum else "disputed", cost
        return None

    def book(self, one):
        return self.settle(one, one.cost, correct=True) if one.state == "disputed" else InputError

    def disputed(self, ledger):
        mine = (one for one in self.attempts if one.ledger.startswith(ledger) and one.state == "disputed")
        return sorted(float(one.cost) for one in mine)

    def reconcile(self, ledger, key, cost):
        one = self.of_key(ledger, key)
        return InputError if one is None else self.settle(one, cost, correct=True)

    def resume(self, ledger, model):
        within = [name for name in TOTALS if name.startswith(f"{ledger}/")]
        self.stopped -= {(name, model) for name in (*self.chain(ledger), *within)}


def outcome(call, *given, **options):
    try:
        return call(*given, **options)
    except InputError as error:
        return type(error)


def one_by_one(calls):
    for name, *rest in calls:
        if name == "buy":
            yield from (("reserve", *rest[:-1]), ("dispatch", -1), ("settle", -1, rest[-1]))
        else:
            yield name, *rest


def compare(ledgers, clock, calls):
    """Make the calls on the ledgers and on the oracle; both must say the same each time."""
    oracle, held = Oracle(), []
    for name, *rest in one_by_one(calls):
        if name == "tick":
            clock.move(rest[0])
            oracle.now += Fraction(rest[0])
            oracle.forget_expired()
        elif name == "reserve":
            ledger, amount, model, key = rest
            ours = outcome(ledgers[ledger].reserve, amount, model=model, key=key)
            theirs = oracle.reserve(ledger, amount, model, key)
            assert ours is theirs if isinstance(theirs, type) else ours.state in (theirs.state, "charged")
            if not isinstance(theirs, type):
                held.append((ours, theirs))
        elif name == "reconcile":
            ledger, key, cost = rest
            assert outcome(ledgers[ledger].reconcile, key, cost) == oracle.reconcile(ledger, key, cost)
        elif name == "resume":
            ledger, model = rest
            ledgers[ledger].resume(model)
            oracle.resume(ledger, model)
        elif held:
            ours, theirs = held[rest[0] % len(held)]
            assert outcome(getattr(ours, name), *rest[1:]) == getattr(oracle, name)(theirs, *rest[1:])
        for ledger, one in ledgers.items():
            assert one.spent == float(oracle.spent(ledger))
            assert one.reserved == float(oracle.used(ledger, "reserved"))
            assert one.left == float(oracle.left(ledger))
            assert sorted(held.claimed for held in one.disputed) == oracle.disputed(ledger)


def check_calls(kind, calls):
    with made_store(kind) as (store, clock):
        whole = ex.Ledger(total="1 usd", name="all", store=store, lease_s=LEASE)
        a = ex.Ledger(total="0.7 usd", name="a", within=whole, lease_s=LEASE)
        b = ex.Ledger(total="0.6 usd", name="b", within=whole, lease_s=LEASE)
        compare({"all": whole, "all/a": a, "all/b": b}, clock, calls)


@given(CALLS)
@settings(max_examples=80)
def test_a_ledger_in_memory_says_what_the_oracle_says(calls):
    check_calls("memory", calls)


@pytest.mark.parametrize("kind", SHARED)
@given(CALLS)
@settings(max_examples=10)
def test_a_shared_ledger_says_what_the_oracle_says(kind, calls):
    check_calls(kind, calls)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARED)
@given(CALLS)
@settings(max_examples=300)
def test_many_calls_of_a_shared_ledger(kind, calls):
    check_calls(kind, calls)


# -- a rate ------------------------------------------------------------------------------------------------------------

RATE, BURST = Fraction(36, 3600), Fraction(1)  # 36 an hour
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), AMOUNTS),
        st.tuples(st.just("buy"), AMOUNTS, st.floats(0, 1)),
        st.tuples(st.sampled_from(["dispatch", "release"]), st.integers(0, 9)),
        st.tuples(st.just("settle"), st.integers(0, 9), st.floats(0, 1)),
        st.tuples(st.just("tick"), st.sampled_from([0.3, 1, 7, LEASE, 33, 100])),
    ),
    max_size=60,
)


class Buyer:
    """Spends from a ledger with a rate, and notes when it sent what."""

    def __init__(self, ledger, clock):
        self.ledger, self.clock, self.held, self.sent = ledger, clock, [], {}

    def tick(self, seconds):
        self.clock.move(seconds)

    def reserve(self, amount):
        held = outcome(self.ledger.reserve, amount, key=str(len(self.held)))
        if held is not OverBudget:
            self.held.append(held)
        return held

    def buy(self, amount, share):
        held = self.reserve(amount)
        if held is not OverBudget:
            self.dispatch(-1)
            self.settle(-1, share)

    def dispatch(self, i):
        if self.held and (one := self.held[i % len(self.held)]).dispatch():
            self.sent[one] = self.clock.now

    def release(self, i):
        if self.held:
            self.held[i % len(self.held)].release()

    def settle(self, i, share):
        if self.held and (one := self.held[i % len(self.held)]) in self.sent and one.cost is None:
            one.settle(round(share * one.maximum, 9))

    def costs(self):
        paid = ((time, one.maximum if one.cost is None else one.cost) for one, time in self.sent.items())
        return [(time, exact(cost)) for time, cost in paid]


@given(STEPS)
@settings(max_examples=100)
def test_no_window_of_time_holds_more_than_the_burst_and_the_rate(steps):
    with made_store("memory") as (store, clock):
        ledger = ex.Ledger(rate="36 usd/hour", burst="1 usd", store=store, lease_s=LEASE)
        buyer = Buyer(ledger, clock)
        for name, *given_ in steps:
            getattr(buyer, name)(*given_)
        for first, _ in buyer.costs():
            for last, _ in buyer.costs():
                inside = sum(cost for time, cost in buyer.costs() if first <= time <= last)
                assert inside <= BURST + RATE * Fraction(max(0, last - first), 10**9)
        clock.move(LEASE)
        assert ledger.reserved == 0
        clock.move(100)
        sent(ledger, 1)  # in the end, nothing stands in the way


@pytest.mark.parametrize("kind", ["memory", "file"])
@given(st.lists(st.tuples(st.integers(-20_000, 20_000), st.booleans()), max_size=40))
@settings(max_examples=30)
def test_whatever_the_clock_does_it_pays_for_each_moment_once(kind, jumps):
    """Everything is bought as soon as it may be. Leases end at each jump, so what is dispatched counts as settled."""
    with made_store(kind) as (store, clock):
        ledger = ex.Ledger(rate="36 usd/hour", burst="1 usd", store=store, lease_s=LEASE)
        first = latest = clock.now
        for jump, settles in jumps:
            clock.now = max(0, clock.now + jump * 10**8)
            latest = max(latest, clock.now)
            left = ledger.left
            held = sent(ledger, left)
            if settles:
                held.settle(left)
            assert exact(ledger.spent) <= BURST + RATE * Fraction(latest - first, 10**9)
        clock.now = latest
        for seconds in (LEASE, 100):
            clock.move(seconds)
            assert ledger.reserved == 0
        assert ledger.left == 1  # in the end, nothing stands in the way


# -- a promise ---------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 8), st.integers(1, 20),
    st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.floats(0, 1), st.booleans()), max_size=60),
)  # fmt: skip
@settings(max_examples=80)
def test_each_input_gets_at_least_the_cheapest_answer(n, cheapest, attempts):
    """Whatever else is bought, and however often a free attempt brings no answer."""
    with made_store("memory") as (store, _):
        ledger = ex.Ledger(total="2 usd", inputs=n, store=store)
        if outcome(ledger.promise, cheapest / 100) is OverBudget:
            assert n * cheapest > 200
            return
        answered = 0
        for promised, hundredths, share, answers in attempts:
            promised = promised and answered < n
            amount = min(hundredths, cheapest) / 100 if promised else hundredths / 100
            held = outcome(ledger.reserve, amount, promised=promised)
            if held is OverBudget:
                assert not promised
                assert exact(amount) > exact(ledger.left) - (n - answered) * Fraction(cheapest, 100)
                continue
            held.dispatch()
            held.settle(share * amount if answers or not promised else 0, answered=answers)
            answered += promised and answers
        for _ in range(answered, n):
            buy(ledger, cheapest / 100, None, promised=True)
