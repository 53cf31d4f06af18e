"""Cascades of paid prediction services: accuracy by price, and the price of the best service's accuracy.

    python -m experiments.services
    python -m experiments.services --measure FOLDER [--splits 5]

Writes the page again from the kept numbers, or measures. FOLDER holds tables of recorded answers: a column `label`,
and per service `prediction_NAME`, `confidence_NAME`, and its price per 10,000 calls in the schema metadata
`usd_per_10k`. An interrupted measurement goes on.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from experiments.pages import RESULTS, Measurements, at, kept_numbers, parser, table, write_page

import exeunt as ex

PAGE = RESULTS / "services.md"
SHARES = (1 / 10, 1 / 6, 1 / 4, 1 / 3, 5 / 12, 1 / 2, 7 / 12, 2 / 3, 5 / 6, 1, 3 / 2)
PARTS = {"fit": 0.4, "calibrate": 0.1, "test": 0.5}
PUBLISHED = {  # FrugalML (Chen, Zaharia, Zou 2020), accuracy on rafdb by dollars per 10,000 answers
    "rafdb": {2.5: 0.6875, 5: 0.7257, 7.5: 0.7409, 10: 0.7610, 15: 0.7773},
}


def service_models(path: Path) -> ex.CascadeTrace:
    """Read a table of services."""
    read = pq.read_table(path)
    prices = json.loads(read.schema.metadata[b"usd_per_10k"])
    return ex.CascadeTrace.from_table(
        read, prediction="prediction_{}", confidence="confidence_{}", label="label", price=prices, price_per=10_000
    )  # fmt: skip


def measured(models: ex.CascadeTrace, seed: int) -> dict[str, Any]:
    """Return the best service's accuracy and price, and the cascade's at shares of that price."""
    fit, calibrate, test = models.split(**PARTS, seed=seed)
    best = min(fit.names, key=lambda name: fit[name].risk[0])
    price = fit[best].cost.full
    cascades = []
    for share in SHARES:
        policy = ex.cascade(fit, calibrate, budget=share * price, seed=seed)
        result = ex.evaluate(policy, test)
        cascades.append(
            {"share": share, "models": policy.models, "accuracy": result.accuracy, "mean_cost": result.cost}
        )
    return {"best": best, "price": price, "accuracy": 1 - float(test[best].risk[0]), "cascades": cascades}


def measure_all(folder: Path, splits: int, kept: Path) -> dict[str, list[dict[str, Any]]]:
    measurements = Measurements(kept)
    models = {path.stem: service_models(path) for path in sorted(folder.glob("*.parquet"))}
    return {
        name: [
            measurements.of(name, seed, *PARTS.values(), measure=partial(measured, one, seed))
            for seed in range(splits)
        ]
        for name, one in models.items()
    }


def means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over splits: accuracy and mean cost by share, and what the best service has and costs."""
    return {
        "accuracy": np.mean([[one["accuracy"] for one in run["cascades"]] for run in runs], axis=0),
        "mean_cost": np.mean([[one["mean_cost"] for one in run["cascades"]] for run in runs], axis=0),
        "best": np.mean([run["accuracy"] for run in runs]),
        "price": np.mean([run["price"] for run in runs]),
    }


def price_of_the_best(mean: dict[str, Any]) -> float:
    """Return the mean cost at which a cascade has the best service's accuracy, as a share of that service's price.

    It is interpolated between the two budgets around. The least that was tried if that is enough, infinite if nothing
    is.
    """
    above = np.flatnonzero(mean["accuracy"] >= mean["best"])
    if len(above) == 0:
        return float("inf")
    cost, around = mean["mean_cost"] / mean["price"], slice(max(int(above[0]) - 1, 0), int(above[0]) + 1)
    return float(np.interp(mean["best"], mean["accuracy"][around], cost[around]))


def page(found: dict[str, list[dict[str, Any]]]) -> str:
    every = {name: means(runs) for name, runs in found.items()}
    shares = {name: price_of_the_best(mean) for name, mean in every.items()}
    best = [
        [name, ", ".join(sorted({run["best"] for run in found[name]})), f"{mean['best']:.4f}",
         f"{10_000 * mean['price']:.4g}", f"{shares[name]:.2f}",
         f"{100 * (mean['accuracy'][SHARES.index(1)] - mean['best']):+.2f}"]
        for name, mean in every.items()
    ]  # fmt: skip
    best.append(["mean", "", "", "", f"{np.mean(list(shares.values())):.2f}", ""])
    columns = (
        "table", "best service", "its accuracy", "its $ per 10,000", "share of the price for its accuracy",
        "points above",
    )  # fmt: skip
    curves = [
        [name, *(at(a, c) for a, c in zip(mean["accuracy"], mean["mean_cost"] / mean["price"], strict=True))]
        for name, mean in every.items()
    ]
    against = []
    for name, published in PUBLISHED.items():
        mean = every[name]
        ours = [np.interp(dollars / 10_000, mean["mean_cost"], mean["accuracy"]) for dollars in published]
        rows = [
            ["Exeunt", *(f"{a:.4f}" for a in ours)],
            ["published", *(f"{a:.4f}" for a in published.values())],
        ]
        dollars = table(("", *(f"${d:g}" for d in published)), rows)
        against.append(f"## {name} against FrugalML, dollars per 10,000 answers\n\n{dollars}\n")
    learned = PARTS["fit"] + PARTS["calibrate"]
    return f"""# Cascades of paid services

Made by `python -m experiments.services`; numbers in [services.json](services.json).

Recorded answers of commercial services, and their prices, of 2020 (FrugalML). `ex.cascade` chooses which services to
ask, and in which order, and answers
with the ensemble of their outputs. Means of {len(next(iter(found.values())))} random splits. {learned:.0%} of a
table's labels are used to learn: {PARTS["fit"]:.0%} fit the cascade (services, order, thresholds, ensemble, and which
service is the best one) and {PARTS["calibrate"]:.0%} calibrate it; the other {PARTS["test"]:.0%} test it. Prices
between two budgets are interpolated. *Points above*: accuracy of the cascade at the best service's full price, less
that service's.

{table(columns, best)}

{chr(10).join(against)}
## Accuracy @ mean cost, at budgets in shares of the best service's price

{table(("table", *(f"{share:.0%}" for share in SHARES)), curves)}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="FOLDER")
    options.add_argument("--splits", type=int, default=5)
    options.add_argument("--kept", type=Path, default=Path("runs/services.jsonl"))
    given = options.parse_args()
    found = measure_all(given.measure, given.splits, given.kept) if given.measure else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
