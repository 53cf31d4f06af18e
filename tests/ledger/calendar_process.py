"""A process that spends from a limit by the day, of days that last a second, and logs in which day it did.

    python calendar_process.py PLACE LOG BEGAN SEED SECONDS

Its clock is that of the machine, which runs 86,400 times as fast since BEGAN. A line is in the log before what it says
is sent ("sends", at its maximum), and after it was settled ("settled", at its cost), or refused. Amounts are cents.
"""

import json
import os
import random
import sys
import time

from exeunt.errors import OverBudget
from exeunt.ledger.ledger import Ledger
from exeunt.ledger.postgresql_store import PostgreSQLStore
from exeunt.ledger.sqlite_store import SQLiteStore

FASTER, DAY_NS = 86_400, 86_400 * 10**9


class Calendar:
    """A fast clock, which knows what it has said last: the time of the latest transaction."""

    said = 0

    def __init__(self, began: int) -> None:
        self.began = began

    def __call__(self) -> int:
        self.said = (time.time_ns() - self.began) * FASTER
        return self.said


def main() -> None:
    place, log, began, seed, seconds = sys.argv[1:]
    calendar, rng = Calendar(int(began)), random.Random(seed)
    store = (
        PostgreSQLStore(place, calendar=calendar) if "://" in place else SQLiteStore(place, calendar=calendar)
    )
    ledger = Ledger(day="0.4 usd", store=store)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(what: str, **line: object) -> None:
        os.write(out, json.dumps({"what": what, **line}).encode() + b"\n")

    waiting, end, n = [], time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        n += 1
        cents, key = rng.randint(1, 20), f"{seed}/{n}"
        try:
            held = ledger.reserve(cents / 100, key=key)
        except OverBudget:
            write("refused", day=calendar.said // DAY_NS)
            time.sleep(0.01)
        else:
            write("sends", key=key, day=calendar.said // DAY_NS, amount=cents)
            held.dispatch()
            waiting.append((key, held, time.monotonic() + rng.choice([0, 0.5, 1.2]), rng.randint(0, cents)))
        for one in [one for one in waiting if one[2] < time.monotonic()]:
            waiting.remove(one)
            one[1].settle(one[3] / 100)
            write("settled", key=one[0], amount=one[3])
    store.close()


if __name__ == "__main__":
    main()
