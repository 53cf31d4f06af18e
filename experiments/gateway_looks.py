"""How many held-out units it takes until half of the worlds are certified: what looking as often as one likes costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from experiments.pages import table

from exeunt.gateway.certifier import Certifier, ProposalUnderTest
from exeunt.gateway.proposals import FEWEST, LOSS, values_of
from exeunt.guarantees.p_values import betting
from exeunt.stream import bets

DELTA, MAX_LOSS = 0.05, 0.05
LOSSES = ((0.017, 0.21), (0.020, 0.28), (0.030, 0.22))
"""True mean losses and standard deviations of a unit of one request."""
WEIGHTS = (1.0, 0.25, 0.15, 0.05)
PROPOSALS = 6
_MOST, _ONE_LOOKS = 6_000, 400
_LARGEST = 700.0
"""The logarithm of a wealth that is a number still."""
LAST = 3
"""Later proposals have few held-out units after them."""
LOOK_AT = (25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1_000, 1_200, 1_500, 2_000)


def median(values: Sequence[float]) -> float:
    """Return the number at which half of the worlds are certified; infinite where fewer are."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] if ordered else math.inf


def wealth_so_far(values: Any, highest: float) -> Any:
    """Return the highest wealth until each unit, if it is read after every one, given Z of units (n,)."""
    logs = np.cumsum(np.log1p(-bets.STAKES[:, None] * (np.minimum(values, highest) / highest)), axis=1)
    return np.maximum.accumulate(np.exp(np.minimum(logs, _LARGEST)).mean(axis=0))


def first(wealth: Any, weight: float, since: int = 0) -> float:
    """Return after how many units, at least `since`, wealth has sufficed; infinite if it has not."""
    over = np.flatnonzero(wealth >= 1 / (DELTA * weight))
    return float(max(over[0] + 1, since)) if len(over) else math.inf


# -- simulated losses --------------------------------------------------------------------------------------------------


def three_values(rng: Any, mean: float, spread: float, n: int) -> Any:
    """Return n losses that are -1, 0 or 1, as where grades are 0 or 1."""
    both = spread**2 + mean**2
    return rng.choice([-1.0, 0.0, 1.0], n, p=[(both - mean) / 2, 1 - both, (both + mean) / 2])


def of_losses(mean: float, spread: float, worlds: int) -> dict[str, Any]:
    """Return the median numbers of units for a plan that loses this: at weights, as a gateway proposes, by one look."""
    units: dict[str, list[float]] = {f"{weight:g}": [] for weight in WEIGHTS}
    proposed = []
    for world in range(worlds):
        rng = np.random.default_rng([round(1e4 * mean), world])
        values = bets.loss_values(
            three_values(rng, mean, spread, _MOST), np.arange(_MOST), _MOST, MAX_LOSS, 1
        )
        wealth = wealth_so_far(values, 1 - MAX_LOSS)
        for weight in WEIGHTS:
            units[f"{weight:g}"].append(first(wealth, weight))
        made = ((bets.weight(k + 1), FEWEST * 2**k) for k in range(PROPOSALS))
        proposed.append(min(first(wealth, weight, since) for weight, since in made))

    def passes(n: int) -> float:
        given = (
            three_values(np.random.default_rng([round(1e4 * mean), 1, world]), mean, spread, n)
            for world in range(_ONE_LOOKS)
        )
        return float(np.mean([betting(lost, MAX_LOSS, delta=DELTA) <= DELTA for lost in given]))

    return {
        "weights": {weight: median(of) for weight, of in units.items()}, "proposed": median(proposed),
        "one look": half_at(passes),
    }  # fmt: skip


def half_at(passes: Callable[[int], float]) -> int:
    """Return the number of units at which half of the worlds pass, by bisection."""
    low, high = 10, 4_000
    while high - low > max(2, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) >= 0.5 else (middle, high)
    return high


# -- real questions ----------------------------------------------------------------------------------------------------


