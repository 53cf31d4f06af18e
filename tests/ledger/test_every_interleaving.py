"""A model check of the rules: every order in which three actors can act, crash and start again, at every clock.

It is done in memory; what each step changes is compared with what it changes in a database.
"""

from copy import copy

import pytest
from made_stores import SHARED, made_store

from exeunt.errors import InputError, OverBudget
from exeunt.ledger import core, postgresql_store, sqlite_store
from exeunt.ledger.books import Account, Hold
from exeunt.ledger.sql_books import SQLBooks
from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.store import _MemoryBooks

TOTAL, LEASE, CLOCKS, FAR = 3, 10, (0, 6, 12), 10**6


def hold(key, maximum, *, promised=False, ledger="all/one"):
    return Hold(ledger, 0, key, "model", maximum, promised, LEASE)


TWO_BUY_TOO_MUCH = (hold("a", 2), hold("b", 1, ledger="all"), hold("c", 1, promised=True))
TWO_ASK_THE_SAME = (hold("a", 2), hold("a", 2), hold("c", 1, promised=True, ledger="all"))


class World:
    """The books, what each actor has done, the clock, and what a provider was really asked for and has billed."""

    def __init__(self, jumps, restarts, database=None):
        self.books, self.database = _MemoryBooks(), database
        core.open_account(self.books, 0, Account("all", None, "usd", TOTAL, 0, 1, 0, 1))
        core.open_account(self.books, 0, Account("all/one", "all", "usd", TOTAL, 0, 1, 0, 0))
        core.promise(self.books, 0, "all", 1)
        self.actors = (("starts", None, restarts),) * 3  # state, hold, restarts that are left
        self.clock, self.jumps, self.sent, self.bill = 0, jumps, (), 0

    def copy(self):
        new = copy(self)
        new.books = _MemoryBooks()
        vars(new.books).update({name: value.copy() for name, value in vars(self.books).items()})
        return new

    def key(self):
        books = frozenset(self.books.by_name.values()), frozenset(self.books.holds.values())
        return books, self.actors, self.clock, self.jumps, self.sent, self.bill

    def do(self, rule, *given):
        """Follow a rule, also in a database if there is one."""
        if self.database is None:
            return rule(self.books, self.clock, *given)
        before = self.copy().books
        found = outcome(rule, self.books, self.clock, *given)
        self.database.compare(before, self.books, found, rule, self.clock, *given)
        if isinstance(found, Exception):
            raise found
        return found

    def after(self, i, state, held=None, restarts=None):
        actors = list(self.actors)
        actors[i] = (state, held, actors[i][2] if restarts is None else restarts)
        self.actors = tuple(actors)


def following(world, wanted):
    """Return the worlds that can come next."""
    for i, (state, _, restarts) in enumerate(world.actors):
        if state == "ended":
            continue
        for step in STEPS[state]:
            new = world.copy()
            step(new, i, wanted[i])
            yield new
        new = world.copy()  # it crashes, and starts again or not
        new.after(i, "starts" if restarts else "ended", None, max(0, restarts - 1))
        yield new
    for clock in CLOCKS:
        if world.jumps and clock != world.clock:
            new = world.copy()
            new.clock, new.jumps = clock, world.jumps - 1
            yield new


def reserves(world, i, wanted):
    try:
        world.after(i, "holds", world.do(core.reserve, wanted))
    except OverBudget:
        assert not wanted.promised, "a promised answer was refused"
        world.after(i, "ended")


def dispatches(world, i, wanted):
    sent = world.do(core.dispatch, world.actors[i][1])
    world.after(i, "ended" if sent is None else "sends", sent)


def releases(world, i, wanted):
    world.do(core.release, world.actors[i][1])
    world.after(i, "ended")


def sends(bill):
    def step(world, i, wanted):
        world.sent, world.bill = (*world.sent, wanted.key), world.bill + bill * wanted.maximum
        world.after(i, "settles nothing" if bill == 0 else "settles all", world.actors[i][1])

    return step


def settles(share):
    def step(world, i, wanted):
        world.do(core.settle, world.actors[i][1], share * wanted.maximum)
        world.after(i, "ended")

    return step


STEPS = {
    "starts": (reserves,),
    "holds": (dispatches, releases),
    "sends": (sends(0), sends(1)),
    "settles nothing": (settles(0),),
    "settles all": (settles(1),),
}


