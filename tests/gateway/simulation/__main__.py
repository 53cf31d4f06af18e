"""Drive gateways through worlds of live traffic: is what they print and promise true?

    python -m tests.gateway.simulation --after                   # all fixed worlds, and the page
    python -m tests.gateway.simulation --after --name weeks --worlds 1000
    python -m tests.gateway.simulation                           # the page alone

The lines of `before` are of the gateway that stood before version 2 of its records; that code is gone.

What was measured is kept in docs/results/live-traffic.jsonl, a line for each world: an interrupted command goes on
where it was. Remove the lines of a world when it changes. A world takes some ten seconds of a core; all cores are used.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from experiments.pages import RESULTS, Measurements, parser
from tests.gateway.simulation.fixed_worlds import FIXED, WORLDS
from tests.gateway.simulation.page import write
from tests.gateway.simulation.worlds_by_name import NAMED, SIDES, lived

KEPT = RESULTS / "live-traffic.jsonl"


def main() -> None:
    """Drive, and write the page."""
    options = parser(__doc__)
    for name in SIDES:
        options.add_argument(f"--{name}", action="append_const", dest="sides", const=name)
    options.add_argument("--worlds", type=int, help="seeds of each; by default as many as the page needs")
    options.add_argument("--name", action="append", choices=NAMED, help="by default all fixed worlds")
    given = options.parse_args()
    kept = Measurements(KEPT)
    keys = [
        (side, name, seed)
        for side in given.sides or ()
        for name in given.name or FIXED
        for seed in range(given.worlds or WORLDS.get(name, 100))
    ]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        driving = {pool.submit(lived, *key): key for key in keys if key not in kept.known}
        for done in as_completed(driving):
            side, name, seed = driving[done]
            found = kept.of(side, name, seed, measure=done.result)
            print(f"{side}: {name} {seed + 1}, {found['seconds']:.1f} s", flush=True)
    write(kept.known)


if __name__ == "__main__":
    main()
