"""Calibration from traces in files: time and peak memory by number of inputs, against the same in memory.

    python benchmarks/external_calibration.py --inputs 1e6,1e7 --exits 20 --folder /large/disk

Half of the inputs have scores in sixteen steps, so that ties are many; the policies must be equal where both are made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import exeunt as ex
from exeunt.trace import StoredTrace, concatenate

PART = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", default="1e6,1e7")
    parser.add_argument("--exits", type=int, default=20)
    parser.add_argument("--most-in-memory", type=float, default=1e7, help="compare up to so many inputs")
    parser.add_argument(
        "--folder", type=Path, help="where traces and temporary files lie, on a disk with room"
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one[0], Path(args.one[1]))))
        return
    print(
        "| inputs | exits | traces on disk | calibrated from files | peak memory | in memory | peak memory | policies |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for text in args.inputs.split(","):
        n = int(float(text))
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            size = write(Path(folder), n, args.exits)
            kinds = ["files", *(["memory"] if n <= args.most_in_memory else [])]
            found = [run(kind, folder) for kind in kinds]
        cells = [f"{one['seconds']:.0f} s | {one['peak_gb']:.2f} GB" for one in found] + ["- | -"] * (
            2 - len(found)
        )
        same = "" if len(found) < 2 else "equal" if found[0]["policy"] == found[1]["policy"] else "DIFFERENT"
        print(f"| {n:,} | {args.exits} | {size / 1e9:.2f} GB | {' | '.join(cells)} | {same} |", flush=True)


def write(folder: Path, n: int, m: int) -> int:
    """Write n inputs as parts, and a small part to fit on; return the bytes of the parts."""
    cost = ex.CostModel(np.arange(1.0, m + 1))
    (folder / "parts").mkdir()
    for number, start in enumerate(range(0, n, PART)):
        made(np.random.default_rng(number), min(PART, n - start), cost, start).save(
            folder / "parts" / f"{number:05d}.parquet"
        )
    made(np.random.default_rng(2**20), 5000, cost, 2**40).save(folder / "fit")
    return sum(file.stat().st_size for file in (folder / "parts").iterdir())


def made(rng: np.random.Generator, n: int, cost: ex.CostModel, first: int) -> ex.ExitTrace:
    """Inputs of varying difficulty in single precision, every other one with scores in sixteen steps."""
    ease = rng.random((n, 1), dtype=np.float32)
    scores = (ease + rng.random((n, cost.n_exits), dtype=np.float32)) / 2
    scores[::2] = np.round(scores[::2] * 16) / 16
    right = rng.random((n, cost.n_exits), dtype=np.float32) < scores
    id_ = np.arange(first, first + n, dtype=np.uint64)
    return ex.ExitTrace.from_scores(
        scores, right * 1, cost=cost, label=np.ones(n, dtype=np.int64), id=id_, name="margin"
    )


def run(kind: str, folder: str) -> dict:
    """Calibrate in a process of its own."""
    command = [sys.executable, __file__, "--one", kind, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | {"TMPDIR": folder})
    return json.loads(done.stdout)


def measured(kind: str, folder: Path) -> dict:
    """Return the policy, the seconds it took and the peak memory of this process."""
    began = time.monotonic()
    fit = ex.ExitTrace.load(folder / "fit")
    if kind == "files":
        calibrate = StoredTrace.open(folder / "parts", say=lambda text: print(text, file=sys.stderr))
    else:
        calibrate = concatenate([ex.ExitTrace.load(file) for file in sorted((folder / "parts").iterdir())])
    policy = ex.eero(fit, calibrate, budget="50%", delta=0.05)
    seconds = time.monotonic() - began
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return {"policy": policy.to_dict(), "seconds": seconds, "peak_gb": int(peak.split()[1]) * 1024 / 1e9}


if __name__ == "__main__":
    main()
