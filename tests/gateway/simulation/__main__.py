"""Drive gateways through worlds of live traffic: is what they print and promise true?

    python -m tests.gateway.simulation --after                   # all fixed worlds, and the page
    python -m tests.gateway.simulation --after --name weeks --worlds 1000
    python -m tests.gateway.simulation                           # the page alone

The lines of `before` are of the gateway that stood before version 2 of its records; that code is gone.

What was measured is kept in docs/results/live-traffic.jsonl, a line for each world: an interrupted command goes on
where it was. Remove the lines of a world when it changes. A world takes some ten seconds of a core.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from experiments.pages import RESULTS, Measurements, parser
from tests.gateway.simulation.after import After
from tests.gateway.simulation.drive import driven
from tests.gateway.simulation.fixed_worlds import FIXED, WORLDS
from tests.gateway.simulation.measures import measured
from tests.gateway.simulation.page import write
from tests.gateway.simulation.weeks import DRAWN

KEPT = RESULTS / "live-traffic.jsonl"
NAMED = FIXED | DRAWN
SIDES: dict[str, Any] = {side.name: side for side in (After,)}


def main() -> None:
    """Drive, and write the page."""
    options = parser(__doc__)
    for name in SIDES:
        options.add_argument(f"--{name}", action="append_const", dest="sides", const=name)
    options.add_argument(
        "--worlds", type=int, help="seeds of each world; by default as many as the page needs"
    )
    options.add_argument("--name", action="append", choices=NAMED, help="by default all fixed worlds")
    given = options.parse_args()
    logging.getLogger("exeunt").setLevel(logging.CRITICAL)
    kept = Measurements(KEPT)
    for side in given.sides or ():
        for name in given.name or FIXED:
            for seed in range(given.worlds or WORLDS.get(name, 100)):
                begun = time.process_time()
                kept.of(side, name, seed, measure=partial(driven, NAMED[name](seed), SIDES[side], measured))
                print(f"{side}: {name} {seed + 1}, {time.process_time() - begun:.1f} s", flush=True)
    write(kept.known)


if __name__ == "__main__":
    main()
