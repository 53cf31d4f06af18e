"""Books in one transaction of a database that speaks SQL. Each row has a checksum, so that damage is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast
from zlib import crc32

from exeunt.errors import ArtefactError
from exeunt.ledger.books import CHARGED, Account, Hold
from exeunt.ledger.calendar import CalendarLimit

CHECKSUM = "checksum"
"""The last column of each table."""
DISPUTED = '"state" = 2 AND "cost" > "maximum"'
"""A condition for the holds of which `Hold.is_disputed` is true."""


def statements(account: str, hold: str, placeholder: str) -> dict[str, str]:
    """Return the statements on two tables, by what they do. `placeholder`: what stands for a value.

    Names of columns are quoted, because some are words of SQL. All are named: those that a version adds are the last of
    an older table.
    """
    columns = {kind: ", ".join(f'"{name}"' for name in (*kind._fields, CHECKSUM)) for kind in (Account, Hold)}
    values = {kind: ", ".join([placeholder] * (len(kind._fields) + 1)) for kind in (Account, Hold)}
    changed = ", ".join(f'"{name}" = excluded."{name}"' for name in (*Account._fields[1:], CHECKSUM))
    this = f'"ledger" = {placeholder} AND "number" = {placeholder}'
    new = ", ".join(f'"{name}" = {placeholder}' for name in ("promised", "time", "state", "cost", CHECKSUM))
    accounts, holds = (
        f"SELECT {columns[kind]} FROM {table}"  # noqa: S608
        for kind, table in ((Account, account), (Hold, hold))
    )
    return {  # every part is a constant of this package
        "accounts": accounts,
        "account": f'{accounts} WHERE "name" = {placeholder}',
        "put": (
            f"INSERT INTO {account} ({columns[Account]}) VALUES ({values[Account]}) "  # noqa: S608
            f'ON CONFLICT ("name") DO UPDATE SET {changed}'
        ),
        "find": f'{holds} WHERE "ledger" = {placeholder} AND "key" = {placeholder}',
        "hold": f"{holds} WHERE {this}",
        "add": f"INSERT INTO {hold} ({columns[Hold]}) VALUES ({values[Hold]})",  # noqa: S608
        "change": f"UPDATE {hold} SET {new} WHERE {this}",  # noqa: S608
        "remove": f"DELETE FROM {hold} WHERE {this}",  # noqa: S608
        # Disputed bills have an index of their own: there may be many more attempts that never got an answer.
        "disputed": f"{holds} WHERE {DISPUTED}",
        # An index holds the states below SETTLED.
        "unsettled": f'{holds} WHERE "state" < 3 AND "state" <= {placeholder}',
    }


# Texts have no NUL. Databases give back a bool as itself or as 0 or 1.
_ACCOUNT_AS_TEXT = "\0".join(["%s"] * len(Account._fields))
_HOLD_AS_TEXT = "\0".join("%d" if name == "promised" else "%s" for name in Hold._fields)


def account_checksum(values: tuple[Any, ...]) -> int:
    """Return the checksum of the values of an account, as they are kept."""
    return crc32((_ACCOUNT_AS_TEXT % values).encode())


def hold_checksum(values: tuple[Any, ...]) -> int:
    """Return the checksum of the values of a hold."""
    return crc32((_HOLD_AS_TEXT % values).encode())


_ADDED: Mapping[type[Account] | type[Hold], tuple[str | int, ...]] = {Account: ("",), Hold: (0,)}
"""What the columns hold in a row of an older version that this version has added: the last ones."""
OLD_COLUMNS = {kind: kind._fields[: -len(added)] for kind, added in _ADDED.items()}
"""The columns of the versions before, besides the checksum, which the first version did not have."""


def brought_over(kind: type[Account] | type[Hold], row: tuple[Any, ...], *, checked: bool) -> tuple[Any, ...]:
    """Return a row of an older version as this version keeps it. `checked`: whether it has a checksum.

    Raises ValueError if that is the checksum of another row.
    """
    values = row[: len(OLD_COLUMNS[kind])]
    if checked:
        template = _ACCOUNT_AS_TEXT if kind is Account else _HOLD_AS_TEXT
        try:
            fits = crc32((template.rpartition("\0")[0] % values).encode()) == row[-1]
        except TypeError:  # a text in the place of a number
            fits = False
        if not fits:
            raise ValueError("the checksum of a row is wrong")
    values += _ADDED[kind]
    return *values, CHECKSUM_OF[kind](values)


CHECKSUM_OF: Mapping[type[Account] | type[Hold], Callable[[tuple[Any, ...]], int]] = {
    Account: account_checksum,
    Hold: hold_checksum,
}
KnownRows: TypeAlias = dict[str, tuple[tuple[Any, ...], Account]]


class SQLBooks:
    """Books in one transaction. Accounts are read once and written by `flush`.

    `execute`: executes a statement with its values, and returns the rows. `by_name`: see `statements`. `shown`: what
    errors call the ledger. `known`: rows of accounts that are right, which transactions pass on, since most are read as
    they were written last. `wall`: the time of the calendar. Methods that read raise ArtefactError for a row that is
    not as it was written.
    """

    def __init__(
        self,
        execute: Callable[[str, Any], Any],
        by_name: Mapping[str, str],
        shown: str,
        known: KnownRows,
        wall: int = 0,
    ) -> None:
        self.wall = wall
        self._execute, self._by_name, self._shown, self._known = execute, by_name, shown, known
        self._accounts: dict[str, Account] = {}
        self._put: set[str] = set()
        self.changed = False

    def _sql(self, name: str, *values: Any) -> Any:
        return self._execute(self._by_name[name], values)

    def account(self, name: str) -> Account | None:
        """Return the account of this name."""
        if name not in self._accounts:
            row = self._sql("account", name).fetchone()
            if row is None:
                return None
            self._accounts[name] = self._account(row)
        return self._accounts[name]

    def accounts(self) -> list[Account]:
        """Return all accounts."""
        for row in self._sql("accounts"):
            if row[0] not in self._accounts:
                self._accounts[row[0]] = self._account(row)
        return list(self._accounts.values())

    def put(self, account: Account) -> None:
        """Add an account, or replace it."""
        self._accounts[account.name] = account
        self._put.add(account.name)
        self.changed = True

    def flush(self) -> None:
        """Write the accounts that have changed."""
        for name in self._put:
            account = self._accounts[name]
            values = (*account[:-2], _as_text(account.stopped), _as_text(account.calendar))
            row = (*values, account_checksum(values))
            self._sql("put", *row)
            self._known[name] = row, account

    def find(self, ledger: str, key: str) -> Hold | None:
        """Return the hold with this key."""
        return next(self._holds("find", ledger, key), None)

    def hold(self, ledger: str, number: int) -> Hold | None:
        """Return the hold with this number."""
        return next(self._holds("hold", ledger, number), None)

    def write(self, before: Hold | None, after: Hold | None) -> None:
        """Replace a hold, add one (nothing before), or remove it (nothing after)."""
        self.changed = True
        if before is None:
            self._sql("add", *cast(Hold, after), hold_checksum(cast(Hold, after)))
        elif after is None:
            self._sql("remove", before.ledger, before.number)
        else:
            self._sql(
                "change",
                after.promised,
                after.time,
                after.state,
                after.cost,
                hold_checksum(after),
                after.ledger,
                after.number,
            )

    def unsettled(self, last: int) -> Iterable[Hold]:
        """Return the holds of all ledgers whose state is RESERVED to `last`, at most CHARGED."""
        return self._holds("unsettled", last)

    def disputed(self) -> Iterable[Hold]:
        """Return the holds of all ledgers with a disputed bill."""
        return self._holds("disputed")

    def check(self) -> int:
        """Return the latest time that an account or an unsettled hold has, 0 if there is none.

        Raises ArtefactError if one of them is not as it was written, or is gone: what is reserved and dispatched in
        each account is the sum of the holds in it and in those within it.
        """
        accounts = self.accounts()
        parents = {account.name: account.parent for account in accounts}
        sums = {name: [0] * (CHARGED + 1) for name in parents}
        latest = max((account.grown for account in accounts), default=0)
        for hold in self.unsettled(CHARGED):
            latest, name = max(latest, hold.time), cast("str | None", hold.ledger)
            while name is not None:
                if name not in sums:
                    raise damaged(self._shown, f"the account {name!r} is gone")
                sums[name][hold.state] += hold.maximum
                name = parents[name]
        for account in accounts:
            if [account.reserved, account.dispatched] != sums[account.name][:CHARGED]:
                raise damaged(self._shown, f"the sums of {account.name!r} are not those of its attempts")
        return latest

    def _account(self, row: tuple[Any, ...]) -> Account:
        """Return the account of a row, which is checked unless it is known to be right."""
        known, account = self._known.get(row[0], (None, None))
        if account is not None and row == known:
            return account
        *values, stopped, calendar = self._checked(row, account_checksum)
        try:
            limits = tuple(CalendarLimit._make(limit) for limit in _of_text(calendar))
            account = Account._make((*values, tuple(_of_text(stopped)), limits))
        except ValueError:  # it was damaged before it had a checksum
            raise damaged(self._shown, "the stopped models cannot be read") from None
        self._known[account.name] = row, account
        return account

    def _holds(self, statement: str, *values: Any) -> Iterator[Hold]:
        for row in self._sql(statement, *values):
            yield Hold._make(self._checked(row, hold_checksum))

    def _checked(self, row: tuple[Any, ...], checksum: Callable[[tuple[Any, ...]], int]) -> tuple[Any, ...]:
        """Return the values of a row. Raises ArtefactError if its checksum is that of others."""
        values = row[:-1]
        try:
            if checksum(values) == row[-1]:
                return values
        except TypeError:  # a text in the place of a number
            pass
        raise damaged(self._shown, "the checksum of a row is wrong")


def damaged(shown: str, why: str) -> ArtefactError:
    """Return the error for a ledger, as `shown`, in which something is not as it was written."""
    return ArtefactError(f"the ledger {shown} is damaged ({why}): restore it, or begin another one")


def _as_text(items: tuple[Any, ...]) -> str:
    return json.dumps(items) if items else ""


def _of_text(text: str) -> Any:
    return json.loads(text) if text else ()
