"""Weeks of owners, drawn by lot: all that traffic of people has, in every mixture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tests.gateway.simulation.kinds import Kind
from tests.gateway.simulation.worlds import Change, Look, World

_WEEK_S = 7 * 86_400.0
CHANGE_AT = 2_500
"""From this request on the small model is worse in the world `change`."""
_LOOKS = 100
"""The owner looks after so many requests again."""


def weeks(seed: int, n: int = 3_000) -> World:
    """Return two weeks of an owner."""
    rng = np.random.default_rng([seed, 4])
    kinds = _kinds(rng)
    drift = bool(rng.random() < 0.3)
    limits = rng.choice([0.05, 0.1, 0.2], size=2)
    looks = tuple(_look(at, limits, rng) for at in range(300, n + 1, _LOOKS))
    budgets = [str(rng.choice(["50%", "70%"])) if rng.random() < 0.3 else None for _ in limits]
    # Requests of one user, or of a batch, depend on one another: the owner knows that.
    one_by_one = all(kind.requests == (1, 1) for kind in kinds)
    alone = one_by_one and all(kind.turns == (1, 1) for kind in kinds)
    kinds_of_units = ["conversation", "request"] if alone else ["conversation"]
    units = str(rng.choice(kinds_of_units)) if one_by_one else "user"
    lots = (what for what in ("model", "grader", "promise") if rng.random() < 0.2)
    changes = [Change(int(rng.integers(1_000, n)), what) for what in lots]
    return World(
        "weeks", seed, kinds, n=n, pace=n / (2 * _WEEK_S), looks=looks, changes=tuple(changes),
        drift_at=int(rng.integers(n // 3, 2 * n // 3)) if drift else None,
        after=tuple(map(_worse, kinds)) if drift else (),
        second=float(rng.choice([0.5, 2.0])), scored=bool(rng.random() < 0.8), run_length=2_000,
        share=float(rng.choice([0.5, 1.0])), audit=float(rng.choice([0.1, 0.5])),
        money=(money := str(rng.choice(["1000 usd", "0.1 usd/day", "0.3 usd/day"]))), cap="0.06 usd", spend=money,
        time="1 day",
        again=float(rng.choice([0.0, 0.05])), fails=float(rng.choice([0.0, 0.05])),
        hangs=float(rng.choice([0.0, 0.002])), grader_fails=float(rng.choice([0.0, 0.02])),
        private=("clinic",) if rng.random() < 0.3 else (), units=units, period="1 day", idle="1 h",
        promises=tuple(zip(limits.tolist(), budgets, strict=True)),
    )  # fmt: skip


def _kinds(rng: np.random.Generator) -> tuple[Kind, ...]:
    """Return one-off requests, and by lot each of the others that there are."""
    share = rng.uniform(0.1, 1.0, size=8)
    once = Kind(share=1.0, sure=0.8, wrong=(0.03, 0.5), slow=10.0, user="new")
    others = (
        Kind(share=share[0], wrong=(0.02, 0.5), prompts=200),
        Kind(share=share[1], sure=1.0, wrong=(float(rng.choice([0.0, 1.0])), 0.0), prompts=1),
        Kind(share=0.05 * share[2], wrong=(0.03, 0.6), turns=(1, 40), gap=120.0, alike=0.8, slow=10.0),
        Kind(share=0.005 * share[3], sure=0.3, wrong=(0.3, 0.8), requests=(20, 200), gap=600.0, user="new"),
        Kind(share=share[4], wrong=(0.03, 0.4), user="known", users=60),
        Kind(share=0.005 * share[5], sure=0.9, wrong=(0.2, 0.8), requests=(40, 40), gap=0.05, letters=4_000),
        Kind(share=0.3 * share[6], sure=1.0, wrong=(0.02, 0.0), tools=True),
        Kind(share=0.5 * share[7], sure=1.0, wrong=(0.2, 0.0), client="clinic"),
    )
    chosen = [kind for kind, lot in zip(others, rng.random(len(others)), strict=True) if lot < 0.4]
    if rng.random() < 0.5:  # nights are easier
        day = replace(once, share=1.5, sure=0.7, wrong=(0.08, 0.5), hours=(8, 20))
        return replace(once, wrong=(0.02, 0.5), hours=(20, 24)), replace(once, hours=(0, 8)), day, *chosen
    return once, *chosen


def _worse(kind: Kind) -> Kind:
    return replace(kind, wrong=(min(1.0, kind.wrong[0] + 0.2), min(1.0, kind.wrong[1] + 0.2)))


def _look(at: int, limits: np.ndarray, rng: np.random.Generator) -> Look:
    """Return a look, mostly with the first limit, which is used as soon as something is certified."""
    if rng.random() < 0.8:
        return Look(at, float(limits[0]), None, "again")
    return Look(at, float(limits[1]), str(rng.choice(["20%", "40%"])) if rng.random() < 0.5 else None)


def few_hold_many(seed: int) -> bool:
    """Return whether a fiftieth of the units of these weeks hold more than a twentieth of the requests.

    An interval learns of such units only where some were drawn.
    """
    world = weeks(seed)
    rows = Counter(
        number if world.units == "request" else event.unit
        for number, event in enumerate(world.population())
        if world.is_measured(event)
    )
    sizes = sorted(rows.values(), reverse=True)
    return sum(sizes[: len(sizes) // 50]) > sum(sizes) / 20


def users_return(seed: int) -> bool:
    """Return whether users are the units of these weeks, and some of them come back.

    These come first, and those who come later are not like them: none of them are exchangeable.
    """
    world = weeks(seed)
    return world.units == "user" and any(kind.user == "known" for kind in world.kinds)


def enough(seed: int) -> World:
    """Return three thousand units, all drawn, with a plan that loses half of what is allowed and saves two thirds."""
    kind = Kind(sure=0.7, wrong=(0.0357, 0.7))
    return World("enough", seed, (kind,), looks=(Look(3_000),), pace=20.0, period="10 s")


def change(seed: int) -> World:
    """Return a world in which the small model becomes worse while a policy answers."""
    usual, worse = Kind(sure=0.7, wrong=(0.02, 0.7)), Kind(sure=0.7, wrong=(0.4, 0.9))
    looks = (Look(2_000, use="yes"),)
    return World(
        "change", seed, (usual,), looks=looks, drift_at=CHANGE_AT, after=(worse,), n=4_000, run_length=2_000, audit=0.5,
        until_alarm=True,
    )  # fmt: skip


DRAWN: dict[str, Callable[[int], World]] = {made.__name__: made for made in (weeks, enough, change)}