def check(world):
    """Nothing is over, sent twice or forgotten; sums are those of the holds; what is not dispatched comes back."""
    holds = world.books.holds.values()
    about_to_bill = sum(held.maximum for state, held, _ in world.actors if state == "sends")
    assert world.bill + about_to_bill <= TOTAL
    assert len(set(world.sent)) == len(world.sent)
    for name, account in world.books.by_name.items():
        mine = [one for one in holds if one.ledger.startswith(name)]
        sums = [0, 0, 0, 0]
        for one in mine:
            sums[one.state] += one.cost if one.state == 3 else one.maximum
        assert [account.reserved, account.dispatched, account.settled] == [*sums[:2], sums[2] + sums[3]]
        assert account.left >= 0
        assert account.limit - account.left - account.reserved >= (world.bill if name == "all" else 0)
    if any(one.state < 2 for one in holds):
        late = world.copy()
        core.age(late.books, FAR)
        assert [account.reserved for account in late.books.by_name.values()] == [0, 0]
        assert late.books.by_name["all"].settled >= world.bill


class Database:
    """Follows one step in so many in a database, from the same books, and must come to the same ones."""

    def __init__(self, store, every):
        self.connection, self.every, self.steps, self.compared = store._connected(), every, 0, 0
        sqlite = isinstance(store, SQLiteStore)
        self.statements = sqlite_store._STATEMENTS if sqlite else postgresql_store._STATEMENTS
        self.begin = "BEGIN" if sqlite else "SELECT 1"
        self.known = {}
        self.holds = "hold" if sqlite else "exeunt_hold"

    def compare(self, before, after, expected, rule, clock, *given):
        self.steps += 1
        if self.steps % self.every:
            return
        self.compared += 1
        self.connection.execute(self.begin)
        books = self.books()
        for account in before.by_name.values():
            books.put(account)
        for held in before.holds.values():
            books.write(None, held)
        books.flush()
        books = self.books()
        found = outcome(rule, books, clock, *given)
        books.flush()
        assert found == expected or str(found) == str(expected)  # the same hold, or the same error
        accounts = {name: self.books().account(name) for name in after.by_name}
        assert accounts == after.by_name
        rows = self.connection.execute(f"SELECT * FROM {self.holds}").fetchall()
        assert {(row[0], row[1]): Hold(*row[:-1]) for row in rows} == after.holds
        self.connection.rollback()

    def books(self):
        return SQLBooks(self.connection.execute, self.statements, "here", self.known)


def outcome(rule, *given):
    try:
        return rule(*given)
    except OverBudget as error:
        return error


def explore(wanted, jumps, restarts, database=None):
    """Check every world that can be reached, and return their number."""
    first = World(jumps, restarts, database)
    seen, waiting = {hash(first.key())}, [first]
    while waiting:
        world = waiting.pop()
        check(world)
        for new in following(world, wanted):
            key = hash(new.key())
            if key not in seen:
                seen.add(key)
                waiting.append(new)
    return len(seen)


@pytest.mark.parametrize(
    ("wanted", "jumps", "restarts", "worlds"),
    [
        (TWO_BUY_TOO_MUCH, 1, 0, 20_000),
        pytest.param(TWO_BUY_TOO_MUCH, 1, 1, 300_000, marks=pytest.mark.slow),
        pytest.param(TWO_ASK_THE_SAME, 1, 1, 300_000, marks=pytest.mark.slow),
    ],
)
def test_no_order_of_steps_crashes_and_jumps_breaks_a_promise(wanted, jumps, restarts, worlds):
    assert explore(wanted, jumps, restarts) >= worlds


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("every", [200, pytest.param(1, marks=pytest.mark.slow)])
def test_each_step_changes_the_same_in_a_database(kind, every):
    with made_store(kind) as (store, _):
        database = Database(store, every)
        assert explore(TWO_ASK_THE_SAME, 0, 0, database) >= 3_000
        assert database.compared > 20


def blind_dispatch(books, now, held):
    """Send without looking whether it is still reserved."""
    return held._replace(state=core.DISPATCHED)


def forgetful_age(books, now):
    """Release nothing."""


def generous_room(account, held):
    """Keep nothing for those to come."""
    return account.left


@pytest.mark.parametrize(
    ("place", "name", "mistake"),
    [(core, "dispatch", blind_dispatch), (core, "age", forgetful_age), (Account, "room", generous_room)],
)
def test_the_check_finds_mistakes(monkeypatch, place, name, mistake):
    monkeypatch.setattr(place, name, mistake)
    with pytest.raises((AssertionError, InputError)):
        explore(TWO_BUY_TOO_MUCH, 1, 0)
