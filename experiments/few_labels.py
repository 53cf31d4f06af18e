"""What `auto` gains over EERO where labels are few, on every recorded trace.

    python experiments/few_labels.py [--draws 100] [--sizes 100,200,300,500,3000] [--resnet20 NPZ] [--services FOLDER]
        [--more banking77-tuned=200,msdnet-cifar100=60]

Each draw takes fit inputs at random (smaller fit parts are the start of larger ones), up to 2,000 others to calibrate
and up to 6,000 to test. Both policies are made and tested on the same parts, at budgets of 20 to 90 % of the cost.
FOLDER holds tables of prediction services: a column `label`, and per service `prediction_NAME`, `confidence_NAME`, its
price per call in the schema metadata `usd_per_10k`. They are asked in order of their price. `--more` names traces of
which more draws are made. Writes few-labels.md and .json to docs/results. What is measured is kept: the same command
goes on where it was interrupted, and more draws add to those that are there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import RESULTS, Measurements
from report import heading, write_text_over_reading
from scipy.stats import t as student
from services import service_models

import exeunt as ex
from exeunt._files import write_json
from exeunt.comparison.compare import open_trace
from exeunt.trace.cascade_step import CascadeStep

if TYPE_CHECKING:
    from collections.abc import Iterator

BUDGETS = [f"{share}%" for share in range(20, 100, 10)]
CALIBRATE, TEST = 2000, 6000


def services(path: Path) -> ex.ExitTrace:
    """Read a table of services as a cascade, the cheapest first."""
    models = service_models(path)
    order = sorted(models.names, key=lambda name: models[name].cost.full)
    return models.along([CascadeStep(name, 1) for name in order])


def all_traces(resnet20: Path | None, folder: Path | None) -> dict[str, ex.ExitTrace]:
    found = {path.stem: open_trace(path) for path in sorted((RESULTS / "traces").glob("*.parquet"))}
    if resnet20 is not None:
        found["resnet20-cifar10-frozen"] = open_trace(resnet20)
    if folder is not None:
        found |= {f"services: {path.stem}": services(path) for path in sorted(folder.glob("*.parquet"))}
    return found


def drawn(
    trace: ex.ExitTrace, sizes: list[int], seed: int
) -> Iterator[tuple[int, tuple[ex.ExitTrace, ex.ExitTrace, ex.ExitTrace]]]:
    """Yield (size, parts) for the sizes that leave more inputs than they take."""
    fitting = [size for size in sizes if size <= 0.4 * trace.n]
    rows = np.random.default_rng(seed).permutation(trace.n)
    rest = rows[max(fitting) :]
    n = min(CALIBRATE, len(rest) // 3)
    calibrate, test = trace.take(rest[:n]), trace.take(rest[n : n + TEST])
    for size in fitting:
        yield size, (trace.take(rows[:size]), calibrate, test)


def gain(parts: tuple[ex.ExitTrace, ex.ExitTrace, ex.ExitTrace]) -> float:
    """Return how much more accurate `auto` is than EERO, mean over the budgets that can be met."""
    fit, calibrate, test = parts
    amounts = [float(b[:-1]) / 100 * fit.cost.full for b in BUDGETS]
    found = [
        [ex.evaluate(make(fit, calibrate, budget=amount), test).accuracy for make in (ex.auto, ex.eero)]
        for amount in amounts
        if amount >= fit.cost.first
    ]
    ours, theirs = np.array(found).mean(axis=0)
    return float(ours - theirs)


def measure(traces: dict[str, ex.ExitTrace], sizes: list[int], draws: dict[str, int], kept: Path) -> dict:
    """Return {(trace, size): gains (draws,)}, measuring what the file does not hold."""
    measurements = Measurements(kept)
    for seed in range(most := max(draws.values())):
        for name in [name for name in traces if seed < draws[name]]:
            missing = [size for size in sizes if (name, size, seed) not in measurements.known]
            for size, parts in drawn(traces[name], sizes, seed) if missing else ():
                measurements.of(name, size, seed, measure=partial(gain, parts))
        print(f"{seed + 1} of {most} draws", file=sys.stderr, flush=True)
    found = defaultdict(list)
    for (name, size, seed), value in measurements.known.items():
        if name in traces and size in sizes and seed < draws[name]:
            found[name, size].append(value)
    return {key: 100 * np.array(values) for key, values in found.items()}


def bound(gains: np.ndarray) -> float:
    """Return the one-sided lower 95 % t bound of the mean."""
    return float(gains.mean() - student.ppf(0.95, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5)


def page(found: dict, sizes: list[int], draws: dict[str, int]) -> str:
    names = sorted({name for name, _ in found})
    lines = heading(("trace", "draws", *(f"{size:,} labels" for size in sizes)))
    for name in names:
        cells = [
            f"{found[name, size].mean():+.2f} (≥ {bound(found[name, size]):+.2f})"
            if (name, size) in found
            else "-"
            for size in sizes
        ]
        lines.append(f"| {name} | {draws[name]} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    return f"""# Few labels

Made by `{shlex.join(["python", *sys.argv])}`.

`auto` minus EERO in points of accuracy, mean over budgets of 20 to 90 % of the full cost, over paired draws of the fit
inputs; in brackets the one-sided 95 % bound of that mean. Draws of one trace share inputs: the bound is about the
procedure on this trace, not about other data.

{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--sizes", default="100,200,300,500,3000")
    parser.add_argument("--resnet20", type=Path, help="an .npz with logits, labels and macs")
    parser.add_argument("--services", type=Path, help="a folder of tables of services")
    parser.add_argument("--more", default="", help="NAME=DRAWS, with commas")
    parser.add_argument("--kept", type=Path, default=Path("runs/few-labels.jsonl"))
    given = parser.parse_args()
    if given.draws < 2:
        parser.error(
            f"--draws must be at least 2, since a bound of the mean needs a spread, got {given.draws}"
        )
    sizes = [int(size) for size in given.sizes.split(",")]
    traces = all_traces(given.resnet20, given.services)
    more = {name: int(n) for name, _, n in (one.rpartition("=") for one in given.more.split(",") if one)}
    if unknown := more.keys() - traces.keys():
        parser.error(f"--more names {', '.join(sorted(unknown))}; there are {', '.join(sorted(traces))}")
    draws = {name: max(given.draws, more.get(name, 0)) for name in traces}
    found = measure(traces, sizes, draws, given.kept)
    write_text_over_reading(RESULTS / "few-labels.md", page(found, sizes, draws))
    numbers = {name: {} for name, _ in found}
    for (name, size), gains in found.items():
        numbers[name][str(size)] = {"mean": gains.mean(), "bound": bound(gains), "draws": len(gains)}
    write_json(RESULTS / "few-labels.json", numbers)


if __name__ == "__main__":
    main()
