"""Cascades of paid prediction services: accuracy by price, and the price of the best service's accuracy.

    python experiments/services.py FOLDER [--seeds 5] [--tables rafdb,digit]

FOLDER holds tables of recorded answers: a column `label`, and per service `prediction_NAME`, `confidence_NAME`, its
price per 10,000 calls in the schema metadata `usd_per_10k`. 40 % of a table is to learn from, 10 % to calibrate, half
to test. The best service is the one that is most accurate on the fit part; models, their order and everything else
are chosen there too. Writes services.md and .json to docs/results. What is measured is kept: the same command goes on
where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from common import RESULTS, Measurements
from report import heading

import exeunt as ex
from exeunt._files import atomic_path, write_json

SHARES = (1 / 10, 1 / 6, 1 / 4, 1 / 3, 5 / 12, 1 / 2, 7 / 12, 2 / 3, 5 / 6, 1, 3 / 2)
PARTS = {"fit": 0.4, "calibrate": 0.1, "test": 0.5}
PUBLISHED = {  # FrugalML (Chen, Zaharia, Zou 2020), accuracy on rafdb by dollars per 10,000 answers
    "rafdb": {2.5: 0.6875, 5: 0.7257, 7.5: 0.7409, 10: 0.7610, 15: 0.7773},
}


def service_models(path: Path) -> ex.CascadeTrace:
    """Read a table of services."""
    table = pq.read_table(path)
    prices = json.loads(table.schema.metadata[b"usd_per_10k"])
    return ex.CascadeTrace.from_table(
        table, prediction="prediction_{}", confidence="confidence_{}", label="label", price=prices, price_per=10_000
    )  # fmt: skip


def measured(models: ex.CascadeTrace, seed: int) -> dict:
    """Return the best service's accuracy and price, and the cascade's accuracy and spend at each share of that price."""
    fit, calibrate, test = models.split(**PARTS, seed=seed)
    best = min(fit.names, key=lambda name: fit[name].risk[0])
    price = fit[best].cost.full
    found = {"best": best, "price": price, "accuracy": 1 - float(test[best].risk[0]), "cascades": []}
    for share in SHARES:
        policy = ex.cascade(fit, calibrate, budget=share * price, seed=seed)
        result = ex.evaluate(policy, test)
        found["cascades"].append(
            {"share": share, "models": policy.models, "accuracy": result.accuracy, "spend": result.cost}
        )
    return found


def all_measured(folder: Path, tables: list[str], seeds: int, kept: Path) -> dict[str, list[dict]]:
    """Return {table: a measurement per seed}, measuring what the file does not hold."""
    measurements = Measurements(kept)
    models = {table: service_models(folder / f"{table}.parquet") for table in tables}
    found: dict[str, list[dict]] = {table: [] for table in tables}
    for seed in range(seeds):
        for table in tables:
            measure = partial(measured, models[table], seed)
            found[table].append(measurements.of(table, seed, *PARTS.values(), measure=measure))
            print(f"{table}: {seed + 1} of {seeds} seeds", file=sys.stderr, flush=True)
    return found


def means(runs: list[dict]) -> dict[str, np.ndarray | float]:
    """Return means over seeds: accuracy and spend by share, and what the best service has and costs."""
    return {
        "accuracy": np.mean([[one["accuracy"] for one in run["cascades"]] for run in runs], axis=0),
        "spend": np.mean([[one["spend"] for one in run["cascades"]] for run in runs], axis=0),
        "best": np.mean([run["accuracy"] for run in runs]),
        "price": np.mean([run["price"] for run in runs]),
    }


def price_of_the_best(found: dict) -> float:
    """Return the spend, as a share of the best service's price, at which its accuracy is reached, by interpolation.

    The least that was tried if that is enough, infinite if nothing is.
    """
    above = np.flatnonzero(found["accuracy"] >= found["best"])
    if len(above) == 0:
        return float("inf")
    at = int(above[0])
    spend = found["spend"] / found["price"]
    if at == 0:
        return float(spend[0])
    part = slice(at - 1, at + 1)
    return float(np.interp(found["best"], found["accuracy"][part], spend[part]))


def page(found: dict[str, list[dict]], seeds: int) -> str:
    columns = ("its accuracy", "its $ per 10,000", "share of the price for its accuracy", "points above")
    lines = heading(("table", "best service", *columns))
    shares = []
    for table, runs in found.items():
        mean = means(runs)
        shares.append(price_of_the_best(mean))
        names = sorted({run["best"] for run in runs})
        lines.append(
            f"| {table} | {', '.join(names)} | {mean['best']:.4f} | {10_000 * mean['price']:.4g} | {shares[-1]:.2f} | "
            f"{100 * (mean['accuracy'][SHARES.index(1)] - mean['best']):+.2f} |"
        )
    lines.append(f"| mean | | | | {np.mean(shares):.2f} | |")
    curves = heading(("table", *(f"{share:.0%}" for share in SHARES)))
    for table, runs in found.items():
        mean = means(runs)
        cells = [
            f"{a:.4f} @ {s:.2f}" for a, s in zip(mean["accuracy"], mean["spend"] / mean["price"], strict=True)
        ]
        curves.append(f"| {table} | {' | '.join(cells)} |")
    against = []
    for table in found.keys() & PUBLISHED.keys():
        mean, published = means(found[table]), PUBLISHED[table]
        against += [f"## {table} against FrugalML", "", *heading(("", *(f"{d:g} $" for d in published)))]
        most = 1.02 * float(np.max(mean["spend"]))  # a larger spend was not tried
        own = [
            f"{np.interp(d / 10_000, mean['spend'], mean['accuracy']):.4f}" if d / 10_000 <= most else "-"
            for d in published
        ]
        against += [
            f"| Exeunt | {' | '.join(own)} |",
            f"| published | {' | '.join(f'{v:.4f}' for v in published.values())} |",
            "",
        ]
    return f"""# Cascades of paid services

Made by `{shlex.join(["python", *sys.argv])}`.

Recorded answers of commercial services, of which `ex.cascade` asks some, in an order of its own, and pools what they say.
Means of {seeds} random splits: {PARTS["fit"]:.0%} of a table to fit, {PARTS["calibrate"]:.0%} to calibrate, the rest
to test. CascadeTrace, their order and the best service are chosen on the fit part. Prices in between are interpolated.
"Points above": accuracy of the cascade at the best service's full price, less that service's.

{chr(10).join(lines)}

{chr(10).join(against)}
## Accuracy @ spend, at budgets in shares of the best service's price

{chr(10).join(curves)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", help="by default all of the folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kept", type=Path, default=Path("runs/services.jsonl"))
    given = parser.parse_args()
    tables = (
        given.tables.split(",") if given.tables else sorted(p.stem for p in given.folder.glob("*.parquet"))
    )
    found = all_measured(given.folder, tables, given.seeds, given.kept)
    with atomic_path(RESULTS / "services.md") as path:
        path.write_text(page(found, given.seeds), encoding="utf-8")
    write_json(RESULTS / "services.json", found)


if __name__ == "__main__":
    main()
