"""A server under load, against the same server with the original model and LitServe; and when things go wrong.

    python -m benchmarks.serving
    python -m benchmarks.serving runs/cifar10-cascade
    python -m benchmarks.serving runs/cifar10-cascade/resnet20-distilled --parts loads --sizes 16 --batch 128 \\
        --out docs/results/serving/resnet20

    python -m benchmarks.serving --single runs/cifar10-cascade --before ../checkout-of-an-earlier-commit

Without runs the page in --out is written again from the kept numbers. With --single it is another page, single.md: what
a request of one image takes, in ten minutes. Takes the runs that `experiments.cifar10_cascade --train` makes, or any
run with exits that is exported in int8 as well, and copies them to a folder of its own. `pip install litserve` first.
An hour on an idle machine.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmarks.serving import loads, overhead, report, single, single_report, trouble
from benchmarks.serving.prepared import check_runs, prepare
from experiments.pages import RESULTS, kept_numbers, parser

from exeunt._support.limits import usable_cores
from exeunt.timing.timing_tools import describe_machine

PARTS = ("loads", "trouble", "overhead")
_COUNTED_S = 10.0


def processor_times() -> np.ndarray:
    """Return what all processors have done so far, in ticks: the line `cpu` of /proc/stat (Linux)."""
    return np.array(Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9], dtype=float)


def stolen(before: np.ndarray) -> float:
    """Return the share of the processors' time that the host gave to others, where this machine is a virtual one."""
    passed = processor_times() - before
    return float(passed[7] / passed.sum())


def machine_slow() -> float:
    """Return in which share of ten seconds counting takes more than twice as long as usual, on all cores at once.

    So the machine itself is slow: what the host of a virtual machine takes away is not always told.
    """
    cores = usable_cores()
    with ProcessPoolExecutor(cores) as pool:
        taken = [np.array(one) for one in pool.map(_counting, range(cores))]
    return float(np.mean([one[one > 2 * np.median(one)].sum() / one.sum() for one in taken]))


def _counting(_: int) -> list[float]:
    taken, end = [], time.monotonic() + _COUNTED_S
    while time.monotonic() < end:
        begun = time.perf_counter()
        sum(range(50_000))
        taken.append(time.perf_counter() - begun)
    return taken


def main() -> None:
    options = parser(__doc__)
    options.add_argument("runs", nargs="?", type=Path)
    options.add_argument("--out", type=Path, default=RESULTS / "serving")
    options.add_argument("--seconds", type=float, default=10.0, help="at each load")
    options.add_argument("--loads", default=",".join(f"{load:g}" for load in loads.LOADS))
    options.add_argument("--sizes", default=",".join(map(str, loads.SIZES)), help="images of a request")
    options.add_argument("--parts", default=",".join(PARTS), help="which of loads, trouble, overhead")
    options.add_argument("--batch", type=int, default=32, help="rows that exits are timed at")
    options.add_argument(
        "--work", type=Path, help="folder for copies of the runs; by default a temporary one"
    )
    options.add_argument("--single", action="store_true", help="measure requests of one image each")
    options.add_argument("--before", type=Path, help="another checkout, whose server --single measures too")
    given = options.parse_args()
    if given.runs is not None:
        check_runs(given.runs)
    if given.single:
        measure_single(given)
        return
    if given.runs is None:
        report.write(kept_numbers(given.out / "README.md"), given.out)
        return
    parts = given.parts.split(",")
    found: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]), "machine": describe_machine(),
        "seconds": given.seconds, "long_s": loads.LONGER * given.seconds, "settle_s": loads.SETTLE_S,
        "quantile": loads.QUANTILE, "slow": machine_slow(),
    }  # fmt: skip
    before = processor_times()

    def write() -> None:
        report.write(found | {"stolen": stolen(before)}, given.out)

    with TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepared = prepare(given.runs, folder, given.batch)
        found |= {name: getattr(prepared, name) for name in ("original", "exits", "least_accuracy")}
        found["pixels"] = " x ".join(map(str, prepared.images.shape[1:3]))
        if "loads" in parts:
            found["loads"] = loads.measure(
                prepared,
                given.seconds,
                [float(one) for one in given.loads.split(",")],
                [int(one) for one in given.sizes.split(",")],
            )
            write()
        unit = loads.unit_of(prepared, found, given.seconds)
        if "trouble" in parts:
            found["trouble"] = trouble.measure(prepared, given.seconds, unit)
            write()
        if "overhead" in parts:
            found["overhead"] = overhead.measure(prepared, given.seconds)
        write()


def measure_single(given: Any) -> None:
    """Measure requests of one image each, and write their page; without runs from the kept numbers."""
    page = given.out / "single.md"
    if given.runs is None:
        single_report.write(kept_numbers(page), page)
        return
    with TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepared = prepare(given.runs, folder, given.batch)
        before, began, load = processor_times(), time.monotonic(), os.getloadavg()[0]
        found = {
            "slow": machine_slow(),
            "command": shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]), "machine": describe_machine(),
            "exits": prepared.exits, "original": prepared.original, "least_accuracy": prepared.least_accuracy,
            "pixels": " x ".join(map(str, prepared.images.shape[1:3])), **single.measure(prepared, given.before),
        }  # fmt: skip
        found |= {
            "stolen": stolen(before),
            "minutes": (time.monotonic() - began) / 60,
            "load_average": load,
        }
        single_report.write(found, page)


if __name__ == "__main__":
    main()
