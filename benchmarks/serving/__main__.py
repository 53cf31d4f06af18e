"""A server under load, against the same server with original model and LitServe; and what happens when things go wrong.

    python benchmarks/serving runs/cifar10-cascade
    python benchmarks/serving runs/cifar10-cascade/resnet20-distilled --parts loads --sizes 16 --batch 128 \\
        --out docs/results/serving/resnet20

Takes the runs that experiments/cifar10_cascade.py trains and benchmarks/cascade.py exports, or any run with exits that is
exported in int8 as well, copies them to a folder of its own, and writes docs/results/serving. `pip install litserve`
first. Run it on an idle machine; an hour with the usual seconds.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import loads
import numpy as np
import overhead
import report
import trouble
from prepared import prepare

from exeunt.timing.measuring import describe_machine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "serving"
PARTS = ("loads", "trouble", "overhead")


def processor_times() -> np.ndarray:
    """Return what all processors have done so far, in ticks: the line `cpu` of /proc/stat (Linux)."""
    return np.array(Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9], dtype=float)


def stolen(before: np.ndarray) -> float:
    """Return the share of the processors' time that the host gave to others, where this machine is a virtual one."""
    passed = processor_times() - before
    return float(passed[7] / passed.sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=10.0, help="at each load")
    parser.add_argument("--loads", default=",".join(f"{load:g}" for load in loads.LOADS))
    parser.add_argument("--sizes", default=",".join(map(str, loads.SIZES)), help="images of a request")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of loads, trouble, overhead")
    parser.add_argument("--batch", type=int, default=32, help="rows that exits are timed at")
    parser.add_argument("--work", type=Path, help="folder for copies of the runs; by default a temporary one")
    given = parser.parse_args()
    parts = given.parts.split(",")
    found: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/serving", *sys.argv[1:]]), "machine": describe_machine(),
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
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
