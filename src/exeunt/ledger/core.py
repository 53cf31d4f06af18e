"""The rules of a ledger, without files, clocks or threads.

Amounts are whole billionths of the ledger's unit, so that sums are exact. Times are nanoseconds of a clock that may
start anywhere. Each function runs in one transaction of a store, on the `Books` that the store gives it.

A hold is RESERVED until it is DISPATCHED or given back, and SETTLED when its cost is known. One that stays dispatched
for longer than its lease is CHARGED: its maximum counts as its cost until it is settled after all. So does one with a
bill above its maximum, which is disputed until somebody decides.

A total is a constant limit. A rate is a limit that grows with time, to at most `burst` above what is settled. All holds
together never exceed the limit, so what is settled between two times is at most the burst and the growth between them.
Its time never falls: while a clock that went back has not caught up, nothing grows, so that no time counts twice.

A limit by the calendar begins anew with each day, week or month. A hold counts in the period in which it was made: one
of an earlier period neither takes from the limit nor gives back to it. Which those are is told by their order, not by a
clock.
"""

from __future__ import annotations

import math
from typing import cast

from exeunt._support.text import counted
from exeunt.errors import InputError, ModelStopped, OverBudget
from exeunt.ledger.books import CHARGED, DISPATCHED, RESERVED, SETTLED, Account, Books, Hold, shown

_DAY_S = 86_400
_MOST_SUM = 2**63 - 1  # what databases hold

# -- ledgers -----------------------------------------------------------------------------------------------------------


def chain(books: Books, now: int, name: str | None) -> list[Account]:
    """Return the ledger of this name, the one that it is within, and so on, with what their rates allow now."""
    accounts: list[Account] = []
    while name is not None:
        account = books.account(name)
        if account is None:
            raise InputError(f"there is no ledger {name!r} here: open it with a total or a rate")
        accounts.append(grown(account, now))
        name = account.parent
    for i, account in enumerate(accounts):
        if account.calendar:
            accounts[i] = _renewed(account, books.wall, accounts[-1].made)
    return accounts


def grown(account: Account, now: int) -> Account:
    """Return the account with the growth of its limit until now. A time before its latest one allows nothing."""
    if not account.rate:
        return account
    gain, rest = divmod(account.rate * max(0, now - account.grown) + account.rest, account.period)
    cap = account.settled + account.burst
    limit = min(account.limit + gain, cap)
    return account._replace(limit=limit, grown=max(account.grown, now), rest=0 if limit == cap else rest)


def _renewed(account: Account, wall: int, made: int) -> Account:
    """Return the account in the periods of the calendar that hold this time."""
    if all(wall < one.ends for one in account.calendar):
        return account
    return account._replace(calendar=tuple(one.renewed(wall, account.used, made) for one in account.calendar))


def open_account(books: Books, now: int, wanted: Account) -> None:
    """Add a ledger. One that is there takes over the limit and the number of inputs.

    What it has spent counts against a new total. A total that becomes a rate begins without a burst. A limit by the
    calendar that is new counts from now on; one that was there goes on in its period.
    """
    is_there = books.account(wanted.name) is not None
    accounts = chain(books, now, wanted.name if is_there else wanted.parent)
    old, made = accounts[0] if is_there else None, accounts[-1].made if accounts else 0
    for other in accounts:
        if other.unit != wanted.unit:
            raise InputError(
                f"the ledger {other.name!r} is in {other.unit}, got an amount in {wanted.unit} for {wanted.name!r}: "
                "use one unit"
            )
    olds, used = ({one.period: one for one in old.calendar}, old.used) if old else ({}, 0)
    calendar = tuple(one.changed(olds.get(one.period), books.wall, used, made) for one in wanted.calendar)
    if old is None:
        books.put(wanted._replace(grown=now, calendar=calendar))
        return
    limit = wanted.limit
    if wanted.rate:
        limit = old.limit if old.rate else old.settled  # a total that becomes a rate begins without a burst
    books.put(
        old._replace(
            limit=limit,
            **{name: getattr(wanted, name) for name in ("rate", "period", "burst")},
            rest=0,
            grown=max(old.grown, now),
            inputs=wanted.inputs or old.inputs,
            calendar=calendar,
        )
    )


def promise(books: Books, now: int, name: str, cheapest: int, answered: int | None = None) -> None:
    """Keep this much for the answer of each input to come.

    `answered`: how many have theirs, where a job goes on that was killed. What it had under way counts as if its lease
    had ended, and as nobody's answer.
    """
    age(books, now)
    if answered is not None:
        for hold in [hold for hold in books.unsettled(CHARGED) if hold.ledger == name]:
            left = _aged(books, now, hold) if hold.state < CHARGED else hold
            if left is not None and left.promised:
                books.write(left, left._replace(promised=False))
    account = chain(books, now, name)[0]
    if not account.inputs:
        raise InputError(f"how many inputs are promised an answer? Open the ledger {name!r} with inputs=...")
    n_asked = account.asked if answered is None else answered
    account = account._replace(cheapest=cheapest, asked=n_asked)
    if account.left < account.kept():
        to_come = account.inputs - account.asked
        raise over_budget(
            account,
            now,
            books.wall,
            account.kept(),
            account.left,
            f"an answer for each of {counted(to_come, 'input')} to come",
        )
    books.put(account)


