"""Where exits pay for their time, and how large their heads are, from what stages and heads take. No clock.

Before heads are trained nobody knows which inputs leave where. So each input is taken to need a part of the network
that is uniform over its time, and to leave at the first exit behind it. Between two exits inputs then run on average
half of the way for nothing, and each head takes its time of all inputs that reach it. Places are those with the least
expected time, while all heads together stay within a share of the network's time and within its own weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.text import counted, text_table
from exeunt.errors import InputError

MOST_ADDED = 0.1
"""Heads take at most this share of the network's time where no input leaves."""
SMALLER = 0.02
"""Share of the network's time that inputs run longer, roughly, if heads have half of the hidden units.

With 64 instead of 128, accuracy is what it is at 4.7% less of the cost at 30%, at 1.2% less at 50%, and the same at 70%
(docs/results/exit-ingredients.md).
"""
_MOST_WEIGHT = 1.0
"""Heads weigh at most as much as the network: an input alone reads all weights."""
_ATTEMPTS = 12


@dataclass(frozen=True, eq=False)
class MeasuredPlaces:
    """What a network takes with a head of one size at each of p places, for batches of b sizes.

    `names` (p,): the places, in order. `whole` (b,): ms per input of the network in one call. `stage` (b, p + 1): of
    its parts up to each place and to the end; `head` (b, p): added by a cut with its head and decision. `bytes` (p,):
    of each head's weights; `network_bytes`: of the network's.
    """

    names: tuple[str, ...]
    whole: Floats
    stage: Floats
    head: Floats
    bytes: Floats
    network_bytes: float

    @property
    def added(self) -> Floats:
        """What each head adds where no input leaves, as a share of the network's time (b, p)."""
        return self.head / self.whole[:, None]

    @property
    def depth(self) -> Floats:
        """Mean share of the network's time up to each place (p,)."""
        upto: Floats = np.cumsum(self.stage, axis=1)
        return (upto[:, :-1] / upto[:, -1:]).mean(axis=0)  # type: ignore[no-any-return]


class Bench(Protocol):
    """Measures a network with heads of `hidden` units each."""

    def measure(self, hidden: int) -> MeasuredPlaces:
        """Return what it takes with a head at each place."""

    def with_exits(self, hidden: int, places: Sequence[int]) -> Floats:
        """Return its time with heads at these places where no input leaves, as a share of its own, (b,)."""


@dataclass(frozen=True, eq=False)
class PlacedExits:
    """Exits that pay for their time: `places` of the `measured` ones, with heads of `hidden` units.

    `nobody_leaves` (b,): time as a share of the network's own, for batches of the sizes `batches` (b,).
    """

    measured: MeasuredPlaces
    places: tuple[int, ...]
    hidden: int
    batches: tuple[int, ...]
    nobody_leaves: Floats

    @property
    def names(self) -> tuple[str, ...]:
        """The modules that carry a head."""
        return tuple(self.measured.names[place] for place in self.places)

    def describe(self) -> str:
        """Return a table: each exit with what it takes and weighs, then what all of them cost if nobody leaves."""
        measured, rows = self.measured, []
        columns = [f"{part}, batch {size}" for size in self.batches for part in ("segment", "head")]
        for before, place in zip((-1, *self.places), self.places, strict=False):
            times = [
                f"{ms:.3g} ms"
                for size in range(len(self.batches))
                for ms in (measured.stage[size, before + 1 : place + 1].sum(), measured.head[size, place])
            ]
            rows.append([measured.names[place], *times, f"{measured.bytes[place] / 1e6:.2f} MB"])
        last = self.places[-1] + 1
        rest = [
            cell
            for size in range(len(self.batches))
            for cell in (f"{measured.stage[size, last:].sum():.3g} ms", "")
        ]
        rows.append(["the network's own", *rest, ""])
        costs = ", ".join(
            f"{share:.0%} of the network's {ms:.3g} ms at batch {size}"
            for share, ms, size in zip(self.nobody_leaves, measured.whole, self.batches, strict=True)
        )
        heads = f"hidden layers of {self.hidden} units" if self.hidden else "no hidden layers"
        weights = f"{measured.bytes[list(self.places)].sum() / 1e6:.2f} MB beside {measured.network_bytes / 1e6:.2f} MB"
        return "\n".join(
            [
                text_table(["exit after", *columns, "weights"], rows),
                f"heads have {heads} and weigh {weights}; times are per input",
                f"where nobody leaves, an input takes {costs}",
            ]
        )