def looks_of(certifier: Certifier, proposal: ProposalUnderTest) -> dict[str, Any]:
    """Return how soon plans of a proposal pass, unit by unit: its first one, and the one in the middle of the walk."""
    evidence, made = certifier.held_out(proposal), {}
    for name, place in (("first", 0), ("middle", len(proposal.plans) // 2)):
        policy = proposal.plans[place].policy
        if policy is None:
            raise RuntimeError("nobody was forgotten here")
        values, highest = values_of(LOSS, MAX_LOSS, 1.0, evidence, evidence.outcomes(policy), proposal.rows)
        wealth, looks = wealth_so_far(values, highest), [n for n in LOOK_AT if n <= len(values)]
        lost = np.clip(values + MAX_LOSS, -1, 1)
        made[name] = {
            "units": len(values), "saved": 1 - proposal.plans[place].share,
            "at 1": finite(first(wealth, 1.0)), "own": finite(first(wealth, proposal.weight)),
            "one look": [bool(betting(lost[:n], MAX_LOSS, delta=DELTA) <= DELTA) for n in looks],
        }  # fmt: skip
    return made


def first_certificate(certifier: Certifier, weight: float | None, settled: dict[int, float]) -> float | None:
    """Return after how many held-out units anything is certified, read between periods: at one weight for all
    proposals, or at their own. `settled`: when each period was over.
    """
    found = math.inf
    for proposal in certifier.proposals:
        if not proposal.plans:
            continue
        periods = [period for period, units in sorted(proposal.bet_on.items()) if units]
        units = np.cumsum([proposal.bet_on[period] for period in periods])
        logs = np.cumsum(np.array(proposal.plans[0].logs[LOSS, 1.0]), axis=0)
        wealth = np.array([bets.wealth(row) for row in logs])
        least = 1 / (DELTA * (weight or proposal.weight))
        over = [k for k in range(6, len(wealth)) if wealth[k] >= least]
        if over:
            before = [n for period, n in zip(periods, units, strict=True) if settled[period] <= proposal.made]
            found = min(found, max([int(units[over[0]]), *map(int, before)]))
    return finite(found)


def finite(number: float) -> float | None:
    """Return a number for JSON: None where it is infinite."""
    return number if math.isfinite(number) else None


def of_roads(roads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians over roads of the plans of each proposal."""
    rows = []
    numbers = sorted({k for road in roads for k in road["looks"]}, key=int)
    for number in numbers:
        for plan in ("first", "middle"):
            of = [road["looks"][number][plan] for road in roads if number in road["looks"]]
            one = [
                n for k, n in enumerate(LOOK_AT)
                if (seen := [each["one look"][k] for each in of if len(each["one look"]) > k])
                and len(seen) > len(of) / 2 and np.mean(seen) >= 0.5
            ]  # fmt: skip
            medians = {
                name: median([math.inf if each[name] is None else each[name] for each in of])
                for name in ("at 1", "own")
            }
            rows.append({
                "proposal": int(number), "plan": plan, "roads": len(of),
                "saved": float(np.mean([each["saved"] for each in of])),
                "one look": min(one, default=None), **{name: finite(value) for name, value in medians.items()},
            })  # fmt: skip
    return rows


# -- the page ----------------------------------------------------------------------------------------------------------


def written(number: float | None, of: float | None = None) -> str:
    """Write a number of units, and how many times another it is."""
    if number is None or not math.isfinite(number):
        return "never"
    return f"{number:,.0f}" + (f" ({number / of:.2f})" if of else "")


def about_looks(simulated: list[dict[str, Any]], roads: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what the page says of looks."""
    losses = [
        [
            f"{100 * mean:.1f} points, sd {deviation:g}", written(one["weights"]["1"]),
            *(written(one["weights"][f"{weight:g}"], one["weights"]["1"]) for weight in WEIGHTS[1:]),
            written(one["proposed"], one["weights"]["1"]), written(one["one look"]),
            f"{one['proposed'] / one['one look']:.2f}",
        ]
        for (mean, deviation), one in zip(LOSSES, simulated, strict=True)
    ]  # fmt: skip
    firsts, plans = [], []
    for name, made in roads.items():
        own, at_one = (
            median([math.inf if road[what] is None else road[what] for road in made])
            for what in ("first", "first at 1")
        )
        firsts.append([name, len(made), written(finite(at_one)), written(finite(own), at_one)])
        for row in of_roads(made):
            if row["plan"] == "first" or row["proposal"] > LAST:
                continue
            look, half = row["one look"], row["own"]
            plans.append([
                name, row["proposal"], f"{bets.weight(row['proposal']):g}", f"{row['saved']:.0%}",
                written(row["at 1"]), written(half, row["at 1"]), written(look),
                f"{half / look:.2f}" if half and look else "",
            ])  # fmt: skip
    weights = (f"w = {weight:g}" for weight in WEIGHTS)
    legend = (
        "Held-out units until half of the worlds are certified, for a plan that loses this and at most "
        f"{100 * MAX_LOSS:.0f} points promised. A unit is one request, which loses -1, 0 or 1. `w = 1`: by the same "
        "bets at the full delta, of which a proposal has the share w. `as proposed`: by the first of the proposals "
        f"that a gateway makes at {FEWEST}, {2 * FEWEST}, {4 * FEWEST}, ... units of the fit half, here all of this "
        "plan. In parentheses: times as many as at w = 1, of which 1.75 are allowed. `one look`: by one look of "
        "`p_values.betting` at the full delta, at a number of units that is chosen beforehand."
    )
    of_any = (
        "The same on the questions, read between days: held-out units until the first certificate of any plan, with "
        "the weights that proposals have, and if each had all of delta."
    )
    of_plans = (
        "And for single plans, read after every unit: of each proposal the plan in the middle of its walk, whatever "
        "came of it. `saved`: as the units that fit it say. `one look`: the first of 25, 50, 75, 100, 150, ... units "
        "at which half pass. `never`: fewer than half of the orders certify it within their traffic."
    )
    return [
        "## What looking as often as one likes costs",
        legend,
        table(("true loss", *weights, "as proposed", "one look", "as proposed / one look"), losses),
        of_any,
        table(("traffic", "orders", "w = 1", "as proposed"), firsts),
        of_plans,
        table(
            ("traffic", "proposal", "w", "saved", "w = 1", "at its w", "one look", "at its w / one look"),
            plans,
        ),
    ]
