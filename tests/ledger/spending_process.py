"""A process whose threads spend from a ledger until it is killed, and log what they did: what is known outside.

    python spending_process.py PLACE LOG SEED THREADS

All processes draw the same keys. A line is in the log as soon as `write` returns, whatever happens to
the process then: "dispatched KEY MAXIMUM", "settles KEY COST" before, and "settled KEY COST" after.
"""

import os
import random
import sys
import threading
import time

from exeunt.errors import OverBudget
from exeunt.ledger.ledger import Ledger

LEASE_S, TOTAL = 1.0, "40 usd"


def maximum_of(key: str) -> float:
    return random.Random(key).randint(1, 20) / 1000


def cost_of(key: str) -> float:
    return round(maximum_of(key) * random.Random(key + "cost").random(), 9)


def spend(ledger: Ledger, log: int, seed: str) -> None:
    rng = random.Random(seed)
    while True:
        key = str(int(time.monotonic() * 500) + rng.randrange(100))  # others draw it as well
        try:
            held = ledger.reserve(maximum_of(key), model="large", key=key)
        except OverBudget:
            time.sleep(0.01)
            continue
        what = rng.random()
        if what < 0.05:
            held.release()
        if what < 0.1 or not held.dispatch():
            continue
        os.write(log, f"dispatched {key} {maximum_of(key)}\n".encode())
        if what < 0.12:
            continue  # its answer never comes
        os.write(log, f"settles {key} {cost_of(key)}\n".encode())
        held.settle(cost_of(key))
        os.write(log, f"settled {key} {cost_of(key)}\n".encode())


def main() -> None:
    place, log, seed, threads = sys.argv[1:]
    ledger = Ledger(total=TOTAL, file=place, lease_s=LEASE_S)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(out, b"opened - 0\n")
    for i in range(int(threads)):
        threading.Thread(target=spend, args=(ledger, out, f"{seed} {i}")).start()


if __name__ == "__main__":
    main()
