"""A total that is paced against the best policy in hindsight, in orders that help and hurt.

    python -m experiments.pacing
    python -m experiments.pacing --measure ../shared/data [--splits 3]

Writes the page again from the kept numbers, or measures the tables of services in `apis/*.parquet`
(see `experiments.services`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from experiments.pages import RESULTS, Measurements, kept_numbers, parser, points, table, write_page
from experiments.services import service_models

import exeunt as ex
from exeunt.guarantees.confidence_intervals import mean_interval

PAGE = RESULTS / "pacing.md"
PARTS = {"fit": 0.3, "calibrate": 0.2, "test": 0.5}
SHARES = (0.2, 0.4, 0.6)
ORDERS = ("random", "easy first", "hard first", "prices double")
BUDGETS = 20


def measured(file: Path, seed: int) -> list[dict[str, Any]]:
    """Return what pacing spends and reaches, and the best policy in hindsight, by share of the price and order."""
    models = service_models(file)
    fit, calibrate, test = models.split(**PARTS, seed=seed)
    price = models[models.most_expensive].cost.full
    least = min(models[name].cost.first for name in models.names)
    budgets = np.linspace(least * 1.05, price, BUDGETS).tolist()
    policies = ex.cascades(fit, calibrate, budgets=budgets, seed=seed)
    replays = [Replayed(policy, test) for policy in policies]
    rows = []
    for share in SHARES:
        total = share * price * test.n
        for order in ORDERS:
            inputs, times = in_order(order, test, seed)
            highest = float(times.max())
            static = [
                (float(one.quality.mean()), spent) for one in replays
                if (spent := float((one.paid[inputs] * times).sum())) <= total
            ]  # fmt: skip
            paced = ex.PolicySet(tuple(at_most(policy, highest) for policy in policies))
            found = paced_replay(paced, replays, inputs, times, total)
            best, used = max(static)
            rows.append({
                "share": share, "order": order, "accuracy": found[0], "used": found[1] / total, "best": best,
                "best_used": used / total,
            })  # fmt: skip
    return rows


class Replayed:
    """What each input costs and how good its answer is under a policy, and at its first exit."""

    def __init__(self, policy: ex.Policy, test: ex.CascadeTrace) -> None:
        trace, exits = policy.priced(test), policy.route(test)
        quality = policy.answer.on(trace).quality
        self.paid, self.quality = trace.cost.cumulative[exits], quality[np.arange(test.n), exits]
        self.first, self.at_first = trace.cost.first, quality[:, 0]


def at_most(policy: ex.Policy, times: float) -> ex.Policy:
    """Return the policy where it is known that an input may cost so many times as much."""
    cost = ex.CostModel(policy.cost.cumulative, unit=policy.cost.unit, highest=times * policy.cost.full)
    return replace(policy, cost=cost)


def in_order(order: str, test: ex.CascadeTrace, seed: int) -> tuple[Any, Any]:
    """Return the inputs in this order, and how many times as much each costs."""
    rng = np.random.default_rng(seed)
    inputs, times = rng.permutation(test.n), np.ones(test.n)
    if order == "prices double":
        times[test.n // 2 :] = 2.0
    elif order != "random":
        right = test.alone.quality.mean(axis=1)[inputs]
        inputs = inputs[np.argsort(right if order == "hard first" else -right, kind="stable")]
    return inputs, times


def paced_replay(
    policies: ex.PolicySet, replays: list[Replayed], inputs: Any, times: Any, total: float
) -> Any:
    """Return the accuracy and what is spent; a ledger keeps the total, and money for a first answer to each input."""
    pace = ex.Pace(policies, total=total, inputs=len(inputs))
    of = {id(policy): one for policy, one in zip(policies, replays, strict=True)}
    least = min(one.first for one in replays) * float(times.max())
    spent = right = 0.0
    for place, (i, factor) in enumerate(zip(inputs.tolist(), times.tolist(), strict=True)):
        policy = pace.begin()
        one = of[id(policy)]
        paid, quality = one.paid[i] * factor, one.quality[i]
        if paid > total - spent - least * (len(inputs) - place - 1):
            paid, quality = one.first * factor, one.at_first[i]
        pace.end(policy, paid)
        spent, right = spent + paid, right + quality
    if spent > total * (1 + 1e-9):
        raise RuntimeError(f"{spent} of {total} were spent")
    return right / len(inputs), spent


def measure(folder: Path, splits: int) -> dict[str, Any]:
    kept = Measurements(Path("runs/pacing.jsonl"))
    found = {}
    for file in sorted((folder / "apis").glob("*.parquet")):
        found[file.stem] = [
            kept.of(file.stem, s, measure=lambda f=file, s=s: measured(f, s)) for s in range(splits)
        ]
        print(file.stem, flush=True)
    return found


def page(found: dict[str, Any]) -> str:
    lines = []
    for order in ORDERS:
        for share in SHARES:
            rows = [
                row for splits in found.values() for rows in splits for row in rows
                if row["order"] == order and row["share"] == share
            ]  # fmt: skip
            gaps = mean_interval(np.array([row["accuracy"] - row["best"] for row in rows]))
            used = [row["used"] for row in rows]
            lines.append([
                order, f"{share:.0%}", points(gaps), f"{np.mean(used):.2%}", f"{min(used):.2%}",
                f"{np.mean([row['best_used'] for row in rows]):.2%}",
            ])  # fmt: skip
    splits = len(next(iter(found.values())))
    about = (
        f"Eight tables of services (FrugalML, Apache-2.0), {splits} splits each: a set of {BUDGETS} cascades is made "
        "of half of the inputs and answers the other half, one by one, from a total: a share of what the "
        "dearest service would take for all. `best in hindsight`: the policy of the set that is most accurate among "
        "those that keep the total on these very inputs in this order. The gap is in points, with its 95% interval "
        "over tables and splits. Nothing was ever above the total: the command stops if it is. `prices double`: after "
        "half of the inputs, and it is stated beforehand that they may. `easy` and `hard` inputs are those that many, "
        "or few, services answer right."
    )
    header = [
        "order",
        "total",
        "gap to the best in hindsight",
        "used",
        "used at least",
        "best in hindsight used",
    ]
    return "\n\n".join([
        "# Pacing a total", "Made by `python -m experiments.pacing`; numbers in [pacing.json](pacing.json).", about,
        table(header, lines),
    ])  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="DATA")
    options.add_argument("--splits", type=int, default=3)
    given = options.parse_args()
    found = measure(given.measure, given.splits) if given.measure else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
