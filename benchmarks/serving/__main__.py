"""A server under load, against the same server with the original model and LitServe; and when things go wrong.

    python -m benchmarks.serving
    python -m benchmarks.serving runs/cifar10-cascade
    python -m benchmarks.serving runs/cifar10-cascade/resnet20-distilled --parts loads --sizes 16 --batch 128 \\
        --out docs/results/serving/resnet20

Without runs the page in --out is written again from the kept numbers. Takes the runs that `experiments.cifar10_cascade
--train` makes and `benchmarks.cascade --measure` exports, or any run with exits that is exported in int8 as well, and
copies them to a folder of its own. `pip install litserve` first. An hour on an idle machine.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmarks.serving import loads, overhead, report, trouble
from benchmarks.serving.prepared import prepare
from experiments.pages import RESULTS, kept_numbers, parser

from exeunt.timing.measuring import describe_machine

PARTS = ("loads", "trouble", "overhead")


def processor_times() -> np.ndarray:
    """Return what all processors have done so far, in ticks: the line `cpu` of /proc/stat (Linux)."""
    return np.array(Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9], dtype=float)


def stolen(before: np.ndarray) -> float:
    """Return the share of the processors' time that the host gave to others, where this machine is a virtual one."""
    passed = processor_times() - before
    return float(passed[7] / passed.sum())


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
    given = options.parse_args()
    if given.runs is None:
        report.write(kept_numbers(given.out / "README.md"), given.out)
        return
    parts = given.parts.split(",")
    found: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]), "machine": describe_machine(),
        "seconds": given.seconds, "long_s": loads.LONGER * given.seconds, "settle_s": loads.SETTLE_S,
        "quantile": loads.QUANTILE,
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


if __name__ == "__main__":
    main()