def resume(books: Books, now: int, name: str, model: str) -> None:
    """Let a model that was stopped be asked again, here, in what this is within, and in what is within this."""
    within = [account for account in books.accounts() if account.name.startswith(f"{name}/")]
    for account in (*chain(books, now, name), *within):
        books.put(account._replace(stopped=tuple(other for other in account.stopped if other != model)))


def over_budget(account: Account, now: int, wall: int, amount: int, room: int, attempt: str) -> OverBudget:
    """Return the error that says what was asked for, what there is, and how to mend it."""
    unit, wait_s, held = account.unit, None, account.reserved + account.dispatched
    kept = account.left - room
    short = [one for one in account.calendar if one.limit - account.used - kept < amount]
    if account.limit - account.used - kept < amount:
        short = []  # the total or the rate is, too
    last = max(short, key=lambda one: one.ends, default=None)
    left = (last or account).limit - account.used - kept
    overdrawn = f" (it is overdrawn by {shown(-left - kept, unit)})" if left + kept < 0 else ""
    of = f"{account.name!r} has {shown(max(0, left), unit)} left{overdrawn}"
    if last is not None:
        of += f" of {shown(last.amount, unit)} for the {last.period} until {last.shown_end}"
        wait_s = (last.ends - wall) / 1e9 if all(amount <= one.amount for one in short) else None
        mend = f"raise the limit of the {last.period}"
        mend = mend if wait_s is None else f"try again in {_wait(wait_s)}, or {mend}"
    elif account.rate:
        of += f" of a burst of {shown(account.burst, unit)}"
        wait = (amount - left) * account.period / account.rate + account.grown - now  # grown: now, or later
        wait_s = wait / 1e9 if amount <= account.burst else None
        mend = "raise the burst" if wait_s is None else f"try again in {_wait(wait_s)}, or raise the rate"
    else:
        of += f" of {shown(account.limit, unit)}"
        mend = "wait until what is under way is settled, or raise the total" if held else "raise the total"
    if kept:
        of += f" (besides {shown(kept, unit)} kept for the inputs to come)"
    return OverBudget(
        f"{attempt} may cost {shown(amount, unit)}, and the ledger {of}: {mend}",
        asked=amount / 1e9,
        left=max(0, room) / 1e9,
        wait_s=wait_s,
        passing=held >= amount - room,
    )


def _wait(seconds: float) -> str:
    if seconds <= _DAY_S:
        return f"{seconds:.3g} s" if seconds < 9999 else f"{seconds / 3600:.3g} hours"
    return f"{math.ceil(seconds / _DAY_S):,} days"


# -- holds -------------------------------------------------------------------------------------------------------------


def reserve(books: Books, now: int, wanted: Hold) -> Hold:
    """Hold money in a ledger and in all that it is within, or in none. The same key is the same hold."""
    old = None if wanted.key is None else books.find(wanted.ledger, wanted.key)
    if old is not None and old.state < CHARGED and not old.alive(now):
        old = _aged(books, now, old)
    if old is not None:
        if (old.model, old.maximum) != (wanted.model, wanted.maximum):
            raise InputError(
                f"the key {old.key!r} is that of another attempt, for {old.maximum / 1e9:g} at {old.model!r}: "
                "give each attempt a key of its own"
            )
        return _moved(books, now, old, old._replace(time=now)) if old.state == RESERVED else old
    accounts = chain(books, now, wanted.ledger)
    for account in accounts:
        if wanted.model in account.stopped:
            raise ModelStopped(
                f"the model {wanted.model!r} is stopped: it billed more than its stated maximum"
            )
    if any(account.room(wanted) < wanted.maximum for account in accounts):
        age(books, now)
        for account in (accounts := chain(books, now, wanted.ledger)):
            if account.room(wanted) < wanted.maximum:
                attempt = f"an attempt at the model {wanted.model!r}" if wanted.model else "an attempt"
                raise over_budget(account, now, books.wall, wanted.maximum, account.room(wanted), attempt)
    number, made = accounts[0].made + 1, accounts[-1].made + 1
    return _moved(books, now, None, wanted._replace(number=number, time=now, made=made))


def dispatch(books: Books, now: int, hold: Hold) -> Hold | None:
    """Mark a hold as sent, if it is still reserved, its lease has not ended, and its model is not stopped."""
    stored = books.hold(hold.ledger, hold.number)
    if stored is None or stored.state != RESERVED or not stored.alive(now):
        return None
    if any(stored.model in account.stopped for account in chain(books, now, stored.ledger)):
        return None
    return _moved(books, now, stored, stored._replace(state=DISPATCHED, time=now))