def choose_exits(bench: Bench, hidden: Sequence[int], batches: Sequence[int]) -> PlacedExits:
    """Return the exits that pay for their time, for batches of all these sizes.

    `hidden`: units of the heads to choose from, falling; fewer are tried only where more would take too long or weigh
    too much. What is chosen is then measured as a whole; if it takes more than the single heads promised, less is
    chosen. Raises InputError where not even one head stays within the limit.
    """
    measured: dict[int, MeasuredPlaces] = {}
    for units in hidden:
        measured[units] = measured_places = bench.measure(units)
        if _best_places(measured_places, MOST_ADDED) == _best_places(measured_places, np.inf, weight=np.inf):
            break
    cheapest = min(float(measured_places.added.max(axis=0).min()) for measured_places in measured.values())
    limit, why = MOST_ADDED, f"1 head takes {cheapest:.0%}"
    for _ in range(_ATTEMPTS):
        choices = {}
        for number, (units, measured_places) in enumerate(measured.items()):
            if best := _best_places(measured_places, limit):
                choices[best[0] + number * SMALLER] = units, best[1]
        if not choices:
            break
        units, places = choices[min(choices)]
        shares = bench.with_exits(units, places)
        added = float(shares.max()) - 1
        if added <= MOST_ADDED:
            return PlacedExits(measured[units], places, units, tuple(batches), shares)
        why = f"{counted(len(places), 'head')} {'takes' if len(places) == 1 else 'take'} {added:.0%}"
        promised = float(measured[units].added[:, list(places)].sum(axis=1).max())
        limit = min(promised * MOST_ADDED / added, promised * (1 - 1e-9))
        limit = cheapest if limit < cheapest < promised * (1 - 1e-9) else limit
    raise InputError(
        f"heads may take {MOST_ADDED:.0%} of the network's time where no input leaves, and {why} in batches of "
        f"{' and '.join(map(str, batches))}: name larger batches (--exit-batch), or give a number of exits"
    )


def _best_places(
    measured: MeasuredPlaces, limit: float, *, weight: float = _MOST_WEIGHT
) -> tuple[float, tuple[int, ...]] | None:
    """Return the least expected time, as a share of the network's, and the places that have it.

    `limit`: share of the time that heads may take. None where no head stays within the limits.
    """
    possible = [
        (expected, places)
        for expected, places in _by_number(measured.depth, measured.added.max(axis=0))
        if (measured.added[:, list(places)].sum(axis=1) <= limit).all()
        and measured.bytes[list(places)].sum() <= weight * measured.network_bytes
    ]
    return min(possible, default=None)


def _by_number(depth: Floats, added: Floats) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Yield the places with the least expected time that end at each place, for each number of them.

    With depths b and heads c, all shares of the network's time, an input that leaves at exit j behind i has taken b_j,
    and b_j - b_i of all inputs do; all behind i take c_j. A path is a sum over its steps, and so is the best one: by
    dynamic programming over the last place.
    """
    p = len(depth)
    before = np.concatenate([[0.0], depth])
    step = (depth[None] - before[:, None]) * depth[None] + (1 - before[:, None]) * added[None]
    cost = step[0].copy()
    paths: list[tuple[int, ...]] = [(place,) for place in range(p)]
    for _ in range(p):
        yield from (
            (float(cost[place] + 1 - depth[place]), paths[place])
            for place in range(p)
            if cost[place] < np.inf
        )
        longer = np.full(p, np.inf)
        ways = list(paths)
        for place in range(1, p):
            total = cost[:place] + step[1 : place + 1, place]
            last = int(np.argmin(total))
            longer[place], ways[place] = total[last], (*paths[last], place)
        cost, paths = longer, ways
