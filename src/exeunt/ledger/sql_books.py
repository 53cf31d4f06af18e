"""Books in one transaction of a database that speaks SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import starmap
from typing import Any, cast

from exeunt.ledger.books import Account, Hold


def statements(account: str, hold: str, value: str) -> dict[str, str]:
    """Return the statements on two tables, by what they do. `value`: what stands for a value.

    Names of columns are quoted, because some are words of SQL.
    """
    columns = {kind: ", ".join([value] * len(kind._fields)) for kind in (Account, Hold)}
    changed = ", ".join(f'"{name}" = excluded."{name}"' for name in Account._fields[1:])
    this = f'"ledger" = {value} AND "number" = {value}'
    new = ", ".join(f'"{name}" = {value}' for name in ("promised", "time", "state", "cost"))
    return {  # every part is a constant of this package
        "account": f'SELECT * FROM {account} WHERE "name" = {value}',  # noqa: S608
        "put": f'INSERT INTO {account} VALUES ({columns[Account]}) ON CONFLICT ("name") DO UPDATE SET {changed}',  # noqa: S608
        "find": f'SELECT * FROM {hold} WHERE "ledger" = {value} AND "key" = {value}',  # noqa: S608
        "hold": f"SELECT * FROM {hold} WHERE {this}",  # noqa: S608
        "add": f"INSERT INTO {hold} VALUES ({columns[Hold]})",  # noqa: S608
        "change": f"UPDATE {hold} SET {new} WHERE {this}",  # noqa: S608
        "remove": f"DELETE FROM {hold} WHERE {this}",  # noqa: S608
        # An index holds the states below SETTLED.
        "unsettled": f'SELECT * FROM {hold} WHERE "state" < 3 AND "state" <= {value}',  # noqa: S608
    }


class SQLBooks:
    """Books in one transaction. Accounts are read once and written by `flush`.

    `execute`: executes a statement with its values, and returns the rows. `by_name`: see `statements`.
    """

    def __init__(self, execute: Callable[[str, Any], Any], by_name: Mapping[str, str]) -> None:
        self._execute, self._by_name = execute, by_name
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
            self._accounts[name] = Account._make((*row[:-1], tuple(json.loads(row[-1]) if row[-1] else ())))
        return self._accounts[name]

    def put(self, account: Account) -> None:
        """Add an account, or replace it."""
        self._accounts[account.name] = account
        self._put.add(account.name)
        self.changed = True

    def flush(self) -> None:
        """Write the accounts that have changed."""
        for name in self._put:
            account = self._accounts[name]
            self._sql("put", *account[:-1], json.dumps(account.stopped) if account.stopped else "")

    def find(self, ledger: str, key: str) -> Hold | None:
        """Return the hold with this key."""
        return next(starmap(Hold, self._sql("find", ledger, key)), None)

    def hold(self, ledger: str, number: int) -> Hold | None:
        """Return the hold with this number."""
        return next(starmap(Hold, self._sql("hold", ledger, number)), None)

    def write(self, before: Hold | None, after: Hold | None) -> None:
        """Replace a hold, add one (nothing before), or remove it (nothing after)."""
        self.changed = True
        if before is None:
            self._sql("add", *cast(Hold, after))
        elif after is None:
            self._sql("remove", before.ledger, before.number)
        else:
            self._sql(
                "change", after.promised, after.time, after.state, after.cost, after.ledger, after.number
            )

    def unsettled(self, last: int) -> Iterable[Hold]:
        """Return the holds of all ledgers whose state is RESERVED to `last`, at most CHARGED."""
        return starmap(Hold, self._sql("unsettled", last))