def settle(
    books: Books, now: int, hold: Hold, cost: int | None, answered: bool = True, *, correct: bool = False
) -> Hold:
    """Record what a dispatched hold has cost (None: its maximum). A bill above that is disputed.

    `correct`: somebody has decided. The bill counts, however high it is, also if the hold is settled at another one.
    """
    stored = books.hold(hold.ledger, hold.number)
    if stored is None and hold.state == SETTLED:
        stored = hold  # it has no key, so it was not kept
    if stored is None or stored.state == RESERVED:
        chain(books, now, hold.ledger)  # which may be gone
        raise InputError(
            "this attempt was not dispatched, so it cannot have a cost: send nothing before dispatch()"
        )
    cost = stored.maximum if cost is None else cost
    if stored.cost == cost and (stored.state == SETTLED or (stored.is_disputed and not correct)):
        return stored
    if stored.state == SETTLED and not correct:
        raise InputError(
            f"this attempt is settled at {stored.cost / 1e9:g}, not at {cost / 1e9:g}: correct it by reconcile()"
        )
    promised = stored.promised and answered
    state = SETTLED if correct or cost <= stored.maximum else CHARGED
    return _moved(books, now, stored, stored._replace(state=state, time=now, cost=cost, promised=promised))


def charge(books: Books, now: int, hold: Hold) -> Hold:
    """Count a dispatched hold at its maximum, as if its lease had ended: what became of it may never be known."""
    stored = books.hold(hold.ledger, hold.number)
    return hold if stored is None or stored.state != DISPATCHED else cast(Hold, _aged(books, now, stored))


def release(books: Books, now: int, hold: Hold) -> bool:
    """Give back what was not dispatched. Return False, and change nothing, if it was."""
    stored = books.hold(hold.ledger, hold.number)
    if stored is None:
        return hold.state == RESERVED
    if stored.state == RESERVED:
        _move(books, now, stored, None)
    return stored.state == RESERVED


def age(books: Books, now: int) -> None:
    """Release what is reserved, and charge what is dispatched, for longer than its lease."""
    for hold in list(books.unsettled(DISPATCHED)):
        if not hold.alive(now):
            _aged(books, now, hold)


def _aged(books: Books, now: int, hold: Hold) -> Hold | None:
    if hold.state == DISPATCHED:
        return _moved(books, now, hold, hold._replace(state=CHARGED))
    _move(books, now, hold, None)
    return None


def _moved(books: Books, now: int, before: Hold | None, after: Hold) -> Hold:
    _move(books, now, before, after)
    return after


def _move(books: Books, now: int, before: Hold | None, after: Hold | None) -> None:
    """Change a hold, and the sums of all ledgers that it is in."""
    hold = cast(Hold, before or after)
    for account in [_booked(account, before, after) for account in chain(books, now, hold.ledger)]:
        books.put(account)
    done = after is not None and after.state == SETTLED and after.cost <= after.maximum
    books.write(before, None if done and hold.key is None else after)


def _booked(account: Account, before: Hold | None, after: Hold | None) -> Account:
    """Return the account with the sums of `after` in the place of those of `before`."""
    n_asked, reserved, dispatched, settled = map(int.__sub__, _sums(after), _sums(before))
    limit, stopped, calendar = account.limit, account.stopped, account.calendar
    if account.rate and before is not None and before.state >= CHARGED:
        limit += min(0, settled)  # what comes back late makes no room in a rate: its time has passed
    if calendar and before is not None:
        used = reserved + dispatched + settled
        calendar = tuple(
            one._replace(limit=one.limit + used) if before.made <= one.earlier else one for one in calendar
        )
    is_new = after is not None and (before is None or after.cost != before.cost)
    if after is not None and is_new and after.cost > after.maximum and after.model not in stopped:
        stopped = (*stopped, after.model)
    if account.settled + settled + account.burst > _MOST_SUM:
        raise InputError(
            f"the ledger {account.name!r} counts at most {shown(_MOST_SUM - account.burst, account.unit)}, and "
            f"{shown(account.settled, account.unit)} are spent: correct the cost, or open another ledger"
        )
    return account._replace(
        limit=limit,
        asked=account.asked + n_asked,
        reserved=account.reserved + reserved,
        dispatched=account.dispatched + dispatched,
        settled=account.settled + settled,
        made=account.made + (before is None),
        stopped=stopped,
        calendar=calendar,
    )


def _sums(hold: Hold | None) -> tuple[int, int, int, int]:
    """Return what a hold adds to `asked`, `reserved`, `dispatched` and `settled`."""
    if hold is None:
        return 0, 0, 0, 0
    n_asked = int(hold.promised and (hold.state != CHARGED or hold.is_disputed))
    amount = hold.cost if hold.state == SETTLED else hold.maximum
    return (
        n_asked,
        amount if hold.state == RESERVED else 0,
        amount if hold.state == DISPATCHED else 0,
        amount if hold.state >= CHARGED else 0,
    )
